//! What the page of a webhook draws is what the API counts; and its form offers events and fields to choose from.

use std::time::Duration;

use serde_json::json;
use shopery_e2e::{Behaviour, Event, Stack, wait};

use crate::verification::Pages;

const SOON: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn charts_show_what_was_counted_in_words_and_in_a_table() {
    let stack = Stack::plan().env("SHOPERY_RETRY_SCHEDULE", "300ms").start().await;
    let client = stack.client("tnt_a");
    let webhook = client.create_webhook(&stack.merchant.url("/a"), &["order-*"]).await;
    let (pages, path) = (Pages::of(&stack, &client).await, format!("/webhooks/{webhook}"));
    let empty = pages.get(&path).await;
    for says in ["No delivery has ended", "Nothing was attempted", "No attempt has failed", "closed"] {
        assert!(empty.contains(says), "{says}: {empty}");
    }
    client.publish(&Event::order("1")).await.expect(202);
    client.in_state(&webhook, "delivered", 1, SOON).await;
    stack.merchant.behave("/a", Behaviour::Answer(500));
    client.publish(&Event::order("2")).await.expect(202);
    client.in_state(&webhook, "failed", 1, SOON).await;
    for range in ["1h", "24h", "7d", "30d"] {
        let page = wait::until("the counts", SOON, async || {
            let page = pages.get(&format!("{path}?range={range}")).await;
            if page.contains("Delivered: 1. Failed: 1. At most in one window:") { Ok(page) } else { Err(page) }
        })
        .await;
        assert!(page.contains(&format!("range={range}#metrics\" aria-current=\"true\"")), "{page}");
        assert_eq!(page.matches("<svg role=\"img\"").count(), 2, "{page}");
        assert!(page.contains("reason=http_status") && page.contains("aria-label=\"p50: "), "{page}");
        assert!(page.len() < 100 * 1024 && !page.contains(" style="), "{}", page.len());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn events_and_fields_are_chosen_from_the_catalogue() {
    let stack = Stack::start().await;
    let client = stack.client("tnt_a");
    let (pages, url) = (Pages::of(&stack, &client).await, stack.merchant.url("/a"));
    let form = pages.get("/webhooks/new").await;
    assert!(form.contains("<summary><code>order</code></summary>") && form.contains("zoe@example.com"), "{form}");

    // Another type's example has other fields; what was chosen before stays, and what was typed too.
    let typed =
        [("name", "n"), ("url", &*url), ("events", "order-*"), ("field", "customer.email"), ("fields", "own\nid")];
    let (status, shown) = pages
        .post("/webhooks/new", &[&typed[..], &[("example", "order-deleted"), ("action", "fields")]].concat())
        .await;
    assert_eq!(status, 200);
    for part in [
        "value=\"order-*\" checked",
        "name=\"field\" value=\"deleted_at\">",
        "name=\"field\" value=\"id\" checked",
        ">customer.email\nown</textarea>",
        "<option value=\"order-deleted\" selected>",
    ] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    let (status, _) = pages.post("/webhooks/new", &[&typed[..], &[("action", "save")]].concat()).await;
    assert_eq!(status, 303);
    let webhook = client.all("/company/webhooks").await.remove(0);
    assert_eq!(webhook["fields"], json!(["customer.email", "own", "id"]));

    // An error names the path, not its number.
    let wrong = [("name", "n"), ("url", &*url), ("events", "order-*"), ("field", "id"), ("fields", "a..b")];
    let (status, shown) = pages.post("/webhooks/new", &[&wrong[..], &[("action", "save")]].concat()).await;
    assert!(status == 422 && shown.contains("<p class=\"wrong\">a..b "), "{status} {shown}");
}
