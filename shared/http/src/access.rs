//! Who may do what: a JWT that names tenants and permissions, and `X-tenant-ID` that picks one of the tenants.
//!
//! Claims: `tenants` (array of tenant ids), `scope` (permissions, separated by spaces), `exp`, `sub` (the client), `nbf`
//! if present, and `iss` and `aud` if the operator has said what they must be. Tokens are signed with a secret of ours
//! (HS256), with a key of an identity provider ([`crate::jwks`]), or either.
//!
//! Invariant: a verified token is remembered while it lives and the keys are those that verified it, and not longer.

use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::http::{HeaderMap, header};
use jsonwebtoken::Algorithm;
use jsonwebtoken::errors::ErrorKind;
use moka::sync::Cache;
use serde::{Deserialize, Deserializer};
use shopery_model::TenantId;
use shopery_runtime::{Env, Runtime};

use crate::Problem;
use crate::jwks::{self, Jwks};
use crate::keys::{self, Checks, Key};

const MAX_TOKEN_BYTES: usize = 8 * 1024;
const MIN_SECRET_BYTES: usize = 32;
/// Of the tokens that are remembered, with what they say.
const MAX_REMEMBERED_BYTES: u64 = 32 * 1024 * 1024;
const MAX_LEEWAY: Duration = Duration::from_secs(300);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Permission {
    WebhooksRead,
    WebhooksWrite,
    EventsWrite,
}

impl Permission {
    fn name(self) -> &'static str {
        match self {
            Self::WebhooksRead => "webhooks:read",
            Self::WebhooksWrite => "webhooks:write",
            Self::EventsWrite => "events:write",
        }
    }
}

/// What tokens are verified with.
#[derive(Clone)]
pub struct AccessConfig {
    secret: Option<Secret>,
    jwks: Option<jwks::Config>,
    checks: Checks,
}

impl std::fmt::Debug for AccessConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AccessConfig")
    }
}

#[derive(Clone)]
struct Secret(Vec<u8>);

impl FromStr for Secret {
    type Err = String;

    fn from_str(secret: &str) -> Result<Self, String> {
        if secret.len() < MIN_SECRET_BYTES {
            return Err(format!("must have at least {MIN_SECRET_BYTES} bytes"));
        }
        Ok(Self(secret.into()))
    }
}

impl AccessConfig {
    pub fn read(env: &mut Env) -> Option<Self> {
        let secret = env.optional::<Secret>(
            "SHOPERY_JWT_SECRET",
            "Secret of the HS256 tokens of REST and events; at least 32 bytes. This or SHOPERY_JWKS_URL, or both",
        );
        let jwks = jwks::Config::read(env);
        let issuer = env.optional("SHOPERY_JWT_ISSUER", "The claim iss that every token must have; unset: any");
        let audience = env.optional("SHOPERY_JWT_AUDIENCE", "The claim aud that every token must have; unset: any");
        let leeway = env.duration("SHOPERY_JWT_LEEWAY", "5s", "How far the issuer's clock may be from ours; up to 5m");
        let (jwks, leeway) = (jwks?, leeway?);
        if leeway > MAX_LEEWAY {
            env.refuse("SHOPERY_JWT_LEEWAY: must be 5m or less");
            return None;
        }
        if secret.is_none() && jwks.is_none() {
            env.refuse("SHOPERY_JWT_SECRET or SHOPERY_JWKS_URL must be set: what tokens are signed with");
            return None;
        }
        Some(Self { secret, jwks, checks: Checks { issuer, audience, leeway } })
    }
}

/// Checks requests. Clones share the cache of verified tokens.
#[derive(Clone)]
pub struct Access {
    secret: Option<Key>,
    jwks: Option<Jwks>,
    leeway: u64,
    verified: Cache<String, Arc<Grant>>,
}

/// What a verified token says.
pub(crate) struct Grant {
    /// The client that the token was issued to, if it says so.
    pub(crate) subject: Option<String>,
    tenants: Vec<String>,
    scope: String,
    /// In seconds since 1970.
    until: u64,
    /// Of the JWKS whose key verified the token; none for the secret.
    generation: Option<u64>,
}

#[derive(Deserialize)]
struct Claims {
    sub: Option<String>,
    #[serde(default)]
    tenants: Vec<String>,
    #[serde(default, deserialize_with = "permissions")]
    scope: String,
    #[serde(default)]
    exp: Option<f64>,
}

