//! What the attempts tell of a webhook: since when all have failed, and when it is to be disabled for it.
//!
//! Invariant: noting the same attempts again, late or in another order changes nothing for the worse: a success ends a
//! row of failures whenever it comes, and what an owner has changed since is not judged by attempts from before.

use std::collections::BTreeMap;
use std::time::Duration;

use sea_orm::sea_query::{Expr, ExprTrait, SimpleExpr};
use sea_orm::{ColumnTrait, EntityTrait, QueryFilter, QuerySelect, TransactionTrait, UpdateMany};
use serde::{Deserialize, Serialize};
use shopery_model::{Fault, Outcome, TenantId, WebhookId};
use time::OffsetDateTime;

use crate::changes::{self, Action, Author, Change};
use crate::entity::webhook;
use crate::outbox;
use crate::webhooks::{is, read};
use crate::{DisabledReason, Store, StoreError, WebhookState, to_millis};

/// Times that others, a second recorder or the owner, may have come first.
const MAX_TRIES: usize = 5;
/// Webhooks in one query.
const MANY: usize = 500;

/// Failed deliveries that it takes to disable a webhook, and occasions of failures that lie [`APART`].
const DELIVERIES: usize = 5;
const OCCASIONS: usize = 3;
/// Of the period, as a divisor.
const APART: i64 = 4;
/// Its tenant is warned after two thirds of the period, and has no less than a sixth of it to mend the endpoint.
const WARNED_AFTER: (i64, i64) = (2, 3);
const WARNED_BEFORE: i64 = 6;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Tried {
    Delivered,
    Failed,
    Gone,
}

/// What was noted of a webhook by attempts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Noted {
    /// If it goes on failing it is disabled.
    Warned,
    Disabled(DisabledReason),
}

/// What follows from attempts. Times are in milliseconds.
#[derive(Debug, Clone, PartialEq)]
struct Health {
    failing: Failing,
    disable: Option<(i64, DisabledReason)>,
}

/// How a webhook fails. Times are in milliseconds.
#[derive(Debug, Clone, Default, PartialEq)]
struct Failing {
    since: Option<i64>,
    failures: Failures,
    warned_at: Option<i64>,
}

/// What has failed since the last success, as far as it counts: two failures with silence between say little of an endpoint.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Failures {
    /// The first few deliveries.
    deliveries: Vec<String>,
    /// Times, the first few.
    occasions: Vec<i64>,
}

impl Failures {
    fn note(&mut self, at: i64, delivery: &str, period: i64) {
        if self.deliveries.len() < DELIVERIES && !self.deliveries.iter().any(|known| known == delivery) {
            self.deliveries.push(delivery.to_owned());
        }
        let is_apart = self.occasions.last().is_none_or(|last| at - last >= period / APART);
        if is_apart && self.occasions.len() < OCCASIONS {
            self.occasions.push(at);
        }
    }

    fn are_enough(&self) -> bool {
        self.deliveries.len() >= DELIVERIES && self.occasions.len() >= OCCASIONS
    }
}

/// What is known of a webhook before.
#[derive(Debug, Clone)]
struct Known {
    failing: Failing,
    changed_at: i64,
}

impl Known {
    /// `attempts` are in the order of their time. All of them failing for `period` is too long.
    fn after(self, attempts: &[Attempt], period: Option<i64>) -> Health {
        let (mut failing, mut disable) = (self.failing, None);
        for (at, tried, delivery) in attempts {
            let at = *at;
            match tried {
                Tried::Delivered if failing.since.is_some_and(|since| at >= since) => {
                    failing = Failing::default();
                    disable = disable.filter(|(_, reason)| *reason == DisabledReason::Gone);
                }
                Tried::Delivered => {}
                _ if at < self.changed_at => {}
                Tried::Gone => {
                    failing.since.get_or_insert(at);
                    disable = Some((at, DisabledReason::Gone));
                }
                Tried::Failed => {
                    let since = *failing.since.get_or_insert(at);
                    let Some(period) = period else { continue };
                    failing.failures.note(at, delivery, period);
                    if !failing.failures.are_enough() || at - since < period / WARNED_AFTER.1 * WARNED_AFTER.0 {
                        continue;
                    }
                    let warned_at = *failing.warned_at.get_or_insert(at);
                    if at - since >= period && at - warned_at >= period / WARNED_BEFORE {
                        disable = disable.or(Some((at, DisabledReason::Failing)));
                    }
                }
            }
        }
        Health { failing, disable }
    }
}

