//! How the pages look: in light and dark, on a phone and on a desk, nothing keeps anybody from using them, nothing is cut off, and
//! none is heavy. Pictures of all of them are in `target/pages`.

use std::time::Duration;

use serde_json::json;
use shopery_e2e::{Behaviour, Browser, Client, Event, Stack, Theme, parts, token};

use crate::backoffice::Backoffice;
use crate::pages::sign_in;
use crate::verification::LANGUAGES;

const SOON: Duration = Duration::from_secs(60);
const WIDTHS: [u32; 3] = [360, 768, 1440];
/// Of a page with its style.
const MAX_BYTES: u64 = 100_000;

/// What is wrong with the pages that somebody has looked at.
struct Look<'a> {
    browser: &'a Browser,
    url: &'a str,
    faults: Vec<String>,
}

impl Look<'_> {
    async fn open(&mut self, name: &str, path: &str) {
        self.browser.open(&format!("{}{path}", self.url)).await;
        self.at(name).await;
    }

    /// At a page that differs little from others that are looked at: on a phone alone.
    async fn glance(&mut self, name: &str, path: &str) {
        self.browser.open(&format!("{}{path}", self.url)).await;
        self.look(name, &[Theme::Light], &WIDTHS[..1]).await;
    }

    /// At the page that is open.
    async fn at(&mut self, name: &str) {
        self.look(name, &[Theme::Light, Theme::Dark], &WIDTHS).await;
    }

    async fn look(&mut self, name: &str, themes: &[Theme], widths: &[u32]) {
        let browser = self.browser;
        // axe-core would be told of too, so before it comes.
        let refused = |line: &String| line.contains("Failed to load resource: the server responded with a status of 4");
        let told = browser.console().await.into_iter().filter(|line| !refused(line));
        self.faults.extend(told.map(|line| format!("{name}: the console says {line}")));
        let weight = "const all = ['navigation', 'resource'].flatMap(kind => performance.getEntriesByType(kind));
            return all.reduce((sum, one) => sum + one.decodedBodySize, 0)";
        let weight = browser.run(weight, Vec::new()).await.as_u64().unwrap();
        if !(500..=MAX_BYTES).contains(&weight) {
            self.faults.push(format!("{name}: {weight} bytes"));
        }
        // Without an id it would lose the focus when its part of the page is replaced; and what was unfolded there would fold.
        let lost = "const inner = ':is(a, button, input, select, textarea, [tabindex]):not([id]), details';
            const all = [...document.querySelectorAll('[hx-get]')].flatMap(part => [...part.querySelectorAll(inner)]);
            return all.map(one => one.outerHTML.slice(0, 120))";
        let lost = browser.run(lost, Vec::new()).await;
        self.faults.extend(lost.as_array().unwrap().iter().map(|one| format!("{name}: would be lost: {one}")));
        for &theme in themes {
            for &width in widths {
                browser.view(width, theme).await;
                let is_dark = "return matchMedia('(prefers-color-scheme: dark)').matches";
                assert_eq!(browser.run(is_dark, Vec::new()).await, theme == Theme::Dark);
                self.fits(name, width).await;
                let file = format!("{name}-{width}-{}.png", theme.name());
                browser.picture(&parts::folder().with_file_name("pages").join(file)).await;
            }
            // A page has another order on a phone, and tables that scroll: on the smallest screen and on the largest.
            for &width in widths.iter().step_by(2) {
                browser.view(width, theme).await;
                let found = browser.barriers().await.into_iter();
                self.faults.extend(found.map(|line| format!("{name} at {width} px, {}: {line}", theme.name())));
            }
        }
        browser.console().await;
    }

    /// Nobody has to scroll sideways to read it.
    async fn fits(&mut self, name: &str, width: u32) {
        let script = "const width = arguments[0], page = document.scrollingElement;
            const is_scrolled = one => one.closest('.wide') && !one.matches('.wide');
            const reaches = one => one.getBoundingClientRect().right > width + 1 && !is_scrolled(one);
            const wide = [...document.querySelectorAll('main *, header *')].filter(reaches);
            return [page.scrollWidth <= width, wide.map(one => one.outerHTML.slice(0, 120))]";
        let seen = self.browser.run(script, vec![json!(width)]).await;
        if seen != json!([true, []]) {
            self.faults.push(format!("{name} is wider than {width} px: {}", seen[1]));
        }
    }
}

