//! The catalogue of event types, and what the platform adds to it.

use std::time::Duration;

use serde_json::json;
use shopery_e2e::{Event, Folder, Service, Stack};

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
        // A deletion has what identifies the resource, and no state of it.
        let is_deletion = entry["type"].as_str().unwrap().ends_with("-deleted");
        assert_eq!(entry["example"]["deleted_at"].is_string(), is_deletion, "{entry}");
        assert_eq!(entry["schema"]["properties"].as_object().unwrap().len() == 2, is_deletion, "{entry}");
    }
    let example = |name| &types.iter().find(|entry| entry["type"] == name).unwrap()["example"];
    for (name, status) in [("order-created", "open"), ("order-paid", "paid"), ("order-cancelled", "cancelled")] {
        assert_eq!(example(name)["status"], status, "{name}");
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
        "resource": "invoice", "example": { "id": "inv_1" }, "actions": {
            "paid": "An invoice was paid",
            "deleted": {
                "description": "An invoice was deleted",
                "schema": { "required": ["deleted_at"] },
                "example": { "deleted_at": "2026-12-24T10:00:00Z" },
            },
        },
    }]);
    std::fs::write(&path, added.to_string()).unwrap();
    let stack = Stack::plan().env("SHOPERY_EVENT_TYPES", path.to_str().unwrap()).start().await;
    let client = stack.client("tnt_a");
    let listed = client.get("/company/event-types").await.expect(200).json();
    let invoices: Vec<_> =
        listed["data"].as_array().unwrap().iter().filter(|entry| entry["resource"] == "invoice").collect();
    let deleted = json!({
        "type": "invoice-deleted", "resource": "invoice", "description": "An invoice was deleted",
        "schema": { "required": ["deleted_at"] }, "example": { "deleted_at": "2026-12-24T10:00:00Z" }
    });
    let paid = json!({
        "type": "invoice-paid", "resource": "invoice", "description": "An invoice was paid", "example": { "id": "inv_1" }
    });
    assert_eq!(invoices, [&deleted, &paid]);
    client.create_webhook(&stack.merchant.url("/invoices"), &["invoices-paid"]).await;
    client.create_webhook(&stack.merchant.url("/all-invoices"), &["invoice-*"]).await;
    client.publish(&Event::new("invoice-paid", "inv_1")).await.expect(202);
    for path in ["/invoices", "/all-invoices"] {
        let arrivals = stack.merchant.wait_at(path, 1, SOON).await;
        assert_eq!(arrivals[0].header("x-shopery-event"), "invoice-paid");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_type_that_a_service_does_not_know_yet_is_routed_sent_and_recorded_all_the_same() {
    let folder = Folder::create();
    let path = folder.join("types.json");
    let added = json!([{ "resource": "invoice", "actions": { "paid": "An invoice was paid" } }]);
    std::fs::write(&path, added.to_string()).unwrap();
    let mut stack = Stack::start().await;
    for service in [Service::Ingest, Service::Api] {
        stack.stop(service).await;
    }
    // As while an installation is updated: two know it, the others do not.
    let known = [("SHOPERY_EVENT_TYPES", path.to_str().unwrap())];
    for service in [Service::Ingest, Service::Api] {
        stack.run_with(service, &known).await;
    }
    let client = stack.client("tnt_a");
    let webhook = client.create_webhook(&stack.merchant.url("/a"), &["order-created", "invoice-paid"]).await;
    let types = ["order-created", "invoice-paid"];
    for (number, event_type) in types.into_iter().cycle().take(10).enumerate() {
        client.publish(&Event::new(event_type, &number.to_string())).await.expect(202);
    }
    let history = client.settled(&webhook, 10, SOON).await;
    assert!(history.iter().all(|delivery| delivery["state"] == "delivered"), "{history:?}");
    let of_invoices = history.iter().filter(|delivery| delivery["event"] == "invoice-paid").count();
    assert_eq!((of_invoices, stack.merchant.count()), (5, 10));
}
