use base64::Engine;
use http::HeaderMap;
use proptest::prelude::*;
use shopery_model::{Answer, EndpointSecret, PayloadFormat};

use super::*;
use crate::cloud::testing::{self, *};
use crate::cloud::{CloudSender, Posting};
use crate::failure::Failure;

fn bus() -> EventBus {
    BUS.parse().unwrap()
}

fn event_bridge() -> EventBridge {
    let mut env = shopery_runtime::Env::of::<&str, &str>([]);
    let clouds = Clouds::read(&mut env);
    EventBridge::new(&env.finish(clouds).unwrap(), &Client::new(None).unwrap(), Fetches::default())
}

fn prepared(message: &Message<'_>) -> Result<Entry, Refusal> {
    event_bridge().prepare(&bus(), message, &credentials(None), NOW)
}

fn written(message: &Message<'_>) -> serde_json::Value {
    serde_json::from_slice(&prepared(message).unwrap().json).unwrap()
}

#[test]
fn an_entry_is_written_as_documented() {
    let payload = "{ \"id\":\"ord_1\", \"total\":59.80, \"note\":\"a \\\"quote\\\"\\n\u{e9}\" }";
    let entry = prepared(&message(payload)).unwrap();
    let signature = EndpointSecret::parse(SECRET).unwrap().sign(
        "dlv_01HA4XCG60CT4G3EWF4CKYM1MF",
        NOW.unix_timestamp(),
        // Sorted, without spaces, and a number as JavaScript writes it.
        "{\"id\":\"ord_1\",\"note\":\"a \\\"quote\\\"\\n\u{e9}\",\"total\":59.8}".as_bytes(),
    );
    let detail = format!(
        "{{\"payload\":{payload},\"metadata\":{{\"webhook-id\":\"dlv_01HA4XCG60CT4G3EWF4CKYM1MF\",\
         \"webhook-timestamp\":\"1796119200\",\"webhook-signature\":\"{signature}\",\"X-Shopery-Event\":\"order-paid\",\
         \"X-Shopery-Event-Id\":\"evt%201\",\"X-Shopery-Event-Source\":\"orders\",\
         \"X-Shopery-Webhook-Id\":\"wbh_01HA4XCG60CT4G3EWF4CKYM1MF\",\"X-Shopery-Tenant-Id\":\"acme\",\
         \"X-Shopery-Triggered-At\":\"2026-12-01T09:59:58.123Z\",\"X-Shopery-Attempt\":\"2\"}}}}"
    );
    let json = format!(
        "{{\"Source\":\"shopery/acme\",\"DetailType\":\"order-paid\",\"EventBusName\":\"{BUS}\",\"Time\":1796119198,\
         \"Detail\":{}}}",
        serde_json::to_string(&detail).unwrap()
    );
    assert_eq!(String::from_utf8(entry.json).unwrap(), json);
    assert_eq!(entry.size, 14 + "shopery/acme".len() + "order-paid".len() + detail.len());
}

