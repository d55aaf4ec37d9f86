use std::collections::{BTreeMap, BTreeSet};

use sea_orm::sea_query::{Expr, ExprTrait};
use sea_orm::{
    ActiveValue::Set, ColumnTrait, Condition, EntityTrait, PaginatorTrait, QueryFilter, QueryOrder, QuerySelect,
    TransactionTrait,
};
use shopery_model::{
    Destination, EventPattern, MaskedChange, Rules, Sealed, TenantId, Webhook, WebhookId, stable_hash,
};
use time::OffsetDateTime;

use crate::changes::{self, Action, Author, Change};
use crate::entity::{Hidden, webhook};
use crate::outbox;
use crate::sql::lock;
use crate::{Cursor, Page, Store, StoreError, Times, from_millis, to_millis};

/// Webhooks of one tenant: a bound on what each event can cost.
const MAX_WEBHOOKS: u64 = 100;
/// Locks that all tenants share, and the first key of them: any number that nothing else uses.
const LOCKS: u32 = 1024;
const LOCK_SPACE: i32 = 1_128_485_442;

/// A webhook as the control plane knows it.
#[derive(Debug, Clone, PartialEq)]
pub struct WebhookRecord {
    pub id: WebhookId,
    pub tenant: TenantId,
    pub name: String,
    pub description: Option<String>,
    /// The owner's own labels.
    pub metadata: BTreeMap<String, String>,
    pub destination: Destination,
    pub events: Vec<EventPattern>,
    pub state: WebhookState,
    pub sealed: Sealed,
    pub rules: Rules,
    pub created_at: OffsetDateTime,
    pub updated_at: OffsetDateTime,
    /// The first attempt that failed after the last one that did not.
    pub failing_since: Option<OffsetDateTime>,
    /// When we warned that it will be disabled, and whether the tenant's other webhooks were notified.
    pub warned_at: Option<OffsetDateTime>,
    pub is_warning_notified: bool,
    /// When and why we have disabled it.
    pub disabled: Option<(OffsetDateTime, DisabledReason)>,
    /// Whether the tenant's other webhooks have been told of that.
    pub is_told: bool,
    /// What has waited since before this time is not to be sent.
    pub discard_before: Option<OffsetDateTime>,
    /// When its URL or secret last became another one, or it was enabled: since then it is another endpoint, which has been
    /// told nothing. `None`: never.
    pub endpoint_since: Option<OffsetDateTime>,
    /// Counts what its owner, or we, have changed of it.
    pub version: i64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WebhookState {
    Active,
    /// `isEnabled` is false because its owner said so.
    Paused,
    /// Disabled by us, for a [`DisabledReason`].
    Disabled,
}

/// Why we disable a webhook. The names are part of the API: `disabledReason`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DisabledReason {
    /// All attempts have failed for too long.
    Failing,
    /// The endpoint answered 410.
    Gone,
}

impl DisabledReason {
    pub fn name(self) -> &'static str {
        match self {
            Self::Failing => "failing",
            Self::Gone => "gone",
        }
    }
}

impl WebhookState {
    pub fn name(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Paused => "paused",
            Self::Disabled => "disabled",
        }
    }

    pub fn of(is_enabled: bool) -> Self {
        if is_enabled { Self::Active } else { Self::Paused }
    }
}

impl WebhookRecord {
    /// What the data plane is told.
    pub fn config(&self) -> Webhook {
        Webhook {
            id: self.id,
            tenant: self.tenant.clone(),
            destination: self.destination.clone(),
            events: self.events.clone(),
            is_enabled: self.state == WebhookState::Active,
            sealed: self.sealed.clone(),
            credentials: None,
            rules: self.rules.clone(),
            discard_before: self.discard_before,
            endpoint_since: self.endpoint_since,
            updated_at: self.updated_at,
        }
    }
}

/// A row that cannot be read: written by a later version, or damaged.
#[derive(Debug)]
pub struct UnreadableWebhook {
    pub id: String,
    pub error: StoreError,
}