impl Store {
    /// Takes note of attempts. Webhooks whose endpoint says that it is gone, or has failed always for `period`, are disabled,
    /// and of those that are about to be a warning is noted; returns them.
    pub async fn note_attempts<'a>(
        &self,
        outcomes: impl IntoIterator<Item = &'a Outcome>,
        period: Option<Duration>,
        now: OffsetDateTime,
    ) -> Result<Vec<(TenantId, WebhookId, Noted)>, StoreError> {
        let period = period.map(|period| i64::try_from(period.as_millis()).unwrap_or(i64::MAX));
        let mut left: Vec<_> = by_webhook(outcomes).into_iter().collect();
        let mut noted = Vec::new();
        for _ in 0..MAX_TRIES {
            let mut overtaken = Vec::new();
            for part in left.chunks(MANY) {
                overtaken.extend(self.note_part(part, period, now, &mut noted).await?);
            }
            if overtaken.is_empty() {
                return Ok(noted);
            }
            left = overtaken;
        }
        tracing::warn!(
            webhooks = left.len(),
            "others change webhooks all the time; what their attempts say is not noted"
        );
        Ok(noted)
    }

    /// Returns those that others have changed meanwhile.
    async fn note_part(
        &self,
        part: &[OfWebhook],
        period: Option<i64>,
        now: OffsetDateTime,
        noted: &mut Vec<(TenantId, WebhookId, Noted)>,
    ) -> Result<Vec<OfWebhook>, StoreError> {
        use webhook::Column;
        let mut overtaken = Vec::new();
        let columns = [
            Column::Id,
            Column::Tenant,
            Column::State,
            Column::FailingSince,
            Column::Failures,
            Column::WarnedAt,
            Column::UpdatedAt,
        ];
        let rows: Vec<Row> = webhook::Entity::find()
            .select_only()
            .columns(columns)
            .filter(Column::Id.is_in(part.iter().map(|((_, id), _)| id.to_string())))
            .into_tuple()
            .all(&self.db)
            .await?;
        let rows: BTreeMap<_, _> = rows.into_iter().map(|row| ((row.1.clone(), row.0.clone()), row)).collect();
        for ((tenant, id), attempts) in part {
            let Some(row) = rows.get(&(tenant.to_string(), id.to_string())) else { continue };
            let (_, _, state, since, failures_before, warned_at, changed_at) = row.clone();
            // What does not read is of a later release, and begins anew.
            let failures = failures_before.as_deref().and_then(|json| serde_json::from_str(json).ok());
            let failures = failures.unwrap_or_default();
            let before = Failing { since, failures, warned_at };
            let Health { failing, disable } = Known { failing: before.clone(), changed_at }.after(attempts, period);
            let is_active = state == WebhookState::Active.name();
            let disable = disable.filter(|_| is_active);
            if failing == before && disable.is_none() {
                continue;
            }
            let is_warned = is_active && failing.warned_at.is_some() && failing.warned_at != warned_at;
            let failures = failing.since.map(|_| serde_json::to_string(&failing.failures).unwrap_or_default());
            let mut update = webhook::Entity::update_many()
                .col_expr(Column::FailingSince, Expr::value(failing.since))
                .col_expr(Column::Failures, Expr::value(failures))
                .col_expr(Column::WarnedAt, Expr::value(failing.warned_at))
                // What its owner does at the same time wins, and what another recorder notes comes first.
                .filter(is(tenant, *id).add(Column::UpdatedAt.eq(changed_at)))
                .filter(is_still(Column::FailingSince, before.since))
                .filter(is_still(Column::WarnedAt, warned_at))
                .filter(is_still(Column::Failures, failures_before));
            if failing.warned_at != warned_at {
                update = update.col_expr(Column::WarningNotifiedAt, Expr::value(None::<i64>));
            }
            if let Some((at, reason)) = disable {
                update = update
                    .col_expr(Column::State, Expr::value(WebhookState::Disabled.name()))
                    .col_expr(Column::DisabledAt, Expr::value(at))
                    .col_expr(Column::DisabledReason, Expr::value(reason.name()))
                    .col_expr(Column::ToldAt, Expr::value(None::<i64>))
                    .col_expr(Column::UpdatedAt, Expr::value(to_millis(now)))
                    .col_expr(Column::Version, ExprTrait::add(Expr::col(Column::Version), 1));
            }
            let done = match disable {
                Some((_, reason)) => {
                    self.disable(tenant, *id, update, now).await.map(|was| (was, Noted::Disabled(reason)))
                }
                None if is_warned => self.warn(tenant, *id, update).await.map(|was| (was, Noted::Warned)),
                None => {
                    if update.exec(&self.db).await?.rows_affected == 0 {
                        overtaken.push(((tenant.clone(), *id), attempts.clone()));
                    }
                    continue;
                }
            };
            match done {
                Ok((true, what)) => noted.push((tenant.clone(), *id, what)),
                Ok((false, _)) => overtaken.push(((tenant.clone(), *id), attempts.clone())),
                // It cannot be disabled as it is, and the others are judged all the same.
                Err(StoreError::Corrupt(why)) => tracing::error!(why, "a webhook cannot be disabled"),
                Err(error) => return Err(error),
            }
        }
        Ok(overtaken)
    }

    /// Does that update, and sees to it that the warning is published; false if it finds nothing to update.
    async fn warn(
        &self,
        tenant: &TenantId,
        id: WebhookId,
        update: UpdateMany<webhook::Entity>,
    ) -> Result<bool, StoreError> {
        let transaction = self.db.begin().await?;
        if update.exec(&transaction).await?.rows_affected == 0 {
            return Ok(false);
        }
        outbox::note(&transaction, tenant, id).await?;
        transaction.commit().await?;
        Ok(true)
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

fn is_still<V: Into<sea_orm::Value>>(column: webhook::Column, value: Option<V>) -> SimpleExpr {
    value.map_or_else(|| column.is_null(), |value| column.eq(value))
}

/// Id, tenant, state, since when it fails, what has failed, when its tenant was warned, when it was changed.
type Row = (String, String, String, Option<i64>, Option<String>, Option<i64>, i64);
/// When, what came of it, and of which delivery.
type Attempt = (i64, Tried, String);
type OfWebhook = ((TenantId, WebhookId), Vec<Attempt>);

fn by_webhook<'a>(outcomes: impl IntoIterator<Item = &'a Outcome>) -> BTreeMap<(TenantId, WebhookId), Vec<Attempt>> {
    let mut attempts: BTreeMap<(TenantId, WebhookId), Vec<Attempt>> = BTreeMap::new();
    for outcome in outcomes {
        let Some(attempt) = &outcome.attempt else { continue };
        let tried = match &outcome.fault {
            None => Tried::Delivered,
            Some((Fault::Gone, _)) => Tried::Gone,
            Some(_) => Tried::Failed,
        };
        let webhook = (outcome.job.tenant.clone(), outcome.job.webhook);
        let delivery = outcome.job.delivery.to_string();
        attempts.entry(webhook).or_default().push((to_millis(attempt.started_at), tried, delivery));
    }
    attempts.values_mut().for_each(|attempts| attempts.sort_unstable());
    attempts
}

