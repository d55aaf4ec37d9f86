//! `/company/webhooks/{id}/secret` and `/rotate-secret`: what a receiver verifies with. Whoever may read the secret may
//! forge deliveries, so reading webhooks is not enough for either.

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use shopery_http::{Permission, Problem};
use shopery_model::{Credentials, EndpointSecret, Former, Overlap, SigningKey};
use shopery_store::WebhookChange;
use time::OffsetDateTime;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::App;
use crate::body::Fields;
use crate::credentials::{self, read_secret};
use crate::openapi::schemas;
use crate::webhooks::{author, find, now};

pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(show)).routes(routes!(rotate))
}

/// What is valid now.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Secrets {
    #[schema(value_type = String)]
    secret: EndpointSecret,
    #[serde(skip_serializing_if = "Option::is_none")]
    public_key: Option<String>,
    /// Of former rotations, newest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    previous: Vec<Previous>,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Previous {
    #[schema(value_type = String)]
    secret: EndpointSecret,
    #[serde(skip_serializing_if = "Option::is_none")]
    public_key: Option<String>,
    /// From then on it does not sign any more.
    #[serde(with = "shopery_control::timestamp")]
    until: OffsetDateTime,
}

impl Secrets {
    fn of(credentials: &Credentials, now: OffsetDateTime) -> Self {
        let public_key = |key: &Option<SigningKey>| key.as_ref().map(SigningKey::public);
        let previous = |Former { secret, key, until }: &Former| Previous {
            secret: secret.clone(),
            public_key: public_key(key),
            until: *until,
        };
        Self {
            secret: credentials.secret.clone(),
            public_key: public_key(&credentials.key),
            previous: credentials.former(now).map(previous).collect(),
        }
    }
}

/// Shows the secret: whoever has it can forge deliveries.
#[utoipa::path(
    get, path = "/company/webhooks/{id}/secret",
    tag = "webhooks", operation_id = "getSecret",
    security(("bearer" = ["webhooks:write"])),
    params(
        ("id" = String, Path, description = "Of the webhook", example = "wbh_01HA4XCG60CT4G3EWF4CKYM1MF"),
    ),
    responses((status = 200, description = "What is valid now", body = Secrets)),
)]
async fn show(State(app): State<App>, headers: HeaderMap, Path(id): Path<String>) -> Result<Response, Problem> {
    let tenant = app.access.tenant(&headers, Permission::WebhooksWrite)?;
    let credentials = credentials::open(&app, &find(&app, &tenant, &id).await?)?;
    Ok(answer(&credentials))
}

/// Puts another secret in place; the former one stays valid for an overlap.
///
/// `{"secret"?, "overlap"?}`
#[utoipa::path(
    post, path = "/company/webhooks/{id}/rotate-secret",
    tag = "webhooks", operation_id = "rotateSecret",
    security(("bearer" = ["webhooks:write"])),
    params(
        ("id" = String, Path, description = "Of the webhook", example = "wbh_01HA4XCG60CT4G3EWF4CKYM1MF"),
    ),
    request_body = Option<schemas::RotateSecret>,
    responses((status = 200, description = "What is valid now", body = Secrets)),
)]
async fn rotate(
    State(app): State<App>,
    headers: HeaderMap,
    Path(id): Path<String>,
    body: Body,
) -> Result<Response, Problem> {
    let (tenant, by) = author(&app, &headers)?;
    let found = find(&app, &tenant, &id).await?;
    let mut fields = Fields::read_any(&headers, body).await?;
    let secret = read_secret(&mut fields);
    let overlap = fields.string("overlap").and_then(|text| fields.check(text.parse::<Overlap>()));
    fields.finish()?;
    let secret = match secret {
        Some(secret) => secret,
        None => EndpointSecret::generate().map_err(|_| Problem::internal())?,
    };
    let (id, now) = (found.id, now());
    let edit = |credentials: &mut Credentials| {
        let rotated = credentials.rotate(secret.clone(), overlap.unwrap_or_default(), now);
        rotated.map_err(|_| Problem::internal())
    };
    let rotated = credentials::update(&app, found, WebhookChange::default(), &by, now, &edit).await?;
    app.config.publish(&tenant, id).await;
    Ok(answer(&rotated))
}

fn answer(credentials: &Credentials) -> Response {
    let secrets = Json(Secrets::of(credentials, now()));
    ([(header::CACHE_CONTROL, "no-store")], secrets).into_response()
}