/// What a PATCH changes; `None` leaves it.
#[derive(Debug, Clone, Default)]
pub struct WebhookChange {
    pub name: Option<String>,
    /// `Some(None)` takes it away.
    pub description: Option<Option<String>>,
    /// All of it.
    pub metadata: Option<BTreeMap<String, String>>,
    pub destination: Option<Destination>,
    pub events: Option<Vec<EventPattern>>,
    pub state: Option<WebhookState>,
    pub sealed: Option<Resealed>,
    pub rules: Option<Rules>,
    pub discard_before: Option<OffsetDateTime>,
    /// Only if that is still its version.
    pub of_version: Option<i64>,
    /// Only if it is still sent there, with these credentials: a caller that has judged them must not change what it has not judged.
    pub of_endpoint: Option<(Destination, Sealed)>,
}

/// Credentials in place of those that they were made from. Should somebody else have changed those, nothing is.
#[derive(Debug, Clone)]
pub struct Resealed {
    pub before: Sealed,
    pub after: Sealed,
    /// Whether the secret in them is another one, and so the endpoint that knows it.
    pub is_new_secret: bool,
    /// What may be told of the difference.
    pub told: Vec<MaskedChange>,
}

impl Store {
    /// `told`: what may be told of its credentials.
    pub async fn create_webhook(
        &self,
        record: &WebhookRecord,
        told: &[MaskedChange],
        by: &Author,
    ) -> Result<(), StoreError> {
        let row = webhook::ActiveModel {
            id: Set(record.id.to_string()),
            tenant: Set(record.tenant.to_string()),
            name: Set(record.name.clone()),
            url: Set(record.destination.to_string()),
            events: Set(join(&record.events)),
            state: Set(record.state.name().to_owned()),
            sealed: Set(Hidden(record.sealed.stored().to_owned())),
            rules: Set(write_rules(&record.rules)),
            created_at: Set(to_millis(record.created_at)),
            updated_at: Set(to_millis(record.updated_at)),
            failing_since: Set(None),
            failures: Set(None),
            warned_at: Set(None),
            warning_notified_at: Set(None),
            disabled_at: Set(None),
            disabled_reason: Set(None),
            told_at: Set(None),
            discard_before: Set(None),
            endpoint_since: Set(None),
            version: Set(record.version),
            description: Set(record.description.clone()),
            metadata: Set(write_metadata(&record.metadata)),
        };
        let transaction = self.db.begin().await?;
        // Of a tenant, one at a time: those that are created together would not count each other.
        let tenant = stable_hash(record.tenant.as_str().as_bytes()) % LOCKS;
        lock(&transaction, LOCK_SPACE, &BTreeSet::from([tenant])).await?;
        webhook::Entity::insert(row).exec_without_returning(&transaction).await?;
        let of_tenant = webhook::Entity::find().filter(webhook::Column::Tenant.eq(record.tenant.as_str()));
        if of_tenant.count(&transaction).await? > MAX_WEBHOOKS {
            transaction.rollback().await?;
            return Err(StoreError::TooMany(MAX_WEBHOOKS));
        }
        let (before, after, at) = (None, Some(record), record.created_at);
        changes::note(&transaction, Change { action: Action::Created, by, before, after, masked: told, at }).await?;
        outbox::note(&transaction, &record.tenant, record.id).await?;
        transaction.commit().await?;
        Ok(())
    }

    pub async fn webhook(&self, tenant: &TenantId, id: WebhookId) -> Result<Option<WebhookRecord>, StoreError> {
        webhook::Entity::find().filter(is(tenant, id)).one(&self.db).await?.map(read).transpose()
    }

