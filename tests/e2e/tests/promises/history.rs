//! The history on either database: every filter finds what it names, page by page, and what is too old goes.

use std::collections::{BTreeMap, BTreeSet};

use shopery_e2e::documents::{Random, seed};
use shopery_e2e::postgres::Postgres;
use shopery_e2e::{DatabaseKind, Folder};
use shopery_model::{
    Attempt, AttemptId, DeliveryId, DeliveryState, EventType, Extensions, Fault, JobMeta, Outcome, TenantId, WebhookId,
};
use shopery_store::{Cursor, DeliveryFilter, SortOrder, Store, Times};
use time::macros::datetime;
use time::{Duration, OffsetDateTime};

const BEGAN: OffsetDateTime = datetime!(2026-10-01 00:00 UTC);
const AGE: Duration = Duration::days(30);
const DAYS: usize = 40;

on_both_databases!(
    every_filter_finds_what_it_names_and_what_is_too_old_goes,
    what_is_carried_fails_with_its_carrier_in_whatever_order_they_are_recorded,
    a_carrier_and_what_it_carries_may_be_recorded_at_the_same_time,
);

/// A database of its own; both are held as long as the store is used.
async fn open(database: DatabaseKind) -> (Store, Folder, Option<Postgres>) {
    let folder = Folder::create();
    let postgres = match database {
        DatabaseKind::Sqlite => None,
        DatabaseKind::Postgres => Some(Postgres::start(None).await),
    };
    let sqlite = format!("sqlite://{}?mode=rwc", folder.join("history.db").display());
    let url = postgres.as_ref().map_or(sqlite, Postgres::url);
    (Store::connect(&url).await.unwrap(), folder, postgres)
}

