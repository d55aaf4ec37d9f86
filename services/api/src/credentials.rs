//! The credentials of a webhook, opened for whoever may see, use or change them, and sealed again.

use shopery_http::Problem;
use shopery_model::{
    CloudKeyChange, Credentials, EndpointSecret, HeadersChange, MaskedChange, Sealed, SignatureKind, SigningKey,
    TenantId, WebhookId,
};
use shopery_store::{Author, Resealed, WebhookChange, WebhookRecord};
use time::OffsetDateTime;

use crate::body::Fields;
use crate::webhooks::no_such_webhook;
use crate::{App, database_problem, version};

/// Times that a change may lose against others.
pub(crate) const TRIES: usize = 5;

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

/// What a request says of the credentials of a webhook.
#[derive(Debug, Default)]
pub(crate) struct CredentialsChange {
    pub(crate) secret: Option<EndpointSecret>,
    pub(crate) headers: Option<HeadersChange>,
    /// The owner's own at a cloud; `Some(None)` takes them away.
    pub(crate) cloud: Option<Option<CloudKeyChange>>,
}

impl CredentialsChange {
    pub(crate) fn read(fields: &mut Fields) -> Self {
        Self { secret: read_secret(fields), headers: read_headers(fields), cloud: read_cloud(fields) }
    }

    /// Whether credentials have to be opened for it.
    pub(crate) fn is_any(&self) -> bool {
        self.secret.is_some() || self.headers.is_some() || self.cloud.is_some()
    }

    /// Whoever is to sign asymmetrically gets a key to do it with.
    pub(crate) fn apply(&self, credentials: &mut Credentials, signature: SignatureKind) -> Result<(), Problem> {
        if let Some(secret) = &self.secret {
            credentials.replace(secret.clone());
        }
        if let Some(change) = &self.headers {
            let headers = change.apply(&credentials.headers);
            credentials.headers = headers.map_err(|invalid| Problem::invalid(vec![invalid]))?;
        }
        if let Some(change) = &self.cloud {
            let key = change.as_ref().map(|change| change.apply(credentials.cloud.as_ref())).transpose();
            credentials.cloud = key.map_err(|invalid| Problem::invalid(vec![invalid]))?;
        }
        if signature.is_asymmetric() && credentials.key.is_none() {
            credentials.key = Some(SigningKey::generate().map_err(|_| Problem::internal())?);
        }
        Ok(())
    }
}

pub(crate) fn read_secret(fields: &mut Fields) -> Option<EndpointSecret> {
    fields.string("secret").and_then(|secret| fields.check(EndpointSecret::parse(&secret)))
}

/// `null` takes all headers away.
pub(crate) fn read_headers(fields: &mut Fields) -> Option<HeadersChange> {
    let change = fields.clearable("headers", |fields| {
        let given = fields.members("headers")?;
        match HeadersChange::parse(given) {
            Ok(change) => Some(change),
            Err(wrong) => wrong.into_iter().find_map(|invalid| fields.check(Err(invalid))),
        }
    });
    change.map(Option::unwrap_or_default)
}

fn read_cloud(fields: &mut Fields) -> Option<Option<CloudKeyChange>> {
    fields.clearable("credentials", |fields| {
        let given = fields.raw("credentials")?;
        match CloudKeyChange::parse(&given) {
            Ok(change) => Some(change),
            Err(wrong) => wrong.into_iter().find_map(|invalid| fields.check(Err(invalid))),
        }
    })
}

/// What is done to credentials.
pub(crate) type Edit<'a> = &'a (dyn Fn(&mut Credentials) -> Result<(), Problem> + Send + Sync);

/// Changes a webhook together with its credentials, and returns those. `edit` is called again if somebody else has
/// changed them meanwhile, so no change of theirs is lost.
pub(crate) async fn update(
    app: &App,
    mut found: WebhookRecord,
    change: WebhookChange,
    by: &Author,
    now: OffsetDateTime,
    edit: Edit<'_>,
) -> Result<Credentials, Problem> {
    for _ in 0..TRIES {
        let (tenant, id) = (found.tenant.clone(), found.id);
        let before = open(app, &found)?;
        let mut credentials = before.clone();
        edit(&mut credentials)?;
        let told = MaskedChange::between(Some(&before), &credentials, now);
        let is_new_secret = credentials.secret != before.secret;
        let after = seal(app, &tenant, id, &credentials)?;
        let sealed = Resealed { before: found.sealed, after, is_new_secret, told };
        let with_sealed = WebhookChange { sealed: Some(sealed), ..change.clone() };
        if app.store.update_webhook(&tenant, id, with_sealed, by, now).await.map_err(database_problem)? {
            return Ok(credentials);
        }
        found = app.store.webhook(&tenant, id).await.map_err(database_problem)?.ok_or_else(no_such_webhook)?;
        if change.of_version.is_some_and(|version| version != found.version) {
            return Err(version::changed());
        }
    }
    Err(Problem::conflict("others change the credentials of this webhook at the same time; try again"))
}
