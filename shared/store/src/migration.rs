//! The schema, step by step. A step that was released is never changed; a change is a new step.
//!
//! A step is done whole or not at all, on SQLite too, but for one that says why it is not: that may be begun again.

use sea_orm::DatabaseBackend;
use sea_orm_migration::prelude::*;
use sea_orm_migration::schema::{
    big_integer, big_integer_null, integer, integer_null, small_integer_null, string, text, text_null,
};

use crate::partitions;

pub(crate) struct Migrator;

#[async_trait::async_trait]
impl MigratorTrait for Migrator {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        vec![
            Box::new(WebhooksAndHistory),
            Box::new(OneRowADelivery),
            Box::new(Recoveries),
            Box::new(LifeOfAWebhook),
            Box::new(SealedCredentials),
            Box::new(VersionOfAWebhook),
            Box::new(IdempotencyKeys),
            Box::new(WebhookChanges),
            Box::new(Rollups),
            Box::new(HistoryByAge),
            Box::new(TrueDeliveries),
            Box::new(ConfigOutbox),
            Box::new(FailuresOfAWebhook),
            Box::new(LookedInto),
            Box::new(FoundByWhatTellsThemApart),
            Box::new(Notices),
            Box::new(FaultsOfClouds),
            Box::new(FoundByARefusal),
        ]
    }
}

struct WebhooksAndHistory;

impl MigrationName for WebhooksAndHistory {
    fn name(&self) -> &'static str {
        "m0001_webhooks_and_history"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for WebhooksAndHistory {
    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }

    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let mut webhooks = Table::create();
        webhooks.table("webhooks").col(string("id").primary_key());
        for column in ["tenant", "name", "url", "events", "state", "secret"] {
            webhooks.col(text(column));
        }
        webhooks.col(big_integer("created_at")).col(big_integer("updated_at"));
        manager.create_table(webhooks).await?;

        let mut deliveries = Table::create();
        deliveries.table("deliveries").col(string("id").primary_key());
        for column in ["tenant", "webhook_id", "event_id", "event_type", "resource", "state"] {
            deliveries.col(text(column));
        }
        deliveries
            .col(big_integer("event_sequence"))
            .col(integer("attempt_count"))
            .col(text_null("fault"))
            .col(text_null("fault_detail"))
            .col(big_integer("triggered_at"))
            .col(big_integer_null("next_attempt_at"))
            .col(big_integer("created_at"))
            .col(big_integer("updated_at"));
        manager.create_table(deliveries).await?;

        let mut attempts = Table::create();
        attempts
            .table("attempts")
            .col(string("delivery_id"))
            .col(string("id"))
            .col(integer("number"))
            .col(big_integer("started_at"))
            .col(integer("duration_ms"))
            .col(text("url"))
            .col(integer("request_bytes"))
            .col(integer_null("status"))
            .col(text_null("fault"))
            .col(text_null("fault_detail"))
            .col(text("response_body"))
            // The attempts of a delivery lie together.
            .primary_key(Index::create().col("delivery_id").col("id"));
        manager.create_table(attempts).await?;

        for (name, table, columns) in [
            ("webhooks_by_tenant", "webhooks", ["tenant", "created_at", "id"].as_slice()),
            ("deliveries_by_tenant", "deliveries", &["tenant", "created_at", "id"]),
            ("deliveries_by_webhook", "deliveries", &["webhook_id", "created_at", "id"]),
        ] {
            let mut index = Index::create();
            index.name(name).table(table);
            for column in columns {
                index.col(*column);
            }
            manager.create_index(index).await?;
        }
        Ok(())
    }
}

/// Webhooks have rules. Before the first release the history moved into one table; what older installations had of it is not kept.
struct OneRowADelivery;