    pub async fn webhooks(
        &self,
        tenant: &TenantId,
        times: &Times,
        after: Option<&Cursor>,
        limit: u64,
    ) -> Result<Page<WebhookRecord>, StoreError> {
        use webhook::Column;
        let matching = Condition::all()
            .add(Column::Tenant.eq(tenant.as_str()))
            .add(times.created(Column::CreatedAt))
            .add(times.updated(Column::UpdatedAt))
            .add_option(after.map(|cursor| Column::Id.lt(cursor.0.as_str())));
        let rows =
            webhook::Entity::find().filter(matching).order_by_desc(Column::Id).limit(limit + 1).all(&self.db).await?;
        Ok(Page::of(rows, limit, |row| Cursor(row.id.clone())).filter_map(|row| match read(row) {
            Ok(record) => Some(record),
            Err(error) => {
                // The tenant's others are shown all the same; who asks for this one is told that it is our fault.
                tracing::error!(%error, "a webhook is left out of a list");
                None
            }
        }))
    }

    /// Every tenant's webhooks with an id above `after`, by id: for reconciliation. A row that does not read is told apart,
    /// so that it stands in nobody's way.
    pub async fn all_webhooks(
        &self,
        after: Option<&str>,
        limit: u64,
    ) -> Result<Vec<Result<WebhookRecord, UnreadableWebhook>>, StoreError> {
        let mut all = webhook::Entity::find().order_by_asc(webhook::Column::Id).limit(limit);
        if let Some(after) = after {
            all = all.filter(webhook::Column::Id.gt(after));
        }
        let read_apart = |row: webhook::Model| {
            let id = row.id.clone();
            read(row).map_err(|error| UnreadableWebhook { id, error })
        };
        Ok(all.all(&self.db).await?.into_iter().map(read_apart).collect())
    }

    /// Webhooks whose credentials are stored as a text that begins otherwise, with an id above `after`, by id.
    pub async fn webhooks_sealed_otherwise(
        &self,
        prefix: &str,
        after: Option<WebhookId>,
        limit: u64,
    ) -> Result<Vec<WebhookRecord>, StoreError> {
        use webhook::Column;
        let mut found = webhook::Entity::find().filter(Column::Sealed.not_like(format!("{prefix}%")));
        if let Some(after) = after {
            found = found.filter(Column::Id.gt(after.to_string()));
        }
        found.order_by_asc(Column::Id).limit(limit).all(&self.db).await?.into_iter().map(read).collect()
    }

    /// Puts other credentials in place of those that they were made from, which changes nothing else; false if those
    /// are there no more.
    pub async fn reseal(&self, tenant: &TenantId, id: WebhookId, change: &Resealed) -> Result<bool, StoreError> {
        use webhook::Column;
        let update = webhook::Entity::update_many().col_expr(Column::Sealed, Expr::value(change.after.stored()));
        let still = is(tenant, id).add(Column::Sealed.eq(change.before.stored()));
        let transaction = self.db.begin().await?;
        if update.filter(still).exec(&transaction).await?.rows_affected == 0 {
            return Ok(false);
        }
        outbox::note(&transaction, tenant, id).await?;
        transaction.commit().await?;
        Ok(true)
    }

