//! Who may do what: a JWT that names tenants and permissions, and `X-tenant-ID` that picks one of the tenants.
//!
//! Claims: `tenants` (array of tenant ids), `scope` (permissions, separated by spaces), `exp`, and `nbf` if present.

use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::http::{HeaderMap, header};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use moka::sync::Cache;
use serde::Deserialize;
use shopery_model::TenantId;
use shopery_runtime::Env;

use crate::Problem;

const MAX_TOKEN_BYTES: usize = 8 * 1024;
const MIN_SECRET_BYTES: usize = 32;

/// A verified token is not verified again for this long, or until it expires.
const REMEMBERED: Duration = Duration::from_secs(300);

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

/// Checks requests. Clones share the cache of verified tokens.
#[derive(Clone)]
pub struct Access {
    key: DecodingKey,
    validation: Validation,
    verified: Cache<String, Arc<Claims>>,
}

#[derive(Deserialize)]
struct Claims {
    #[serde(default)]
    tenants: Vec<String>,
    #[serde(default)]
    scope: String,
    exp: u64,
}

impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Access")
    }
}

impl Access {
    /// The secret is `SHOPERY_JWT_SECRET`.
    pub fn read(env: &mut Env) -> Option<Self> {
        env.required("SHOPERY_JWT_SECRET", "Secret of the HS256 tokens of REST and events; at least 32 bytes")
    }

    /// The tenant that the request acts for, if its token permits that and `permission`.
    pub fn tenant(&self, headers: &HeaderMap, permission: Permission) -> Result<TenantId, Problem> {
        let claims = self.claims(headers)?;
        if !claims.scope.split(' ').any(|granted| granted == permission.name()) {
            return Err(Problem::forbidden(format!("the token lacks the permission {}", permission.name())));
        }
        let Some(tenant) = headers.get("x-tenant-id") else {
            return Err(Problem::malformed("the header X-tenant-ID is missing: it names the tenant to act for"));
        };
        // Header values are bytes; a tenant's id is UTF-8.
        let tenant: Option<TenantId> = std::str::from_utf8(tenant.as_bytes()).ok().and_then(|text| text.parse().ok());
        let Some(tenant) = tenant else {
            return Err(Problem::malformed("the header X-tenant-ID must be 1 to 64 characters"));
        };
        if !claims.tenants.iter().any(|granted| granted == tenant.as_str()) {
            return Err(Problem::forbidden("the token is not for the tenant that X-tenant-ID names"));
        }
        Ok(tenant)
    }

    fn claims(&self, headers: &HeaderMap) -> Result<Arc<Claims>, Problem> {
        let missing = || Problem::unauthorized("send the header Authorization: Bearer <token>");
        let value = headers.get(header::AUTHORIZATION).ok_or_else(missing)?.to_str().map_err(|_| missing())?;
        let (scheme, token) = value.split_once(' ').ok_or_else(missing)?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Err(missing());
        }
        let token = token.trim();
        if token.len() > MAX_TOKEN_BYTES {
            return Err(Problem::unauthorized(format!("the token is over {MAX_TOKEN_BYTES} bytes")));
        }
        if let Some(claims) = self.verified.get(token) {
            if claims.exp > unix_now() {
                return Ok(claims);
            }
            self.verified.invalidate(token);
        }
        let decoded = jsonwebtoken::decode::<Claims>(token, &self.key, &self.validation).map_err(|error| {
            use jsonwebtoken::errors::ErrorKind;
            Problem::unauthorized(match error.kind() {
                ErrorKind::ExpiredSignature => "the token has expired",
                ErrorKind::ImmatureSignature => "the token is not valid yet",
                ErrorKind::InvalidSignature => "the signature of the token is wrong",
                ErrorKind::InvalidAlgorithm | ErrorKind::InvalidAlgorithmName => "the token must be signed with HS256",
                ErrorKind::MissingRequiredClaim(_) => "the token must have the claim exp",
                _ => "the token is malformed",
            })
        })?;
        let claims = Arc::new(decoded.claims);
        self.verified.insert(token.to_owned(), claims.clone());
        Ok(claims)
    }
}

impl FromStr for Access {
    type Err = String;