#[test]
fn a_test_and_a_cloud_event_say_what_they_are_and_no_secret_is_told() {
    let cloud_event =
        Message { is_test: true, format: PayloadFormat::CloudEvent, ..message(r#"{"specversion":"1.0"}"#) };
    let detail: serde_json::Value = serde_json::from_str(written(&cloud_event)["Detail"].as_str().unwrap()).unwrap();
    assert_eq!(detail["metadata"]["content-type"], "application/cloudevents+json");
    assert_eq!(detail["metadata"]["X-Shopery-Test"], "true");
    assert!(!detail.to_string().contains(&SECRET[6..]) && detail["metadata"].get("X-Shopery-Secret").is_none());
    for (payload, kind) in [("[1,2]", "array"), ("\"text\"", "text"), ("7", "number")] {
        let detail: serde_json::Value =
            serde_json::from_str(written(&message(payload))["Detail"].as_str().unwrap()).unwrap();
        assert_eq!(detail["payload"].to_string(), payload, "{kind}");
    }
}

#[test]
fn what_no_bus_would_take_is_not_sent() {
    let long: &'static str = format!("\"{}\"", "x".repeat(1024 * 1024)).leak();
    let deep: &'static str = ("[".repeat(200) + &"]".repeat(200)).leak();
    for (payload, told) in [(long, "would be 1049"), (deep, "canonical"), ("{\"a\":\"\\ud800\"}", "canonical")] {
        let refusal = prepared(&message(payload)).unwrap_err();
        assert_eq!(refusal.fault(), Some(Fault::MessageRejected));
        assert!(refusal.in_words().contains(told), "{refusal:?}");
    }
}

/// Of JSON whose names are ASCII and whose numbers are small integers: a second implementation, which is trivial.
fn canonical(value: &serde_json::Value, text: &mut String) {
    match value {
        serde_json::Value::Array(items) => {
            text.push('[');
            for (index, item) in items.iter().enumerate() {
                text.push_str(if index > 0 { "," } else { "" });
                canonical(item, text);
            }
            text.push(']');
        }
        serde_json::Value::Object(members) => {
            let mut names: Vec<_> = members.keys().collect();
            names.sort();
            text.push('{');
            for (index, name) in names.into_iter().enumerate() {
                text.push_str(if index > 0 { "," } else { "" });
                text.push_str(&format!("\"{name}\":"));
                canonical(&members[name], text);
            }
            text.push('}');
        }
        other => text.push_str(&other.to_string()),
    }
}

fn json() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i32>().prop_map(Into::into),
        "[ -!#-\\[\\]-~é€😀]{0,8}".prop_map(Into::into),
    ];
    leaf.prop_recursive(4, 64, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Into::into),
            prop::collection::hash_map("[a-zA-Z_]{0,6}", inner, 0..6)
                .prop_map(|members| serde_json::Value::Object(members.into_iter().collect())),
        ]
    })
}

proptest! {
    /// Whatever writes the payload anew, its canonical form is what was signed.
    #[test]
    fn the_signature_is_that_of_the_canonical_payload(value in json()) {
        let payload: &'static str = serde_json::to_string_pretty(&value).unwrap().leak();
        let detail: serde_json::Value = serde_json::from_str(written(&message(payload))["Detail"].as_str().unwrap()).unwrap();
        let mut text = String::new();
        canonical(&detail["payload"], &mut text);
        let signature = EndpointSecret::parse(SECRET).unwrap().sign("dlv_01HA4XCG60CT4G3EWF4CKYM1MF", NOW.unix_timestamp(), text.as_bytes());
        prop_assert_eq!(detail["metadata"]["webhook-signature"].as_str(), Some(signature.as_str()));
    }
}

fn response(status: u16, body: &str) -> Response {
    Response { status: StatusCode::from_u16(status).unwrap(), headers: HeaderMap::new(), body: body.to_owned().into() }
}