    /// Changes a webhook; false if the tenant has no such one, or not of that version, with that endpoint, or with the
    /// credentials that are to be replaced.
    pub async fn update_webhook(
        &self,
        tenant: &TenantId,
        id: WebhookId,
        change: WebhookChange,
        by: &Author,
        now: OffsetDateTime,
    ) -> Result<bool, StoreError> {
        use webhook::Column;
        let transaction = self.db.begin().await?;
        let Some(before) = changes::hold(&transaction, tenant, id).await? else { return Ok(false) };
        if change.of_endpoint.as_ref().is_some_and(|(to, sealed)| (to, sealed) != (&before.destination, &before.sealed))
        {
            return Ok(false);
        }
        let mut masked = Vec::new();
        let mut update = webhook::Entity::update_many()
            .col_expr(Column::UpdatedAt, Expr::value(to_millis(now)))
            .col_expr(Column::Version, ExprTrait::add(Expr::col(Column::Version), 1));
        if let Some(version) = change.of_version {
            update = update.filter(Column::Version.eq(version));
        }
        if is_new_endpoint(&before, &change) {
            update = update.col_expr(Column::EndpointSince, Expr::value(to_millis(now)));
        }
        if let Some(name) = change.name {
            update = update.col_expr(Column::Name, Expr::value(name));
        }
        if let Some(description) = change.description {
            update = update.col_expr(Column::Description, Expr::value(description));
        }
        if let Some(metadata) = change.metadata {
            update = update.col_expr(Column::Metadata, Expr::value(write_metadata(&metadata)));
        }
        let nothing = || Expr::value(None::<i64>);
        if change.destination.is_some() || change.state.is_some() || change.sealed.is_some() {
            for column in [Column::FailingSince, Column::WarnedAt, Column::WarningNotifiedAt] {
                update = update.col_expr(column, nothing());
            }
            update = update.col_expr(Column::Failures, Expr::value(None::<String>));
        }
        if let Some(destination) = change.destination {
            update = update.col_expr(Column::Url, Expr::value(destination.to_string()));
        }
        if let Some(events) = change.events {
            update = update.col_expr(Column::Events, Expr::value(join(&events)));
        }
        if let Some(state) = change.state {
            update = update
                .col_expr(Column::State, Expr::value(state.name()))
                .col_expr(Column::DisabledAt, nothing())
                .col_expr(Column::DisabledReason, Expr::value(None::<String>))
                .col_expr(Column::ToldAt, nothing());
        }
        if let Some(Resealed { before, after, told, .. }) = change.sealed {
            masked = told;
            update = update.col_expr(Column::Sealed, Expr::value(after.stored()));
            update = update.filter(Column::Sealed.eq(before.stored()));
        }
        if let Some(rules) = change.rules {
            update = update.col_expr(Column::Rules, Expr::value(write_rules(&rules)));
        }
        if let Some(before) = change.discard_before {
            update = update.col_expr(Column::DiscardBefore, Expr::value(to_millis(before)));
        }
        if update.filter(is(tenant, id)).exec(&transaction).await?.rows_affected == 0 {
            return Ok(false);
        }
        let after = webhook::Entity::find().filter(is(tenant, id)).one(&transaction).await?.map(read).transpose()?;
        let (before, after) = (Some(&before), after.as_ref());
        let change = Change { action: Action::Updated, by, before, after, masked: &masked, at: now };
        changes::note(&transaction, change).await?;
        outbox::note(&transaction, tenant, id).await?;
        transaction.commit().await?;
        Ok(true)
    }

    /// The tenant's other webhooks have been told that this one was disabled at that time.
    pub async fn told(
        &self,
        tenant: &TenantId,
        id: WebhookId,
        disabled_at: OffsetDateTime,
        now: OffsetDateTime,
    ) -> Result<(), StoreError> {
        use webhook::Column;
        let told = webhook::Entity::update_many().col_expr(Column::ToldAt, Expr::value(to_millis(now)));
        let still = is(tenant, id).add(Column::DisabledAt.eq(to_millis(disabled_at)));
        told.filter(still).exec(&self.db).await?;
        Ok(())
    }

    /// The tenant's other webhooks were notified of the warning of that time.
    pub async fn warning_notified(
        &self,
        tenant: &TenantId,
        id: WebhookId,
        warned_at: OffsetDateTime,
        now: OffsetDateTime,
    ) -> Result<(), StoreError> {
        use webhook::Column;
        let told = webhook::Entity::update_many().col_expr(Column::WarningNotifiedAt, Expr::value(to_millis(now)));
        let still = is(tenant, id).add(Column::WarnedAt.eq(to_millis(warned_at)));
        told.filter(still).exec(&self.db).await?;
        Ok(())
    }

