//! Tokens of our own secret and of an identity provider's keys: which are taken, and how the others are refused.

use std::time::{Duration, Instant};

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};
use shopery_e2e::{Behaviour, Client, Event, Provider, Reply, Service, SigningKey, Stack, token, wait};
use shopery_local::tls::Authority;

const SOON: Duration = Duration::from_secs(30);
const ISSUER: &str = "https://id.shopery.example/";
const AUDIENCE: &str = "webhooks";
const ALGORITHMS: [(&str, Algorithm); 3] =
    [("rsa", Algorithm::RS256), ("ec", Algorithm::ES256), ("ed", Algorithm::EdDSA)];

/// A stack that takes tokens of its secret and of the provider.
async fn start(keys: &[&SigningKey], env: &[(&str, &str)]) -> (Stack, Provider) {
    let authority = Authority::generate().unwrap();
    let provider = Provider::start(&authority, keys).await;
    let plan = Stack::plan().trust(authority.pem()).env("SHOPERY_JWKS_URL", provider.url());
    let plan = env.iter().fold(plan, |plan, (name, value)| plan.env(name, *value));
    let stack = plan.start().await;
    // With a secret they are ready without the keys, and until those are there they answer 503.
    for service in [Service::Api, Service::Ingest] {
        let fetched = "shopery_jwks_fetches_total{result=\"ok\"}";
        wait::until_true("the keys to be fetched", SOON, async || {
            stack.metrics(service).await.value(fetched).is_some_and(|count| count > 0.0)
        })
        .await;
    }
    (stack, provider)
}

fn claims() -> Value {
    let mut claims = token::claims(&["tnt_a"], token::ALL);
    (claims["iss"], claims["aud"]) = (json!(ISSUER), json!([AUDIENCE, "others"]));
    claims
}

fn but(name: &str, value: Value) -> Value {
    let mut claims = claims();
    claims[name] = value;
    claims
}

/// Asks the API and ingest.
async fn ask(client: &Client, token: &str) -> [Reply; 2] {
    let client = client.with_token(token);
    [client.get("/company/webhooks").await, client.publish(&Event::order("1")).await]
}

/// An HS256 token whose secret is what everybody knows: the public key.
fn forged(key: &SigningKey, secret: &[u8]) -> String {
    let mut header = Header::new(Algorithm::HS256);
    header.kid = Some(key.kid.clone());
    encode(&header, &claims(), &EncodingKey::from_secret(secret)).unwrap()
}

/// The header of a token exchanged for another.
fn with_header(token: &str, header: &Value) -> String {
    use base64::Engine;
    let header = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(header.to_string());
    format!("{header}.{}", token.split_once('.').unwrap().1)
}

fn bad_tokens(keys: &[SigningKey]) -> Vec<(String, String)> {
    let now = token::unix_now();
    let mut table: Vec<(String, String)> = Vec::new();
    for (index, key) in keys.iter().enumerate() {
        let (kid, good) = (&key.kid, key.sign(&claims()));
        let stranger = SigningKey::generate(kid, ALGORITHMS[index].1);
        let other = &keys[(index + 1) % keys.len()];
        let mut add = |what: &str, token: String| table.push((format!("{kid}: {what}"), token));
        for (what, claims) in [
            ("expired", but("exp", json!(now - 60))),
            ("without an end", but("exp", Value::Null)),
            ("an end that is no number", but("exp", json!("tomorrow"))),
            ("an end below zero", but("exp", json!(-1))),
            ("not yet valid", but("nbf", json!(now + 3600))),
            ("another audience", but("aud", json!("others"))),
            ("no audience", but("aud", Value::Null)),
            ("another issuer", but("iss", json!("https://evil.example/"))),
            ("no issuer", but("iss", Value::Null)),
            ("tenants that are no list", but("tenants", json!("tnt_a"))),
            ("tenants that are nothing", but("tenants", Value::Null)),
            ("a scope that is neither text nor list", but("scope", json!({ "is": token::ALL }))),
            ("claims that are no object", json!([1, 2])),
        ] {
            add(what, key.sign(&claims));
        }
        add("an unknown key", key.sign_as(Some("nobody"), &claims()));
        for kid in ["", "../../../../dev/null", "' OR 1=1 --", "\0", &"k".repeat(4000)] {
            add(&format!("a key named {kid:?}"), key.sign_as(Some(kid), &claims()));
        }
        add("the name of another kind of key", key.sign_as(Some(&other.kid), &claims()));
        add("a stranger's key of this name", stranger.sign(&claims()));
        for (form, secret) in ["PEM", "DER", "bytes"].iter().zip(&key.public) {
            add(&format!("its public key, {form}, as an HS256 secret"), forged(key, secret));
        }
        for algorithm in [
            "none", "None", "NONE", "nOnE", " none", "", "HS256", "HS384", "HS512", "RS384", "RS512", "PS256", "PS384",
            "PS512", "ES384", "ES512", "ES256K", "Ed448", "RSA1_5", "dir", "nonsense",
        ] {
            let header = json!({ "typ": "JWT", "alg": algorithm, "kid": kid });
            add(&format!("the algorithm {algorithm:?}"), with_header(&good, &header));
        }
        let (unsigned, signature) = good.rsplit_once('.').unwrap();
        let none = with_header(&good, &json!({ "alg": "none" }));
        add("no algorithm", with_header(&good, &json!({ "kid": kid })));
        add("a key of its own", with_header(&good, &json!({ "alg": "ES256", "jwk": { "kty": "EC" } })));
        add("what is critical", with_header(&good, &json!({ "alg": "ES256", "kid": kid, "crit": ["b64"] })));
        add("none and no signature", format!("{}.", none.rsplit_once('.').unwrap().0));
        add("no signature", format!("{unsigned}."));
        add("half a signature", format!("{unsigned}.{}", &signature[..signature.len() / 2]));
        add("another's signature", format!("{unsigned}.{}", other.sign(&claims()).rsplit_once('.').unwrap().1));
        let flipped = if signature.starts_with('A') { "B" } else { "A" };
        add("a flipped signature", format!("{unsigned}.{flipped}{}", &signature[1..]));
        add("a padded signature", format!("{good}="));
        add("a signature with more behind it", format!("{good}AAAA"));
        add(
            "where its key is said to be",
            with_header(&good, &json!({ "alg": "ES256", "kid": kid, "jku": "https://evil.example/" })),
        );
        add("two parts", unsigned.to_owned());
        add("four parts", format!("{good}.{signature}"));
        add("oversized", key.sign(&but("more", json!("x".repeat(9000)))));
    }
    table.extend([
        ("our secret, no issuer".to_owned(), token::mint(&["tnt_a"], token::ALL)),
        ("another secret".to_owned(), token::sign(&claims(), Algorithm::HS256, "another secret of 32 bytes or more")),
        ("no secret".to_owned(), token::sign(&claims(), Algorithm::HS256, "")),
        ("another hash".to_owned(), token::sign(&claims(), Algorithm::HS384, token::SECRET)),
    ]);
    table.extend(
        ["x", ".", "..", "...", "e30.e30.e30", "e30", "{}", "%00", "bnVsbA.bnVsbA."]
            .map(|garbage| (format!("garbage: {garbage}"), garbage.to_owned())),
    );
    table
}

