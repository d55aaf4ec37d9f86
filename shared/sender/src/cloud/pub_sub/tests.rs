use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::HeaderMap;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use shopery_model::{Answer, EndpointSecret, PayloadFormat};

use super::*;
use crate::cloud::config::GooglePrincipal;
use crate::cloud::testing::{self, *};
use crate::cloud::{CloudSender, Posting};
use crate::failure::Failure;

fn topic() -> Topic {
    "pubsub://shop-analytics/orders".parse().unwrap()
}

fn prepared(message: &Message<'_>) -> Result<Entry, Refusal> {
    let mut env = shopery_runtime::Env::of::<&str, &str>([]);
    let clouds = Clouds::read(&mut env);
    let pub_sub = PubSub::new(&env.finish(clouds).unwrap(), &Client::new(None).unwrap(), Fetches::default());
    pub_sub.prepare(&topic(), message, &credentials(None), NOW)
}

#[test]
fn a_message_is_written_as_documented() {
    let payload = "{ \"id\":\"ord_1\", \"total\":59.80 }";
    let ordered = Message { ordering_key: Some("order/ord_1"), ..message(payload) };
    let id = "dlv_01HA4XCG60CT4G3EWF4CKYM1MF";
    let signature = EndpointSecret::parse(SECRET).unwrap().sign(id, NOW.unix_timestamp(), payload.as_bytes());
    let json = format!(
        "{{\"data\":\"{}\",\"attributes\":{{\"webhook-id\":\"{id}\",\"webhook-timestamp\":\"1796119200\",\
         \"webhook-signature\":\"{signature}\",\"X-Shopery-Event\":\"order-paid\",\"X-Shopery-Event-Id\":\"evt%201\",\
         \"X-Shopery-Event-Source\":\"orders\",\"X-Shopery-Webhook-Id\":\"wbh_01HA4XCG60CT4G3EWF4CKYM1MF\",\
         \"X-Shopery-Tenant-Id\":\"acme\",\"X-Shopery-Triggered-At\":\"2026-12-01T09:59:58.123Z\",\
         \"X-Shopery-Attempt\":\"2\"}},\"orderingKey\":\"order/ord_1\"}}",
        STANDARD.encode(payload)
    );
    assert_eq!(prepared(&ordered).unwrap().0, json);
}

#[test]
fn attributes_are_within_googles_bounds() {
    let changed: Vec<_> = (0..40).map(|number| format!("{number:02}{}", "x".repeat(48))).collect();
    let id = "😀".repeat(128);
    let message = Message {
        event_id: &id,
        changed: &changed,
        changed_omitted: 3,
        format: PayloadFormat::CloudEvent,
        ..message("{}")
    };
    let json: serde_json::Value = serde_json::from_str(&prepared(&message).unwrap().0).unwrap();
    let attributes = json["attributes"].as_object().unwrap();
    assert!(attributes.len() <= 100 && attributes.values().all(|value| value.as_str().unwrap().len() <= 1024));
    assert_eq!(attributes["content-type"], "application/cloudevents+json");
    assert!(!attributes.contains_key("X-Shopery-Event-Id"), "half of an id is another one");
    let list = attributes["X-Shopery-Fields-Changed"].as_str().unwrap();
    let told = list.split(',').count();
    let omitted: usize = attributes["X-Shopery-Fields-Changed-Omitted"].as_str().unwrap().parse().unwrap();
    assert_eq!(told + omitted, 43);
    // The history shows the same, but for the signature.
    let shown = message.masked_headers(DestinationKind::PubSub, &["X-Own".to_owned()], NOW);
    assert_eq!(shown.len(), attributes.len());
    for (name, value) in shown {
        assert!(attributes[&name] == value || (name == "webhook-signature" && value == "***"), "{name}");
    }
}

