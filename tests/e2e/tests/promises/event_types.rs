//! The catalogue of event types, and what the platform adds to it.

use std::time::Duration;

use serde_json::json;
use shopery_e2e::{Event, Folder, Stack};

const SOON: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread")]
async fn the_catalogue_says_what_there_is_to_subscribe_to() {
    let stack = Stack::start().await;
    let listed = stack.client("tnt_a").get("/company/event-types").await.expect(200).json();
    let types = listed["data"].as_array().unwrap();
    assert!(types.len() >= 17 && listed["nextCursor"].is_null(), "{listed}");
    for entry in types {
        assert!(entry["description"].as_str().is_some_and(|text| !text.is_empty()), "{entry}");
        for required in entry["schema"]["required"].as_array().unwrap() {
            assert!(entry["example"].get(required.as_str().unwrap()).is_some(), "{entry}");
        }
    }
    // Each of them can be subscribed to.
    let names: Vec<_> = types.iter().map(|entry| entry["type"].as_str().unwrap()).collect();
    stack.client("tnt_a").create_webhook(&stack.merchant.url("/all"), &names).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_type_that_the_platform_adds_is_one_like_the_others() {
    let folder = Folder::create();
    let path = folder.join("types.json");
    let added = json!([{
        "resource": "invoice", "actions": { "paid": "An invoice was paid" }, "example": { "id": "inv_1" }
    }]);
    std::fs::write(&path, added.to_string()).unwrap();
    let stack = Stack::plan().env("SHOPERY_EVENT_TYPES", path.to_str().unwrap()).start().await;
    let client = stack.client("tnt_a");
    let listed = client.get("/company/event-types").await.expect(200).json();
    let found =
        listed["data"].as_array().unwrap().iter().find(|entry| entry["type"] == "invoice-paid").unwrap().clone();
    let wanted = json!({
        "type": "invoice-paid", "resource": "invoice", "description": "An invoice was paid", "example": { "id": "inv_1" }
    });
    assert_eq!(found, wanted);
    client.create_webhook(&stack.merchant.url("/invoices"), &["invoices-paid"]).await;
    client.create_webhook(&stack.merchant.url("/all-invoices"), &["invoice-*"]).await;
    client.publish(&Event::new("invoice-paid", "inv_1")).await.expect(202);
    for path in ["/invoices", "/all-invoices"] {
        let arrivals = stack.merchant.wait_at(path, 1, SOON).await;
        assert_eq!(arrivals[0].header("x-shopery-event"), "invoice-paid");
    }
}