#[test]
fn what_amazon_calls_a_failure_says_what_follows() {
    for (code, fault_of_it) in [
        ("AccessDeniedException", Fault::AccessDenied),
        ("NotAuthorizedForSourceException", Fault::AccessDenied),
        ("NotAuthorizedForDetailTypeException", Fault::AccessDenied),
        ("ResourceNotFoundException", Fault::DestinationNotFound),
        ("InvalidAccountIdException", Fault::DestinationNotFound),
        ("ThrottlingException", Fault::Throttled),
        ("TooManyRequestsException", Fault::Throttled),
        ("InvalidArgument", Fault::MessageRejected),
        ("MalformedDetail", Fault::MessageRejected),
        ("ValidationException", Fault::MessageRejected),
        ("InternalFailure", Fault::ProviderError),
        ("InternalException", Fault::ProviderError),
        ("ServiceUnavailable", Fault::ProviderError),
        ("SomethingNew", Fault::ProviderError),
        ("", Fault::ProviderError),
    ] {
        assert_eq!(fault(code, StatusCode::BAD_REQUEST), fault_of_it, "{code}");
        let body = format!(r#"{{"__type":"com.amazonaws.events#{code}","message":"as it is"}}"#);
        let Refused::Request(refusal) = read_error(&response(400, &body)) else { panic!("{code} is of the key") };
        assert_eq!(refusal.fault(), Some(fault_of_it));
    }
    for code in [
        "UnrecognizedClientException",
        "InvalidSignatureException",
        "SignatureDoesNotMatch",
        "InvalidClientTokenId",
        "ExpiredToken",
        "ExpiredTokenException",
        "MissingAuthenticationTokenException",
    ] {
        let body = format!(r#"{{"__type":"{code}:http://internal.amazon.com/","Message":"…"}}"#);
        assert!(matches!(read_error(&response(403, &body)), Refused::Key(found) if found == code));
    }
    for (status, body, fault_of_it) in [
        (429, "", Fault::Throttled),
        (413, "<html>", Fault::MessageRejected),
        (500, "", Fault::ProviderError),
        (503, "{}", Fault::ProviderError),
        (404, "not found", Fault::ProviderError),
        (301, "", Fault::ProviderError),
    ] {
        let Refused::Request(refusal) = read_error(&response(status, body)) else { panic!("{status} is of the key") };
        assert_eq!(refusal.fault(), Some(fault_of_it), "{status}");
    }
}

#[test]
fn each_entry_of_an_answer_has_its_own_end() {
    let body = r#"{"FailedEntryCount":2,"Entries":[{"EventId":"11710aed"},
        {"ErrorCode":"InternalFailure","ErrorMessage":"a server failed"},{"ErrorCode":"AccessDeniedException"}]}"#;
    let sents = read(&response(200, body), 3).ok().unwrap();
    let ends: Vec<_> = sents.iter().map(|sent| sent.as_ref().map_err(Refusal::fault)).collect();
    let id = "11710aed".to_owned();
    assert_eq!(ends, [Ok(&id), Err(Some(Fault::ProviderError)), Err(Some(Fault::AccessDenied))]);
    for (body, count) in [(body, 2), (body, 4), ("{}", 1), ("", 1), (r#"{"Entries":[{}]}"#, 1)] {
        let unreadable = match read(&response(200, body), count) {
            Ok(sents) => sents[0].clone().unwrap_err(),
            Err(Refused::Request(refusal)) => refusal,
            Err(Refused::Key(code)) => panic!("{code}"),
        };
        assert_eq!(unreadable.fault(), Some(Fault::ProviderError), "{body}");
    }
}

const ACCEPTED: &str = r#"{"FailedEntryCount":0,"Entries":[{"EventId":"11710aed-b79e-4468-a20b-bb3c0c3b4860"}]}"#;

fn with_platform(server: &Server) -> Vec<(&str, &str)> {
    vec![
        ("AWS_ENDPOINT_URL", &server.url),
        ("SHOPERY_AWS_PRINCIPAL", ROLE),
        ("AWS_ACCESS_KEY_ID", KEY_ID),
        ("AWS_SECRET_ACCESS_KEY", KEY_SECRET),
        ("AWS_SESSION_TOKEN", "FwoGZXIvYXdzEXAMPLE"),
    ]
}

async fn send(clouds: &CloudSender, own: Option<CloudKey>) -> Result<Answer, Failure> {
    let (message, credentials) = (message(r#"{"id":"1"}"#), credentials(own));
    clouds.send_to_bus(&bus(), testing::posting(&message, &credentials)).await
}

fn fault_of(answer: &Result<Answer, Failure>) -> Option<Fault> {
    answer.as_ref().ok()?.fault.as_ref().map(|(fault, _)| *fault)
}

#[tokio::test]
async fn a_request_is_signed_and_its_message_id_comes_back() {
    let server = Server::start([says(200, ACCEPTED)]).await;
    let clouds = clouds(&with_platform(&server));
    let answer = send(&clouds, None).await.unwrap();
    assert_eq!((answer.fault, answer.status), (None, None));
    assert_eq!(answer.message_id.as_deref(), Some("11710aed-b79e-4468-a20b-bb3c0c3b4860"));
    let [asked] = server.asked().try_into().unwrap();
    assert_eq!(asked.what, "POST /");
    assert_eq!(asked.header("x-amz-target"), "AWSEvents.PutEvents");
    assert_eq!(asked.header("content-type"), "application/x-amz-json-1.1");
    assert_eq!(asked.header("x-amz-security-token"), "FwoGZXIvYXdzEXAMPLE");
    let authorization = asked.header("authorization");
    let credential = format!("AWS4-HMAC-SHA256 Credential={KEY_ID}/");
    assert!(authorization.starts_with(&credential), "{authorization}");
    assert!(authorization.contains("/eu-west-1/events/aws4_request, SignedHeaders="), "{authorization}");
    assert!(authorization.contains("host;x-amz-date;x-amz-security-token;x-amz-target"), "{authorization}");
    let body: serde_json::Value = serde_json::from_str(&asked.body).unwrap();
    assert_eq!(body["Entries"].as_array().unwrap().len(), 1);
    // With a key of the merchant's own.
    assert_eq!(fault_of(&send(&clouds, Some(aws_key(None))).await), None);
    let [asked] = server.asked().try_into().unwrap();
    assert_eq!(asked.header("x-amz-security-token"), "");
}

#[tokio::test]
async fn a_key_that_is_refused_is_its_owners_to_mend() {
    let refused = r#"{"__type":"UnrecognizedClientException","message":"FwoGZXIvYXdzEXAMPLE is invalid"}"#;
    let server = Server::start([says(400, refused)]).await;
    let clouds = clouds(&with_platform(&server));
    assert!(matches!(send(&clouds, None).await, Err(Failure::Ours(SenderFault::CloudCredentials))));
    let own = send(&clouds, Some(aws_key(None))).await.unwrap();
    let why = "Amazon does not know the access key, or its secret is another one (UnrecognizedClientException)";
    assert_eq!(own.fault, Some((Fault::AccessDenied, why.to_owned())));
    assert_eq!(own.code.as_deref(), Some("UnrecognizedClientException"));
    // Unless it is our clock that is wrong.
    server.now_says([says(400, refused).with("date", "Tue, 01 Dec 2020 10:00:00 GMT")]);
    for own in [None, Some(aws_key(None))] {
        assert!(matches!(send(&clouds, own).await, Err(Failure::Ours(SenderFault::Clock))));
    }
}

#[tokio::test]
async fn a_region_that_alone_does_not_know_the_platform_is_its_tenants_choice() {
    let refused = says(400, r#"{"__type":"UnrecognizedClientException","message":"invalid"}"#);
    let server = Server::start([says(200, ACCEPTED), refused]).await;
    let clouds = clouds(&with_platform(&server));
    assert_eq!(fault_of(&send(&clouds, None).await), None);
    let (message, credentials) = (message("{}"), credentials(None));
    let elsewhere = "arn:aws:events:ap-east-1:123456789012:event-bus/orders".parse().unwrap();
    let answer = clouds.send_to_bus(&elsewhere, posting(&message, &credentials)).await;
    assert_eq!(fault_of(&answer), Some(Fault::AccessDenied));
    // In the region that has taken them, they are ours to mend.
    assert!(matches!(send(&clouds, None).await, Err(Failure::Ours(SenderFault::CloudCredentials))));
}

#[tokio::test]
async fn without_a_principal_a_delivery_waits_and_in_our_own_account_it_is_refused() {
    let server = Server::start([says(200, ACCEPTED)]).await;
    let none = clouds(&[("AWS_ENDPOINT_URL", &server.url)]);
    assert!(matches!(send(&none, None).await, Err(Failure::Ours(SenderFault::CloudCredentials))));
    let clouds = clouds(&with_platform(&server));
    let (message, credentials) = (message("{}"), credentials(None));
    let ours = "arn:aws:events:eu-west-1:999999999999:event-bus/orders".parse().unwrap();
    let answer = clouds.send_to_bus(&ours, posting(&message, &credentials)).await;
    assert_eq!(fault_of(&answer), Some(Fault::AccessDenied));
    assert_eq!(fault_of(&send(&clouds, Some(google_key())).await), Some(Fault::AccessDenied));
    assert!(server.asked().is_empty());
}

#[tokio::test]
async fn what_the_owner_of_a_bus_reads_names_the_failure() {
    let denied = r#"{"__type":"AccessDeniedException","Message":"User: arn:aws:iam::999999999999:role/shopery is not authorized"}"#;
    let server = Server::start([says(400, denied)]).await;
    let answer = send(&clouds(&with_platform(&server)), None).await.unwrap();
    let why = "the bus does not let us publish (AccessDeniedException): User: arn:aws:iam::999999999999:role/shopery is not \
               authorized";
    assert_eq!(answer.fault, Some((Fault::AccessDenied, why.to_owned())));
    server.now_says([says(503, "")]);
    let answer = send(&clouds(&with_platform(&server)), None).await.unwrap();
    assert_eq!(answer.fault, Some((Fault::ProviderError, "EventBridge failed with status 503".to_owned())));
}

const GIVEN: &str =
    "<AssumeRoleResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><AssumeRoleResult><Credentials>
    <AccessKeyId>ASIAIOSFODNN7EXAMPLE</AccessKeyId><SecretAccessKey>temporary/secret</SecretAccessKey>
    <SessionToken>FwoGZXIvYXdzEBYaDEXAMPLE==</SessionToken><Expiration>2126-12-01T10:00:00Z</Expiration>
    </Credentials></AssumeRoleResult></AssumeRoleResponse>";

#[tokio::test]
async fn a_role_of_the_merchants_is_assumed_once() {
    let server = Server::start([says(200, GIVEN), says(200, ACCEPTED)]).await;
    let clouds = clouds(&[("AWS_ENDPOINT_URL", &server.url)]);
    let role = "arn:aws:iam::123456789012:role/shop";
    for _ in 0..2 {
        assert_eq!(fault_of(&send(&clouds, Some(aws_key(Some(role)))).await), None);
    }
    let [assumed, put, again] = server.asked().try_into().unwrap();
    assert_eq!(
        assumed.body,
        "Action=AssumeRole&Version=2011-06-15&RoleSessionName=shopery-webhooks&\
         RoleArn=arn%3Aaws%3Aiam%3A%3A123456789012%3Arole%2Fshop&ExternalId=tnt_8w2k"
    );
    assert!(assumed.header("authorization").contains("/eu-west-1/sts/aws4_request"));
    for put in [put, again] {
        assert!(put.header("authorization").contains("Credential=ASIAIOSFODNN7EXAMPLE/"));
        assert_eq!(put.header("x-amz-security-token"), "FwoGZXIvYXdzEBYaDEXAMPLE==");
    }
}

#[tokio::test]
async fn a_role_that_may_not_be_assumed_is_the_merchants_and_sts_that_is_away_passes() {
    let role = Some("arn:aws:iam::123456789012:role/shop");
    let error = |code: &str| {
        format!("<ErrorResponse><Error><Code>{code}</Code><Message>canonical</Message></Error></ErrorResponse>")
    };
    for (answer, fault) in [
        (says(403, error("AccessDenied")), Fault::AccessDenied),
        (says(403, error("InvalidClientTokenId")), Fault::AccessDenied),
        (says(403, error("SignatureDoesNotMatch")), Fault::AccessDenied),
        (says(400, error("Throttling")), Fault::Throttled),
        (says(503, ""), Fault::ProviderError),
        (says(200, "<html>"), Fault::ProviderError),
        (says(200, GIVEN.replace("2126", "2020")), Fault::ProviderError),
    ] {
        let server = Server::start([answer.clone()]).await;
        let clouds = clouds(&[("AWS_ENDPOINT_URL", &server.url)]);
        let met = send(&clouds, Some(aws_key(role))).await;
        assert_eq!(fault_of(&met), Some(fault), "{answer:?} {met:?}");
        assert!(!format!("{met:?}").contains("canonical"), "what Amazon says of signatures may hold tokens");
    }
}

#[tokio::test]
async fn keys_of_the_cluster_and_of_the_container_are_found() {
    let token = std::env::temp_dir().join(format!("shopery-token-{}", std::process::id()));
    std::fs::write(&token, "the-token\n").unwrap();
    let token = token.to_str().unwrap();
    let sts = Server::start([says(200, GIVEN), says(200, ACCEPTED)]).await;
    let identity = clouds(&[
        ("AWS_ENDPOINT_URL", &sts.url),
        ("SHOPERY_AWS_PRINCIPAL", ROLE),
        ("AWS_ROLE_ARN", ROLE),
        ("AWS_WEB_IDENTITY_TOKEN_FILE", token),
    ]);
    assert_eq!(fault_of(&send(&identity, None).await), None);
    let [assumed, put] = sts.asked().try_into().unwrap();
    let body = "Action=AssumeRoleWithWebIdentity&Version=2011-06-15&RoleSessionName=shopery-webhooks&\
                RoleArn=arn%3Aaws%3Aiam%3A%3A999999999999%3Arole%2Fshopery&WebIdentityToken=the-token";
    assert_eq!((assumed.body.as_str(), assumed.header("authorization")), (body, ""));
    assert!(put.header("authorization").contains("Credential=ASIAIOSFODNN7EXAMPLE/"));

    let given = r#"{"AccessKeyId":"ASIACONTAINER7EXAMPLE","SecretAccessKey":"s","Token":"t","Expiration":"2126-12-01T10:00:00Z"}"#;
    let agent = Server::start([says(200, given)]).await;
    let bridge = Server::start([says(200, ACCEPTED)]).await;
    let full = format!("{}/v1/credentials", agent.url);
    let container = clouds(&[
        ("AWS_ENDPOINT_URL", &bridge.url),
        ("SHOPERY_AWS_PRINCIPAL", ROLE),
        ("AWS_CONTAINER_CREDENTIALS_FULL_URI", &full),
        ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", token),
    ]);
    assert_eq!(fault_of(&send(&container, None).await), None);
    let [asked] = agent.asked().try_into().unwrap();
    assert_eq!((asked.what.as_str(), asked.header("authorization")), ("GET /v1/credentials", "the-token"));
    let [put] = bridge.asked().try_into().unwrap();
    assert!(put.header("authorization").contains("Credential=ASIACONTAINER7EXAMPLE/"));
    std::fs::remove_file(token).unwrap();
}

#[tokio::test]
async fn a_platform_without_keys_delays_and_does_not_blame_the_bus() {
    for answer in [says(500, ""), says(200, "{}"), says(403, "<Error><Code>AccessDenied</Code></Error>")] {
        let agent = Server::start([answer]).await;
        let full = format!("{}/v1/credentials", agent.url);
        let clouds = clouds(&[
            ("SHOPERY_AWS_PRINCIPAL", ROLE),
            ("AWS_CONTAINER_CREDENTIALS_FULL_URI", &full),
            ("AWS_CONTAINER_AUTHORIZATION_TOKEN", "x"),
        ]);
        for _ in 0..3 {
            assert!(matches!(send(&clouds, None).await, Err(Failure::Ours(SenderFault::CloudCredentials))));
        }
        assert_eq!(agent.asked().len(), 1, "it is not asked over and over");
    }
}

#[tokio::test]
async fn many_messages_share_requests_and_each_has_its_own_id() {
    let server = Server::start([says(200, ACCEPTED)]).await;
    let clouds = clouds(&with_platform(&server));
    // The server says that one was accepted, whatever it was asked: requests of several are not believed.
    let all = futures_util::future::join_all((0..40).map(|_| send(&clouds, None))).await;
    let asked = server.asked();
    let entries: Vec<_> = asked
        .iter()
        .map(|asked| {
            serde_json::from_str::<serde_json::Value>(&asked.body).unwrap()["Entries"].as_array().unwrap().len()
        })
        .collect();
    assert_eq!(entries.iter().sum::<usize>(), 40);
    assert!(asked.len() < 40 && entries.iter().all(|count| *count <= 10), "{entries:?}");
    let accepted = all.iter().filter(|answer| fault_of(answer).is_none()).count();
    assert_eq!(accepted, entries.iter().filter(|count| **count == 1).count());
}

#[tokio::test]
async fn who_asks_for_a_request_of_its_own_has_it() {
    let server = Server::start([says(200, ACCEPTED)]).await;
    let clouds = clouds(&with_platform(&server));
    let (message, credentials) = (message("{}"), credentials(None));
    let posting = Posting { is_alone: true, ..posting(&message, &credentials) };
    let all = futures_util::future::join_all((0..20).map(|_| clouds.send_to_bus(&BUS_PARSED, posting))).await;
    assert!(all.iter().all(|answer| fault_of(answer).is_none()));
    assert_eq!(server.asked().len(), 20);
}

static BUS_PARSED: std::sync::LazyLock<EventBus> = std::sync::LazyLock::new(bus);

#[test]
fn the_size_of_the_largest_event_is_far_from_the_limit() {
    let text = base64::engine::general_purpose::STANDARD.encode(vec![7; 190_000]);
    let payload: &'static str = format!("{{\"x\":\"{text}\"}}").leak();
    let entry = prepared(&message(payload)).unwrap();
    assert!(entry.size < MAX_BYTES / 3, "{}", entry.size);
}
