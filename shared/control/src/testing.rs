//! A webhook for tests.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use shopery_model::{Rules, Sealed};
use shopery_store::{DisabledReason, WebhookRecord, WebhookState};
use time::macros::datetime;

/// One that we have disabled.
pub fn webhook() -> WebhookRecord {
    WebhookRecord {
        id: "wbh_01HA4XCG60CT4G3EWF4CKYM1MF".parse().unwrap(),
        tenant: "t".parse().unwrap(),
        name: "a".to_owned(),
        description: None,
        metadata: Default::default(),
        destination: "https://a.example/".parse().unwrap(),
        events: vec!["*".parse().unwrap()],
        state: WebhookState::Disabled,
        sealed: Sealed::of_stored("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".to_owned()),
        rules: Rules::default(),
        created_at: datetime!(2026-11-20 10:00 UTC),
        updated_at: datetime!(2026-11-24 10:00:01 UTC),
        failing_since: Some(datetime!(2026-11-21 10:00 UTC)),
        warned_at: None,
        is_warning_notified: false,
        disabled: Some((datetime!(2026-11-24 10:00 UTC), DisabledReason::Failing)),
        is_told: false,
        discard_before: None,
        endpoint_since: None,
        version: 1,
    }
}
