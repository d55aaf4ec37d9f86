//! Who has changed which webhook, when, and from what to what. Written in the transaction of the change itself, so that
//! there is none without the other. Secrets are masked before they come here.

use std::collections::{BTreeMap, BTreeSet};

use sea_orm::ActiveValue::Set;
use sea_orm::sea_query::Expr;
use sea_orm::{
    ColumnTrait, Condition, ConnectionTrait, DatabaseTransaction, DbErr, EntityTrait, QueryFilter, QueryOrder,
    QuerySelect,
};
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};
use shopery_model::{ChangeId, Destination, EventPattern, MaskedChange, Rules, TenantId, WebhookId};
use time::OffsetDateTime;

use crate::entity::{webhook, webhook_change};
use crate::webhooks::{is, read};
use crate::{Cursor, Page, Store, StoreError, Times, WebhookRecord, WebhookState, from_millis, to_millis};

/// Of one tenant; older ones make room.
const MAX_CHANGES: u64 = 10_000;
/// Removed at a time.
const BATCH: u64 = 500;
/// Characters of an author's name.
const MAX_AUTHOR: usize = 255;

/// Whoever changes a webhook: the `sub` of the token, if it has one. The system itself has no name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Author(Option<String>);

impl Author {
    pub fn of(subject: Option<&str>) -> Self {
        Self(subject.map(|subject| subject.chars().take(MAX_AUTHOR).collect()))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    Created,
    Updated,
    Deleted,
    /// By us.
    Disabled,
}

impl Action {
    fn name(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Updated => "updated",
            Self::Deleted => "deleted",
            Self::Disabled => "disabled",
        }
    }
}

/// A field before and after; absent where it was or is not set.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FieldChange {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<Box<RawValue>>,
}

#[derive(Debug, Clone)]
pub struct ChangeRecord {
    pub id: ChangeId,
    pub webhook: WebhookId,
    pub action: String,
    pub by: Option<String>,
    pub at: OffsetDateTime,
    pub fields: BTreeMap<String, FieldChange>,
}

impl Store {
    /// The changes of a webhook that there is, or was, newest first.
    pub async fn changes(
        &self,
        tenant: &TenantId,
        webhook: WebhookId,
        times: &Times,
        after: Option<&Cursor>,
        limit: u64,
    ) -> Result<Page<ChangeRecord>, StoreError> {
        use webhook_change::Column;
        let matching = Condition::all()
            .add(Column::Tenant.eq(tenant.as_str()))
            .add(Column::WebhookId.eq(webhook.to_string()))
            // A change never changes.
            .add(times.created(Column::CreatedAt))
            .add(times.updated(Column::CreatedAt))
            .add_option(after.map(|cursor| Column::Id.lt(cursor.0.as_str())));
        let found = webhook_change::Entity::find().filter(matching).order_by_desc(Column::Id).limit(limit + 1);
        Page::of(found.all(&self.db).await?, limit, |row| Cursor(row.id.clone())).try_map(read_change)
    }

    /// Forgets changes from before, some at a time; false when there are no more.
    pub async fn forget_changes(&self, before: OffsetDateTime) -> Result<bool, StoreError> {
        use webhook_change::Column;
        let old = webhook_change::Entity::find()
            .select_only()
            .column(Column::Id)
            .filter(Column::Id.lt(ChangeId::first_at(before).to_string()))
            .order_by_asc(Column::Id)
            .limit(BATCH);
        let ids: Vec<String> = old.into_tuple().all(&self.db).await?;
        let is_more = u64::try_from(ids.len()).is_ok_and(|count| count == BATCH);
        webhook_change::Entity::delete_many().filter(Column::Id.is_in(ids)).exec(&self.db).await?;
        Ok(is_more)
    }
}

/// The webhook, which nobody else changes until the transaction ends.
pub(crate) async fn hold(
    transaction: &DatabaseTransaction,
    tenant: &TenantId,
    id: WebhookId,
) -> Result<Option<WebhookRecord>, StoreError> {
    use webhook::Column;
    // Both databases lock what is written.
    let hold = webhook::Entity::update_many().col_expr(Column::Version, Expr::col(Column::Version));
    if hold.filter(is(tenant, id)).exec(transaction).await?.rows_affected == 0 {
        return Ok(None);
    }
    webhook::Entity::find().filter(is(tenant, id)).one(transaction).await?.map(read).transpose()
}

/// What is written down of a change.
#[derive(Debug)]
pub(crate) struct Change<'a> {
    pub(crate) action: Action,
    pub(crate) by: &'a Author,
    pub(crate) before: Option<&'a WebhookRecord>,
    pub(crate) after: Option<&'a WebhookRecord>,
    pub(crate) masked: &'a [MaskedChange],
    pub(crate) at: OffsetDateTime,
}