#[cfg(test)]
mod tests {
    use super::*;
    use Tried::{Delivered, Failed, Gone};

    /// Of deliveries that are all different.
    fn health(since: Option<i64>, attempts: &[(i64, Tried)], period: Option<i64>) -> Health {
        let failing = Failing { since, ..Failing::default() };
        let attempts: Vec<_> = attempts.iter().map(|(at, tried)| (*at, *tried, at.to_string())).collect();
        Known { failing, changed_at: 10 }.after(&attempts, period)
    }

    #[test]
    fn it_is_known_since_when_everything_has_failed() {
        for (before, attempts, since) in [
            (None, &[(20, Delivered), (21, Delivered)][..], None),
            (None, &[(20, Failed), (30, Failed)], Some(20)),
            (Some(15), &[(20, Failed)], Some(15)),
            (Some(15), &[(20, Delivered)], None),
            (Some(15), &[(20, Delivered), (25, Failed)], Some(25)),
            // A success from before the failures comes late.
            (Some(15), &[(12, Delivered)], Some(15)),
            // What was met before its owner changed it says nothing of what it is now.
            (None, &[(9, Failed)], None),
            (None, &[(9, Gone)], None),
            (None, &[(20, Gone)], Some(20)),
        ] {
            let health = health(before, attempts, Some(100));
            assert_eq!(health.failing.since, since, "{before:?} {attempts:?}");
            let is_gone = attempts.iter().any(|(at, tried)| *tried == Gone && *at > 10);
            assert_eq!(health.disable, is_gone.then_some((20, DisabledReason::Gone)), "{attempts:?}");
        }
    }

