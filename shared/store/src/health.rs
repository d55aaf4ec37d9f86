//! What the attempts tell of a webhook: since when all have failed, and when it is to be disabled for it.
//!
//! Invariant: noting the same attempts again, late or in another order changes nothing for the worse: a success ends a
//! row of failures whenever it comes, and what an owner has changed since is not judged by attempts from before.

use std::collections::BTreeMap;
use std::time::Duration;

use sea_orm::sea_query::{Expr, ExprTrait};
use sea_orm::{ColumnTrait, EntityTrait, QueryFilter, QuerySelect, TransactionTrait, UpdateMany};
use shopery_model::{Fault, Outcome, TenantId, WebhookId};
use time::OffsetDateTime;

use crate::changes::{self, Action, Author, Change};
use crate::entity::webhook;
use crate::outbox;
use crate::webhooks::{is, read};
use crate::{DisabledReason, Store, StoreError, WebhookState, to_millis};

/// Webhooks in one query.
const MANY: usize = 500;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Tried {
    Delivered,
    Failed,
    Gone,
}

/// What follows from attempts. Times are in milliseconds.
#[derive(Debug, PartialEq)]
struct Health {
    failing_since: Option<i64>,
    disable: Option<(i64, DisabledReason)>,
}

/// What is known of a webhook before.
#[derive(Debug, Clone, Copy)]
struct Known {
    failing_since: Option<i64>,
    changed_at: i64,
}

impl Known {
    /// `attempts` are in the order of their time. All of them failing for `patience` is too long.
    fn after(self, attempts: &[(i64, Tried)], patience: Option<i64>) -> Health {
        let (mut failing_since, mut disable) = (self.failing_since, None);
        for (at, tried) in attempts {
            match tried {
                Tried::Delivered => failing_since = failing_since.filter(|since| at < since),
                _ if *at < self.changed_at => {}
                Tried::Gone => {
                    failing_since.get_or_insert(*at);
                    disable = Some((*at, DisabledReason::Gone));
                }
                Tried::Failed => {
                    let since = *failing_since.get_or_insert(*at);
                    if patience.is_some_and(|patience| at - since >= patience) {
                        disable = disable.or(Some((*at, DisabledReason::Failing)));
                    }
                }
            }
        }
        Health { failing_since, disable }
    }
}