#[tokio::test(flavor = "multi_thread")]
async fn every_bad_token_is_refused_as_rfc_6750_says_and_none_panics() {
    let keys = ALGORITHMS.map(|(kid, algorithm)| SigningKey::generate(kid, algorithm));
    let env = [("SHOPERY_JWT_ISSUER", ISSUER), ("SHOPERY_JWT_AUDIENCE", AUDIENCE), ("SHOPERY_ADDRESS_LIMIT", "off")];
    let (stack, _provider) = start(&keys.each_ref(), &env).await;
    let client = stack.client("tnt_a");
    let good = keys.iter().map(|key| key.sign(&claims())).chain([
        token::sign(&claims(), Algorithm::HS256, token::SECRET),
        // There is one key of this kind, so it needs no name.
        keys[1].sign_as(None, &claims()),
        keys[2].sign(&but("nbf", json!(token::unix_now()))),
    ]);
    for token in good {
        let [api, ingest] = ask(&client, &token).await;
        api.expect(200);
        ingest.expect(202);
    }
    let bad = bad_tokens(&keys);
    assert!(bad.len() >= 186, "{}", bad.len());
    for (what, token) in bad {
        for reply in ask(&client, &token).await {
            assert_eq!(reply.status, 401, "{what}: {}", reply.text());
            let problem = reply.problem();
            let challenge = reply.headers["www-authenticate"].to_str().unwrap();
            let said = format!(
                "Bearer realm=\"shopery\", error=\"invalid_token\", error_description=\"{}\"",
                problem["detail"].as_str().unwrap()
            );
            assert_eq!(challenge, said, "{what}");
        }
    }
    // Who has no token has made no error yet.
    for reply in ask(&client, "").await {
        assert_eq!(reply.status, 401);
        assert_eq!(reply.problem()["type"], "urn:shopery:problem:unauthorized");
        assert_eq!(reply.headers["www-authenticate"], "Bearer realm=\"shopery\"");
    }
    for (what, claims) in [
        ("no tenant", but("tenants", json!([]))),
        ("another tenant", but("tenants", json!(["tnt_b"]))),
        ("no permission", but("scope", json!(""))),
        ("a longer permission", but("scope", json!("webhooks:reads events:writes"))),
    ] {
        for (reply, scope) in ask(&client, &keys[0].sign(&claims)).await.iter().zip(["webhooks:read", "events:write"]) {
            assert_eq!(reply.status, 403, "{what}: {}", reply.text());
            assert_eq!(reply.problem()["type"], "urn:shopery:problem:forbidden");
            let challenge = reply.headers["www-authenticate"].to_str().unwrap();
            assert!(challenge.starts_with("Bearer realm=\"shopery\", error=\"insufficient_scope\", "), "{challenge}");
            assert!(challenge.ends_with(&format!(", scope=\"{scope}\"")), "{challenge}");
        }
    }
    for service in [Service::Api, Service::Ingest] {
        assert!(!stack.log(service).contains("panic"), "{} has panicked", service.name());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_come_and_go_without_a_restart() {
    let env = [("SHOPERY_JWKS_REFRESH", "1s"), ("SHOPERY_JWT_AUDIENCE", AUDIENCE)];
    let first = SigningKey::generate("first", Algorithm::RS256);
    let (stack, provider) = start(&[&first], &env).await;
    let client = stack.client("tnt_a");
    let mut old = first;
    for (kid, algorithm) in ALGORITHMS {
        let new = SigningKey::generate(kid, algorithm);
        let (with_old, with_new) = (old.sign(&claims()), new.sign(&claims()));
        for reply in ask(&client, &with_new).await {
            reply.expect(401);
        }
        // Both for a while, as providers do it.
        provider.publish(&[&old, &new]);
        until_all(&client, &with_new, [200, 202]).await;
        until_all(&client, &with_old, [200, 202]).await;
        // The token of the old key was verified and is remembered, which must not save it.
        provider.publish(&[&new]);
        until_all(&client, &with_old, [401, 401]).await;
        until_all(&client, &with_new, [200, 202]).await;
        old = new;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_keys_work_while_the_provider_is_away_but_not_for_ever() {
    let key = SigningKey::generate("ed", Algorithm::EdDSA);
    let (mut stack, provider) = start(&[&key], &[("SHOPERY_JWKS_REFRESH", "1s"), ("SHOPERY_JWT_SECRET", "")]).await;
    let client = stack.client("tnt_a").with_token(&key.sign(&claims()));
    client.get("/company/webhooks").await.expect(200);
    let failed = "shopery_jwks_fetches_total{result=\"failed\"}";
    for behaviour in [
        Behaviour::Answer(500),
        Behaviour::Close,
        Behaviour::Redirect(provider.url()),
        Behaviour::Body("this is no JWKS".to_owned()),
        Behaviour::Flood { bytes: 10_000_000, announced: false },
    ] {
        let before = stack.metrics(Service::Api).await.value(failed).unwrap_or_default();
        let what = format!("a fetch to fail: {behaviour:?}");
        provider.behave(behaviour);
        wait::until_true(&what, SOON, async || stack.metrics(Service::Api).await.value(failed) > Some(before + 1.0))
            .await;
        client.get("/company/webhooks").await.expect(200);
        client.with_token(&key.sign(&claims())).get("/company/webhooks").await.expect(200);
    }

    provider.publish(&[&key]);
    stack.stop(Service::Api).await;
    stack.run_with(Service::Api, &[("SHOPERY_JWKS_MAX_AGE", "3s")]).await;
    client.get("/company/webhooks").await.expect(200);
    provider.behave(Behaviour::Close);
    wait::until("the keys to be too old", SOON, async || {
        let reply = client.get("/company/webhooks").await;
        if reply.status == 503 { Ok(()) } else { Err(reply.text()) }
    })
    .await;
    let ready = reqwest::get(format!("{}/readyz", client.api)).await.unwrap();
    assert!(ready.text().await.unwrap().contains("jwks"));
    provider.publish(&[&key]);
    until_status(&client, 200).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_keys_are_fetched_at_a_bounded_rate() {
    let (first, second) = (SigningKey::generate("1", Algorithm::ES256), SigningKey::generate("2", Algorithm::ES256));
    let env = [("SHOPERY_JWKS_REFRESH", "1h"), ("SHOPERY_ADDRESS_LIMIT", "off")];
    let (stack, provider) = start(&[&first], &env).await;
    let client = stack.client("tnt_a");
    provider.publish(&[&first, &second]);
    until_status(&client.with_token(&second.sign(&claims())), 200).await;

    let (began, before) = (Instant::now(), provider.fetches());
    for number in 0..500 {
        let unknown = second.sign_as(Some(&format!("unknown {number}")), &claims());
        client.with_token(&unknown).get("/company/webhooks").await.expect(401);
    }
    // Five seconds apart; one may have been due at the beginning. Ingest has met none of them.
    let most = 2 + began.elapsed().as_secs() / 5;
    let fetches = (provider.fetches() - before) as u64;
    assert!(fetches <= most, "{fetches} fetches in {:?}", began.elapsed());
}

async fn until_status(client: &Client, status: u16) {
    wait::until(&format!("status {status}"), SOON, async || {
        let reply = client.get("/company/webhooks").await;
        if reply.status == status { Ok(()) } else { Err(reply.text()) }
    })
    .await;
}

async fn until_all(client: &Client, token: &str, statuses: [u16; 2]) {
    wait::until(&format!("the statuses {statuses:?}"), SOON, async || {
        let found = ask(client, token).await.map(|reply| reply.status);
        if found == statuses { Ok(()) } else { Err(format!("{found:?}")) }
    })
    .await;
}
