//! Signing in to the pages at a real OpenID provider, as a browser does that keeps its cookies: there and back, out
//! again, what must sign nobody in, and a session that ends while somebody types.

use std::collections::BTreeMap;
use std::time::Duration;

use regex::Regex;
use reqwest::header::{ACCEPT_LANGUAGE, CONTENT_TYPE, COOKIE, HeaderMap, LOCATION, ORIGIN, REFERER, SET_COOKIE};
use reqwest::{Client as Http, Method, Url};
use serde_json::{Value, json};
use shopery_e2e::{Browser as Chromium, OpenId, Process, Stack, ports, token, wait};

use crate::backoffice::{Backoffice, url_encoded};

const DEADLINE: Duration = Duration::from_secs(60);

/// The pages with an API and a provider.
struct Site {
    url: String,
    process: Process,
    openid: OpenId,
    stack: Stack,
}

impl Site {
    async fn start(accounts: Value) -> Self {
        let mut site = Self::without_provider(accounts).await;
        site.openid.start().await;
        site
    }

    /// The provider is known, but does not run yet.
    async fn without_provider(accounts: Value) -> Self {
        let port = ports::free();
        let url = format!("http://127.0.0.1:{port}");
        let openid = OpenId::new(&url, accounts);
        let stack = Stack::plan().env("SHOPERY_JWKS_URL", openid.jwks_url()).start().await;
        let backoffice = Backoffice::at(&stack, port, &openid.variables()).await;
        Self { url: backoffice.url, process: backoffice.process, openid, stack }
    }

    fn browser(&self) -> Browser {
        let http = Http::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
        let own = self.url.parse().unwrap();
        Browser { http, own, cookies: BTreeMap::new(), language: "en".to_owned(), shown: None }
    }
}

/// Both servers are on one host, so both get all cookies: browsers do not tell ports apart.
struct Browser {
    http: Http,
    own: Url,
    cookies: BTreeMap<String, String>,
    language: String,
    /// The page that is shown.
    shown: Option<Url>,
}

#[derive(Debug)]
struct Page {
    status: u16,
    url: Url,
    /// Where it leads by itself.
    next: Option<Url>,
    text: String,
    headers: HeaderMap,
}

impl Page {
    #[track_caller]
    fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{} {:?} {}", self.url, self.next, self.text);
        self
    }

    #[track_caller]
    fn says(self, text: &str) -> Self {
        assert!(self.text.contains(text), "no {text} in {}", self.text);
        self
    }

    #[track_caller]
    fn find(&self, pattern: &str) -> String {
        let found = Regex::new(pattern).unwrap().captures(&self.text).map(|found| found[1].to_owned());
        let found = found.unwrap_or_else(|| panic!("no {pattern} at {} in {}", self.url, self.text));
        found
            .replace("&quot;", "\"")
            .replace("&#39;", "'")
            .replace("&lt;", "<")
            .replace("&gt;", ">")
            .replace("&amp;", "&")
    }

    /// The fields that nobody sees.
    fn hidden(&self) -> Vec<(String, String)> {
        let field = Regex::new("<input type=\"hidden\" name=\"([^\"]*)\" value=\"([^\"]*)\"").unwrap();
        let plain =
            |text: &str| text.replace("&quot;", "\"").replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&");
        field.captures_iter(&self.text).map(|found| (plain(&found[1]), plain(&found[2]))).collect()
    }
}