/// Some delivery of these days, and how it is now.
fn outcome(random: &mut Random, webhooks: &[(TenantId, WebhookId)], number: usize) -> Outcome {
    let (tenant, webhook) = webhooks[random.below(webhooks.len())].clone();
    let created = BEGAN + Duration::milliseconds(i64::try_from(random.below(DAYS * 86_400_000)).unwrap());
    let later = [50, 300_000, 599_999, 600_000, 660_000, 86_400_000, 4 * 86_400_000][random.below(7)];
    let states = [DeliveryState::Delivered, DeliveryState::Failed, DeliveryState::Parked, DeliveryState::Duplicate];
    let event = format!("e{number}");
    let state = states[random.below(states.len())];
    let refused = [None, Some(302), Some(410), Some(503)][random.below(4)];
    let status = if state == DeliveryState::Delivered { Some([200, 204][random.below(2)]) } else { refused };
    let fault = [Fault::Timeout, Fault::HttpStatus][random.below(2)];
    Outcome {
        job: JobMeta {
            delivery: DeliveryId::of(&tenant, "e2e", &event, created, webhook),
            tenant,
            webhook,
            source: "orders".to_owned(),
            event,
            event_type: random.pick(&["order-paid", "order-created", "product-updated"]).parse().unwrap(),
            resource: format!("order/{}", random.below(40)),
            // The time that the publisher tells may be any.
            triggered_at: created - Duration::days(i64::try_from(random.below(100)).unwrap()),
            event_sequence: number as u64,
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
        attempt: (state != DeliveryState::Duplicate).then(|| Attempt {
            id: AttemptId::generate(),
            started_at: created,
            duration_ms: 7,
            url: "https://a.example/".to_owned(),
            request_bytes: 2,
            status,
            response_headers: String::new(),
            code: None,
            message_id: None,
            response_body: String::new(),
            posted: None,
            note: None,
        }),
        fault: (state == DeliveryState::Failed).then(|| (fault, "it failed".to_owned())),
        carried_by: None,
        at: created + Duration::milliseconds(later),
    }
}

fn status_of(outcome: &Outcome) -> Option<u16> {
    outcome.attempt.as_ref()?.status
}

fn matches(outcome: &Outcome, tenant: &TenantId, filter: &DeliveryFilter) -> bool {
    let Times { created_at_min, created_at_max, updated_at_min, updated_at_max } = filter.times;
    let created = outcome.job.delivery.created_at();
    outcome.job.tenant == *tenant
        && filter.webhook.is_none_or(|id| outcome.job.webhook == id)
        && (filter.states.is_empty() || filter.states.contains(&outcome.state))
        && filter.event_type.as_ref().is_none_or(|event| outcome.job.event_type.to_string() == *event)
        && filter.resource.as_ref().is_none_or(|resource| outcome.job.resource == *resource)
        && filter.fault.is_none_or(|fault| outcome.fault.as_ref().is_some_and(|(of, _)| *of == fault))
        && filter.response_status.is_none_or(|status| status_of(outcome) == Some(status))
        && created_at_min.is_none_or(|min| created >= min)
        && created_at_max.is_none_or(|max| created <= max)
        && updated_at_min.is_none_or(|min| outcome.at >= min)
        && updated_at_max.is_none_or(|max| outcome.at <= max)
}

/// Each of its parts once in a while; its times are often exactly those of a delivery.
fn filter(random: &mut Random, outcomes: &[Outcome]) -> (TenantId, DeliveryFilter) {
    let like = outcomes[random.below(outcomes.len())].clone();
    let mut time =
        |of: fn(&Outcome) -> OffsetDateTime| random.once_in(4).then(|| of(&outcomes[random.below(outcomes.len())]));
    let created: fn(&Outcome) -> OffsetDateTime = |outcome| outcome.job.delivery.created_at();
    let times = Times {
        created_at_min: time(created),
        created_at_max: time(created),
        updated_at_min: time(|outcome| outcome.at),
        updated_at_max: time(|outcome| outcome.at),
    };
    let event_type: EventType = like.job.event_type;
    let filter = DeliveryFilter {
        webhook: random.once_in(2).then_some(like.job.webhook),
        states: [like.state, DeliveryState::Parked, DeliveryState::Failed][..random.below(4)].to_vec(),
        event_type: random.once_in(3).then(|| event_type.to_string()),
        resource: random.once_in(4).then(|| like.job.resource.clone()),
        fault: like.fault.as_ref().map(|(fault, _)| *fault).filter(|_| random.once_in(2)),
        response_status: status_of(&like).filter(|_| random.once_in(3)),
        order: [SortOrder::NewestFirst, SortOrder::OldestFirst][random.below(2)],
        times,
    };
    (like.job.tenant, filter)
}

/// All pages of a list.
async fn listed(store: &Store, tenant: &TenantId, filter: &DeliveryFilter, limit: u64) -> Vec<String> {
    let (mut found, mut cursor) = (Vec::new(), None::<Cursor>);
    loop {
        let page = store.deliveries(tenant, filter, cursor.as_ref(), limit).await.unwrap();
        assert!(page.items.len() as u64 <= limit && (page.next.is_none() || page.items.len() as u64 == limit));
        found.extend(page.items.into_iter().map(|one| one.id));
        cursor = page.next;
        if cursor.is_none() {
            return found;
        }
    }
}

async fn every_filter_finds_what_it_names_and_what_is_too_old_goes(database: DatabaseKind) {
    let (store, _folder, postgres) = open(database).await;
    let mut random = Random::new(seed());
    let webhooks: Vec<(TenantId, WebhookId)> =
        (0..6).map(|n| (format!("tnt_{}", n % 3).parse().unwrap(), WebhookId::generate())).collect();
    let outcomes: Vec<_> = (0..3000).map(|number| outcome(&mut random, &webhooks, number)).collect();
    // Some are recorded before there is a partition for them, and some after.
    let parts: Vec<_> = outcomes.chunks(3000 / DAYS).collect();
    for (day, part) in (0..).zip(&parts) {
        store.prepare_history(BEGAN + Duration::days(day), AGE).await.unwrap();
        store.record(part).await.unwrap();
    }
    for _ in 0..400 {
        let (tenant, filter) = filter(&mut random, &outcomes);
        let mut expected: Vec<_> = outcomes
            .iter()
            .filter(|outcome| matches(outcome, &tenant, &filter))
            .map(|outcome| outcome.job.delivery.to_string())
            .collect();
        expected.sort();
        if filter.order == SortOrder::NewestFirst {
            expected.reverse();
        }
        let limit = 1 + random.below(60) as u64;
        assert_eq!(listed(&store, &tenant, &filter, limit).await, expected, "{tenant} {filter:?}");
    }

    let cut = BEGAN + Duration::days(20) + Duration::hours(7);
    while store.forget_deliveries(cut).await.unwrap() {}
    // PostgreSQL forgets a day when all of it is too old.
    let first = if postgres.is_some() { BEGAN + Duration::days(20) } else { cut };
    let expected: BTreeSet<_> = outcomes
        .iter()
        .map(|outcome| outcome.job.delivery)
        .filter(|id| id.created_at() >= first)
        .map(|id| id.to_string())
        .collect();
    let mut left = BTreeSet::new();
    for n in 0..3 {
        left.extend(listed(&store, &format!("tnt_{n}").parse().unwrap(), &DeliveryFilter::default(), 200).await);
    }
    assert_eq!(left, expected);
    // What is recorded of it afterwards goes again.
    store.record(&outcomes).await.unwrap();
    while store.forget_deliveries(cut).await.unwrap() {}
    let all = listed(&store, &"tnt_0".parse().unwrap(), &DeliveryFilter::default(), 200).await;
    assert!(all.iter().all(|id| *id >= DeliveryId::first_at(first).to_string()), "{:?}", all.last());
    if let Some(postgres) = postgres {
        assert_eq!(postgres.value("SELECT count(*) FROM deliveries_default").await, "0");
        let parts = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'deliveries'::regclass";
        assert_eq!(postgres.value(parts).await, "22", "20 days, one ahead, and the default");
    }
}

/// The deliveries of one webhook, each carried by one before it, or an end of its own.
fn chains(random: &mut Random, count: usize) -> Vec<Outcome> {
    let webhook = ("tnt_0".parse::<TenantId>().unwrap(), WebhookId::generate());
    let mut outcomes: Vec<Outcome> = Vec::new();
    for number in 0..count {
        let mut one = outcome(random, std::slice::from_ref(&webhook), number);
        let ends = [DeliveryState::Delivered, DeliveryState::Failed, DeliveryState::Expired, DeliveryState::Discarded];
        one.state = ends[random.below(ends.len())];
        if number > 0 && !random.once_in(3) {
            one.state = [DeliveryState::Duplicate, DeliveryState::Superseded][random.below(2)];
            one.carried_by = Some(outcomes[random.below(number)].job.delivery);
        }
        outcomes.push(one);
    }
    outcomes
}

/// How each must end: as its own outcome says, or failed with its carrier.
fn ends(outcomes: &[Outcome]) -> BTreeMap<String, &'static str> {
    let mut ends = BTreeMap::<String, &'static str>::new();
    for outcome in outcomes {
        let carrier = outcome.carried_by.map(|id| ends[&id.to_string()]);
        let is_lost = carrier.is_some_and(|end| ["failed", "expired", "discarded"].contains(&end));
        ends.insert(outcome.job.delivery.to_string(), if is_lost { "failed" } else { outcome.state.name() });
    }
    ends
}