impl MigrationName for OneRowADelivery {
    fn name(&self) -> &'static str {
        "m0002_one_row_a_delivery"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for OneRowADelivery {
    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }

    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let mut webhooks = Table::alter();
        webhooks.table("webhooks").add_column(text("rules").default("{}"));
        manager.alter_table(webhooks).await?;
        for table in ["attempts", "deliveries"] {
            manager.drop_table(Table::drop().table(table).to_owned()).await?;
        }
        let mut deliveries = Table::create();
        deliveries.table("deliveries").col(string("id").primary_key());
        for column in ["tenant", "webhook_id", "event_id", "event_type", "resource", "state", "attempts"] {
            deliveries.col(text(column));
        }
        for column in ["event_sequence", "triggered_at", "rank", "updated_at"] {
            deliveries.col(big_integer(column));
        }
        deliveries
            .col(integer("attempt_count"))
            .col(text_null("fault"))
            .col(text_null("fault_detail"))
            .col(big_integer_null("next_attempt_at"))
            .col(text_null("carried_by"));
        manager.create_table(deliveries).await?;
        for (name, column) in [("history_by_tenant", "tenant"), ("history_by_webhook", "webhook_id")] {
            let mut index = Index::create();
            manager.create_index(index.name(name).table("deliveries").col(column).col("id").to_owned()).await?;
        }
        Ok(())
    }
}

/// A delivery can be sent again: rounds have ranks of their own, so that of what is delivered is no longer the highest
/// there is.
struct Recoveries;

impl MigrationName for Recoveries {
    fn name(&self) -> &'static str {
        "m0003_recoveries"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for Recoveries {
    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }

    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let sql = format!("UPDATE deliveries SET rank = {} WHERE rank = {}", (1_i64 << 40) - 1, i64::MAX);
        manager.get_connection().execute_unprepared(&sql).await?;

        let mut recoveries = Table::create();
        recoveries.table("recoveries").col(string("id").primary_key());
        for column in ["tenant", "webhook_id", "state", "statuses", "mode", "lease_owner"] {
            recoveries.col(text(column));
        }
        for column in ["since", "until", "resent", "skipped", "unavailable", "lease_until", "created_at", "updated_at"]
        {
            recoveries.col(big_integer(column));
        }
        recoveries
            .col(big_integer_null("total"))
            .col(text_null("place"))
            .col(text_null("error"))
            .col(big_integer_null("finished_at"));
        manager.create_table(recoveries).await?;

        let mut items = Table::create();
        items
            .table("recovery_items")
            .col(string("recovery_id"))
            .col(string("item"))
            .col(text("delivery_id"))
            .col(big_integer("round"))
            .col(text("state"))
            .primary_key(Index::create().col("recovery_id").col("item"));
        manager.create_table(items).await?;

        for (name, table, columns) in [
            ("recoveries_by_webhook", "recoveries", ["webhook_id", "id"].as_slice()),
            ("recoveries_by_turn", "recoveries", &["state", "updated_at"]),
            ("recovery_items_by_state", "recovery_items", &["recovery_id", "state"]),
        ] {
            let mut index = Index::create();
            index.name(name).table(table);
            for column in columns {
                index.col(*column);
            }
            manager.create_index(index).await?;
        }
        Ok(())
    }
}

/// Webhooks know since when they fail, why they were disabled, and what of the waiting they do not want.
struct LifeOfAWebhook;

impl MigrationName for LifeOfAWebhook {
    fn name(&self) -> &'static str {
        "m0004_life_of_a_webhook"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for LifeOfAWebhook {
    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }

    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let times = ["failing_since", "disabled_at", "told_at", "discard_before"].map(big_integer_null);
        // SQLite adds one column at a time.
        for column in times.into_iter().chain([text_null("disabled_reason")]) {
            manager.alter_table(Table::alter().table("webhooks").add_column(column).to_owned()).await?;
        }
        Ok(())
    }
}

/// What is secret of a webhook is sealed. This database cannot do it, having no key: the api seals what is in plain when
/// it starts.
struct SealedCredentials;