impl Browser {
    /// One request.
    async fn send(&mut self, method: Method, url: &Url, form: Option<&[(&str, &str)]>) -> Page {
        let cookies: Vec<_> = self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let mut request = self
            .http
            .request(method, url.clone())
            .header(COOKIE, cookies.join("; "))
            .header(ACCEPT_LANGUAGE, &self.language);
        if let Some(shown) = self.shown.as_ref().filter(|shown| shown.origin() == url.origin()) {
            request = request.header(REFERER, shown.as_str());
        }
        if let Some(form) = form {
            let origin = url.origin().ascii_serialization();
            request = request.header(ORIGIN, origin).header(CONTENT_TYPE, "application/x-www-form-urlencoded");
            request = request.body(url_encoded(form));
        }
        let answer = request.send().await.unwrap();
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        for cookie in headers.get_all(SET_COOKIE) {
            let (pair, _) = cookie.to_str().unwrap().split_once(';').unwrap();
            let (name, value) = pair.split_once('=').unwrap();
            match value {
                "" => drop(self.cookies.remove(name)),
                value => drop(self.cookies.insert(name.to_owned(), value.to_owned())),
            }
        }
        let next = headers.get(LOCATION).map(|next| url.join(next.to_str().unwrap()).unwrap());
        Page { status, url: url.clone(), next, text: answer.text().await.unwrap(), headers }
    }

    /// A path of the pages, or a whole URL.
    fn url(&self, path: &str) -> Url {
        self.own.join(path).unwrap()
    }

    async fn get(&mut self, path: &str) -> Page {
        self.send(Method::GET, &self.url(path), None).await
    }

    /// Follows redirects until a page is shown, or until one leads to a path that `stops` there.
    async fn follow(&mut self, mut page: Page, stops: &str) -> Page {
        for _ in 0..20 {
            match page.next.clone().filter(|next| stops.is_empty() || next.path() != stops) {
                None => {
                    self.shown = Some(page.url.clone());
                    return page;
                }
                Some(next) => page = self.send(Method::GET, &next, None).await,
            }
        }
        panic!("it goes round: {page:?}");
    }

    async fn go(&mut self, path: &str) -> Page {
        let page = self.get(path).await;
        self.follow(page, "").await
    }

    async fn post(&mut self, path: &str, form: &[(&str, &str)]) -> Page {
        let page = self.send(Method::POST, &self.url(path), Some(form)).await;
        self.follow(page, "").await
    }

    /// From the page with the button to where the provider asks for something.
    async fn leave(&mut self, back: &str) -> Page {
        let page = self.go(&format!("/sign-in?back={back}")).await.expect(200);
        let link = page.find("href=\"(/sign-in/provider[^\"]*)\"");
        self.go(&link).await
    }

    /// Says who they are, and agrees, until the provider leads back; the redirect is not followed.
    async fn agree(&mut self, mut page: Page, account: &str) -> Page {
        for _ in 0..5 {
            if page.next.as_ref().is_some_and(|next| next.path() == "/sign-in/callback") {
                return page;
            }
            let (action, prompt) = (page.find("action=\"([^\"]*)\""), page.find("name=\"prompt\" value=\"([^\"]*)\""));
            let form = [("prompt", &*prompt), ("login", account), ("password", "any")];
            let sent = self.send(Method::POST, &page.url.join(&action).unwrap(), Some(&form)).await;
            page = self.follow(sent, "/sign-in/callback").await;
        }
        panic!("it does not lead back: {page:?}");
    }

    /// Up to the redirect back.
    async fn called_back(&mut self, account: &str) -> Url {
        let page = self.leave("/webhooks").await.expect(200);
        self.agree(page, account).await.next.unwrap()
    }

    async fn sign_in(&mut self, account: &str) -> Page {
        let back = self.called_back(account).await;
        self.go(back.as_str()).await
    }

    #[track_caller]
    fn has_no_session(&self) {
        assert!(!self.cookies.contains_key("shopery"), "{:?}", self.cookies.keys());
    }
}

fn accounts() -> Value {
    let many: Vec<_> = (0..100).map(|number| format!("tnt_{number:040}")).collect();
    json!({
        "ann": { "tenants": ["tnt_a", "tnt_b"] },
        "bob": { "tenants": ["tnt_b"] },
        "nobody": { "tenants": [] },
        "many": { "tenants": many },
    })
}