    /// Deletes a webhook; false if the tenant has no such one. Its history stays.
    pub async fn delete_webhook(
        &self,
        tenant: &TenantId,
        id: WebhookId,
        by: &Author,
        now: OffsetDateTime,
    ) -> Result<bool, StoreError> {
        let transaction = self.db.begin().await?;
        let Some(before) = changes::hold(&transaction, tenant, id).await? else { return Ok(false) };
        webhook::Entity::delete_many().filter(is(tenant, id)).exec(&transaction).await?;
        let (before, after, masked) = (Some(&before), None, &[]);
        let change = Change { action: Action::Deleted, by, before, after, masked, at: now };
        changes::note(&transaction, change).await?;
        outbox::note(&transaction, tenant, id).await?;
        transaction.commit().await?;
        Ok(true)
    }
}

/// Whether a change makes another endpoint of it, which has been told nothing: what is set to what it was does not.
fn is_new_endpoint(before: &WebhookRecord, change: &WebhookChange) -> bool {
    let is_elsewhere = change.destination.as_ref().is_some_and(|destination| *destination != before.destination);
    let is_enabled = change.state == Some(WebhookState::Active) && before.state != WebhookState::Active;
    is_elsewhere || is_enabled || change.sealed.as_ref().is_some_and(|sealed| sealed.is_new_secret)
}

pub(crate) fn is(tenant: &TenantId, id: WebhookId) -> Condition {
    Condition::all().add(webhook::Column::Tenant.eq(tenant.as_str())).add(webhook::Column::Id.eq(id.to_string()))
}

fn write_rules(rules: &Rules) -> String {
    // Lists of strings, names and a pattern that is JSON already.
    serde_json::to_string(rules).unwrap_or_default()
}

fn write_metadata(metadata: &BTreeMap<String, String>) -> Option<String> {
    // Texts by name always serialise.
    (!metadata.is_empty()).then(|| serde_json::to_string(metadata).unwrap_or_default())
}

fn join(events: &[EventPattern]) -> String {
    events.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

pub(crate) fn read(row: webhook::Model) -> Result<WebhookRecord, StoreError> {
    let corrupt = |what: &str| StoreError::Corrupt(format!("webhook {}: {what}", row.id));
    Ok(WebhookRecord {
        id: row.id.parse().map_err(|_| corrupt("id"))?,
        tenant: row.tenant.parse().map_err(|_| corrupt("tenant"))?,
        destination: row.url.parse().map_err(|_| corrupt("url"))?,
        events: row
            .events
            .split(',')
            .map(EventPattern::of_stored)
            .collect::<Result<_, _>>()
            .map_err(|_| corrupt("events"))?,
        state: match row.state.as_str() {
            "active" => WebhookState::Active,
            "paused" => WebhookState::Paused,
            "disabled" => WebhookState::Disabled,
            _ => return Err(corrupt("state")),
        },
        version: row.version,
        rules: serde_json::from_str(&row.rules).map_err(|_| corrupt("rules"))?,
        failing_since: row.failing_since.map(from_millis),
        warned_at: row.warned_at.map(from_millis),
        is_warning_notified: row.warning_notified_at.is_some(),
        disabled: match row.disabled_reason.as_deref() {
            None => None,
            Some("failing") => Some(DisabledReason::Failing),
            Some("gone") => Some(DisabledReason::Gone),
            Some(_) => return Err(corrupt("disabled_reason")),
        }
        .and_then(|reason| Some((from_millis(row.disabled_at?), reason))),
        is_told: row.told_at.is_some(),
        discard_before: row.discard_before.map(from_millis),
        endpoint_since: row.endpoint_since.map(from_millis),
        sealed: Sealed::of_stored(row.sealed.0),
        metadata: match row.metadata.as_deref() {
            None => BTreeMap::new(),
            Some(json) => serde_json::from_str(json).map_err(|_| corrupt("metadata"))?,
        },
        name: row.name,
        description: row.description,
        created_at: from_millis(row.created_at),
        updated_at: from_millis(row.updated_at),
    })
}