impl Store {
    /// Takes note of attempts. Webhooks whose endpoint says that it is gone, or has failed always for `patience`, are
    /// disabled; returns those that were.
    pub async fn note_attempts<'a>(
        &self,
        outcomes: impl IntoIterator<Item = &'a Outcome>,
        patience: Option<Duration>,
        now: OffsetDateTime,
    ) -> Result<Vec<(TenantId, WebhookId, DisabledReason)>, StoreError> {
        use webhook::Column;
        let patience = patience.map(|patience| i64::try_from(patience.as_millis()).unwrap_or(i64::MAX));
        let attempts: Vec<_> = by_webhook(outcomes).into_iter().collect();
        let mut disabled = Vec::new();
        for part in attempts.chunks(MANY) {
            let columns = [Column::Id, Column::Tenant, Column::State, Column::FailingSince, Column::UpdatedAt];
            let rows: Vec<(String, String, String, Option<i64>, i64)> = webhook::Entity::find()
                .select_only()
                .columns(columns)
                .filter(Column::Id.is_in(part.iter().map(|((_, id), _)| id.to_string())))
                .into_tuple()
                .all(&self.db)
                .await?;
            let rows: BTreeMap<_, _> =
                rows.into_iter().map(|(id, tenant, state, since, at)| ((tenant, id), (state, since, at))).collect();
            for ((tenant, id), attempts) in part {
                let Some((state, failing_since, changed_at)) = rows.get(&(tenant.to_string(), id.to_string())) else {
                    continue;
                };
                let (failing_since, changed_at) = (*failing_since, *changed_at);
                let health = Known { failing_since, changed_at }.after(attempts, patience);
                let is_active = state == WebhookState::Active.name();
                let disable = health.disable.filter(|_| is_active);
                if health.failing_since == failing_since && disable.is_none() {
                    continue;
                }
                let mut update = webhook::Entity::update_many()
                    .col_expr(Column::FailingSince, Expr::value(health.failing_since))
                    // What its owner does at the same time wins.
                    .filter(is(tenant, *id).add(Column::UpdatedAt.eq(changed_at)));
                if let Some((at, reason)) = disable {
                    update = update
                        .col_expr(Column::State, Expr::value(WebhookState::Disabled.name()))
                        .col_expr(Column::DisabledAt, Expr::value(at))
                        .col_expr(Column::DisabledReason, Expr::value(reason.name()))
                        .col_expr(Column::ToldAt, Expr::value(None::<i64>))
                        .col_expr(Column::UpdatedAt, Expr::value(to_millis(now)))
                        .col_expr(Column::Version, ExprTrait::add(Expr::col(Column::Version), 1));
                }
                let Some((_, reason)) = disable else {
                    update.exec(&self.db).await?;
                    continue;
                };
                match self.disable(tenant, *id, update, now).await {
                    Ok(true) => disabled.push((tenant.clone(), *id, reason)),
                    Ok(false) => {}
                    // It cannot be disabled as it is, and the others are judged all the same.
                    Err(StoreError::Corrupt(why)) => tracing::error!(why, "a webhook cannot be disabled"),
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(disabled)
    }

    /// Does that update, and writes down that it was us; false if it finds nothing to update.
    async fn disable(
        &self,
        tenant: &TenantId,
        id: WebhookId,
        update: UpdateMany<webhook::Entity>,
        now: OffsetDateTime,
    ) -> Result<bool, StoreError> {
        let transaction = self.db.begin().await?;
        let Some(before) = changes::hold(&transaction, tenant, id).await? else { return Ok(false) };
        if update.exec(&transaction).await?.rows_affected == 0 {
            return Ok(false);
        }
        let after = webhook::Entity::find().filter(is(tenant, id)).one(&transaction).await?.map(read).transpose()?;
        let (action, by, before, after) = (Action::Disabled, &Author::default(), Some(&before), after.as_ref());
        changes::note(&transaction, Change { action, by, before, after, masked: &[], at: now }).await?;
        outbox::note(&transaction, tenant, id).await?;
        transaction.commit().await?;
        Ok(true)
    }
}

type Attempts = Vec<(i64, Tried)>;

fn by_webhook<'a>(outcomes: impl IntoIterator<Item = &'a Outcome>) -> BTreeMap<(TenantId, WebhookId), Attempts> {
    let mut attempts: BTreeMap<(TenantId, WebhookId), Attempts> = BTreeMap::new();
    for outcome in outcomes {
        let Some(attempt) = &outcome.attempt else { continue };
        let tried = match &outcome.fault {
            None => Tried::Delivered,
            Some((Fault::Gone, _)) => Tried::Gone,
            Some(_) => Tried::Failed,
        };
        let webhook = (outcome.job.tenant.clone(), outcome.job.webhook);
        attempts.entry(webhook).or_default().push((to_millis(attempt.started_at), tried));
    }
    attempts.values_mut().for_each(|attempts| attempts.sort_unstable());
    attempts
}

#[cfg(test)]
mod tests {
    use super::*;
    use Tried::{Delivered, Failed, Gone};

    type Row<'a> = (Option<i64>, &'a [(i64, Tried)], Option<i64>, Option<(i64, DisabledReason)>);

    /// Each row: since when it fails, attempts, and what follows; it was changed at 10, and 100 is too long.
    #[test]
    fn a_webhook_is_disabled_when_everything_has_failed_for_too_long() {
        let failing = |at| Some((at, DisabledReason::Failing));
        let rows: [Row<'_>; _] = [
            (None, &[(20, Delivered), (21, Delivered)], None, None),
            (None, &[(20, Failed), (30, Failed)], Some(20), None),
            (Some(15), &[(20, Failed)], Some(15), None),
            (Some(15), &[(20, Delivered)], None, None),
            (Some(15), &[(20, Delivered), (25, Failed)], Some(25), None),
            // A success from before the failures comes late.
            (Some(15), &[(12, Delivered)], Some(15), None),
            (Some(15), &[(114, Failed)], Some(15), None),
            (Some(15), &[(115, Failed)], Some(15), failing(115)),
            (Some(15), &[(115, Failed), (116, Failed)], Some(15), failing(115)),
            (Some(15), &[(100, Delivered), (115, Failed)], Some(115), None),
            // Long after a failure, with nothing in between: that was all, and it has failed.
            (None, &[(20, Failed), (500, Failed)], Some(20), failing(500)),
            // What was met before its owner changed it says nothing of what it is now.
            (None, &[(9, Failed)], None, None),
            (None, &[(9, Gone)], None, None),
            (None, &[(20, Gone)], Some(20), Some((20, DisabledReason::Gone))),
        ];
        for (failing_since, attempts, since, disable) in rows {
            let health = Known { failing_since, changed_at: 10 }.after(attempts, Some(100));
            assert_eq!(health, Health { failing_since: since, disable }, "{failing_since:?} {attempts:?}");
        }
        let never = Known { failing_since: Some(15), changed_at: 10 }.after(&[(5000, Failed)], None);
        assert_eq!(never.disable, None);
    }
}
