use super::*;
use axum::http::HeaderValue;
use jsonwebtoken::{EncodingKey, Header, encode};
use serde_json::{Value, json};

const SECRET: &str = "0123456789abcdef0123456789abcdef";

fn access(variables: &[(&str, &str)]) -> Access {
    let mut env = Env::of(variables.iter().copied());
    let config = AccessConfig::read(&mut env);
    Access::new(&env.finish(config).unwrap(), None)
}

fn token(algorithm: Algorithm, secret: &str, claims: &Value) -> String {
    encode(&Header::new(algorithm), claims, &EncodingKey::from_secret(secret.as_bytes())).unwrap()
}

fn ask(authorization: &str, tenant: Option<&str>) -> Result<String, u16> {
    let access = access(&[("SHOPERY_JWT_SECRET", SECRET)]);
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

#[test]
fn what_a_token_lacks_is_named() {
    let access = access(&[("SHOPERY_JWT_SECRET", SECRET)]);
    let without = |name: &str| {
        let mut claims = claims();
        claims.as_object_mut().unwrap().remove(name);
        match access.verify(&token(Algorithm::HS256, SECRET, &claims)) {
            Err(Refusal::Invalid(why)) => why,
            _ => panic!("a token without {name} was taken"),
        }
    };
    assert!(without("exp").contains("exp"));
}

#[test]
fn a_list_of_permissions_is_as_good_as_a_text() {
    let list = but("scope", json!(["events:write", "webhooks:read"]));
    assert_eq!(ask(&format!("Bearer {}", token(Algorithm::HS256, SECRET, &list)), Some("t1")), Ok("t1".into()));
}

#[test]
fn issuer_audience_and_times_are_as_configured() {
    let access = access(&[
        ("SHOPERY_JWT_SECRET", SECRET),
        ("SHOPERY_JWT_ISSUER", "https://id.example"),
        ("SHOPERY_JWT_AUDIENCE", "webhooks"),
        ("SHOPERY_JWT_LEEWAY", "60s"),
    ]);
    let now = unix_now();
    for (name, value, is_good) in [
        ("sub", json!("another client"), true),
        ("iss", json!("https://evil.example"), false),
        ("iss", Value::Null, false),
        ("aud", json!("other"), false),
        ("aud", json!(["other", "webhooks"]), true),
        ("aud", json!([]), false),
        ("aud", Value::Null, false),
        ("exp", json!(now - 30), true),
        ("exp", json!(now - 90), false),
        ("exp", json!(now as f64 + 60.5), true),
        ("exp", json!(now as f64 - 90.5), false),
        ("scope", json!(["events:write", "webhooks:read"]), true),
        ("scope", json!(7), false),
        ("nbf", json!(now + 30), true),
        ("nbf", json!(now + 90), false),
    ] {
        let mut claims = claims();
        (claims["iss"], claims["aud"]) = (json!("https://id.example"), json!("webhooks"));
        claims[name] = value;
        let token = token(Algorithm::HS256, SECRET, &claims);
        for _ in 0..2 {
            let found = access.remembered(&token).map_or_else(|| access.verify(&token), Ok);
            assert_eq!(found.is_ok(), is_good, "{name} of {claims}");
        }
    }
}

#[test]
fn what_is_critical_is_understood_or_refused() {
    let mut header = Header::new(Algorithm::HS256);
    header.crit = Some(vec!["exp".to_owned()]);
    let token = encode(&header, &claims(), &EncodingKey::from_secret(SECRET.as_bytes())).unwrap();
    assert_eq!(ask(&format!("Bearer {token}"), Some("t1")), Err(401));
}

#[test]
fn two_tokens_or_two_tenants_are_none() {
    let access = access(&[("SHOPERY_JWT_SECRET", SECRET)]);
    let good = HeaderValue::from_str(&format!("Bearer {}", token(Algorithm::HS256, SECRET, &claims()))).unwrap();
    for twice in [header::AUTHORIZATION, header::HeaderName::from_static("x-tenant-id")] {
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, good.clone());
        headers.insert("x-tenant-id", HeaderValue::from_static("t1"));
        assert!(access.tenant(&headers, Permission::EventsWrite).is_ok());
        let value = headers[&twice].clone();
        headers.append(twice, value);
        assert_eq!(access.tenant(&headers, Permission::EventsWrite).unwrap_err().status, 400);
    }
}

#[test]
fn there_must_be_a_secret_or_keys() {
    for (variables, says) in [
        (&[][..], "SHOPERY_JWT_SECRET or SHOPERY_JWKS_URL"),
        (&[("SHOPERY_JWT_SECRET", "short")], "SHOPERY_JWT_SECRET"),
        (&[("SHOPERY_JWKS_URL", "http://id.example/")], "SHOPERY_JWKS_URL"),
        (&[("SHOPERY_JWT_SECRET", SECRET), ("SHOPERY_JWT_LEEWAY", "1h")], "SHOPERY_JWT_LEEWAY"),
        (&[("SHOPERY_JWKS_URL", "https://id.example/"), ("SHOPERY_JWKS_REFRESH", "0s")], "SHOPERY_JWKS_REFRESH"),
    ] {
        let mut env = Env::of(variables.iter().copied());
        let config = AccessConfig::read(&mut env);
        let wrong = env.finish(config.map(drop)).unwrap_err();
        assert!(wrong.contains(says), "{wrong}");
    }
}