#[test]
fn what_google_calls_a_failure_says_what_follows() {
    let response = |status: u16, body: String| Response {
        status: StatusCode::from_u16(status).unwrap(),
        headers: HeaderMap::new(),
        body: body.into(),
    };
    for (code, status, fault) in [
        ("PERMISSION_DENIED", 403, Fault::AccessDenied),
        ("NOT_FOUND", 404, Fault::DestinationNotFound),
        ("RESOURCE_EXHAUSTED", 429, Fault::Throttled),
        ("INVALID_ARGUMENT", 400, Fault::MessageRejected),
        ("FAILED_PRECONDITION", 400, Fault::MessageRejected),
        ("ABORTED", 409, Fault::ProviderError),
        ("CANCELLED", 499, Fault::ProviderError),
        ("DEADLINE_EXCEEDED", 504, Fault::ProviderError),
        ("INTERNAL", 500, Fault::ProviderError),
        ("UNAVAILABLE", 503, Fault::ProviderError),
        ("UNKNOWN", 500, Fault::ProviderError),
        ("SOMETHING_NEW", 400, Fault::ProviderError),
    ] {
        let body = format!(r#"{{"error":{{"code":{status},"message":"as it is","status":"{code}"}}}}"#);
        let Refused::Request(refusal) = read_error(&response(status, body)) else { panic!("{code} is of the token") };
        assert_eq!(refusal.fault(), Some(fault), "{code}");
    }
    for (status, fault) in [
        (429, Fault::Throttled),
        (413, Fault::MessageRejected),
        (502, Fault::ProviderError),
        // Of a proxy on the way: nothing of a topic.
        (404, Fault::ProviderError),
        (403, Fault::ProviderError),
    ] {
        let Refused::Request(refusal) = read_error(&response(status, "<html>".to_owned())) else { panic!("{status}") };
        assert_eq!(refusal.fault(), Some(fault), "{status}");
    }
    assert!(matches!(read_error(&response(401, String::new())), Refused::Key(_)));
}

const LABELLED: &str =
    r#"{"name":"projects/shop-analytics/topics/orders","labels":{"shopery-tenant":"acme","team":"x"}}"#;
const PUBLISHED: &str = r#"{"messageIds":["42"]}"#;

async fn send(clouds: &CloudSender, own: Option<CloudKey>, is_alone: bool) -> Result<Answer, Failure> {
    let (message, credentials) = (message(r#"{"id":"1"}"#), credentials(own));
    let posting = Posting { is_alone, ..testing::posting(&message, &credentials) };
    clouds.send_to_topic(&topic(), posting).await
}

fn fault_of(answer: &Result<Answer, Failure>) -> Option<Fault> {
    answer.as_ref().ok()?.fault.as_ref().map(|(fault, _)| *fault)
}

#[tokio::test]
async fn a_topic_is_published_to_if_its_label_names_the_tenant() {
    let server = Server::start([says(200, LABELLED), says(200, PUBLISHED)]).await;
    let clouds = clouds(&[("PUBSUB_EMULATOR_HOST", server.host())]);
    for _ in 0..2 {
        let answer = send(&clouds, None, false).await.unwrap();
        assert_eq!((answer.fault, answer.message_id.as_deref()), (None, Some("42")));
    }
    let asked = server.asked();
    let whats: Vec<_> = asked.iter().map(|asked| asked.what.as_str()).collect();
    let publish = "POST /v1/projects/shop-analytics/topics/orders:publish";
    assert_eq!(whats, ["GET /v1/projects/shop-analytics/topics/orders", publish, publish]);
    assert!(asked.iter().all(|asked| asked.header("authorization").is_empty()), "an emulator asks for no token");
    // A test takes nothing as known.
    server.now_says([says(200, LABELLED.replace("acme", "other"))]);
    assert_eq!(fault_of(&send(&clouds, None, false).await), Some(Fault::ProviderError), "no answer to a publish");
    assert_eq!(fault_of(&send(&clouds, None, true).await), Some(Fault::AccessDenied));
}

#[tokio::test]
async fn a_topic_without_the_label_is_refused_in_words() {
    for (answer, fault, told) in [
        (says(200, LABELLED.replace("acme", "other")), Fault::AccessDenied, "--update-labels=shopery-tenant=acme"),
        (says(200, r#"{"name":"projects/shop-analytics/topics/orders"}"#), Fault::AccessDenied, "gcloud pubsub topics"),
        (
            says(403, r#"{"error":{"code":403,"message":"User not authorized","status":"PERMISSION_DENIED"}}"#),
            Fault::AccessDenied,
            "roles/pubsub.viewer (PERMISSION_DENIED): User not authorized",
        ),
        (
            says(404, r#"{"error":{"code":404,"message":"Topic not found","status":"NOT_FOUND"}}"#),
            Fault::DestinationNotFound,
            "there is no such topic (NOT_FOUND)",
        ),
        (says(503, ""), Fault::ProviderError, "503"),
    ] {
        let server = Server::start([answer]).await;
        let clouds = clouds(&[("PUBSUB_EMULATOR_HOST", server.host())]);
        for is_alone in [false, true] {
            let (found, detail) = send(&clouds, None, is_alone).await.unwrap().fault.unwrap();
            assert!(found == fault && detail.contains(told), "{detail}");
            assert!(!detail.contains("other"), "whose label it is, is nobody's business: {detail}");
        }
        assert!(server.asked().iter().all(|asked| asked.what.starts_with("GET ")), "nothing was published");
    }
}

#[tokio::test]
async fn a_key_of_the_merchants_signs_its_own_token_and_needs_no_label() {
    let server = Server::start([says(200, PUBLISHED)]).await;
    let clouds = clouds(&[("PUBSUB_EMULATOR_HOST", server.host())]);
    for _ in 0..2 {
        assert_eq!(fault_of(&send(&clouds, Some(google_key()), false).await), None);
    }
    let [first, second] = server.asked().try_into().unwrap();
    assert_eq!(first.header("authorization"), second.header("authorization"), "a token is used again");
    let token = first.header("authorization").strip_prefix("Bearer ").unwrap();
    let header = jsonwebtoken::decode_header(token).unwrap();
    assert_eq!((header.alg, header.kid.as_deref()), (Algorithm::RS256, Some("0a1b2c")));
    // The public half of the key, as openssl tells it.
    let mut validation = Validation::new(Algorithm::RS256);
    validation.set_audience(&["https://pubsub.googleapis.com/"]);
    let public = DecodingKey::from_rsa_pem(RSA[1].as_bytes()).unwrap();
    let claims = jsonwebtoken::decode::<serde_json::Value>(token, &public, &validation).unwrap().claims;
    let email = "shop@shop-analytics.iam.gserviceaccount.com";
    assert_eq!((claims["iss"].as_str(), claims["sub"].as_str()), (Some(email), Some(email)));
    assert_eq!(claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap(), 3600);
    assert!(URL_SAFE_NO_PAD.decode(token.split('.').nth(2).unwrap()).unwrap().len() == 256);
    // One that is no key is the merchant's to mend, and is not repeated.
    let broken =
        GoogleKey::parse("a@b.iam", "0a", "-----BEGIN PRIVATE KEY-----\nMIIE\n-----END PRIVATE KEY-----\n", None);
    let (fault, detail) = send(&clouds, broken.ok().map(CloudKey::Google), false).await.unwrap().fault.unwrap();
    assert!(fault == Fault::AccessDenied && !detail.contains("MIIE"), "{detail}");
    let refused = r#"{"error":{"code":401,"message":"invalid","status":"UNAUTHENTICATED"}}"#;
    server.now_says([says(401, refused)]);
    assert_eq!(fault_of(&send(&clouds, Some(google_key()), false).await), Some(Fault::AccessDenied));
    server.now_says([says(401, refused).with("date", "Tue, 01 Dec 2020 10:00:00 GMT")]);
    let met = send(&clouds, Some(google_key()), false).await;
    assert!(matches!(met, Err(Failure::Ours(SenderFault::Clock))), "{met:?}");
    assert_eq!(fault_of(&send(&clouds, Some(aws_key(None)), false).await), Some(Fault::AccessDenied));
}

/// Of the platform with tokens, which asks no emulator.
fn api(account: GooglePrincipal, server: &Server) -> Api {
    let client = Client::new(None).unwrap();
    let source = TokenSource { client: client.clone(), account: Account::Platform(account) };
    let platform = Some(Principal::platform(source, Fetches::default()));
    Api { client, base: format!("{}/", server.url), platform }
}

#[tokio::test]
async fn the_metadata_server_gives_tokens_and_the_name_of_the_account() {
    let metadata = Server::start([
        says(200, "hooks@shopery.iam.gserviceaccount.com"),
        says(200, r#"{"access_token":"ya29.token","expires_in":3599,"token_type":"Bearer"}"#),
    ])
    .await;
    let google = Server::start([says(200, LABELLED)]).await;
    let email = Arc::default();
    let account = GooglePrincipal::Metadata { url: metadata.url.parse().unwrap(), email: Arc::clone(&email) };
    let api = api(account, &google);
    for _ in 0..2 {
        api.read_topic(&topic(), Instant::now() + super::super::TIMEOUT).await.unwrap();
    }
    assert_eq!(email.get().map(String::as_str), Some("hooks@shopery.iam.gserviceaccount.com"));
    let whats: Vec<_> = metadata.asked().iter().map(|asked| asked.what.clone()).collect();
    let account = "GET /computeMetadata/v1/instance/service-accounts/default";
    assert_eq!(whats, [format!("{account}/email"), format!("{account}/token")]);
    assert!(google.asked().iter().all(|asked| asked.header("authorization") == "Bearer ya29.token"));
    // What the platform's account is refused is ours.
    google.now_says([says(401, "")]);
    let refusal = api.read_topic(&topic(), Instant::now() + super::super::TIMEOUT).await.unwrap_err();
    assert!(matches!(refusal.failure, Failure::Ours(SenderFault::CloudCredentials)));
}

#[tokio::test]
async fn without_a_token_of_the_platform_a_delivery_waits() {
    for answer in [says(404, ""), says(200, "no e-mail"), says(200, "a@b.iam")] {
        let metadata = Server::start([answer]).await;
        let account = GooglePrincipal::Metadata { url: metadata.url.parse().unwrap(), email: Arc::default() };
        let google = Server::start([says(200, LABELLED)]).await;
        let refusal = api(account, &google).read_topic(&topic(), Instant::now() + super::super::TIMEOUT).await;
        let refusal = refusal.unwrap_err();
        assert!(matches!(refusal.failure, Failure::Ours(SenderFault::CloudCredentials)), "{refusal:?}");
        assert!(google.asked().is_empty());
    }
    let none = clouds(&[]);
    let met = send(&none, None, false).await;
    assert!(matches!(met, Err(Failure::Ours(SenderFault::CloudCredentials))), "{met:?}");
}

#[test]
fn a_topic_is_one_segment_of_a_path() {
    let topic: Topic = "pubsub://example.com:shop-analytics/a~b+c%2F..".parse().unwrap();
    assert_eq!(topic.path().replace('%', "%25"), "projects/example.com:shop-analytics/topics/a~b+c%252F..");
}
