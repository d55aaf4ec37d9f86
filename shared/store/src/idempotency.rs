//! What was answered to requests that named an `Idempotency-Key`, so that a repeat is answered the same.

use sea_orm::ActiveValue::Set;
use sea_orm::sea_query::{Expr, OnConflict};
use sea_orm::{ColumnTrait, Condition, EntityTrait, QueryFilter, QueryOrder, QuerySelect};
use shopery_model::TenantId;
use time::OffsetDateTime;

use crate::entity::idempotency_key;
use crate::{Store, StoreError, to_millis};

/// Removed at a time.
const BATCH: u64 = 500;

/// A key of a tenant, and the request that it was given for.
#[derive(Debug, Clone, Copy)]
pub struct Keyed<'a> {
    pub tenant: &'a TenantId,
    pub key: &'a str,
    /// Of method, path and body.
    pub fingerprint: &'a str,
}

/// What was answered. The body is sealed by who gives it: it may hold a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answered {
    pub status: u16,
    pub location: Option<String>,
    pub body: String,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Claim {
    /// The request is the first one with this key: it is to be worked on.
    First,
    /// Another one with this key is being worked on.
    UnderWay,
    /// The key was given for another request.
    Differs,
    Answered(Answered),
}

impl Store {
    /// Takes a key for a request. One that was taken before `expired`, or before `abandoned` and never answered, is free.
    pub async fn claim(
        &self,
        keyed: Keyed<'_>,
        now: OffsetDateTime,
        expired: OffsetDateTime,
        abandoned: OffsetDateTime,
    ) -> Result<Claim, StoreError> {
        use idempotency_key::Column;
        let free = Condition::any()
            .add(Column::CreatedAt.lt(to_millis(expired)))
            .add(Condition::all().add(Column::Status.is_null()).add(Column::CreatedAt.lt(to_millis(abandoned))));
        idempotency_key::Entity::delete_many().filter(is(keyed)).filter(free).exec(&self.db).await?;
        let row = idempotency_key::ActiveModel {
            tenant: Set(keyed.tenant.to_string()),
            key: Set(keyed.key.to_owned()),
            fingerprint: Set(keyed.fingerprint.to_owned()),
            status: Set(None),
            location: Set(None),
            body: Set(None),
            created_at: Set(to_millis(now)),
        };
        let unless_taken = OnConflict::columns([Column::Tenant, Column::Key]).do_nothing().to_owned();
        let insert = idempotency_key::Entity::insert(row).on_conflict(unless_taken);
        if insert.exec_without_returning(&self.db).await? > 0 {
            return Ok(Claim::First);
        }
        let found = idempotency_key::Entity::find().filter(is(keyed)).one(&self.db).await?;
        Ok(match found {
            Some(row) if row.fingerprint != keyed.fingerprint => Claim::Differs,
            Some(idempotency_key::Model { status: Some(status), location, body, .. }) => Claim::Answered(Answered {
                status: u16::try_from(status).map_err(|_| StoreError::Corrupt(format!("status {status}")))?,
                location,
                body: body.map(|body| body.0).unwrap_or_default(),
            }),
            // It was given back just now: whoever asks again finds it free.
            Some(_) | None => Claim::UnderWay,
        })
    }

    pub async fn answered(&self, keyed: Keyed<'_>, answer: Answered) -> Result<(), StoreError> {
        use idempotency_key::Column;
        let update = idempotency_key::Entity::update_many()
            .col_expr(Column::Status, Expr::value(i32::from(answer.status)))
            .col_expr(Column::Location, Expr::value(answer.location))
            .col_expr(Column::Body, Expr::value(answer.body));
        update.filter(is(keyed)).exec(&self.db).await?;
        Ok(())
    }

    /// Nothing came of the request: it may be sent again.
    pub async fn give_back(&self, keyed: Keyed<'_>) -> Result<(), StoreError> {
        idempotency_key::Entity::delete_many().filter(is(keyed)).exec(&self.db).await?;
        Ok(())
    }

    /// Forgets keys that were taken before, some at a time; false when there are no more.
    pub async fn forget_keys(&self, before: OffsetDateTime) -> Result<bool, StoreError> {
        use idempotency_key::Column;
        let before = to_millis(before);
        let nth: Option<i64> = idempotency_key::Entity::find()
            .select_only()
            .column(Column::CreatedAt)
            .filter(Column::CreatedAt.lt(before))
            .order_by_asc(Column::CreatedAt)
            .offset(BATCH)
            .into_tuple()
            .one(&self.db)
            .await?;
        let old = Column::CreatedAt.lte(nth.unwrap_or(before - 1));
        idempotency_key::Entity::delete_many().filter(old).exec(&self.db).await?;
        Ok(nth.is_some())
    }
}

fn is(keyed: Keyed<'_>) -> Condition {
    use idempotency_key::Column;
    Condition::all().add(Column::Tenant.eq(keyed.tenant.as_str())).add(Column::Key.eq(keyed.key))
}
