//! The credentials of a webhook, opened for whoever may see, use or change them, and sealed again.

use shopery_http::Problem;
use shopery_model::{Credentials, Sealed, TenantId, WebhookId};
use shopery_store::{Resealed, WebhookChange, WebhookRecord};
use time::OffsetDateTime;

use crate::webhooks::no_such_webhook;
use crate::{App, database_problem};

/// Times that a change may lose against others.
const TRIES: usize = 5;

pub(crate) fn open(app: &App, record: &WebhookRecord) -> Result<Credentials, Problem> {
    app.keys.open(&record.tenant, record.id, &record.sealed).map_err(|why| {
        tracing::error!(webhook = %record.id, %why, "a webhook cannot be opened");
        Problem::internal()
    })
}

pub(crate) fn seal(app: &App, tenant: &TenantId, id: WebhookId, credentials: &Credentials) -> Result<Sealed, Problem> {
    app.keys.seal(tenant, id, credentials).map_err(|error| {
        tracing::error!("{error}");
        Problem::internal()
    })
}

/// What is done to credentials.
pub(crate) type Edit<'a> = &'a (dyn Fn(&mut Credentials) -> Result<(), Problem> + Send + Sync);

/// Changes a webhook, together with its credentials if there is an edit. That is called again if somebody else has
/// changed them meanwhile, so no change of theirs is lost.
pub(crate) async fn update(
    app: &App,
    mut found: WebhookRecord,
    change: WebhookChange,
    now: OffsetDateTime,
    edit: Option<Edit<'_>>,
) -> Result<(), Problem> {
    for _ in 0..TRIES {
        let (tenant, id) = (found.tenant.clone(), found.id);
        let sealed = match edit {
            Some(edit) => {
                let mut credentials = open(app, &found)?;
                edit(&mut credentials)?;
                Some(Resealed { after: seal(app, &tenant, id, &credentials)?, before: found.sealed })
            }
            None => None,
        };
        let change = WebhookChange { sealed, ..change.clone() };
        if app.store.update_webhook(&tenant, id, change, now).await.map_err(database_problem)? {
            return Ok(());
        }
        found = app.store.webhook(&tenant, id).await.map_err(database_problem)?.ok_or_else(no_such_webhook)?;
    }
    Err(Problem::conflict("others change the credentials of this webhook at the same time; try again"))
}
