//! The pages, as a browser without JavaScript meets them: the whole story, hostile input, and tenants that stay apart.

use std::time::Duration;

use regex::Regex;
use reqwest::header::{ACCEPT_LANGUAGE, CONTENT_TYPE, COOKIE, LOCATION, ORIGIN, SET_COOKIE};
use reqwest::{Client as Http, Method};
use serde_json::{Value, json};
use shopery_e2e::{Behaviour, Client, Event, Process, Service, Stack, parts, ports, token, wait};
use tokio::process::Command;

const DEADLINE: Duration = Duration::from_secs(60);
const KEYS: &str = "k1:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

pub(crate) struct Backoffice {
    pub(crate) url: String,
    pub(crate) process: Process,
}

impl Backoffice {
    pub(crate) async fn start(stack: &Stack) -> Self {
        Self::at(stack, ports::free(), &[]).await
    }

    /// With more variables.
    pub(crate) async fn at(stack: &Stack, port: u16, more: &[(&str, String)]) -> Self {
        let url = format!("http://127.0.0.1:{port}");
        let mut command = Command::new(parts::binary("shopery-backoffice"));
        command
            .env_clear()
            .env("SHOPERY_LISTEN", format!("127.0.0.1:{port}"))
            .env("SHOPERY_API_URL", stack.url(Service::Api))
            .env("SHOPERY_BACKOFFICE_URL", &url)
            .env("SHOPERY_BACKOFFICE_KEYS", KEYS)
            .envs(more.iter().cloned());
        let log = stack.folder().join("shopery-backoffice.log");
        let backoffice = Self { process: Process::start("shopery-backoffice", command, &log), url };
        wait::until("the pages", DEADLINE, async || {
            let ready = reqwest::get(format!("{}/readyz", backoffice.url)).await;
            ready.map(drop).map_err(|error| format!("{error}: {}", backoffice.process.output()))
        })
        .await;
        backoffice
    }

    /// A browser that nobody has signed in with.
    fn browser(&self) -> Browser {
        let http = Http::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
        Browser { http, url: self.url.clone(), cookie: String::new(), language: "en".to_owned() }
    }
}

struct Browser {
    http: Http,
    url: String,
    cookie: String,
    language: String,
}

struct Page {
    status: u16,
    location: String,
    text: String,
    headers: reqwest::header::HeaderMap,
}

impl Page {
    #[track_caller]
    fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{} {}", self.location, self.text);
        self
    }

    /// What a field of a form holds.
    fn field(&self, name: &str) -> String {
        let value = Regex::new(&format!("name=\"{name}\" value=\"([^\"]*)\"")).unwrap();
        let found = value.captures(&self.text).unwrap_or_else(|| panic!("no {name} in {}", self.text));
        found[1].replace("&quot;", "\"")
    }
}

impl Browser {
    async fn send(&mut self, method: Method, path: &str, form: Option<&[(&str, &str)]>) -> Page {
        let mut request = self
            .http
            .request(method, format!("{}{path}", self.url))
            .header(COOKIE, &self.cookie)
            .header(ACCEPT_LANGUAGE, &self.language);
        if let Some(form) = form {
            let body = url_encoded(form);
            request =
                request.header(ORIGIN, &self.url).header(CONTENT_TYPE, "application/x-www-form-urlencoded").body(body);
        }
        let answer = request.send().await.unwrap();
        let headers = answer.headers().clone();
        if let Some(cookie) = headers.get(SET_COOKIE) {
            self.cookie = cookie.to_str().unwrap().split(';').next().unwrap().to_owned();
        }
        let location = headers.get(LOCATION).map_or_else(String::new, |to| to.to_str().unwrap().to_owned());
        Page { status: answer.status().as_u16(), location, headers, text: answer.text().await.unwrap() }
    }

    async fn get(&mut self, path: &str) -> Page {
        self.send(Method::GET, path, None).await
    }

    async fn post(&mut self, path: &str, form: &[(&str, &str)]) -> Page {
        self.send(Method::POST, path, Some(form)).await
    }