impl MigrationName for SealedCredentials {
    fn name(&self) -> &'static str {
        "m0005_sealed_credentials"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for SealedCredentials {
    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }

    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let mut webhooks = Table::alter();
        manager.alter_table(webhooks.table("webhooks").rename_column("secret", "sealed").to_owned()).await
    }
}

/// Changes of a webhook are counted, so that one who has read it can tell whether it is still the same.
struct VersionOfAWebhook;

impl MigrationName for VersionOfAWebhook {
    fn name(&self) -> &'static str {
        "m0006_version_of_a_webhook"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for VersionOfAWebhook {
    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }

    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let mut webhooks = Table::alter();
        let version = big_integer("version").default(1).to_owned();
        manager.alter_table(webhooks.table("webhooks").add_column(version).to_owned()).await
    }
}

/// What was answered to requests with an `Idempotency-Key`.
struct IdempotencyKeys;

impl MigrationName for IdempotencyKeys {
    fn name(&self) -> &'static str {
        "m0007_idempotency_keys"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for IdempotencyKeys {
    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }

    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let mut keys = Table::create();
        keys.table("idempotency_keys")
            .col(string("tenant"))
            .col(string("key"))
            .col(text("fingerprint"))
            .col(integer_null("status"))
            .col(text_null("location"))
            .col(text_null("body"))
            .col(big_integer("created_at"))
            .primary_key(Index::create().col("tenant").col("key"));
        manager.create_table(keys).await?;
        let mut index = Index::create();
        index.name("idempotency_keys_by_age").table("idempotency_keys").col("created_at");
        manager.create_index(index).await
    }
}

/// Who has changed which webhook.
struct WebhookChanges;

impl MigrationName for WebhookChanges {
    fn name(&self) -> &'static str {
        "m0009_webhook_changes"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for WebhookChanges {
    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }

    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let mut changes = Table::create();
        changes.table("webhook_changes").col(string("id").primary_key());
        for column in ["tenant", "webhook_id", "action", "changes"] {
            changes.col(text(column));
        }
        changes.col(text_null("author")).col(big_integer("created_at"));
        manager.create_table(changes).await?;
        for (name, column) in [("webhook_changes_by_tenant", "tenant"), ("webhook_changes_by_webhook", "webhook_id")] {
            let mut index = Index::create();
            index.name(name).table("webhook_changes").col(column).col("id");
            manager.create_index(index).await?;
        }
        Ok(())
    }
}

/// Counts for the metrics, and which outcomes are in them; what waits is found without looking at what does not.
struct Rollups;

impl MigrationName for Rollups {
    fn name(&self) -> &'static str {
        "m0010_rollups"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for Rollups {
    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }

    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let mut rollups = Table::create();
        rollups
            .table("rollups")
            .col(text("tenant"))
            .col(string("webhook_id"))
            .col(big_integer("size"))
            .col(big_integer("bucket"))
            .col(string("kind"))
            .col(big_integer("total"))
            .primary_key(Index::create().col("webhook_id").col("size").col("bucket").col("kind"));
        manager.create_table(rollups).await?;
        let mut by_tenant = Index::create();
        by_tenant.name("rollups_by_tenant").table("rollups").col("tenant").col("bucket");
        manager.create_index(by_tenant).await?;
        let mut by_age = Index::create();
        by_age.name("rollups_by_age").table("rollups").col("size").col("bucket");
        manager.create_index(by_age).await?;

        let mut recorded = Table::create();
        recorded
            .table("recorded")
            .col(big_integer("sequence"))
            .col(big_integer("at"))
            .primary_key(Index::create().col("sequence").col("at"));
        manager.create_table(recorded).await?;
        let mut recorded_by_age = Index::create();
        recorded_by_age.name("recorded_by_age").table("recorded").col("at");
        manager.create_index(recorded_by_age).await?;