/// Writes a change down. One that changes nothing is none.
pub(crate) async fn note(transaction: &DatabaseTransaction, change: Change<'_>) -> Result<(), StoreError> {
    use webhook_change::Column;
    let Some(webhook) = change.after.or(change.before) else { return Ok(()) };
    let unwritable = |error: serde_json::Error| StoreError::Corrupt(format!("webhook {}: {error}", webhook.id));
    let fields = differences(change.before, change.after, change.masked).map_err(unwritable)?;
    if fields.is_empty() {
        return Ok(());
    }
    let row = webhook_change::ActiveModel {
        id: Set(ChangeId::generate().to_string()),
        tenant: Set(webhook.tenant.to_string()),
        webhook_id: Set(webhook.id.to_string()),
        action: Set(change.action.name().to_owned()),
        author: Set(change.by.0.clone()),
        changes: Set(serde_json::to_string(&fields).map_err(unwritable)?),
        created_at: Set(to_millis(change.at)),
    };
    webhook_change::Entity::insert(row).exec_without_returning(transaction).await?;
    make_room(transaction, Condition::all().add(Column::Tenant.eq(webhook.tenant.as_str()))).await?;
    Ok(())
}

async fn make_room(db: &impl ConnectionTrait, of_tenant: Condition) -> Result<(), DbErr> {
    use webhook_change::Column;
    let last_kept: Option<String> = webhook_change::Entity::find()
        .select_only()
        .column(Column::Id)
        .filter(of_tenant.clone())
        .order_by_desc(Column::Id)
        .offset(MAX_CHANGES)
        .limit(1)
        .into_tuple()
        .one(db)
        .await?;
    if let Some(id) = last_kept {
        let too_many = of_tenant.add(Column::Id.lte(id));
        webhook_change::Entity::delete_many().filter(too_many).exec(db).await?;
    }
    Ok(())
}

type Shown = BTreeMap<String, Box<RawValue>>;

fn differences(
    before: Option<&WebhookRecord>,
    after: Option<&WebhookRecord>,
    masked: &[MaskedChange],
) -> serde_json::Result<BTreeMap<String, FieldChange>> {
    let shown = |record: Option<&WebhookRecord>| record.map_or_else(|| Ok(Shown::new()), shown);
    let (mut before, mut after) = (shown(before)?, shown(after)?);
    let names: BTreeSet<String> = before.keys().chain(after.keys()).cloned().collect();
    let mut fields = BTreeMap::new();
    for name in names {
        let (from, to) = (before.remove(&name), after.remove(&name));
        if from.as_ref().map(|value| value.get()) != to.as_ref().map(|value| value.get()) {
            fields.insert(name, FieldChange { from, to });
        }
    }
    for MaskedChange { field, from, to } in masked {
        let raw = |value: &Option<serde_json::Value>| value.as_ref().map(to_raw_value).transpose();
        fields.insert(field.clone(), FieldChange { from: raw(from)?, to: raw(to)? });
    }
    Ok(fields)
}

/// What of a webhook its owner, or we, can change, by the names of the API.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Plain<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<&'a str>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    metadata: &'a BTreeMap<String, String>,
    url: &'a Destination,
    events: &'a [EventPattern],
    is_enabled: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    disabled_reason: Option<&'static str>,
    #[serde(with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    discard_before: Option<OffsetDateTime>,
    #[serde(flatten)]
    rules: &'a Rules,
}

fn shown(record: &WebhookRecord) -> serde_json::Result<Shown> {
    let plain = Plain {
        name: &record.name,
        description: record.description.as_deref(),
        metadata: &record.metadata,
        url: &record.destination,
        events: &record.events,
        is_enabled: record.state == WebhookState::Active,
        disabled_reason: record.disabled.map(|(_, reason)| reason.name()),
        discard_before: record.discard_before,
        rules: &record.rules,
    };
    serde_json::from_str(&serde_json::to_string(&plain)?)
}

fn read_change(row: webhook_change::Model) -> Result<ChangeRecord, StoreError> {
    let corrupt = |what: &str| StoreError::Corrupt(format!("change {}: {what}", row.id));
    Ok(ChangeRecord {
        id: row.id.parse().map_err(|_| corrupt("id"))?,
        webhook: row.webhook_id.parse().map_err(|_| corrupt("webhook_id"))?,
        fields: serde_json::from_str(&row.changes).map_err(|_| corrupt("changes"))?,
        action: row.action,
        by: row.author,
        at: from_millis(row.created_at),
    })
}