    /// It fails since 1,000, and 120 is too long.
    #[test]
    fn a_webhook_is_disabled_after_a_warning_when_much_has_failed_all_the_time() {
        let rows: [(&[i64], Option<i64>, Option<i64>); _] = [
            (&[1000, 1040, 1080, 1090, 1119], Some(1119), None),
            (&[1000, 1030, 1060, 1070, 1080, 1119], Some(1080), None),
            (&[1000, 1030, 1060, 1070, 1080, 1119, 1120], Some(1080), Some(1120)),
            // Two failures, and silence between.
            (&[1000, 1500], None, None),
            // Many failures, on two occasions.
            (&[1000, 1001, 1002, 1003, 1004, 1005, 1500, 1501, 1502], None, None),
            // The warning comes a sixth of the time before.
            (&[1000, 1001, 1002, 1003, 1060, 1500, 1519], Some(1500), None),
            (&[1000, 1001, 1002, 1003, 1060, 1500, 1520], Some(1500), Some(1520)),
        ];
        for (times, warned_at, disabled_at) in rows {
            let attempts: Vec<_> = times.iter().map(|at| (*at, Failed)).collect();
            let together = health(None, &attempts, Some(120));
            assert_eq!(together.failing.warned_at, warned_at, "{times:?}");
            assert_eq!(together.disable, disabled_at.map(|at| (at, DisabledReason::Failing)), "{times:?}");
            // The same one by one, as they are kept.
            let mut failing = Failing::default();
            let mut disable = None;
            for (at, tried) in &attempts {
                let one = [(*at, *tried, at.to_string())];
                let health = Known { failing: failing.clone(), changed_at: 10 }.after(&one, Some(120));
                let kept = serde_json::to_string(&health.failing.failures).unwrap();
                failing = Failing { failures: serde_json::from_str(&kept).unwrap(), ..health.failing };
                disable = disable.or(health.disable);
            }
            assert_eq!((failing, disable), (together.failing, together.disable), "{times:?}");
            assert_eq!(health(None, &attempts, None).disable, None);
        }
    }

    #[test]
    fn the_same_delivery_failing_again_and_a_success_do_not_count() {
        let times = [1000, 1030, 1060, 1090, 1120, 1150, 1200];
        let same: Vec<_> = times.iter().map(|at| (*at, Failed, "dlv_1".to_owned())).collect();
        let known = || Known { failing: Failing::default(), changed_at: 10 };
        assert_eq!(known().after(&same, Some(120)).disable, None);
        let mut attempts: Vec<_> = times.iter().map(|at| (*at, Failed)).collect();
        assert!(health(None, &attempts, Some(120)).disable.is_some());
        attempts.insert(5, (1121, Delivered));
        let after = health(None, &attempts, Some(120));
        assert_eq!((after.failing.since, after.failing.warned_at, after.disable), (Some(1150), None, None));
        attempts.push((1201, Delivered));
        attempts.remove(5);
        assert_eq!(health(None, &attempts, Some(120)), Health { failing: Failing::default(), disable: None });
    }
}
