//! A tenant can neither read nor touch another tenant's anything.

use std::time::Duration;

use serde_json::json;
use shopery_e2e::{DatabaseKind, Event, Stack, token};

on_both_databases!(another_tenant_finds_nothing);

async fn another_tenant_finds_nothing(database: DatabaseKind) {
    let stack = Stack::on(database).await;
    let (ours, theirs) = (stack.client("tnt_a"), stack.client("tnt_b"));
    let webhook = ours.create_webhook(&stack.merchant.url("/ours"), &["*"]).await;
    ours.publish(&Event::order("1")).await.expect(202);
    let delivery = ours.settled(&webhook, 1, Duration::from_secs(20)).await.remove(0);
    let delivery = delivery["id"].as_str().unwrap();
    let missed = json!({ "since": "2020-01-01T00:00:00Z" });
    let recovery = ours.post(&format!("/company/webhooks/{webhook}/recover"), &missed).await.expect(202).json();
    let recovery = format!("/company/recoveries/{}", recovery["id"].as_str().unwrap());

    // What is another's is answered exactly as what does not exist.
    let nothing = "wbh_01HA4XCG60CT4G3EWF4CKYM1MF";
    for id in [webhook.as_str(), nothing] {
        let path = format!("/company/webhooks/{id}");
        let answers = [
            theirs.get(&path).await,
            theirs.patch(&path, &json!({ "isEnabled": false })).await,
            theirs.delete(&path).await,
            theirs.get(&format!("{path}/secret")).await,
            theirs.post(&format!("{path}/test"), &json!({})).await,
            theirs.get(&format!("{path}/deliveries")).await,
            theirs.get(&format!("{path}/recoveries")).await,
            theirs.post(&format!("{path}/recover"), &missed).await,
        ];
        for answer in answers {
            let problem = answer.expect(404).problem();
            assert!(!problem["detail"].as_str().unwrap().contains("tnt_a"), "{problem}");
        }
    }
    theirs.get(&format!("/company/deliveries/{delivery}")).await.expect(404).problem();
    theirs.post(&format!("/company/deliveries/{delivery}/resend"), &json!({})).await.expect(404).problem();
    theirs.get(&recovery).await.expect(404).problem();
    theirs.post(&format!("{recovery}/cancel"), &json!({})).await.expect(404).problem();
    assert_eq!(theirs.all("/company/events").await, Vec::<serde_json::Value>::new());
    assert_eq!(theirs.all("/company/webhooks").await, Vec::<serde_json::Value>::new());
    assert_eq!(theirs.all("/company/deliveries").await, Vec::<serde_json::Value>::new());

    // Nor does the header alone open anything, and a token for both tenants shows each its own.
    let mut forged = theirs.clone();
    forged.tenant = "tnt_a".to_owned();
    forged.get("/company/webhooks").await.expect(403).problem();
    let both = token::mint(&["tnt_a", "tnt_b"], token::ALL);
    assert_eq!(ours.with_token(&both).all("/company/webhooks").await.len(), 1);
    assert_eq!(theirs.with_token(&both).all("/company/webhooks").await.len(), 0);
    theirs.with_token(&both).get(&format!("/company/webhooks/{webhook}")).await.expect(404);

    // It is as it was, and hears nothing of their events.
    let found = ours.get(&format!("/company/webhooks/{webhook}")).await.expect(200).json();
    assert_eq!(found["isEnabled"], true);
    let own = theirs.create_webhook(&stack.merchant.url("/theirs"), &["*"]).await;
    theirs.publish(&Event::order("2")).await.expect(202);
    theirs.settled(&own, 1, Duration::from_secs(20)).await;
    assert_eq!(stack.merchant.arrivals_at("/ours").len(), 1);
    assert_eq!(theirs.all("/company/deliveries").await.len(), 1);
}