async fn found(store: &Store) -> BTreeMap<String, String> {
    let (tenant, mut found, mut cursor) = ("tnt_0".parse().unwrap(), BTreeMap::new(), None::<Cursor>);
    loop {
        let page = store.deliveries(&tenant, &DeliveryFilter::default(), cursor.as_ref(), 200).await.unwrap();
        found.extend(page.items.into_iter().map(|one| (one.id, one.state)));
        cursor = page.next;
        if cursor.is_none() {
            return found;
        }
    }
}

async fn what_is_carried_fails_with_its_carrier_in_whatever_order_they_are_recorded(database: DatabaseKind) {
    let (store, _folder, _postgres) = open(database).await;
    let mut random = Random::new(seed());
    let outcomes: Vec<_> = (0..8).flat_map(|_| chains(&mut random, 150)).collect();
    // Each once at least, some twice, in batches of any size.
    let mut order: Vec<_> = outcomes.iter().chain(&outcomes[..200]).cloned().collect();
    for place in (1..order.len()).rev() {
        order.swap(place, random.below(place + 1));
    }
    let mut rest = order.as_slice();
    while !rest.is_empty() {
        let (now, later) = rest.split_at((1 + random.below(120)).min(rest.len()));
        store.record(now).await.unwrap();
        rest = later;
    }
    let expected = ends(&outcomes);
    for (id, state) in found(&store).await {
        assert_eq!(state, expected[&id], "{id}");
    }
}

