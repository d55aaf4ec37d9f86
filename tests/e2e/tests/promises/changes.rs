//! Who has changed which webhook is written down, without its secrets.

use std::time::Duration;

use jsonwebtoken::Algorithm;
use serde_json::{Value, json};
use shopery_e2e::{Behaviour, Client, DatabaseKind, Event, Stack, token, wait};

const SOON: Duration = Duration::from_secs(30);

on_both_databases!(every_change_says_who_made_it_and_what_it_changed);

/// The same tenant, by the token of somebody.
fn by(client: &Client, subject: Option<&str>) -> Client {
    let mut claims = token::claims(&[&client.tenant], token::ALL);
    claims["sub"] = json!(subject);
    client.with_token(&token::sign(&claims, Algorithm::HS256, token::SECRET))
}

async fn every_change_says_who_made_it_and_what_it_changed(database: DatabaseKind) {
    let stack = Stack::plan().database(database).tenants(["tnt_a", "tnt_b"]).start().await;
    let client = stack.client("tnt_a");
    let (anna, zoe) = (by(&client, Some("anna")), by(&client, Some("Zoë")));
    stack.merchant.behave("/gone", Behaviour::Answer(410));
    let url = |path: &str| stack.merchant.url(path);
    let secrets = ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "Bearer of bad news", "Bearer of good news"];
    let given = json!({ "secret": secrets[0], "headers": { "Authorization": secrets[1] }, "filter": { "total": [{ "numeric": [">", 1.50] }] } });
    let webhook = anna.create_webhook_with(&url("/a"), &["order-*"], given).await;
    let path = format!("/company/webhooks/{webhook}");
    let changes = format!("{path}/changes");

    let patch =
        json!({ "url": url("/gone"), "headers": { "Authorization": secrets[2] }, "filter": null, "rateLimit": 5 });
    zoe.patch(&path, &patch).await.expect(200);
    // Nothing is changed by what changes nothing, nor by what is refused.
    zoe.patch(&path, &json!({ "rateLimit": 5 })).await.expect(200);
    zoe.patch(&path, &json!({ "rateLimit": 0 })).await.expect(422);
    by(&client, None).post(&format!("{path}/rotate-secret"), &json!({})).await.expect(200);
    client.publish(&Event::order("1")).await.expect(202);
    wait::until("the webhook to be disabled", SOON, async || {
        let found = client.get(&path).await.expect(200).json();
        if found["disabledReason"] == "gone" { Ok(()) } else { Err(found.to_string()) }
    })
    .await;
    anna.patch(&path, &json!({ "isEnabled": true, "url": url("/a") })).await.expect(200);
    anna.delete(&path).await.expect(204);

    let mut told = client.all(&changes).await;
    told.reverse();
    let brief: Vec<_> = told.iter().map(|change| (change["action"].as_str().unwrap(), change["by"].as_str())).collect();
    let (anna_did, zoe_did) = (Some("anna"), Some("Zoë"));
    let expected = [
        ("created", anna_did),
        ("updated", zoe_did),
        ("updated", None),
        ("disabled", None),
        ("updated", anna_did),
        ("deleted", anna_did),
    ];
    assert_eq!(brief, expected);
    let parts: Vec<_> = told.iter().map(|change| &change["changes"]).collect();
    assert_eq!(parts[0]["filter"], json!({ "to": { "total": [{ "numeric": [">", 1.50] }] } }));
    assert_eq!(parts[0]["secret"], json!({ "to": "***" }));
    assert_eq!(parts[0]["isEnabled"], json!({ "to": true }));
    let updated = json!({
        "url": { "from": url("/a"), "to": url("/gone") },
        "headers.Authorization": { "from": "***", "to": "***" },
        "filter": { "from": { "total": [{ "numeric": [">", 1.50] }] } },
        "rateLimit": { "to": 5 },
    });
    assert_eq!(parts[1], &updated);
    assert_eq!(parts[2], &json!({ "secret": { "from": "***", "to": "***" }, "previousSecrets": { "to": 1 } }));
    let disabled = json!({ "isEnabled": { "from": true, "to": false }, "disabledReason": { "to": "gone" } });
    assert_eq!(parts[3], &disabled);
    assert_eq!(parts[4]["isEnabled"], json!({ "from": false, "to": true }));
    assert_eq!(parts[5]["url"], json!({ "from": url("/a") }));
    let all = Value::from(told.clone()).to_string();
    for secret in secrets.into_iter().chain(["MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "bad news"]) {
        assert!(!all.contains(secret), "{all}");
    }

    // It is a list like others: cut by times and into pages; another tenant finds nothing, as for no webhook at all.
    let since = told[3]["createdAt"].as_str().unwrap();
    assert!(client.all(&format!("{changes}?created_at_min={since}")).await.len() >= 3);
    assert!(client.all(&format!("{changes}?updated_at_max=2020-01-01T00:00:00Z")).await.is_empty());
    let first = client.get(&format!("{changes}?limit=2")).await.expect(200).json();
    assert_eq!(first["data"][1]["id"], told[4]["id"]);
    let rest = format!("{changes}?cursor={}", first["nextCursor"].as_str().unwrap());
    assert_eq!(client.get(&rest).await.expect(200).json()["data"].as_array().unwrap().len(), 4);
    let nothing = stack.client("tnt_b").get(&changes).await.expect(404).problem();
    let unknown = "/company/webhooks/wbh_01HA4XCG60CT4G3EWF4CKYM1MF/changes";
    assert_eq!(client.get(unknown).await.expect(404).problem(), nothing);
    client.with_token(&token::mint(&["tnt_a"], "events:write")).get(&changes).await.expect(403);
}
