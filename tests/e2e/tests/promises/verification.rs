//! The code that the pages offer for verifying signatures does it: it accepts what was really delivered, refuses what was
//! not, and has the secret in it for nobody but who asked.

mod receivers;

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use regex::Regex;
use reqwest::header::{CONTENT_TYPE, COOKIE, ORIGIN, SET_COOKIE};
use reqwest::{Client as Http, Method};
use serde_json::json;
use shopery_e2e::{Arrival, Client, Event, Stack, token};
use shopery_model::EndpointSecret;

use self::receivers::{Receiver, line};
use crate::backoffice::{Backoffice, url_encoded};

const SOON: Duration = Duration::from_secs(60);
const WRONG_SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
pub(crate) const LANGUAGES: [&str; 8] = ["node", "python", "rust", "php", "ruby", "go", "csharp", "java"];

/// The pages, and somebody who has signed in.
pub(crate) struct Pages {
    backoffice: Backoffice,
    http: Http,
    cookie: String,
}

impl Pages {
    pub(crate) async fn of(stack: &Stack, client: &Client) -> Self {
        let backoffice = Backoffice::start(stack).await;
        let http = Http::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
        let mut pages = Self { backoffice, http, cookie: String::new() };
        let form = [("token", &*client.token), ("tenant", ""), ("back", "/webhooks")];
        let answer = pages.request(Method::POST, "/sign-in", &form).await;
        assert_eq!(answer.status(), 303);
        let cookie = answer.headers()[SET_COOKIE].to_str().unwrap();
        pages.cookie = cookie.split(';').next().unwrap().to_owned();
        pages
    }

    async fn request(&self, method: Method, path: &str, form: &[(&str, &str)]) -> reqwest::Response {
        let url = &self.backoffice.url;
        let request = self.http.request(method, format!("{url}{path}")).header(COOKIE, &self.cookie);
        let request = request.header(ORIGIN, url).header(CONTENT_TYPE, "application/x-www-form-urlencoded");
        request.body(url_encoded(form)).send().await.unwrap()
    }

    pub(crate) async fn get(&self, path: &str) -> String {
        let (status, page) = self.look(path).await;
        assert_eq!(status, 200, "{path}");
        page
    }

    /// A page, whatever status it has.
    pub(crate) async fn look(&self, path: &str) -> (u16, String) {
        let answer = self.request(Method::GET, path, &[]).await;
        (answer.status().as_u16(), answer.text().await.unwrap())
    }

    /// Sends a form of that page to the same path.
    pub(crate) async fn post(&self, path: &str, form: &[(&str, &str)]) -> (u16, String) {
        let key = Regex::new("name=\"form_key\" value=\"([^\"]*)\"").unwrap();
        let key = key.captures(&self.get(path).await).unwrap()[1].to_owned();
        let form = [form, &[("form_key", &*key)]].concat();
        let answer = self.request(Method::POST, path, &form).await;
        (answer.status().as_u16(), answer.text().await.unwrap())
    }
}

/// The code of a page, as who selects and copies it has it.
fn code(page: &str) -> String {
    let code = Regex::new("(?s)<pre class=\"code\"><code>(.*?)</code>").unwrap();
    let found = code.captures(page).unwrap_or_else(|| panic!("no code in {page}"));
    found[1].replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"").replace("&amp;", "&")
}

fn message(id: &str, timestamp: i64, signatures: &str, body: &[u8]) -> String {
    line([Some(id.as_bytes()), Some(timestamp.to_string().as_bytes()), Some(signatures.as_bytes())], body)
}

/// How many of the messages of [`arrived`] are good.
const GOOD: usize = 2;