/// By several replicas, none of which sees what the others have not committed yet.
async fn a_carrier_and_what_it_carries_may_be_recorded_at_the_same_time(database: DatabaseKind) {
    let (store, _folder, _postgres) = open(database).await;
    let mut random = Random::new(seed());
    for _ in 0..20 {
        let outcomes = chains(&mut random, 40);
        let mut parts: Vec<Vec<Outcome>> = vec![Vec::new(); 4];
        for outcome in &outcomes {
            parts[random.below(4)].push(outcome.clone());
        }
        let writers = parts.into_iter().map(|part| {
            let store = store.clone();
            tokio::spawn(async move {
                // The recorder tries again too, where PostgreSQL ends one of two that wait for each other.
                for _ in 0..3 {
                    if store.record(&part).await.is_ok() {
                        return;
                    }
                }
                panic!("a batch is refused again and again");
            })
        });
        for writer in writers.collect::<Vec<_>>() {
            writer.await.unwrap();
        }
        let found = found(&store).await;
        for (id, state) in ends(&outcomes) {
            assert_eq!(found[&id], state, "{id}");
        }
    }
}

/// An installation of before there were partitions goes on with what it has.
#[tokio::test(flavor = "multi_thread")]
async fn a_history_of_one_table_becomes_the_oldest_partition() {
    let (store, _folder, postgres) = open(DatabaseKind::Postgres).await;
    let (postgres, mut random) = (postgres.unwrap(), Random::new(seed()));
    let webhooks = [("tnt_0".parse::<TenantId>().unwrap(), WebhookId::generate())];
    let outcomes: Vec<_> = (0..500).map(|number| outcome(&mut random, &webhooks, number)).collect();
    store.record(&outcomes).await.unwrap();
    drop(store);
    // As the step before left it.
    for sql in [
        "UPDATE deliveries SET state = 'failed', fault = 'discarded', fault_detail = 'd' WHERE event_id IN ('e1', 'e2')",
        "UPDATE deliveries SET state = 'failed', fault = 'timeout', fault_detail = 'd' WHERE event_id = 'e3'",
        "ALTER TABLE webhooks DROP COLUMN endpoint_since",
        "CREATE TABLE before (LIKE deliveries INCLUDING DEFAULTS)",
        "INSERT INTO before SELECT * FROM deliveries",
        "DROP TABLE deliveries",
        "ALTER TABLE before RENAME TO deliveries",
        "ALTER TABLE deliveries DROP COLUMN late_at, DROP COLUMN source, ADD PRIMARY KEY (id)",
        "CREATE INDEX history_by_tenant ON deliveries (tenant, id)",
        "CREATE INDEX history_by_webhook ON deliveries (webhook_id, id)",
        "CREATE INDEX waiting_of_tenant ON deliveries (tenant, id) WHERE state IN ('pending', 'parked')",
        "CREATE INDEX waiting_of_webhook ON deliveries (webhook_id, id) WHERE state IN ('pending', 'parked')",
        "DROP TABLE counts",
        "DROP TABLE rollups",
        "CREATE TABLE rollups (tenant text, webhook_id varchar, size bigint, bucket bigint, kind varchar, total bigint)",
        "INSERT INTO rollups VALUES ('tnt_0', 'wbh_a', 60000, 60000, 'attempts', 7), ('tnt_0', 'wbh_a', 60000, 60000, 'ms:12', 7), \
         ('tnt_0', 'wbh_b', 60000, 60000, 'attempts', 1), ('tnt_0', 'wbh_b', 60000, 60000, 'state:webhook_x', 1)",
        "CREATE INDEX recorded_by_age ON recorded (at)",
        "DELETE FROM seaql_migrations WHERE version IN ('m0011_history_by_age', 'm0012_true_deliveries')",
    ] {
        postgres.value(sql).await;
    }
    let file = "SELECT pg_relation_filenode('%s')";
    let before = postgres.value(&file.replace("%s", "deliveries")).await;
    let store = Store::connect(&postgres.url()).await.unwrap();
    let tenant: TenantId = "tnt_0".parse().unwrap();
    let all = DeliveryFilter::default();
    assert_eq!(listed(&store, &tenant, &all, 100).await.len(), 500);
    let oldest = "SELECT min(inhrelid::regclass::text) FROM pg_inherits \
                  WHERE inhparent = 'deliveries'::regclass AND inhrelid::regclass::text LIKE '%until%'";
    let oldest = postgres.value(oldest).await;
    assert_eq!(postgres.value(&file.replace("%s", &oldest)).await, before, "{oldest} is a copy");
    let discarded = "SELECT string_agg(event_id, ' ' ORDER BY event_id) FROM deliveries WHERE state = 'discarded'";
    assert_eq!(postgres.value(discarded).await, "e1 e2");
    let source = "SELECT count(*) FROM deliveries WHERE source IS NOT NULL";
    assert_eq!(postgres.value(source).await, "0");
    let invalid = "SELECT count(*) FROM pg_index WHERE NOT indisvalid";
    assert_eq!(postgres.value(invalid).await, "0");
    let counts = "SELECT string_agg(concat_ws(' ', subject, attempts, ms_12), ', ' ORDER BY subject) FROM counts";
    assert_eq!(postgres.value(counts).await, "tenant:tnt_0 8 7, wbh_a 7 7, wbh_b 1 0");
    let late = Times { updated_at_min: Some(BEGAN + Duration::days(20)), ..Times::default() };
    let late = DeliveryFilter { times: late, ..all.clone() };
    let expected = outcomes.iter().filter(|outcome| matches(outcome, &tenant, &late)).count();
    assert_eq!(listed(&store, &tenant, &late, 100).await.len(), expected);

    // It goes on: the next days lie beside it, and in time it is dropped as a whole.
    let now = OffsetDateTime::now_utc();
    store.prepare_history(now, AGE).await.unwrap();
    store.record(&outcomes).await.unwrap();
    assert_eq!(listed(&store, &tenant, &all, 100).await.len(), 500);
    assert_eq!(postgres.value(source).await, "500", "a repeat says what was not known before");
    let carried = "SELECT count(*) - 1 FROM pg_indexes WHERE indexdef LIKE '%(carried_by)%'";
    let parts = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'deliveries'::regclass";
    assert_eq!(
        postgres.value(carried).await,
        postgres.value(parts).await,
        "each partition has the index, and the whole"
    );
    while store.forget_deliveries(now).await.unwrap() {}
    assert_eq!(listed(&store, &tenant, &all, 100).await.len(), 500, "of today there may be more");
    while store.forget_deliveries(now + Duration::days(2)).await.unwrap() {}
    assert_eq!(listed(&store, &tenant, &all, 100).await, Vec::<String>::new());
}