        let waiting = "WHERE state IN ('pending', 'parked')";
        for (name, columns) in [("waiting_of_webhook", "webhook_id, id"), ("waiting_of_tenant", "tenant, id")] {
            let sql = format!("CREATE INDEX {name} ON deliveries ({columns}) {waiting}");
            manager.get_connection().execute_unprepared(&sql).await?;
        }
        Ok(())
    }
}

/// A history of many millions: what changed late has an index, tenants have counts of their own, and on PostgreSQL every
/// filter of the lists has an index, and age is what the history is divided by.
struct HistoryByAge;

impl MigrationName for HistoryByAge {
    fn name(&self) -> &'static str {
        "m0011_history_by_age"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for HistoryByAge {
    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }

    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let mut deliveries = Table::alter();
        deliveries.table("deliveries").add_column(big_integer_null("late_at"));
        manager.alter_table(deliveries).await?;
        let db = manager.get_connection();
        let late = [
            ("late_of_tenant", "(tenant, late_at) WHERE late_at IS NOT NULL"),
            ("late_of_webhook", "(webhook_id, late_at) WHERE late_at IS NOT NULL"),
        ];
        // SQL cannot tell when those were made, so all are taken for late: it costs space, and goes with their age.
        db.execute_unprepared("UPDATE deliveries SET late_at = updated_at").await?;
        if db.get_database_backend() == DatabaseBackend::Postgres {
            let indexes = [
                ("history_by_tenant", "(tenant, id)"),
                ("history_by_webhook", "(webhook_id, id)"),
                ("waiting_of_tenant", "(tenant, id) WHERE state IN ('pending', 'parked')"),
                ("waiting_of_webhook", "(webhook_id, id) WHERE state IN ('pending', 'parked')"),
                ("states_of_tenant", "(tenant, state, id)"),
                ("states_of_webhook", "(webhook_id, state, id)"),
                ("types_of_tenant", "(tenant, event_type, id)"),
                ("types_of_webhook", "(webhook_id, event_type, id)"),
            ];
            partitions::divide(db, &[indexes.as_slice(), &late].concat()).await?;
        } else {
            for (name, columns) in late {
                db.execute_unprepared(&format!("CREATE INDEX {name} ON deliveries {columns}")).await?;
            }
        }
        wide_counts(manager).await?;
        db.execute_unprepared("DROP INDEX recorded_by_age").await.map(drop)
    }
}

/// Deliveries know their event's source and end as `discarded`; what a delivery carried is found by its id; webhooks know
/// since when their endpoint is the one that it is.
struct TrueDeliveries;

impl MigrationName for TrueDeliveries {
    fn name(&self) -> &'static str {
        "m0012_true_deliveries"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for TrueDeliveries {
    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }

    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let added = [
            ("webhooks", big_integer_null("endpoint_since")),
            ("deliveries", text_null("source")),
            ("counts", big_integer("failed_filter_not_matched").default(0).to_owned()),
            ("counts", big_integer("failed_carrier_failed").default(0).to_owned()),
            ("counts", big_integer("state_discarded").default(0).to_owned()),
        ];
        // SQLite adds one column at a time.
        for (table, column) in added {
            manager.alter_table(Table::alter().table(table).add_column(column).to_owned()).await?;
        }
        let db = manager.get_connection();
        db.execute_unprepared("CREATE INDEX carried_by ON deliveries (carried_by) WHERE carried_by IS NOT NULL")
            .await?;
        // What was discarded was a failure of that reason, and a plain recovery would have sent it all the same.
        let discarded = "UPDATE deliveries SET state = 'discarded' WHERE state = 'failed' AND fault = 'discarded'";
        db.execute_unprepared(discarded).await.map(drop)
    }
}

/// Changes of webhooks that CONFIG may not have yet.
struct ConfigOutbox;