/// A message that was delivered, also among signatures that are none; and the same in ways in which it was not sent.
fn arrived(arrival: &Arrival) -> Vec<String> {
    let (id, signatures, body) = (arrival.webhook_id(), arrival.header("webhook-signature"), &arrival.body[..]);
    let timestamp = arrival.header("webhook-timestamp").parse().unwrap();
    let mut messages = vec![
        message(id, timestamp, signatures, body),
        message(id, timestamp, &format!("v1,A v1a,A v1,%% v1a,%% v2,= nothing {signatures}"), body),
        message(id, timestamp, signatures, &[body, b" "].concat()),
        message(id, timestamp, signatures, b"\xff\xfe{"),
        message(id, timestamp + 1, signatures, body),
        message("another", timestamp, signatures, body),
        message(id, timestamp, &signatures.replace("v1,", "v2,").replace("v1a,", "v2,"), body),
    ];
    messages.extend(garbled([id.as_bytes(), timestamp.to_string().as_bytes(), signatures.as_bytes()], body));
    messages
}

/// A message without one of its headers, and with each of them as anybody may send it.
fn garbled(good: [&[u8]; 3], body: &[u8]) -> Vec<String> {
    let no_point = STANDARD.encode([0xff; 64]);
    let no_point = format!("v1,{no_point} v1a,{no_point}");
    let odd: [&[&[u8]]; 3] = [
        &[b"", b" ", b"\xff\xfe"],
        &[b"", b" ", b"now", b"-1", b"1.5", b"1e9", b"NaN", b"99999999999999999999", b"\xff\xfe"],
        &[
            b"",
            b" ",
            b",",
            b"v1",
            b"v1,",
            b"v1a,",
            b"v1,AAAA v1a,AAAA",
            b"v1,%% v1a,%%",
            b"\xff\xfe",
            no_point.as_bytes(),
        ],
    ];
    let mut messages = vec![line([None; 3], body)];
    for (place, odd) in odd.into_iter().enumerate() {
        for value in [None].into_iter().chain(odd.iter().copied().map(Some)) {
            let mut headers = good.map(Some);
            headers[place] = value;
            messages.push(line(headers, body));
        }
    }
    messages
}

