//! The counts on a real SQLite file: they are those of the outcomes, whatever comes twice and in whichever batches.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeMap;

use shopery_model::{
    Attempt, AttemptId, DeliveryId, DeliveryState, Extensions, Fault, JobMeta, Outcome, TenantId, WebhookId,
};
use shopery_store::{Counts, Recorded, Store, Windows};
use time::OffsetDateTime;
use time::macros::datetime;

const BEGAN: OffsetDateTime = datetime!(2026-11-24 10:00 UTC);

/// SplitMix64 (Steele, Lea, Flood 2014).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % limit
    }
}

fn outcome(random: &mut Random, webhooks: &[WebhookId], number: u64) -> Outcome {
    let tenant: TenantId = "t".parse().unwrap();
    let webhook = webhooks[usize::try_from(random.below(webhooks.len() as u64)).unwrap()];
    let at = BEGAN + time::Duration::seconds(i64::try_from(random.below(7200)).unwrap());
    let (state, fault) = match random.below(5) {
        0 => (DeliveryState::Pending, Some((Fault::Timeout, "no answer".to_owned()))),
        1 => (DeliveryState::Failed, Some((Fault::HttpStatus, "500".to_owned()))),
        2 => (DeliveryState::Duplicate, None),
        _ => (DeliveryState::Delivered, None),
    };
    let attempt = (state != DeliveryState::Duplicate).then(|| Attempt {
        id: AttemptId::generate(),
        started_at: at,
        duration_ms: u32::try_from(random.below(5000)).unwrap(),
        url: "https://a.example/".to_owned(),
        request_bytes: 1,
        status: None,
        response_body: String::new(),
        response_headers: String::new(),
        code: None,
        message_id: None,
        posted: None,
        note: None,
    });
    let event = format!("e{number}");
    Outcome {
        job: JobMeta {
            delivery: DeliveryId::of(&tenant, "orders", &event, at, webhook),
            tenant,
            webhook,
            source: "orders".to_owned(),
            event,
            event_type: "order-created".parse().unwrap(),
            resource: "order/1".to_owned(),
            triggered_at: at,
            event_sequence: number,
            changed: Vec::new(),
            stored_ns: None,
            payload_of: None,
            fields: None,
            extensions: Extensions::default(),
            may_be_stale: false,
            attempt: 1,
            failed_at: None,
            resend: None,
        },
        state,
        next_attempt_at: None,
        attempt,
        fault,
        carried_by: None,
        at,
    }
}

/// All that was counted of a webhook.
async fn counted(store: &Store, webhook: Option<WebhookId>, now: OffsetDateTime) -> Counts {
    let tenant = "t".parse().unwrap();
    let windows = Windows { from: BEGAN, step: std::time::Duration::from_secs(1800), count: 48 };
    let mut all = Counts::default();
    for counts in store.counts(&tenant, webhook, windows, now).await.unwrap().values() {
        all.merge(counts);
    }
    all
}