impl MigrationName for ConfigOutbox {
    fn name(&self) -> &'static str {
        "m0013_config_outbox"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for ConfigOutbox {
    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }

    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let mut outbox = Table::create();
        outbox.table("config_outbox").col(string("id").primary_key()).col(text("tenant")).col(text("webhook_id"));
        manager.create_table(outbox).await?;
        let mut index = Index::create();
        manager
            .create_index(index.name("config_outbox_by_webhook").table("config_outbox").col("webhook_id").to_owned())
            .await
    }
}

/// Webhooks know what has failed, so that one is not disabled for two failures with silence between, nor without a warning.
struct FailuresOfAWebhook;

impl MigrationName for FailuresOfAWebhook {
    fn name(&self) -> &'static str {
        "m0014_failures_of_a_webhook"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for FailuresOfAWebhook {
    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }

    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        // SQLite adds one column at a time.
        for column in [text_null("failures"), big_integer_null("warned_at"), big_integer_null("warning_notified_at")] {
            manager.alter_table(Table::alter().table("webhooks").add_column(column).to_owned()).await?;
        }
        Ok(())
    }
}

/// Webhooks have a description and labels; deliveries know what was answered to their last attempt.
struct LookedInto;

impl MigrationName for LookedInto {
    fn name(&self) -> &'static str {
        "m0015_looked_into"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for LookedInto {
    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }

    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        if manager.get_database_backend() == DatabaseBackend::Postgres {
            // Whoever waits for the lock of a table has all others wait behind it. The step is tried again.
            manager.get_connection().execute_unprepared("SET LOCAL lock_timeout = '1s'").await?;
        }
        let added = [
            ("webhooks", text_null("description")),
            ("webhooks", text_null("metadata")),
            ("deliveries", small_integer_null("response_status")),
        ];
        // SQLite adds one column at a time.
        for (table, column) in added {
            manager.alter_table(Table::alter().table(table).add_column(column).to_owned()).await?;
        }
        Ok(())
    }
}

/// On PostgreSQL deliveries are found by their resource, and by why they failed. A step of its own, without a transaction: it may
/// take minutes, and nobody waits for it.
struct FoundByWhatTellsThemApart;

impl MigrationName for FoundByWhatTellsThemApart {
    fn name(&self) -> &'static str {
        "m0016_found_by_what_tells_them_apart"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for FoundByWhatTellsThemApart {
    fn use_transaction(&self) -> Option<bool> {
        Some(false)
    }

    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        if manager.get_database_backend() != DatabaseBackend::Postgres {
            // There these would cost a third of the recorder's time: each batch would write a page for every delivery of it.
            return Ok(());
        }
        for (name, columns) in [
            ("resources_of_tenant", "(tenant, resource, id)"),
            ("faults_of_tenant", "(tenant, fault, id) WHERE fault IS NOT NULL"),
            ("faults_of_webhook", "(webhook_id, fault, id) WHERE fault IS NOT NULL"),
        ] {
            partitions::add_index(manager, name, columns).await?;
        }
        Ok(())
    }
}

/// What tenants are still to be notified of.
struct Notices;

impl MigrationName for Notices {
    fn name(&self) -> &'static str {
        "m0017_notices"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for Notices {
    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }

    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let mut failures = Table::create();
        failures.table("failure_outbox").col(string("tenant")).col(string("delivery_id")).col(big_integer("round"));
        failures.primary_key(Index::create().col("tenant").col("delivery_id").col("round"));
        manager.create_table(failures).await?;
        let mut circuits = Table::create();
        circuits.table("circuit_notices").col(string("webhook_id").primary_key());
        manager.create_table(circuits.col(text("tenant")).col(big_integer("since")).to_owned()).await?;
        if manager.get_database_backend() != DatabaseBackend::Postgres {
            // The step before made one for a day.
            manager.get_connection().execute_unprepared("DROP INDEX IF EXISTS resources_of_tenant").await?;
        }
        Ok(())
    }
}

/// What clouds answer is counted too.
struct FaultsOfClouds;