/// What the rules of a page keep a browser from is seen in a browser alone.
#[tokio::test(flavor = "multi_thread")]
async fn a_browser_gets_to_the_provider_and_back_and_out() {
    let site = Site::start(accounts()).await;
    let webhook = site.stack.client("tnt_a").create_webhook(&site.stack.merchant.url("/a"), &["order-*"]).await;
    let chromium = Chromium::start().await;
    chromium.open(&format!("{}/webhooks/{webhook}", site.url)).await;
    chromium.follow("Sign in").await;
    chromium.shows("Sign-in").await;
    let login = "document.querySelector('[name=login]').value = 'ann';
        document.querySelector('[name=password]').value = 'any';
        document.querySelector('form').submit()";
    chromium.run(login, Vec::new()).await;
    chromium.shows("Authorize").await;
    chromium.run("document.querySelector('form').submit()", Vec::new()).await;
    let shown = chromium.shows("Sign out").await;
    assert!(shown.contains(&webhook), "{shown}");
    assert_eq!(chromium.path().await, format!("/webhooks/{webhook}"));
    assert_eq!(chromium.run("return document.cookie", Vec::new()).await, "", "a script can read the session");
    chromium.press("Sign out").await;
    // The provider asks whether that is meant for it too.
    chromium.shows("Do you want to sign-out").await;
    chromium.open(&format!("{}/webhooks", site.url)).await;
    assert_eq!(chromium.path().await, "/sign-in");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_signs_in_at_the_provider_sees_their_webhooks_and_signs_out_everywhere() {
    let site = Site::start(accounts()).await;
    let webhook = site.stack.client("tnt_a").create_webhook(&site.stack.merchant.url("/a"), &["order-*"]).await;
    let mut browser = site.browser();

    // To where they were going, by way of the provider.
    let asked = browser.go("/deliveries?status=failed").await.expect(200).says("Sign in");
    assert!(!asked.text.contains("name=\"token\""), "{}", asked.text);
    let link = asked.find("href=\"(/sign-in/provider[^\"]*)\"");
    let login = browser.go(&link).await.expect(200).says("Sign-in");
    let secret = browser.cookies.get("shopery-sign-in").cloned();
    assert!(secret.is_some_and(|cookie| cookie.starts_with("v1.k1.")), "{:?}", browser.cookies.keys());
    let back = browser.agree(login, "ann").await.next.unwrap();
    let deliveries = browser.go(back.as_str()).await.expect(200);
    assert_eq!((deliveries.url.path(), deliveries.url.query()), ("/deliveries", Some("status=failed")));
    assert!(!browser.cookies.contains_key("shopery-sign-in"));
    browser.go("/webhooks").await.expect(200).says(&webhook);

    // Of another tenant of the account.
    let key = browser.go("/webhooks").await.find("name=\"form_key\" value=\"([^\"]*)\"");
    let other = browser.post("/tenant", &[("form_key", &key), ("tenant", "tnt_b")]).await.expect(200);
    assert!(!other.text.contains(&webhook), "{}", other.text);
    // Who signs in again stays there, and nowhere but here.
    let page = browser.get("/sign-in/provider?back=https://evil.example/").await;
    let again = browser.follow(page, "").await.expect(200).says("value=\"tnt_b\" selected");
    assert_eq!(again.url.as_str(), format!("{}/webhooks", site.url));
    // No token of their own is taken.
    let pasted = [("token", &*site.stack.client("tnt_a").token), ("back", "/")];
    browser.post("/sign-in", &pasted).await.expect(403).says("switched off");

    // Out, here and there.
    let key = again.find("name=\"form_key\" value=\"([^\"]*)\"");
    let out = browser.post("/sign-out", &[("form_key", &key)]).await.expect(200).says("You are signed out");
    browser.has_no_session();
    let refresh = out.headers["refresh"].to_str().unwrap().to_owned();
    let end = refresh.strip_prefix("0; url=").unwrap();
    assert!(end.starts_with(&site.openid.url()) && !end.contains("id_token_hint"), "{end}");
    let sure = browser.go(end).await.expect(200);
    let (action, xsrf) = (sure.find("action=\"([^\"]*)\""), sure.find("name=\"xsrf\" value=\"([^\"]*)\""));
    let ended = browser.post(&action, &[("xsrf", &xsrf), ("logout", "yes")]).await.expect(200);
    assert_eq!(ended.url.as_str(), format!("{}/sign-in", site.url));
    browser.leave("/").await.expect(200).says("Sign-in");

    let said = site.process.output();
    for (name, secret) in &site.openid.variables()[2..3] {
        assert!(!said.contains(secret), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_of_this_browsers_own_sign_in_signs_nobody_in() {
    let site = Site::start(accounts()).await;

    // Cancelled.
    let mut browser = site.browser();
    let abort = browser.leave("/webhooks").await.find("href=\"([^\"]*/abort)\"");
    browser.go(&abort).await.expect(403).says("The sign-in was cancelled").says("/sign-in?back=%2Fwebhooks");
    browser.has_no_session();

    // A state that is nobody's, or none, ends nothing that goes on.
    let login = browser.leave("/webhooks").await.expect(200);
    for forged in ["code=x&state=forged", "code=x", "error=access_denied&state=", ""] {
        browser.go(&format!("/sign-in/callback?{forged}")).await.expect(400).says("not begun in this browser");
        browser.has_no_session();
    }
    // The language is the browser's.
    browser.language = "es".to_owned();
    browser.go("/sign-in/callback?state=forged").await.expect(400).says("no se empezó en este navegador");
    browser.language = "en".to_owned();

    // Another issuer answers in the provider's name.
    let own = browser.agree(login, "ann").await.next.unwrap();
    let before = browser.cookies.clone();
    let mixed = own.as_str().replace("iss=", "iss=https%3A%2F%2Fevil.example%2F");
    assert_ne!(mixed, own.as_str(), "the provider names itself");
    browser.go(&mixed).await.expect(502).says("could not be verified");
    browser.has_no_session();

    // Somebody who is made to open the callback of another is not signed in as them, nor with their code.
    let mut other = site.browser();
    let theirs = other.called_back("bob").await;
    let mut victim = site.browser();
    victim.go(theirs.as_str()).await.expect(400);
    let state = |url: &Url| url.query_pairs().find(|(name, _)| name == "state").unwrap().1.into_owned();
    let code = |url: &Url| url.query_pairs().find(|(name, _)| name == "code").unwrap().1.into_owned();
    browser.cookies = before.clone();
    let stolen = format!("/sign-in/callback?code={}&state={}", code(&theirs), state(&own));
    browser.go(&stolen).await.expect(400).says("Sign in again");
    browser.has_no_session();

    // A callback is good once, also for who has kept the cookie.
    let mut browser = site.browser();
    let own = browser.called_back("ann").await;
    let before = browser.cookies.clone();
    browser.go(own.as_str()).await.expect(200).says("Webhooks");
    assert!(browser.cookies.contains_key("shopery"));
    for cookies in [BTreeMap::new(), before] {
        browser.cookies = cookies;
        browser.go(own.as_str()).await.expect(400).says("has been finished before");
        browser.has_no_session();
    }

    // Accounts that are no good here are told so.
    for (account, status, says) in [("nobody", 403, "belongs to no shop"), ("many", 502, "too long for a cookie")] {
        let mut browser = site.browser();
        browser.sign_in(account).await.expect(status).says(says);
        browser.has_no_session();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_is_away_is_said_and_asked_again() {
    let mut site = Site::without_provider(accounts()).await;
    let mut browser = site.browser();
    browser.leave("/webhooks").await.expect(502).says("does not answer");
    browser.language = "es".to_owned();
    browser.leave("/webhooks").await.expect(502).says("no responde");
    browser.language = "en".to_owned();
    site.openid.start().await;
    let back = browser.called_back("ann").await;
    // It goes away while somebody is there.
    site.openid.kill().await;
    browser.go(back.as_str()).await.expect(502).says("does not answer");
    browser.has_no_session();
    // When it is back, with other keys and nothing that it knew, its keys are asked for again.
    site.openid.start().await;
    wait::until("the keys of the API and of the pages", DEADLINE, async || {
        let mut browser = site.browser();
        let page = browser.sign_in("ann").await;
        if page.status == 200 { Ok(()) } else { Err(page.text) }
    })
    .await;
    assert!(!site.process.output().contains(token::SECRET));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_typed_outlives_the_session() {
    let site = Site::start(json!({
        "ann": { "tenants": ["tnt_b", "tnt_a"], "seconds": [10, 3600] },
        "bob": { "tenants": ["tnt_b"] },
    }))
    .await;
    let (mut browser, client, new) = (site.browser(), site.stack.client("tnt_b"), "/webhooks/new");
    browser.sign_in("ann").await.expect(200).says("Your session ends at");
    let page = browser.go(new).await.expect(200);
    let key = page.find("name=\"form_key\" value=\"([^\"]*)\"");
    wait::until_true("the session to end", DEADLINE, async || browser.get("/webhooks").await.status == 303).await;

    let url = site.stack.merchant.url("/a");
    let typed = [
        ("form_key", &*key),
        ("etag", ""),
        ("name", "My \"first\" <webhook>"),
        ("url", &url),
        ("events", "order-created"),
        ("events", "order-updated"),
        ("fields", "id\r\ntotal"),
        ("action", "save"),
    ];
    let kept = browser.post(new, &typed).await.expect(403).says("Nothing was changed, and what you typed is kept");
    assert!(kept.text.contains("target=\"_blank\"") && !kept.text.contains("<webhook>"), "{}", kept.text);
    // What another site has typed is not.
    let forged: Vec<_> =
        typed.iter().map(|(name, value)| (*name, if *name == "form_key" { "x" } else { value })).collect();
    let forged = browser.post(new, &forged).await.expect(403);
    assert!(!forged.text.contains("My &quot;first"), "{}", forged.text);

    // In another tab of the same browser.
    let (link, cookies) = (kept.find("href=\"(/sign-in/provider[^\"]*)\""), browser.cookies.clone());
    browser.go(&link).await.expect(200).says("Close this tab");
    let hidden = kept.hidden();
    let mut form: Vec<(&str, &str)> = hidden.iter().map(|(name, value)| (&**name, &**value)).collect();
    form.push(("action", "reopen"));
    browser.shown = Some(browser.url(new));
    let reopened = browser.post(new, &form).await.expect(200).says("My &quot;first&quot; &lt;webhook&gt;");
    // A field of the example is ticked; the other one is where it was typed.
    for kept in [&url, "value=\"id\" checked", ">total</textarea>"] {
        assert!(reopened.text.contains(kept), "{kept}: {}", reopened.text);
    }
    assert!(client.all("/company/webhooks").await.is_empty());
    let key = reopened.find("name=\"form_key\" value=\"([^\"]*)\"");
    let save = [&typed[1..], &[("form_key", &*key)]].concat();
    browser.post(new, &save).await.expect(200).says("<h1>My &quot;first&quot; &lt;webhook&gt;</h1>");
    assert_eq!(client.all("/company/webhooks").await[0]["name"], "My \"first\" <webhook>");

    // Somebody else who signs in in that browser goes on with nothing.
    let mut other = site.browser();
    other.cookies.extend(cookies.get("shopery").map(|cookie| ("shopery".to_owned(), cookie.clone())));
    other.sign_in("bob").await.expect(200);
    other.post(new, &form).await.expect(403).says("The form was not sent from a page of this session");
}