/// RFC 8693 has a text with spaces; some providers send an array.
fn permissions<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Scope {
        Text(String),
        List(Vec<String>),
    }
    Ok(match Scope::deserialize(from)? {
        Scope::Text(text) => text,
        Scope::List(list) => list.join(" "),
    })
}

/// Who sends a request, and for whom.
#[derive(Debug, Clone)]
pub struct Caller {
    pub tenant: TenantId,
    /// The `sub` of the token.
    pub subject: Option<String>,
}

/// Why a token is not taken.
enum Refusal {
    Invalid(&'static str),
    /// It is signed with a key that we do not know, perhaps not yet.
    UnknownKey,
    /// There are no keys at the moment.
    NoKeys,
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Invalid(why) => Self::invalid_token(why),
            Refusal::UnknownKey => Self::invalid_token("the key that the token is signed with is not known"),
            Refusal::NoKeys => Self::unavailable("the keys that tokens are verified with cannot be fetched", 5),
        }
    }
}

impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Access")
    }
}

impl Access {
    /// Begins to fetch the JWKS, if there is one.
    pub fn start(config: &AccessConfig, runtime: &Runtime) -> anyhow::Result<Self> {
        let jwks = match &config.jwks {
            Some(jwks) => Some(Jwks::start(jwks, config.checks.clone(), runtime)?),
            None => None,
        };
        let access = Self::new(config, jwks);
        if let (Some(jwks), None) = (&access.jwks, &access.secret) {
            let jwks = jwks.clone();
            let check = move || jwks.generation().map(drop).ok_or("the JWKS cannot be fetched".to_owned());
            runtime.health.check("jwks", check);
        }
        if access.jwks.is_some() && config.checks.audience.is_none() {
            tracing::warn!("SHOPERY_JWT_AUDIENCE is not set: tokens of the identity provider for others are taken too");
        }
        Ok(access)
    }

    fn new(config: &AccessConfig, jwks: Option<Jwks>) -> Self {
        let bytes = |token: &String, grant: &Arc<Grant>| {
            let tenants: usize = grant.tenants.iter().map(|tenant| tenant.len() + size_of::<String>()).sum();
            u32::try_from(token.len() + tenants + grant.scope.len() + 256).unwrap_or(u32::MAX)
        };
        Self {
            secret: config.secret.as_ref().map(|Secret(secret)| Key::of_secret(secret, &config.checks)),
            jwks,
            leeway: config.checks.leeway.as_secs(),
            verified: Cache::builder().max_capacity(MAX_REMEMBERED_BYTES).weigher(bytes).build(),
        }
    }

    /// The tenant that the request acts for, if its token permits that and `permission`.
    pub fn tenant(&self, headers: &HeaderMap, permission: Permission) -> Result<TenantId, Problem> {
        self.caller(headers, permission).map(|caller| caller.tenant)
    }

    /// As [`tenant`](Self::tenant), and who asks.
    pub fn caller(&self, headers: &HeaderMap, permission: Permission) -> Result<Caller, Problem> {
        let token = bearer(headers)?;
        let grant = self.remembered(token).map_or_else(|| self.verify(token), Ok)?;
        let scope = permission.name();
        if !grant.scope.split(' ').any(|granted| granted == scope) {
            return Err(Problem::forbidden(scope, format!("the token lacks the permission {scope}")));
        }
        let mut named = headers.get_all("x-tenant-id").iter();
        let (Some(tenant), None) = (named.next(), named.next()) else {
            return Err(Problem::malformed("there must be one header X-tenant-ID: it names the tenant to act for"));
        };
        // Header values are bytes; a tenant's id is UTF-8.
        let tenant: Option<TenantId> = std::str::from_utf8(tenant.as_bytes()).ok().and_then(|text| text.parse().ok());
        let Some(tenant) = tenant else {
            return Err(Problem::malformed("the header X-tenant-ID must be 1 to 64 characters"));
        };
        if !grant.is_for(tenant.as_str()) {
            return Err(Problem::forbidden(scope, "the token is not for the tenant that X-tenant-ID names"));
        }
        Ok(Caller { tenant, subject: grant.subject.clone() })
    }

    /// What the request's token grants, if it was verified before.
    pub(crate) fn known(&self, headers: &HeaderMap) -> Option<Arc<Grant>> {
        self.remembered(bearer(headers).ok()?)
    }