#[tokio::test(flavor = "multi_thread")]
async fn the_code_of_the_page_accepts_what_was_delivered_and_refuses_what_was_not() {
    let stack = Stack::start().await;
    let client = stack.client("tnt_a");
    let webhook = client.create_webhook(&stack.merchant.url("/a"), &["order-*"]).await;
    let (first, path) = (client.secret(&webhook).await, format!("/webhooks/{webhook}/verify"));
    // Two secrets are valid, so a delivery has two signatures.
    client.post(&format!("/company/webhooks/{webhook}/rotate-secret"), &json!({})).await.expect(200);
    let second = client.secret(&webhook).await;
    let mut sent = 0;
    let delivered = loop {
        sent += 1;
        client.publish(&Event::order(&sent.to_string())).await.expect(202);
        let last = stack.merchant.wait_at("/a", sent, SOON).await.pop().unwrap();
        if last.header("webhook-signature").split(' ').count() == 2 {
            break last;
        }
    };
    let messages = arrived(&delivered);

    // Signed as it should be, at another time.
    let (secret, now) = (EndpointSecret::parse(&second).unwrap(), i64::try_from(token::unix_now()).unwrap());
    let at = |at: i64| message("dlv_1", at, &secret.sign("dlv_1", at, b"{}"), b"{}");
    let times = [at(now - 200), at(now + 200), at(now - 330), at(now + 330), at(0)];

    let pages = Pages::of(&stack, &client).await;
    for language in LANGUAGES {
        let page = pages.get(&format!("{path}?language={language}")).await;
        assert!(!page.contains(&first) && !page.contains(&second), "{language} shows a secret that nobody asked for");
        assert!(page.contains(&format!("language={language}\" aria-current=\"page\"")), "{page}");
        let (status, revealed) = pages.post(&path, &[("language", language)]).await;
        assert_eq!((status, revealed.matches(&second).count()), (200, 1), "{language}: {revealed}");
        // Neither Debian nor npm, PyPI or crates.io has it.
        if language == "csharp" {
            continue;
        }
        let folder = stack.folder().join(language);
        let receiver = Receiver::build(&folder, language, &code(&page)).await;
        for secret in [&first, &second] {
            receiver.assert_accepts(GOOD, Some(("SHOPERY_WEBHOOK_SECRET", secret)), &messages).await;
        }
        receiver.assert_accepts(0, Some(("SHOPERY_WEBHOOK_SECRET", WRONG_SECRET)), &messages).await;
        receiver.assert_accepts(2, Some(("SHOPERY_WEBHOOK_SECRET", &second)), &times).await;
        // An empty secret is one that everybody knows.
        let empty = receiver.says(Some(("SHOPERY_WEBHOOK_SECRET", "")), &messages).await;
        assert!(!empty.contains(&"ok".to_owned()), "{language}: {empty:?}");
        let receiver = Receiver::build(&folder, language, &code(&revealed)).await;
        receiver.assert_accepts(GOOD, None, &messages).await;
    }
    let unknown = pages.get(&format!("{path}?language=cobol")).await;
    assert!(unknown.contains("language=node\" aria-current=\"page\""), "{unknown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_webhook_with_asymmetric_signatures_the_code_verifies_those() {
    let stack = Stack::start().await;
    let client = stack.client("tnt_a");
    let rules = json!({ "signature": "asymmetric" });
    let webhook = client.create_webhook_with(&stack.merchant.url("/a"), &["order-*"], rules).await;
    client.publish(&Event::order("1")).await.expect(202);
    let delivered = stack.merchant.wait_at("/a", 1, SOON).await.remove(0);
    let messages = arrived(&delivered);
    let shown = client.get(&format!("/company/webhooks/{webhook}/secret")).await.expect(200).json();
    let (secret, public_key) = (shown["secret"].as_str().unwrap(), shown["publicKey"].as_str().unwrap());
    let other =
        client.create_webhook_with(&stack.merchant.url("/b"), &["order-*"], json!({ "signature": "both" })).await;
    let other = client.get(&format!("/company/webhooks/{other}/secret")).await.expect(200).json();

    let (pages, path) = (Pages::of(&stack, &client).await, format!("/webhooks/{webhook}/verify"));
    for language in ["node", "python", "java"] {
        let page = pages.get(&format!("{path}?language={language}")).await;
        let (_, revealed) = pages.post(&path, &[("language", language)]).await;
        assert!(
            !page.contains(public_key) && revealed.contains(public_key) && !revealed.contains(secret),
            "{revealed}"
        );
        let folder = stack.folder().join(language);
        let receiver = Receiver::build(&folder, language, &code(&page)).await;
        receiver.assert_accepts(GOOD, Some(("SHOPERY_WEBHOOK_PUBLIC_KEY", public_key)), &messages).await;
        let wrong = other["publicKey"].as_str().unwrap();
        receiver.assert_accepts(0, Some(("SHOPERY_WEBHOOK_PUBLIC_KEY", wrong)), &messages).await;
        let receiver = Receiver::build(&folder, language, &code(&revealed)).await;
        receiver.assert_accepts(GOOD, None, &messages).await;
    }
    // Where we have no code, there is none that would refuse everything.
    for language in ["rust", "php", "ruby", "go", "csharp"] {
        let page = pages.get(&format!("{path}?language={language}")).await;
        assert!(!page.contains("<pre class=\"code\">") && page.contains("verify id.timestamp.body"), "{page}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_only_read_is_shown_code_without_the_secret() {
    let stack = Stack::start().await;
    let client = stack.client("tnt_a");
    let webhook = client.create_webhook(&stack.merchant.url("/a"), &["order-*"]).await;
    let reader = client.with_token(&token::mint(&["tnt_a"], "webhooks:read"));
    let (pages, path) = (Pages::of(&stack, &reader).await, format!("/webhooks/{webhook}/verify"));
    let page = pages.get(&path).await;
    assert!(page.contains("process.env.SHOPERY_WEBHOOK_SECRET") && !page.contains("with my secret"), "{page}");
    let (status, refused) = pages.post(&path, &[("language", "node")]).await;
    assert!(status == 403 && !refused.contains(&client.secret(&webhook).await), "{status} {refused}");
}