/// Three webhooks, of which one works, one fails and one is paused, with long names and long URLs.
pub(crate) async fn furnish(stack: &Stack, client: &Client) -> [String; 3] {
    let long = format!("/fails/{}", "a-long-path-without-end/".repeat(12));
    stack.merchant.behave(&long, Behaviour::Answer(500));
    let (works, fails) = (stack.merchant.url("/works"), stack.merchant.url(&long));
    let paused = stack.merchant.url("/paused");
    let described = json!({ "name": "Orders to the warehouse", "description": "Asked for by whoever packs the boxes" });
    let ruled = json!({
        "name": "A-name-without-any-space-in-it-".repeat(6), "fields": ["id", "total_price", "customer.email"],
        "filter": { "id": [{ "prefix": "" }] },
    });
    let made = [
        client.create_webhook_with(&works, &["order-created", "order-updated", "product-*"], described).await,
        client.create_webhook_with(&fails, &["*"], ruled).await,
        client.create_webhook_with(&paused, &["order-*"], json!({ "isEnabled": false })).await,
    ];
    for id in ["1", "2", "a-resource-with-a-rather-long-id-0123456789-0123456789-0123456789"] {
        client.publish(&Event::order(id)).await.expect(202);
    }
    client.settled(&made[0], 3, SOON).await;
    client.in_state(&made[1], "failed", 3, SOON).await;
    client.in_state(&made[2], "parked", 3, SOON).await;
    made
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_are_readable_by_all_on_every_screen() {
    let plan = Stack::plan().env("SHOPERY_RETRY_SCHEDULE", "300ms").env("SHOPERY_CIRCUIT_FAILURES", "50");
    let stack = plan.start().await;
    let (backoffice, client) = (Backoffice::start(&stack).await, stack.client("tnt_a"));
    let browser = Browser::start().await;
    let mut look = Look { browser: &browser, url: &backoffice.url, faults: Vec::new() };
    look.open("sign-in", "/webhooks").await;
    sign_in(&browser, &backoffice, &client).await;
    look.at("webhooks-empty").await;
    let [works, fails, paused] = furnish(&stack, &client).await;

    look.open("webhooks", "/webhooks").await;
    look.open("new", "/webhooks/new").await;
    browser.fill("Webhook Name", "Half done").await;
    browser.fill("URL", "https://127.0.0.1/a").await;
    browser.unfold("Advanced").await;
    browser.fill("Rate limit", "many").await;
    browser.press("Save").await;
    browser.shows("rateLimit").await;
    look.at("new-errors").await;
    for (name, id) in [("webhook", &works), ("webhook-failing", &fails), ("webhook-paused", &paused)] {
        look.open(name, &format!("/webhooks/{id}")).await;
    }
    browser.press("Delete").await;
    browser.shows("Delete it").await;
    look.at("webhook-delete").await;
    look.open("edit", &format!("/webhooks/{fails}/edit")).await;
    look.open("changes", &format!("/webhooks/{fails}/changes")).await;
    look.open("deliveries", "/deliveries").await;
    let failed = client.in_state(&fails, "failed", 3, SOON).await.remove(0)["id"].as_str().unwrap().to_owned();
    look.open("delivery", &format!("/deliveries/{failed}")).await;
    look.open("events", "/events").await;
    look.open("event", "/events/evt_1?resource=order%2F1").await;
    look.open("not-found", "/webhooks/wbh_01HA4XCG60CT4G3EWF4CKYM1MF").await;
    look.open("recover", &format!("/webhooks/{fails}/recover")).await;
    browser.press("Send again what failed").await;
    browser.shows("Recovery").await;
    look.at("recovery").await;
    for language in LANGUAGES {
        look.glance(&format!("verify-{language}"), &format!("/webhooks/{works}/verify?language={language}")).await;
    }
    browser.press("Show it with my secret in it").await;
    browser.shows("This code has your secret in it.").await;
    look.at("verify-secret").await;
    of_a_reader(&mut look, &backoffice, &client, &works).await;

    // Spanish takes more room.
    browser.prefer("es").await;
    for (name, path) in [("webhooks", "/webhooks"), ("new", "/webhooks/new"), ("deliveries", "/deliveries?live=1")] {
        look.open(&format!("{name}-es"), path).await;
    }
    look.open("webhook-paused-es", &format!("/webhooks/{paused}")).await;
    look.open("verify-es", &format!("/webhooks/{works}/verify")).await;
    assert!(look.faults.is_empty(), "{} faults:\n{}", look.faults.len(), look.faults.join("\n"));
}

/// What somebody is shown who may only look, and before that somebody who has no good token.
async fn of_a_reader(look: &mut Look<'_>, backoffice: &Backoffice, client: &Client, webhook: &str) {
    let browser = look.browser;
    browser.press("Sign out").await;
    browser.shows("Sign in to go on.").await;
    browser.fill("Token", "hunter2").await;
    browser.press("Sign in").await;
    browser.shows("That is no token").await;
    look.at("sign-in-refused").await;
    let reader = client.with_token(&token::mint(&["tnt_a"], "webhooks:read"));
    sign_in(browser, backoffice, &reader).await;
    look.at("webhooks-read-only").await;
    look.open("webhook-read-only", &format!("/webhooks/{webhook}")).await;
    look.open("not-allowed", &format!("/webhooks/{webhook}/recover")).await;
    browser.shows("You may not do that").await;
    browser.press("Sign out").await;
    browser.shows("Sign in to go on.").await;
    sign_in(browser, backoffice, client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_keeps_people_from_using_a_page_is_found() {
    let browser = Browser::start().await;
    let page = "<html><title>t</title><main><h1>h</h1><p style='color:%23999;background:%23aaa'>faint</p><img src=x>";
    browser.open(&format!("data:text/html,{page}")).await;
    let found = browser.barriers().await.join("\n");
    for rule in ["color-contrast", "html-has-lang", "image-alt"] {
        assert!(found.contains(rule), "{rule}: {found}");
    }
}