    /// What the request's token grants. A key that is not known is fetched first.
    pub(crate) async fn grant(&self, headers: &HeaderMap) -> Result<Arc<Grant>, Problem> {
        let token = bearer(headers)?;
        match (self.verify(token), &self.jwks) {
            (Err(Refusal::UnknownKey | Refusal::NoKeys), Some(jwks)) if jwks.fetched_again().await => {
                self.verify(token).map_err(Problem::from)
            }
            (verified, _) => verified.map_err(Problem::from),
        }
    }

    fn remembered(&self, token: &str) -> Option<Arc<Grant>> {
        let grant = self.verified.get(token)?;
        let has_its_key = grant.generation.is_none() || grant.generation == self.jwks.as_ref()?.generation();
        if has_its_key && unix_now() < grant.until {
            return Some(grant);
        }
        self.verified.invalidate(token);
        None
    }

    fn verify(&self, token: &str) -> Result<Arc<Grant>, Refusal> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(Refusal::Invalid("the token is over 8 KiB"));
        }
        let header = jsonwebtoken::decode_header(token).map_err(|error| explain(error.kind()))?;
        if header.crit.is_some() {
            // RFC 7515: whoever does not understand what is critical must refuse.
            return Err(Refusal::Invalid("the token has critical headers that are not understood"));
        }
        let (claims, generation) = match (header.alg, &self.secret, &self.jwks) {
            (Algorithm::HS256, Some(secret), _) => (decode(token, secret)?, None),
            (Algorithm::RS256 | Algorithm::ES256 | Algorithm::EdDSA, _, Some(jwks)) => {
                let (keys, generation) = jwks.keys().ok_or(Refusal::NoKeys)?;
                let key = keys::wanted(&keys, &header).ok_or(Refusal::UnknownKey)?;
                (decode(token, key)?, Some(generation))
            }
            _ => return Err(WRONG_ALGORITHM),
        };
        let exp = claims.exp.ok_or(NO_EXP)?;
        let grant = Arc::new(Grant {
            subject: claims.sub,
            tenants: claims.tenants,
            scope: claims.scope,
            // A NumericDate (RFC 7519) may have a fraction. Beyond what u64 holds, the conversion ends at its limits.
            until: (exp as u64).saturating_add(self.leeway),
            generation,
        });
        self.verified.insert(token.to_owned(), grant.clone());
        Ok(grant)
    }
}

impl Grant {
    fn is_for(&self, tenant: &str) -> bool {
        self.tenants.iter().any(|granted| granted == tenant)
    }

    /// The tenant of a request, if the token is for it.
    pub(crate) fn tenant(&self, headers: &HeaderMap) -> Option<&str> {
        let named = headers.get("x-tenant-id")?.as_bytes();
        self.tenants.iter().find(|granted| granted.as_bytes() == named).map(String::as_str)
    }
}

fn bearer(headers: &HeaderMap) -> Result<&str, Problem> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let value = values.next().ok_or_else(Problem::no_token)?.to_str().map_err(|_| Problem::no_token())?;
    if values.next().is_some() {
        return Err(Problem::malformed("there must be one header Authorization"));
    }
    match value.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => Ok(token.trim()),
        _ => Err(Problem::no_token()),
    }
}

fn decode(token: &str, key: &Key) -> Result<Claims, Refusal> {
    let decoded = jsonwebtoken::decode(token, &key.key, &key.validation);
    decoded.map(|decoded| decoded.claims).map_err(|error| explain(error.kind()))
}

const WRONG_ALGORITHM: Refusal = Refusal::Invalid("the token is not signed with an algorithm that is accepted here");

const NO_EXP: Refusal = Refusal::Invalid("the token must have the claim exp");

fn explain(error: &ErrorKind) -> Refusal {
    Refusal::Invalid(match error {
        ErrorKind::ExpiredSignature => "the token has expired",
        ErrorKind::ImmatureSignature => "the token is not valid yet",
        ErrorKind::InvalidSignature => "the signature of the token is wrong",
        ErrorKind::InvalidIssuer => "the token is of another issuer",
        ErrorKind::InvalidAudience => "the token is for another audience",
        ErrorKind::InvalidAlgorithm | ErrorKind::InvalidAlgorithmName => return WRONG_ALGORITHM,
        ErrorKind::MissingRequiredClaim(claim) => match claim.as_str() {
            "iss" => "the token must have the claim iss",
            "aud" => "the token must have the claim aud",
            _ => return NO_EXP,
        },
        _ => "the token is malformed",
    })
}

fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(u64::MAX, |now| now.as_secs())
}

#[cfg(test)]
mod tests;