    fn from_str(secret: &str) -> Result<Self, String> {
        let secret = secret.as_bytes();
        if secret.len() < MIN_SECRET_BYTES {
            return Err(format!("must have at least {MIN_SECRET_BYTES} bytes"));
        }
        // The algorithm is ours to say, never the token's.
        let mut validation = Validation::new(Algorithm::HS256);
        validation.validate_nbf = true;
        validation.validate_aud = false;
        validation.leeway = 5;
        Ok(Self {
            key: DecodingKey::from_secret(secret),
            validation,
            verified: Cache::builder().max_capacity(10_000).time_to_live(REMEMBERED).build(),
        })
    }
}

fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(u64::MAX, |now| now.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;
    use jsonwebtoken::{EncodingKey, Header, encode};
    use serde_json::{Value, json};

    const SECRET: &str = "0123456789abcdef0123456789abcdef";

    fn token(algorithm: Algorithm, secret: &str, claims: &Value) -> String {
        encode(&Header::new(algorithm), claims, &EncodingKey::from_secret(secret.as_bytes())).unwrap()
    }

    fn ask(authorization: &str, tenant: Option<&str>) -> Result<String, u16> {
        let access = SECRET.parse::<Access>().unwrap();
        let mut headers = HeaderMap::new();
        if !authorization.is_empty() {
            headers.insert(header::AUTHORIZATION, HeaderValue::from_str(authorization).unwrap());
        }
        if let Some(tenant) = tenant {
            headers.insert("x-tenant-id", HeaderValue::from_bytes(tenant.as_bytes()).unwrap());
        }
        let tenant = access.tenant(&headers, Permission::EventsWrite);
        // The second time comes from the cache and says the same.
        let again = access.tenant(&headers, Permission::EventsWrite);
        assert_eq!(tenant.as_ref().ok(), again.as_ref().ok());
        tenant.map(|tenant| tenant.to_string()).map_err(|problem| problem.status)
    }

    fn claims() -> Value {
        json!({ "sub": "s", "tenants": ["t1", "é"], "scope": "events:write webhooks:read", "exp": unix_now() + 60 })
    }

    fn but(name: &str, value: Value) -> Value {
        let mut claims = claims();
        claims[name] = value;
        claims
    }

    #[test]
    fn a_good_token_opens_its_tenants() {
        let good = format!("Bearer {}", token(Algorithm::HS256, SECRET, &claims()));
        assert_eq!(ask(&good, Some("t1")), Ok("t1".into()));
        assert_eq!(ask(&good, Some("é")), Ok("é".into()));
        assert_eq!(ask(&good.replace("Bearer", "bearer"), Some("t1")), Ok("t1".into()));
        assert_eq!(ask(&good, Some("t2")), Err(403));
        assert_eq!(ask(&good, Some("")), Err(400));
        assert_eq!(ask(&good, None), Err(400));
    }

    #[test]
    fn a_bad_token_opens_nothing() {
        let none = "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0";
        let good = token(Algorithm::HS256, SECRET, &claims());
        let body = good.split('.').nth(1).unwrap();
        let now = unix_now();
        for (bad, status) in [
            (String::new(), 401),
            ("Bearer".into(), 401),
            ("Bearer ".into(), 401),
            ("Bearer x".into(), 401),
            (format!("Basic {good}"), 401),
            (format!("Bearer {none}.{body}."), 401),
            (format!("Bearer {good}x"), 401),
            (format!("Bearer {}", "x".repeat(MAX_TOKEN_BYTES + 1)), 401),
            (format!("Bearer {}", token(Algorithm::HS256, &SECRET.replace('0', "1"), &claims())), 401),
            (format!("Bearer {}", token(Algorithm::HS512, SECRET, &claims())), 401),
            (format!("Bearer {}", token(Algorithm::HS256, SECRET, &but("exp", json!(now - 60)))), 401),
            (format!("Bearer {}", token(Algorithm::HS256, SECRET, &but("exp", Value::Null))), 401),
            (format!("Bearer {}", token(Algorithm::HS256, SECRET, &but("nbf", json!(now + 60)))), 401),
            (format!("Bearer {}", token(Algorithm::HS256, SECRET, &but("tenants", json!("t1")))), 401),
            (format!("Bearer {}", token(Algorithm::HS256, SECRET, &but("tenants", json!([])))), 403),
            (format!("Bearer {}", token(Algorithm::HS256, SECRET, &but("scope", json!("webhooks:write")))), 403),
            (format!("Bearer {}", token(Algorithm::HS256, SECRET, &but("scope", json!("events:writes")))), 403),
        ] {
            assert_eq!(ask(&bad, Some("t1")), Err(status), "{bad}");
        }
    }
}
