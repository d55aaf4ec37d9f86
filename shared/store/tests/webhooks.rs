//! Webhooks on a real SQLite file: since when an endpoint is the one that it is.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use shopery_model::{AttemptId, Rules, Sealed, WebhookId};
use shopery_store::{Author, Resealed, Store, WebhookChange, WebhookRecord, WebhookState};
use time::OffsetDateTime;
use time::macros::datetime;

const CREATED: OffsetDateTime = datetime!(2026-11-24 10:00 UTC);

fn record() -> WebhookRecord {
    WebhookRecord {
        id: WebhookId::generate(),
        tenant: "t".parse().unwrap(),
        name: "a".to_owned(),
        description: None,
        metadata: Default::default(),
        url: "https://a.example/".parse().unwrap(),
        events: vec!["*".parse().unwrap()],
        state: WebhookState::Active,
        sealed: Sealed::of_stored("v1.a.0".to_owned()),
        rules: Rules::default(),
        created_at: CREATED,
        updated_at: CREATED,
        failing_since: None,
        warned_at: None,
        is_warning_notified: false,
        disabled: None,
        is_told: false,
        discard_before: None,
        endpoint_since: None,
        version: 1,
    }
}

fn resealed(before: &WebhookRecord, number: usize, is_new_secret: bool) -> Resealed {
    let after = Sealed::of_stored(format!("v1.a.{number}"));
    Resealed { before: before.sealed.clone(), after, is_new_secret, told: Vec::new() }
}

#[tokio::test]
async fn another_url_or_secret_or_enabling_it_makes_another_endpoint_and_nothing_else_does() {
    let folder = std::env::temp_dir().join(format!("shopery-webhooks-{}", AttemptId::generate()));
    std::fs::create_dir(&folder).unwrap();
    let store = Store::connect(&format!("sqlite://{}/a.db?mode=rwc", folder.display())).await.unwrap();
    let created = record();
    let (tenant, id) = (&created.tenant, created.id);
    store.create_webhook(&created, &[], &Author::default()).await.unwrap();
    let (mut before, mut since) = (created.clone(), None);
    assert_eq!(before.config().endpoint_since, None);
    let url = |url: &str| WebhookChange { url: Some(url.parse().unwrap()), ..WebhookChange::default() };
    let state = |state| WebhookChange { state: Some(state), ..WebhookChange::default() };
    let sealed = |number, is_new| {
        move |now: &WebhookRecord| WebhookChange {
            sealed: Some(resealed(now, number, is_new)),
            ..WebhookChange::default()
        }
    };
    type Change = Box<dyn Fn(&WebhookRecord) -> WebhookChange>;
    let changes: Vec<(Change, bool)> = vec![
        (Box::new(|_| WebhookChange { name: Some("b".to_owned()), ..WebhookChange::default() }), false),
        (Box::new(move |_| url("https://a.example/")), false),
        (Box::new(move |_| url("https://b.example/")), true),
        (Box::new(move |_| state(WebhookState::Active)), false),
        (Box::new(move |_| state(WebhookState::Paused)), false),
        (Box::new(move |_| state(WebhookState::Active)), true),
        (Box::new(sealed(1, false)), false),
        (Box::new(sealed(2, true)), true),
    ];
    for (number, (change, is_new)) in (1..).zip(&changes) {
        let now = CREATED + time::Duration::minutes(number);
        let changed = store.update_webhook(tenant, id, change(&before), &Author::default(), now).await.unwrap();
        assert!(changed);
        let found = store.webhook(tenant, id).await.unwrap().unwrap();
        if *is_new {
            since = Some(now);
        }
        assert_eq!(found.endpoint_since, since, "change {number}");
        assert_eq!(found.config().endpoint_since, since);
        before = found;
    }
    // Another key has sealed the same.
    assert!(store.reseal(tenant, id, &resealed(&before, 3, false)).await.unwrap());
    assert_eq!(store.webhook(tenant, id).await.unwrap().unwrap().endpoint_since, since);
    std::fs::remove_dir_all(&folder).unwrap();
}