impl MigrationName for FaultsOfClouds {
    fn name(&self) -> &'static str {
        "m0018_faults_of_clouds"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for FaultsOfClouds {
    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }

    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        if manager.get_database_backend() == DatabaseBackend::Postgres {
            // Whoever waits for the lock of a table has all others wait behind it. The step is tried again.
            manager.get_connection().execute_unprepared("SET LOCAL lock_timeout = '1s'").await?;
        }
        // SQLite adds one column at a time.
        for fault in ["throttled", "access_denied", "destination_not_found", "message_rejected", "provider_error"] {
            let column = big_integer(format!("failed_{fault}")).default(0).to_owned();
            manager.alter_table(Table::alter().table("counts").add_column(column).to_owned()).await?;
        }
        Ok(())
    }
}

/// On PostgreSQL what an endpoint refused is found by the status that it answered. Of what it took there is so much that a list of it
/// needs no index, and the recorder would pay for one with each delivery.
struct FoundByARefusal;

impl MigrationName for FoundByARefusal {
    fn name(&self) -> &'static str {
        "m0019_found_by_a_refusal"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for FoundByARefusal {
    fn use_transaction(&self) -> Option<bool> {
        Some(false)
    }

    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        if manager.get_database_backend() != DatabaseBackend::Postgres {
            return Ok(());
        }
        for (name, whose) in [("refusals_of_tenant", "tenant"), ("refusals_of_webhook", "webhook_id")] {
            partitions::add_index(
                manager,
                name,
                &format!("({whose}, response_status, id) WHERE response_status >= 300"),
            )
            .await?;
        }
        Ok(())
    }
}

/// What was a row for each kind of count is a column, and the tenants are counted.
async fn wide_counts(manager: &SchemaManager<'_>) -> Result<(), DbErr> {
    // As they are at this step.
    let faults = [
        "dns_failed",
        "address_forbidden",
        "connection_refused",
        "connect_timeout",
        "certificate_invalid",
        "tls_failed",
        "connection_failed",
        "timeout",
        "redirected",
        "http_status",
        "response_too_large",
        "gone",
        "webhook_deleted",
        "discarded",
        "parking_full",
    ];
    let states = ["pending", "delivered", "failed", "filtered", "duplicate", "superseded", "parked", "expired"];
    let mut kinds = vec![("attempts".to_owned(), "attempts".to_owned())];
    kinds.extend(faults.map(|name| (format!("failed_{name}"), format!("failed:{name}"))));
    kinds.extend(states.map(|name| (format!("state_{name}"), format!("state:{name}"))));
    kinds.extend((0..68).map(|index| (format!("ms_{index}"), format!("ms:{index}"))));
    let mut counts = Table::create();
    counts
        .table("counts")
        .col(text("tenant"))
        .col(string("subject"))
        .col(big_integer("size"))
        .col(big_integer("bucket"));
    for (column, _) in &kinds {
        counts.col(big_integer(column.clone()));
    }
    counts.primary_key(Index::create().col("subject").col("size").col("bucket"));
    manager.create_table(counts).await?;
    let mut by_age = Index::create();
    manager.create_index(by_age.name("counts_by_age").table("counts").col("size").col("bucket").to_owned()).await?;
    let columns: Vec<_> = kinds.iter().map(|(column, _)| column.as_str()).collect();
    let sums: Vec<_> = kinds
        .iter()
        .map(|(_, kind)| format!("CAST(SUM(CASE WHEN kind = '{kind}' THEN total ELSE 0 END) AS BIGINT)"))
        .collect();
    for subject in ["webhook_id", "'tenant:' || tenant"] {
        let sql = format!(
            "INSERT INTO counts (tenant, subject, size, bucket, {}) SELECT tenant, {subject}, size, bucket, {} \
             FROM rollups GROUP BY tenant, {subject}, size, bucket",
            columns.join(", "),
            sums.join(", ")
        );
        manager.get_connection().execute_unprepared(&sql).await?;
    }
    // An api of before, which is being replaced, still writes to `rollups`; a later step can drop it.
    Ok(())
}
