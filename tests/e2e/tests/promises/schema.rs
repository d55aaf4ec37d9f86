//! The schema of a database that an earlier version has made is brought up to date beside those who use it.

use std::time::Duration;

use shopery_e2e::{DatabaseKind, Event, Service, Stack, stored, wait};

const DEADLINE: Duration = Duration::from_secs(60);
/// What the steps from the fifteenth on have added.
const ADDED: [&str; 5] =
    ["resources_of_tenant", "faults_of_tenant", "faults_of_webhook", "refusals_of_tenant", "refusals_of_webhook"];
const COLUMNS: [(&str, &str); 3] =
    [("webhooks", "description"), ("webhooks", "metadata"), ("deliveries", "response_status")];
const FAULTS: [&str; 5] = ["throttled", "access_denied", "destination_not_found", "message_rejected", "provider_error"];

on_both_databases!(
    a_database_of_before_is_brought_up_to_date_and_keeps_what_it_has,
    a_step_that_was_cut_short_leaves_nothing_or_is_begun_again,
);

async fn stop(stack: &mut Stack) {
    for service in [Service::Api, Service::Recorder, Service::Controller] {
        assert!(stack.stop(service).await.success());
    }
}

async fn start(stack: &mut Stack) {
    for service in [Service::Controller, Service::Recorder, Service::Api] {
        stack.run(service).await;
    }
}

/// Takes back the tables of notices and the columns for faults of clouds.
fn tables_and_faults() -> String {
    let faults = FAULTS.map(|fault| format!("ALTER TABLE counts DROP COLUMN failed_{fault};")).concat();
    format!("DROP TABLE failure_outbox; DROP TABLE circuit_notices; {faults}")
}

/// As it was before the last five steps.
async fn take_back(stack: &Stack) {
    let mut sql: Vec<_> = ADDED.iter().map(|index| format!("DROP INDEX IF EXISTS {index};")).collect();
    sql.extend(COLUMNS.iter().map(|(table, column)| format!("ALTER TABLE {table} DROP COLUMN {column};")));
    sql.push(tables_and_faults());
    sql.push("DELETE FROM seaql_migrations WHERE version >= 'm0015';".to_owned());
    stored::execute(stack, &sql.concat()).await;
}

/// `count`: deliveries by then.
async fn is_up_to_date(stack: &Stack, count: usize) {
    if let Some(postgres) = &stack.postgres {
        for index in ADDED {
            let valid = format!("SELECT indisvalid FROM pg_index WHERE indexrelid = '{index}'::regclass");
            assert_eq!(postgres.value(&valid).await, "t", "{index}");
        }
    }
    let client = stack.client("tnt_a");
    let found = client.all("/company/deliveries?resource=order/1&status=delivered,failed").await;
    assert_eq!(found.len(), 1);
    client.publish(&Event::order(&count.to_string())).await.expect(202);
    let webhook = found[0]["webhookId"].as_str().unwrap();
    client.settled(webhook, count, DEADLINE).await;
    let recorded = format!("/company/deliveries?response_status=200&resource=order/{count}");
    assert_eq!(client.all(&recorded).await.len(), 1);
}

async fn deliver_one(stack: &Stack) {
    let client = stack.client("tnt_a");
    let webhook = client.create_webhook(&stack.merchant.url("/a"), &["order-*"]).await;
    client.publish(&Event::order("1")).await.expect(202);
    client.settled(&webhook, 1, DEADLINE).await;
}

async fn a_database_of_before_is_brought_up_to_date_and_keeps_what_it_has(database: DatabaseKind) {
    let mut stack = Stack::plan().database(database).start().await;
    deliver_one(&stack).await;
    stop(&mut stack).await;
    take_back(&stack).await;
    if let Some(postgres) = stack.postgres.take() {
        // Somebody reads for long. Nobody else waits for that, and the step is done once it is over.
        let reader = postgres.hold("SELECT count(*) FROM webhooks").await;
        stack.spawn(Service::Controller);
        wait::until("the controller to meet the lock", DEADLINE, async || {
            let log = stack.log(Service::Controller);
            if log.contains("once its tables can be locked") { Ok(()) } else { Err(log) }
        })
        .await;
        let read = tokio::time::timeout(Duration::from_secs(10), postgres.value("SELECT count(*) FROM webhooks"));
        assert_eq!(read.await.unwrap(), "1");
        reader.end().await;
        stack.postgres = Some(postgres);
        stack.ready(Service::Controller).await;
        for service in [Service::Recorder, Service::Api] {
            stack.run(service).await;
        }
    } else {
        start(&mut stack).await;
    }
    is_up_to_date(&stack, 2).await;
}

async fn a_step_that_was_cut_short_leaves_nothing_or_is_begun_again(database: DatabaseKind) {
    let mut stack = Stack::plan().database(database).start().await;
    deliver_one(&stack).await;
    stop(&mut stack).await;
    // The indexes: some are there, and one is not whole.
    let mut sql = format!("DROP INDEX IF EXISTS {}; DROP INDEX IF EXISTS {};", ADDED[1], ADDED[0]);
    sql += &tables_and_faults();
    sql += "DELETE FROM seaql_migrations WHERE version >= 'm0016';";
    if stack.postgres.is_some() {
        sql += &format!("CREATE INDEX {} ON ONLY deliveries (tenant, fault, id) WHERE fault IS NOT NULL;", ADDED[1]);
    }
    stored::execute(&stack, &sql).await;
    start(&mut stack).await;
    is_up_to_date(&stack, 2).await;

    // The columns: what stands in the way of the second takes the first back too.
    stop(&mut stack).await;
    take_back(&stack).await;
    stored::execute(&stack, "ALTER TABLE webhooks ADD COLUMN metadata TEXT;").await;
    stack.spawn(Service::Controller);
    wait::until("the controller to give up", DEADLINE, async || {
        let log = stack.log(Service::Controller);
        if log.contains("cannot bring the schema") { Ok(()) } else { Err(log) }
    })
    .await;
    stack.kill(Service::Controller).await;
    stored::execute(&stack, "ALTER TABLE webhooks DROP COLUMN metadata;").await;
    start(&mut stack).await;
    is_up_to_date(&stack, 3).await;
}