#[tokio::test]
async fn counts_are_those_of_the_outcomes_whatever_comes_twice() {
    let folder = std::env::temp_dir().join(format!("shopery-rollups-{}", AttemptId::generate()));
    std::fs::create_dir(&folder).unwrap();
    let store = Store::connect(&format!("sqlite://{}/a.db?mode=rwc", folder.display())).await.unwrap();
    let seed = u64::try_from(OffsetDateTime::now_utc().unix_timestamp()).unwrap();
    println!("seed {seed}");
    let mut random = Random(seed);
    let webhooks: Vec<_> = (0..3).map(|_| WebhookId::generate()).collect();
    let messages: Vec<Vec<Outcome>> = (0..60)
        .map(|message| {
            (0..=random.below(20)).map(|number| outcome(&mut random, &webhooks, message * 100 + number)).collect()
        })
        .collect();
    let recorded = |index: usize| Recorded { sequence: index as u64 + 1, at: BEGAN, outcomes: &messages[index] };
    // In batches of any size, each message once at least, some twice, some within one batch.
    let mut order: Vec<usize> = (0..messages.len()).collect();
    order.extend((0..40).map(|_| usize::try_from(random.below(60)).unwrap()));
    let mut rest = order.as_slice();
    while !rest.is_empty() {
        let (now, later) = rest.split_at(usize::try_from(1 + random.below(9)).unwrap().min(rest.len()));
        store.record_messages(&now.iter().copied().map(recorded).collect::<Vec<_>>()).await.unwrap();
        rest = later;
    }
    for webhook in webhooks.iter().copied().map(Some).chain([None]) {
        let of = || messages.iter().flatten().filter(|outcome| webhook.is_none_or(|id| outcome.job.webhook == id));
        let mut states = BTreeMap::<&str, u64>::new();
        let mut failed = BTreeMap::<&str, u64>::new();
        for outcome in of() {
            if outcome.state != DeliveryState::Pending {
                *states.entry(outcome.state.name()).or_default() += 1;
            }
            if let Some((fault, _)) = &outcome.fault {
                *failed.entry(fault.name()).or_default() += 1;
            }
        }
        let found = counted(&store, webhook, BEGAN).await;
        let attempts = of().filter(|outcome| outcome.attempt.is_some()).count() as u64;
        assert_eq!((found.attempts(), &found.states(), &found.failed()), (attempts, &states, &failed));
        let longest =
            of().filter_map(|outcome| outcome.attempt.as_ref()).map(|attempt| attempt.duration_ms).max().unwrap();
        let max = found.latency(1000).unwrap();
        assert!(max >= f64::from(longest) && max <= f64::from(longest.max(1)) * 1.19, "{max} for {longest}");
    }
    let before = counted(&store, None, BEGAN).await;
    // In windows of any length, of minutes alone, beside an hour in place of its minutes, and of hours alone.
    let minutes = [1, 30, 60, 90, 120, 1440].map(|minutes| time::Duration::minutes(minutes));
    for folded in [BEGAN, BEGAN + time::Duration::HOUR, BEGAN + time::Duration::DAY] {
        let now = folded + time::Duration::days(2);
        while store.forget_minutes(now).await.unwrap() {}
        for (step, early) in minutes.iter().flat_map(|step| [0, 30].map(|early| (*step, early))) {
            let from = BEGAN - time::Duration::minutes(early);
            let mut attempts = BTreeMap::<u64, u64>::new();
            for outcome in messages.iter().flatten().filter(|outcome| outcome.attempt.is_some()) {
                // Windows of whole hours do not tell minutes and hours apart.
                let bucket = if outcome.at < folded { time::Duration::HOUR } else { time::Duration::MINUTE };
                let since = outcome.at - BEGAN;
                let begins = since - time::Duration::seconds(since.whole_seconds() % bucket.whole_seconds());
                let window = (BEGAN + begins - from).whole_seconds() / step.whole_seconds();
                *attempts.entry(u64::try_from(window).unwrap()).or_default() += 1;
            }
            let windows = Windows { from, step: step.unsigned_abs(), count: 200 };
            let found = store.counts(&"t".parse().unwrap(), None, windows, now).await.unwrap();
            let found = found.into_iter().map(|(window, counts)| (window, counts.attempts()));
            assert_eq!(found.filter(|(_, attempts)| *attempts > 0).collect::<BTreeMap<_, _>>(), attempts, "{step}");
        }
    }
    let later = BEGAN + time::Duration::days(3);
    // Hours in place of minutes say the same; another message from the stream made anew counts.
    assert_eq!(counted(&store, None, later).await, before);
    store.record_messages(&[Recorded { at: BEGAN + time::Duration::SECOND, ..recorded(0) }]).await.unwrap();
    assert!(counted(&store, None, later).await.attempts() >= before.attempts());
    assert_ne!(counted(&store, None, later).await, before);
    std::fs::remove_dir_all(&folder).unwrap();
}

#[tokio::test]
async fn what_is_too_old_is_forgotten_and_nothing_else() {
    let folder = std::env::temp_dir().join(format!("shopery-retention-{}", AttemptId::generate()));
    std::fs::create_dir(&folder).unwrap();
    let store = Store::connect(&format!("sqlite://{}/a.db?mode=rwc", folder.display())).await.unwrap();
    let (mut random, webhook) = (Random(7), WebhookId::generate());
    let outcomes: Vec<_> = (0..2000).map(|number| outcome(&mut random, &[webhook], number)).collect();
    store.record(&outcomes).await.unwrap();
    let cut = BEGAN + time::Duration::HOUR;
    while store.forget_deliveries(cut).await.unwrap() {}
    let (tenant, first) = ("t".parse().unwrap(), DeliveryId::first_at(BEGAN));
    let old = store.states(&tenant, webhook, (first, DeliveryId::first_at(cut)), 3000).await.unwrap();
    assert_eq!(old.len(), 0);
    let rest =
        store.states(&tenant, webhook, (first, DeliveryId::last_at(BEGAN + time::Duration::DAY)), 3000).await.unwrap();
    assert_eq!(rest.len(), outcomes.iter().filter(|outcome| outcome.at >= cut).count());
    // One that is recorded again comes back, and goes the next time.
    store.record(&outcomes[..1]).await.unwrap();
    while store.forget_deliveries(cut).await.unwrap() {}
    std::fs::remove_dir_all(&folder).unwrap();
}