    /// Sends a form as its page has it, with these fields filled in; follows to where it leads.
    async fn fill(&mut self, page: &str, action: &str, form: &[(&str, &str)]) -> Page {
        let key = self.get(page).await.expect(200).field("form_key");
        let sent = self.post(action, &[form, &[("form_key", &*key)]].concat()).await;
        if sent.location.is_empty() { sent } else { self.get(&sent.location).await }
    }

    async fn sign_in(&mut self, client: &Client) {
        let form = [("token", &*client.token), ("tenant", ""), ("back", "/webhooks")];
        let signed_in = self.post("/sign-in", &form).await.expect(303);
        assert_eq!(signed_in.location, "/webhooks");
    }
}

pub(crate) fn url_encoded(form: &[(&str, &str)]) -> String {
    let encoded =
        |text: &str| percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string();
    form.iter().map(|(name, value)| format!("{}={}", encoded(name), encoded(value))).collect::<Vec<_>>().join("&")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_whole_story_is_told_without_javascript() {
    let stack = Stack::plan().env("SHOPERY_RETRY_SCHEDULE", "300ms").start().await;
    let (backoffice, client) = (Backoffice::start(&stack).await, stack.client("tnt_a"));
    let mut browser = backoffice.browser();

    // Who is nobody is asked who they are, and comes back to where they were going.
    let asked = browser.get("/deliveries?status=failed").await.expect(303);
    assert_eq!(asked.location, "/sign-in?back=%2Fdeliveries%3Fstatus%3Dfailed");
    let page = browser.get(&asked.location).await.expect(200);
    assert_eq!(page.field("back"), "/deliveries?status=failed");
    let bad = token::sign(&token::claims(&["tnt_a"], token::ALL), jsonwebtoken::Algorithm::HS256, &"x".repeat(40));
    for (token, says) in [("hunter2", "three parts"), (&*bad, "The API refuses this token")] {
        let refused = browser.post("/sign-in", &[("token", token), ("back", "/")]).await.expect(422);
        assert!(refused.text.contains(says) && !refused.text.contains(token), "{}", refused.text);
    }
    browser.sign_in(&client).await;
    assert!(browser.get("/webhooks").await.expect(200).text.contains("No webhooks yet"));

    // Create: the URL is tested first, the rules are tried, and what is wrong is said beside its field.
    let (url, new) = (stack.merchant.url("/a"), "/webhooks/new");
    let typed = [("name", "My <b>orders</b>"), ("url", &*url), ("events", "order-created")];
    let tested = browser.fill(new, new, &[&typed[..], &[("action", "test")]].concat()).await.expect(200);
    assert!(tested.text.contains("The endpoint answered 200.") && tested.text.contains(&*url), "{}", tested.text);
    let rules = [("filter", r#"{"id":["nobody"]}"#), ("example", "order-created"), ("action", "preview")];
    let tried = browser.fill(new, new, &[&typed[..], &rules].concat()).await.expect(200);
    assert!(tried.text.contains("would not be sent") && tried.text.contains("<b>filter</b>: id is"), "{}", tried.text);
    let wrong = [("rateLimit", "many"), ("filter", "{")];
    let refused = browser.fill(new, new, &[&typed[..2], &wrong].concat()).await.expect(422);
    for says in ["events", "rateLimit must be", "filter must be", "My &lt;b&gt;orders&lt;/b&gt;"] {
        assert!(refused.text.contains(says), "{says}: {}", refused.text);
    }
    let made = browser.fill(new, new, &typed).await.expect(200);
    assert!(made.text.contains("<h1>My &lt;b&gt;orders&lt;/b&gt;</h1>"), "{}", made.text);
    let webhook = client.all("/company/webhooks").await.remove(0);
    let (id, path) =
        (webhook["id"].as_str().unwrap().to_owned(), format!("/webhooks/{}", webhook["id"].as_str().unwrap()));

    // An order arrives, and the page of its delivery shows what was sent and answered.
    client.publish(&Event::order("1")).await.expect(202);
    let delivery = client.settled(&id, 1, DEADLINE).await.remove(0);
    let delivery = format!("/deliveries/{}", delivery["id"].as_str().unwrap());
    let list = browser.get(&format!("/deliveries?webhook={id}&status=delivered&status=failed")).await.expect(200);
    assert!(list.text.contains(&delivery), "{}", list.text);
    let shown = browser.get(&delivery).await.expect(200);
    for part in ["webhook-id", "***", "order/1", "POST https://"] {
        assert!(shown.text.contains(part), "{part}: {}", shown.text);
    }

    // The endpoint breaks; what failed is sent again.
    stack.merchant.behave("/a", Behaviour::Answer(500));
    client.publish(&Event::order("2")).await.expect(202);
    client.in_state(&id, "failed", 1, DEADLINE).await;
    assert!(browser.get(&path).await.expect(200).text.contains("failing since"));
    stack.merchant.behave("/a", Behaviour::Answer(200));
    let plan = browser.get(&format!("{path}/recover")).await.expect(200);
    assert!(plan.text.contains("This would send again: <b>1</b>"), "{}", plan.text);
    let recovery =
        browser.fill(&format!("{path}/recover"), &format!("{path}/recover"), &[("from", "")]).await.expect(200);
    assert!(recovery.text.contains("<h1>Recovery</h1>"), "{}", recovery.text);
    client.in_state(&id, "delivered", 2, DEADLINE).await;

    // What became of an event, and who has changed the webhook.
    let event = browser.get("/events").await.expect(200);
    let link = Regex::new("href=\"(/events/[^\"]*order%2F1[^\"]*)\"").unwrap();
    let link = link.captures(&event.text).unwrap_or_else(|| panic!("{}", event.text))[1].replace("&amp;", "&");
    assert!(browser.get(&link).await.expect(200).text.contains("delivered"));
    browser.fill(&path, &path, &[("action", "pause")]).await.expect(200);
    assert_eq!(client.get(&format!("/company{path}")).await.expect(200).json()["state"], "paused");
    browser.fill(&path, &path, &[("action", "send")]).await.expect(200);
    let changes = browser.get(&format!("{path}/changes")).await.expect(200);
    assert!(changes.text.contains("isEnabled"), "{}", changes.text);

    // The secret is in no page but where it was asked for.
    let secret = client.secret(&id).await;
    for page in [&*path, "/webhooks", &*delivery, &format!("{path}/edit"), &format!("{path}/changes")] {
        assert!(!browser.get(page).await.expect(200).text.contains(&secret), "{page}");
    }
    let revealed = browser.fill(&path, &format!("{path}/secret"), &[]).await.expect(200);
    assert!(revealed.text.contains(&secret), "{}", revealed.text);
    browser.fill(&path, &path, &[("action", "rotate"), ("sure", "yes")]).await.expect(200);
    assert_ne!(client.secret(&id).await, secret);

    // It is deleted by who is sure.
    let asked = browser.fill(&path, &path, &[("action", "delete")]).await.expect(200);
    assert!(asked.text.contains("Delete it, and end what waits for it?"), "{}", asked.text);
    browser.fill(&path, &path, &[("action", "delete"), ("sure", "yes")]).await.expect(200);
    browser.get(&path).await.expect(404);
    let key = browser.get("/webhooks").await.expect(200).field("form_key");
    browser.post("/sign-out", &[("form_key", &key)]).await.expect(303);
    browser.get("/webhooks").await.expect(303);
    assert!(!backoffice.process.output().contains(&client.token));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_events_are_first_and_a_link_leads_to_older_ones() {
    let stack = Stack::start().await;
    let (backoffice, client) = (Backoffice::start(&stack).await, stack.client("tnt_a"));
    for number in 0..60 {
        client.publish(&Event::order(&format!("{number:02}"))).await.expect(202);
    }
    let mut browser = backoffice.browser();
    browser.sign_in(&client).await;
    let (id, link) =
        (Regex::new("<td>(evt_[0-9]+)</td>").unwrap(), Regex::new("href=\"(/events\\?cursor=[^\"]+)\"").unwrap());
    let ids = |page: &str| id.captures_iter(page).map(|found| found[1].to_owned()).collect::<Vec<_>>();
    let expected =
        |numbers: std::ops::Range<usize>| numbers.rev().map(|number| format!("evt_{number:02}")).collect::<Vec<_>>();
    let first = browser.get("/events").await.expect(200).text;
    assert_eq!(ids(&first), expected(10..60));
    let older = link.captures(&first).unwrap_or_else(|| panic!("{first}"))[1].to_owned();
    let second = browser.get(&older).await.expect(200).text;
    assert_eq!(ids(&second), expected(0..10));
    assert!(!link.is_match(&second) && second.contains(">Newest</a>"), "{second}");
}

#[tokio::test(flavor = "multi_thread")]
async fn deliveries_are_filtered_by_the_name_of_a_webhook_and_a_wrong_address_is_told_by_a_page() {
    let stack = Stack::start().await;
    let (backoffice, client) = (Backoffice::start(&stack).await, stack.client("tnt_a"));
    let webhook = client.create_webhook(&stack.merchant.url("/a"), &["order-*"]).await;
    let mut browser = backoffice.browser();
    for path in ["/nowhere", "/webhooks/a/b/c"] {
        let told = browser.get(path).await.expect(404);
        assert!(told.text.contains("<html") && told.text.contains("No page has this address"), "{}", told.text);
        assert!(told.headers.contains_key("content-security-policy"), "{:?}", told.headers);
    }
    browser.sign_in(&client).await;
    let name = client.get(&format!("/company/webhooks/{webhook}")).await.expect(200).json()["name"].clone();
    let chosen = |id: &str, name: &str| format!("<option value=\"{id}\" selected>{name}</option>");
    // One that was deleted has no name any more.
    let deleted = client.create_webhook(&stack.merchant.url("/b"), &["order-*"]).await;
    client.delete(&format!("/company/webhooks/{deleted}")).await.expect(204);
    for expected in [chosen(&webhook, name.as_str().unwrap()), chosen(&deleted, &deleted)] {
        let id = if expected.contains(&deleted) { &deleted } else { &webhook };
        let page = browser.get(&format!("/deliveries?webhook={id}")).await.expect(200);
        assert!(page.text.contains(&expected), "{}", page.text);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_else_has_changed_is_not_overwritten_unseen() {
    let stack = Stack::start().await;
    let (backoffice, client) = (Backoffice::start(&stack).await, stack.client("tnt_a"));
    let webhook = client.create_webhook(&stack.merchant.url("/a"), &["order-*"]).await;
    let (mut browser, path) = (backoffice.browser(), format!("/webhooks/{webhook}/edit"));
    browser.sign_in(&client).await;
    let page = browser.get(&path).await.expect(200);
    let api = format!("/company/webhooks/{webhook}");
    client.patch(&api, &json!({ "name": "theirs" })).await.expect(200);
    let (key, etag, url) = (page.field("form_key"), page.field("etag"), stack.merchant.url("/a"));
    let form = |etag| [("form_key", &*key), ("etag", etag), ("name", "mine"), ("url", &*url), ("events", "order-*")];
    let overtaken = browser.post(&path, &form(&*etag)).await.expect(412);
    assert!(overtaken.text.contains("value=\"mine\"") && overtaken.text.contains("changed this webhook meanwhile"));
    assert_eq!(client.get(&api).await.expect(200).json()["name"], "theirs");
    let etag = overtaken.field("etag");
    browser.post(&path, &form(&*etag)).await.expect(303);
    assert_eq!(client.get(&api).await.expect(200).json()["name"], "mine");
}

#[tokio::test(flavor = "multi_thread")]
async fn tenants_stay_apart_and_a_forged_form_does_nothing() {
    let stack = Stack::start().await;
    let (backoffice, a, b) = (Backoffice::start(&stack).await, stack.client("tnt_a"), stack.client("tnt_b"));
    let webhook = b.create_webhook(&stack.merchant.url("/b"), &["order-*"]).await;
    b.publish(&Event::order("7")).await.expect(202);
    let delivery = b.settled(&webhook, 1, DEADLINE).await.remove(0)["id"].as_str().unwrap().to_owned();
    let mut browser = backoffice.browser();
    browser.sign_in(&a).await;
    let path = format!("/webhooks/{webhook}");
    for page in [
        path.clone(),
        format!("{path}/edit"),
        format!("{path}/changes"),
        format!("{path}/recover"),
        format!("/deliveries/{delivery}"),
        "/events/evt_7?resource=order%2F7".to_owned(),
    ] {
        let refused = browser.get(&page).await.expect(404);
        assert!(!refused.text.contains("/b") || !refused.text.contains("order-created"), "{}", refused.text);
    }
    assert!(!browser.get("/webhooks").await.expect(200).text.contains(&webhook));
    let key = browser.get("/webhooks").await.expect(200).field("form_key");
    browser.post(&path, &[("form_key", &key), ("action", "pause")]).await.expect(404);
    browser.post(&format!("{path}/secret"), &[("form_key", &key)]).await.expect(404);

    // A form without the key, with another session's, or from another site.
    let mut other = backoffice.browser();
    other.sign_in(&b).await;
    let theirs = other.get("/webhooks").await.expect(200).field("form_key");
    for form in [&[("action", "pause")][..], &[("action", "pause"), ("form_key", &key)]] {
        other.post(&path, form).await.expect(403);
    }
    let request = other.http.post(format!("{}{path}", backoffice.url)).header(COOKIE, &other.cookie);
    let request =
        request.header(ORIGIN, "https://evil.example").body(url_encoded(&[("action", "pause"), ("form_key", &theirs)]));
    assert_eq!(request.send().await.unwrap().status(), 403);
    assert_eq!(b.get(&format!("/company{path}")).await.expect(200).json()["state"], "active");

    // What the browser is told of a page.
    let page = other.get("/webhooks").await.expect(200);
    let policy = page.headers["content-security-policy"].to_str().unwrap();
    assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
    assert_eq!(page.headers["cache-control"], "no-store");
    assert!(has_no_script_but_ours(&page.text) && !page.text.contains(" style="));
    let mut bytes = page.text.len();
    for asset in Regex::new("\"(/assets/[^\"]+)\"").unwrap().captures_iter(&page.text) {
        bytes += other.get(&asset[1]).await.expect(200).text.len();
    }
    assert!(bytes < 100 * 1024, "{bytes} bytes");
    other.language = "es-MX,es;q=0.9".to_owned();
    let spanish = other.get("/deliveries").await.expect(200);
    assert!(spanish.text.contains("<html lang=\"es\">") && spanish.text.contains("<h1>Entregas</h1>"));
}

fn has_no_script_but_ours(page: &str) -> bool {
    page.matches("<script").count() == page.matches("<script src=\"/assets/").count()
}

#[tokio::test(flavor = "multi_thread")]
async fn markup_in_whatever_a_page_shows_is_text() {
    let stack = Stack::plan().env("SHOPERY_RETRY_SCHEDULE", "300ms").start().await;
    let (backoffice, client) = (Backoffice::start(&stack).await, stack.client("tnt_a"));
    const EVIL: &str = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>";
    let more = json!({
        "name": EVIL, "description": EVIL, "metadata": { EVIL[..20].to_owned(): EVIL },
        "filter": { "a": [{ "anything-but": EVIL }] }, "fields": ["id", "note"],
    });
    let url = format!("{}?q=%3Cscript%3E", stack.merchant.url("/a"));
    let webhook = client.create_webhook_with(&url, &["order-*"], more).await;
    let data = json!({ "id": EVIL, "a": 1, "note": EVIL }).to_string();
    let event = Event { id: EVIL.to_owned(), subject: format!("order/{EVIL}"), ..Event::order("1") }.with_data(data);
    client.publish(&event).await.expect(202);
    let delivery = client.settled(&webhook, 1, DEADLINE).await.remove(0);
    let mut browser = backoffice.browser();
    browser.sign_in(&client).await;
    let encoded = percent_encoding::utf8_percent_encode(EVIL, percent_encoding::NON_ALPHANUMERIC).to_string();
    let id = delivery["id"].as_str().unwrap();
    for page in [
        "/webhooks".to_owned(),
        format!("/webhooks?q={encoded}"),
        format!("/webhooks/{webhook}"),
        format!("/webhooks/{webhook}/edit"),
        format!("/webhooks/{webhook}/changes"),
        "/deliveries".to_owned(),
        format!("/deliveries?resource=order%2F{encoded}"),
        format!("/deliveries/{id}"),
        "/events".to_owned(),
        format!("/events/{encoded}?resource=order%2F{encoded}"),
        format!("/sign-in?back=%2F{encoded}"),
    ] {
        let shown = browser.get(&page).await.expect(200).text;
        assert!(has_no_script_but_ours(&shown) && !shown.contains("<img"), "{page}: {shown}");
    }
    let shown: Value = client.get(&format!("/company/deliveries/{id}")).await.expect(200).json();
    assert_eq!(shown["state"], "delivered", "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_credentials_of_a_bus_are_typed_shown_masked_and_kept() {
    const BUS: &str = "arn:aws:events:eu-west-1:123456789012:event-bus/orders";
    const ID: &str = "AKIAIOSFODNN7EXAMPLE";
    const SECRET: &str = "hush-hush-secret";
    let stack = Stack::start().await;
    let (backoffice, client) = (Backoffice::start(&stack).await, stack.client("tnt_a"));
    let mut browser = backoffice.browser();
    browser.sign_in(&client).await;

    // What is wrong stands beside its field, and how to let us in beside the address.
    let typed =
        [("name", "n"), ("url", BUS), ("events", "order-*"), ("accessKeyId", "short"), ("secretAccessKey", SECRET)];
    let refused = browser.fill("/webhooks/new", "/webhooks/new", &typed).await.expect(422);
    for says in ["accessKeyId must be an access key id", "How to let us publish there", "events:PutEvents"] {
        assert!(refused.text.contains(says), "{says}: {}", refused.text);
    }
    let without = browser.fill("/webhooks/new", "/webhooks/new", &typed[..3]).await.expect(422);
    assert!(without.text.contains("credentials are needed"), "{}", without.text);

    let key = json!({ "accessKeyId": ID, "secretAccessKey": SECRET });
    let more = json!({ "isEnabled": false, "credentials": key });
    let webhook = client.create_webhook_with(BUS, &["order-*"], more).await;
    let (path, api) = (format!("/webhooks/{webhook}"), format!("/company/webhooks/{webhook}"));
    let edit = format!("{path}/edit");
    for page in [&*path, "/webhooks", &*edit, &format!("{path}/changes")] {
        let shown = browser.get(page).await.expect(200);
        assert!(!shown.text.contains(SECRET), "{page}: {}", shown.text);
    }
    for page in [&*path, "/webhooks"] {
        assert!(browser.get(page).await.expect(200).text.contains("Amazon EventBridge"), "{page}");
    }

    // Saved as it was shown, it has the key that it had; emptied, it has none.
    let shown = browser.get(&edit).await.expect(200);
    assert_eq!((shown.field("accessKeyId").as_str(), shown.field("secretAccessKey").as_str()), (ID, "***"));
    let form = |url, id, secret| {
        [
            ("name", "renamed"),
            ("url", url),
            ("events", "order-*"),
            ("accessKeyId", id),
            ("secretAccessKey", secret),
            ("hasKey", "1"),
        ]
    };
    browser.fill(&edit, &edit, &form(BUS, ID, "***")).await.expect(200);
    let kept = client.get(&api).await.expect(200).json();
    let masked = json!({ "accessKeyId": ID, "secretAccessKey": "***" });
    assert_eq!((&kept["name"], &kept["credentials"]), (&json!("renamed"), &masked));
    let url = stack.merchant.url("/a");
    let refused = browser.fill(&edit, &edit, &form(&*url, ID, "***")).await.expect(422);
    assert!(refused.text.contains("are those of Amazon, but `url` is an HTTPS endpoint"), "{}", refused.text);
    browser.fill(&edit, &edit, &form(&*url, "", "")).await.expect(200);
    let moved = client.get(&api).await.expect(200).json();
    assert_eq!((&moved["kind"], moved.get("credentials")), (&json!("https"), None));
}
