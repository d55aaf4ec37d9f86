//! The pages in a real browser: the whole story as a person lives it, by keyboard alone, without JavaScript, and whatever
//! markup they are given.

use std::time::Duration;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};
use shopery_e2e::browser::{ENTER, SPACE, TAB};
use shopery_e2e::{Behaviour, Browser, Client, Event, Service, Stack, wait};

use crate::backoffice::Backoffice;

const SOON: Duration = Duration::from_secs(60);

/// It would set a variable in more ways than one, if it were more than text.
const EVIL: &str = "<script>window.hacked=1</script>\"'><img src=x onerror=\"window.hacked=1;alert(1)\">";

/// Signs in from wherever the pages lead somebody whom they do not know.
pub(crate) async fn sign_in(browser: &Browser, backoffice: &Backoffice, client: &Client) {
    browser.open(&backoffice.url).await;
    browser.fill("Token", &client.token).await;
    browser.press("Sign in").await;
    browser.shows("Sign out").await;
}

/// The value that a page shows under `name` in a list of facts.
async fn fact(browser: &Browser, name: &str) -> String {
    // Beside a code there may be a button that copies it.
    let script = "const name = [...document.querySelectorAll('dt')].find(one => one.innerText === arguments[0]);
        const value = name?.nextElementSibling;
        return (value?.querySelector('code') ?? value)?.innerText";
    let value = browser.run(script, vec![json!(name)]).await;
    value.as_str().unwrap_or_else(|| panic!("no {name} in the page")).to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_lives_the_whole_story_in_a_browser() {
    let plan = Stack::plan().env("SHOPERY_RETRY_SCHEDULE", "300ms").env("SHOPERY_CIRCUIT_FAILURES", "3");
    let stack = plan.env("SHOPERY_PROBE_FIRST", "2s").env("SHOPERY_PROBE_LONGEST", "2s").start().await;
    let (backoffice, client) = (Backoffice::start(&stack).await, stack.client("tnt_a"));
    let browser = Browser::start().await;

    // Nobody gets in with a token that is none.
    browser.open(&backoffice.url).await;
    browser.fill("Token", "hunter2").await;
    browser.press("Sign in").await;
    browser.shows("That is no token").await;
    sign_in(&browser, &backoffice, &client).await;

    // The webhook is tested before it is made.
    browser.shows("No webhooks yet").await;
    browser.follow("Create webhook").await;
    browser.fill("Webhook Name", "Orders to the warehouse").await;
    browser.fill("URL", &stack.merchant.url("/a")).await;
    browser.tick("order-created").await;
    stack.merchant.behave("/a", Behaviour::Answer(503));
    browser.press("Test URL").await;
    browser.shows("The test failed").await;
    stack.merchant.behave("/a", Behaviour::Answer(200));
    browser.press("Test URL").await;
    browser.shows("The endpoint answered 200.").await;
    browser.press("Save").await;
    browser.shows("Orders to the warehouse").await;
    let path = browser.path().await;
    let webhook = path.strip_prefix("/webhooks/").unwrap().to_owned();
    assert_eq!(fact(&browser, "Events").await, "order-created");
    browser.follow("Webhooks").await;
    browser.shows("Orders to the warehouse").await;
    let listed = browser.text_of("table").await;
    assert!(listed.contains("active") && listed.contains(&stack.merchant.url("/a")), "{listed}");

    // Whoever looks at a list is told that there is more; nothing moves before that is asked for.
    browser.follow("Deliveries").await;
    browser.shows("Show new ones as they come").await;
    client.publish(&Event::order("0")).await.expect(202);
    browser.shows("1 new. Show").await;
    assert!(!browser.text().await.contains("order/0"));
    browser.follow("Show").await;
    browser.shows("order/0").await;
    // Whoever asks for it sees them arrive.
    browser.follow("Show new ones as they come").await;
    browser.shows("Stop showing new ones as they come").await;
    client.publish(&Event::order("1")).await.expect(202);
    browser.shows("order/1").await;

    // An order is delivered, and its page tells how.
    let in_state = async |state: &str, resource: &str| {
        browser.open(&format!("{}/deliveries?status={state}", backoffice.url)).await;
        browser.shows_reloaded(resource).await;
    };
    in_state("delivered", "order/1").await;
    browser.follow("order-created").await;
    let shown = browser.shows("POST https://127.0.0.1").await;
    assert!(shown.contains("webhook-signature: ***") && shown.contains("this is 200"), "{shown}");

    // The endpoint breaks: what is due fails, what comes after waits.
    stack.merchant.behave("/a", Behaviour::Answer(500));
    client.publish(&Event::order("2")).await.expect(202);
    in_state("failed", "order/2").await;
    for id in ["3", "4", "5"] {
        client.publish(&Event::order(id)).await.expect(202);
    }
    in_state("parked", "order/5").await;
    browser.open(&format!("{}{path}", backoffice.url)).await;
    let broken = browser.shows_reloaded(" parked").await;
    assert!(broken.contains("failing since"), "{broken}");

    // Repaired: what waits arrives by itself, what has failed when it is asked for.
    stack.merchant.behave("/a", Behaviour::Answer(200));
    for parked in ["pending", "parked"] {
        client.in_state(&webhook, parked, 0, SOON).await;
    }
    wait::until("a page without complaints", SOON, async || {
        browser.reload().await;
        let shown = browser.text().await;
        if shown.contains("failing since") || shown.contains(" parked") { Err(shown) } else { Ok(()) }
    })
    .await;
    browser.press("Send again what failed").await;
    browser.shows("This would send again").await;
    browser.press("Send again what failed").await;
    browser.shows_reloaded("completed").await;
    client.in_state(&webhook, "delivered", 6, SOON).await;

    // Paused, what comes waits until the webhook is enabled.
    browser.open(&format!("{}{path}", backoffice.url)).await;
    browser.press("Pause").await;
    browser.shows("paused").await;
    client.publish(&Event::order("6")).await.expect(202);
    browser.shows_reloaded("1 parked").await;
    browser.press("Enable, and send what waits").await;
    browser.shows("active").await;
    client.in_state(&webhook, "delivered", 7, SOON).await;

    // The secret is shown to who asks, and rotated.
    browser.press("Secret: Reveal").await;
    browser.shows("whsec_").await;
    let before = fact(&browser, "Secret").await;
    assert_eq!(before, client.secret(&webhook).await);
    browser.press("Secret: Rotate").await;
    browser.shows("Make a new secret?").await;
    browser.press("Rotate").await;
    browser.shows("There is a new secret.").await;
    browser.press("Secret: Reveal").await;
    browser.shows("The previous secret is valid until").await;
    assert_ne!(fact(&browser, "Secret").await, before);

    browser.press("Delete").await;
    browser.shows("Delete it, and end what waits for it?").await;
    browser.press("Delete").await;
    browser.shows("No webhooks yet").await;
    browser.press("Sign out").await;
    browser.shows("Sign in to go on.").await;
    browser.open(&format!("{}/webhooks", backoffice.url)).await;
    assert_eq!(browser.path().await, "/sign-in");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_is_created_by_keyboard_alone() {
    let stack = Stack::start().await;
    let (backoffice, client) = (Backoffice::start(&stack).await, stack.client("tnt_a"));
    let browser = Browser::start().await;
    browser.open(&backoffice.url).await;
    browser.tab_to("#token").await;
    browser.keys(&client.token).await;
    browser.keys(ENTER).await;
    browser.shows("No webhooks yet").await;

    // The first Tab leads past what all pages have.
    browser.keys(TAB).await;
    browser.keys(ENTER).await;
    browser.keys(TAB).await;
    browser.keys(ENTER).await;
    browser.shows("Webhook Name").await;
    browser.tab_to("#name").await;
    browser.keys("By keyboard").await;
    browser.tab_to("#url").await;
    browser.keys(&stack.merchant.url("/a")).await;
    browser.tab_to("button[value=test]").await;
    browser.keys(ENTER).await;
    browser.shows("The endpoint answered 200.").await;
    // It is folded.
    browser.tab_to("summary:has(~ * input[value='order-created'])").await;
    browser.keys(ENTER).await;
    browser.tab_to("input[value='order-created']").await;
    browser.keys(SPACE).await;
    browser.tab_to("button[value=save]").await;
    browser.keys(ENTER).await;
    browser.shows("By keyboard").await;
    let made = client.all("/company/webhooks").await.remove(0);
    assert_eq!((&made["name"], &made["events"]), (&json!("By keyboard"), &json!(["order-created"])));
    assert_eq!(browser.path().await, format!("/webhooks/{}", made["id"].as_str().unwrap()));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_javascript_everything_is_there() {
    let stack = Stack::start().await;
    let (backoffice, client) = (Backoffice::start(&stack).await, stack.client("tnt_a"));
    let browser = Browser::without_javascript().await;
    // The page that a script would have given another title.
    browser.open("data:text/html,<title>still</title><script>document.title = 'changed'</script>").await;
    assert_eq!(browser.title().await, "still");

    sign_in(&browser, &backoffice, &client).await;
    browser.follow("Create webhook").await;
    browser.fill("Webhook Name", "Plain").await;
    browser.fill("URL", &stack.merchant.url("/a")).await;
    browser.press("Test URL").await;
    browser.shows("The endpoint answered 200.").await;
    browser.tick("order-created").await;
    browser.unfold("Advanced").await;
    browser.fill("Rate limit", "50").await;
    browser.press("Save").await;
    let detail = browser.shows("Plain").await;
    assert!(detail.contains("active") && detail.contains(&stack.merchant.url("/a")), "{detail}");
    client.publish(&Event::order("1")).await.expect(202);
    browser.follow("Webhooks").await;
    browser.shows_reloaded("100 % / 1").await;
    browser.fill("Search", "nothing of the kind").await;
    browser.press("Filter").await;
    browser.shows("Nothing matches.").await;
    browser.follow("Deliveries").await;
    browser.follow("order-created").await;
    let delivery = browser.shows("POST https://127.0.0.1").await;
    assert!(!delivery.contains("Copy"), "a button that can do nothing: {delivery}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_page_shows_is_copied_by_its_button() {
    let stack = Stack::start().await;
    let (backoffice, client) = (Backoffice::start(&stack).await, stack.client("tnt_a"));
    let webhook = client.create_webhook(&stack.merchant.url("/a"), &["order-*"]).await;
    client.publish(&Event::order("1")).await.expect(202);
    let delivery = client.settled(&webhook, 1, SOON).await.remove(0)["id"].as_str().unwrap().to_owned();
    let browser = Browser::start().await;
    sign_in(&browser, &backoffice, &client).await;
    let copied = async |text: &str| {
        wait::until("the clipboard", SOON, async || {
            let held = browser.clipboard().await;
            if held == text { Ok(()) } else { Err(held) }
        })
        .await;
    };

    browser.open(&format!("{}/webhooks/{webhook}", backoffice.url)).await;
    browser.press("Secret: Reveal").await;
    browser.press("Copy: Secret").await;
    browser.shows("Copied").await;
    copied(&client.secret(&webhook).await).await;
    // It has its own name again, and is one of those that Tab leads to.
    browser.press("Copy: Secret").await;
    browser.tab_to("#copy-webhook").await;
    browser.keys(ENTER).await;
    copied(&webhook).await;

    browser.open(&format!("{}/deliveries/{delivery}", backoffice.url)).await;
    browser.press("Copy: event id").await;
    copied("evt_1").await;
    browser.unfold("The same on the command line").await;
    browser.press("Copy: command line").await;
    copied(&format!("shopery deliveries get {delivery}; shopery deliveries attempt {delivery}")).await;
    browser.press("Copy: request body, attempt 1").await;
    let body = wait::until("a body in the clipboard", SOON, async || {
        serde_json::from_str::<Value>(&browser.clipboard().await).map_err(|error| error.to_string())
    })
    .await;
    let arrived = stack.merchant.arrivals().remove(0);
    assert_eq!(body, serde_json::from_slice::<Value>(&arrived.body).unwrap());

    // Where there is no clipboard, as over http on another host, the text is selected at least.
    let without = "Object.defineProperty(navigator, 'clipboard', { value: undefined });
        document.execCommand = () => false";
    browser.run(without, Vec::new()).await;
    browser.press("Copy: id").await;
    browser.shows("Selected: copy it now").await;
    assert_eq!(browser.run("return getSelection().toString()", Vec::new()).await, json!(delivery));
}

#[tokio::test(flavor = "multi_thread")]
async fn markup_never_becomes_more_than_text() {
    let stack = Stack::plan().env("SHOPERY_RETRY_SCHEDULE", "300ms").start().await;
    let (backoffice, client) = (Backoffice::start(&stack).await, stack.client("tnt_a"));
    let browser = Browser::start().await;
    let encoded = utf8_percent_encode(EVIL, NON_ALPHANUMERIC).to_string();
    // Where a page takes markup for markup, the script runs.
    browser.open("data:text/html,<script>window.hacked=1</script>").await;
    assert_eq!(browser.run("return window.hacked", Vec::new()).await, 1);

    stack.merchant.behave("/a", Behaviour::Body(EVIL.to_owned()));
    let more = json!({
        "name": EVIL, "description": EVIL, "metadata": { EVIL[..20].to_owned(): EVIL },
        "filter": { "a": [{ "anything-but": EVIL }] },
    });
    let url = format!("{}?q={encoded}", stack.merchant.url("/a"));
    let webhook = client.create_webhook_with(&url, &["order-*"], more).await;
    let data = json!({ "id": EVIL, "a": 1, "note": EVIL }).to_string();
    let event = Event { id: EVIL.to_owned(), subject: format!("order/{EVIL}"), ..Event::order("1") }.with_data(data);
    client.publish(&event).await.expect(202);
    let delivery = client.settled(&webhook, 1, SOON).await.remove(0)["id"].as_str().unwrap().to_owned();

    sign_in(&browser, &backoffice, &client).await;
    for path in [
        "/webhooks".to_owned(),
        format!("/webhooks?q={encoded}"),
        format!("/webhooks/{webhook}"),
        format!("/webhooks/{webhook}/edit"),
        format!("/webhooks/{webhook}/changes"),
        format!("/webhooks/{webhook}/recover"),
        "/deliveries".to_owned(),
        format!("/deliveries?resource=order%2F{encoded}"),
        format!("/deliveries/{delivery}"),
        "/events".to_owned(),
        format!("/events/{encoded}?resource=order%2F{encoded}"),
        format!("/sign-in?back=%2F{encoded}"),
    ] {
        browser.open(&format!("{}{path}", backoffice.url)).await;
        assert_eq!(browser.dialog().await, None, "{path}");
        assert_harmless(&browser, &path).await;
    }
    // It is shown, and as it is.
    browser.open(&format!("{}/deliveries/{delivery}", backoffice.url)).await;
    browser.shows(EVIL).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_keeps_itself_up_to_date_takes_the_focus_from_nobody() {
    let stack = Stack::start().await;
    let (backoffice, client) = (Backoffice::start(&stack).await, stack.client("tnt_a"));
    client.create_webhook(&stack.merchant.url("/a"), &["order-*"]).await;
    client.publish(&Event::order("1")).await.expect(202);
    let browser = Browser::start().await;
    sign_in(&browser, &backoffice, &client).await;
    let focused = async || browser.run("return document.activeElement.id", Vec::new()).await;

    // Nothing happens, and the list leaves the page alone.
    browser.open(&format!("{}/deliveries?live=1", backoffice.url)).await;
    browser.shows("delivered").await;
    let watch = "window.answers = [];
        document.body.addEventListener('htmx:afterRequest', event => window.answers.push(event.detail.xhr.status))";
    browser.run(watch, Vec::new()).await;
    browser.tab_to("td a").await;
    let link = focused().await;
    assert!(link.as_str().unwrap().starts_with("to-dlv_"), "{link}");
    wait::until("looks that find nothing new", SOON, async || {
        let answers = browser.run("return window.answers", Vec::new()).await;
        let empty = answers.as_array().unwrap().iter().filter(|status| **status == 204).count();
        if empty >= 3 { Ok(()) } else { Err(answers.to_string()) }
    })
    .await;
    assert_eq!(focused().await, link);
    // Something does, and the same link has the focus in the list that has come in its place.
    client.publish(&Event::order("2")).await.expect(202);
    browser.shows("order/2").await;
    assert_eq!(focused().await, link);

    // Nor does the count of what is new.
    browser.open(&format!("{}/deliveries", backoffice.url)).await;
    client.publish(&Event::order("3")).await.expect(202);
    browser.shows("1 new. Show").await;
    browser.tab_to("#show-new").await;
    client.publish(&Event::order("4")).await.expect(202);
    browser.shows("2 new. Show").await;
    assert_eq!(focused().await, "show-new");
}

/// Nothing in the page is of the markup's making.
async fn assert_harmless(browser: &Browser, path: &str) {
    let script = "const all = [...document.querySelectorAll('*')];
        const is_ours = one => one.tagName === 'SCRIPT' && one.src.startsWith(location.origin + '/assets/');
        const is_odd = one => ['SCRIPT', 'IMG'].includes(one.tagName) && !is_ours(one)
            || one.getAttributeNames().some(name => name.startsWith('on'));
        return [window.hacked ?? 0, all.filter(is_odd).map(one => one.outerHTML)]";
    let seen = browser.run(script, Vec::new()).await;
    assert_eq!(seen, json!([0, []]), "{path}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_script_but_ours_runs_in_a_page_and_nothing_is_fetched_from_elsewhere() {
    let stack = Stack::start().await;
    let (backoffice, client) = (Backoffice::start(&stack).await, stack.client("tnt_a"));
    let browser = Browser::start().await;
    sign_in(&browser, &backoffice, &client).await;
    assert_eq!(browser.console().await, Vec::<String>::new());
    let inserted = "const script = document.createElement('script');
        script.textContent = 'window.hacked = 1';
        document.body.append(script);
        const button = document.createElement('button');
        button.setAttribute('onclick', 'window.hacked = 1');
        document.body.append(button);
        button.click();
        return window.hacked ?? 0";
    assert_eq!(browser.run(inserted, Vec::new()).await, 0);
    let elsewhere = "const done = arguments[1]; fetch(arguments[0]).then(() => done('fetched'), () => done('refused'))";
    let api = json!(stack.url(Service::Api));
    assert_eq!(browser.run_async(elsewhere, vec![api]).await, "refused");
    let said = browser.console().await;
    let refusals = said.iter().filter(|line| line.contains("Content Security Policy")).count();
    assert!(refusals >= 3, "{said:#?}");
}
