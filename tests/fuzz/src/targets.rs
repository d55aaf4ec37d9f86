//! The parsers, samples of what they take, and what must hold of whatever they take.

use std::net::IpAddr;
use std::sync::LazyLock;

use bytes::Bytes;
use serde_json::value::RawValue;
use shopery_model::{
    BinaryAttributes, Changed, CloudKeyChange, Debounce, Destination, EndpointSecret, Event, EventPattern, Fields,
    Filter, Headers, HeadersChange, Keyring, MAX_EVENT_BYTES, Network, Overlap, RetrySchedule, Sealed, TenantId, Topic,
    WebhookId, escape, unescape,
};
use shopery_runtime::Env;
use shopery_sender::Egress;
use time::OffsetDateTime;
use url::Host;

#[derive(Debug)]
pub struct Target {
    pub name: &'static str,
    pub samples: &'static [&'static str],
    /// Whether the input is taken. Panics where a promise is broken.
    pub check: fn(&[u8]) -> bool,
}

const NOW: OffsetDateTime = time::macros::datetime!(2026-11-24 10:00 UTC);

const EVENTS: &[&str] = &[
    r#"{"specversion":"1.0","id":"e1","source":"orders","type":"order-created","subject":"order/ord_123","data":{"id":"ord_123","number":1042,"status":"open","currency":"EUR","total_price":59.80,"customer":{"id":"cus_7","email":"zoe@example.com"},"line_items":[{"sku":"MUG-BLUE","title":"Blue mug","quantity":2,"price":29.90}],"created_at":"2026-11-24T10:00:00Z","updated_at":"2026-11-24T10:00:00Z"}}"#,
    r#"{"data":{"total_price":10.10,"line_items":[{"sku":"a\u00e9"},{"sku":"b"}]},"specversion":"1.0","id":"e 2","source":"/o?x","type":"orders-paid","subject":"orders/Zoë.*>","time":"2026-11-24T10:00:00.123+02:00","datacontenttype":"application/json; charset=utf-8","traceparent":"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01","custom":"a"}"#,
    r#"{"specversion":"1.0","id":"e3","source":"s","type":"product-updated","subject":"product/1","partitionkey":"cus_7","sampledrate":-7,"dry":true,"none":null,"dataschema":"https://example.com/s#1","data":{}}"#,
];
const BINARY_EVENTS: &[&str] = &[
    "specversion: 1.0\nid: e%201\nsource: /o\ntype: order-created\nsubject: order/1\npartitionkey: K%C3%B6ln\n\n{\"id\":1}",
    "specversion: 1.0\nid: \"a \\\"b\\\"\"\nsource: s\ntype: orders-paid\nsubject: order/Zo\u{eb}\ntime: 2026-11-24T10:00:00Z\n\n {} ",
];
const FILTERS: &[&str] = &[
    r#"{"total_price":[{"numeric":[">",50,"<=",5e3]}],"currency":["SEK","NOK",7,true,null]}"#,
    r#"{"$or":[{"a":[{"prefix":"x"}]},{"b":{"c":[{"suffix":"y"},{"exists":false}]}}]}"#,
    r#"{"a":[{"anything-but":{"wildcard":"*/lib/*"}}],"b":[{"anything-but":["x",7]}],"c":[{"equals-ignore-case":"Åre"}]}"#,
    r#"{"a":[{"wildcard":"1\\*2*3"}],"line_items":{"sku":[{"prefix":"a"}]}}"#,
    r#"{"a":[{"numeric":["=",10.1]}],"b":[{"exists":true}]}"#,
];
const PATHS: &[&str] =
    &["id", "customer.email\nline_items.sku", "a.b.c.d\na.b\na", "total_price\n$or\nlines.sku\n日本.x"];
const DOCUMENT_TEXT: &str = r#"{ "id": 1, "customer": {"email":"a@b", "x": [1, {"y": 2}]}, "line_items":[{"sku":"a","n":1E+2},[{"sku":"no"}],{"sku":"b"}], "a":{"b":{"c":[{"d":1.0}]}}, "total_price":12345678901234567890.10, "lines":[{"sku":"1*2x3"}], "日本":{"x":"\u0041"}, "currency":"SEK", "b":{"c":"y"} }"#;
const DOCUMENT: &[u8] = DOCUMENT_TEXT.as_bytes();
const URLS: &[&str] = &[
    "https://test.com/wh",
    "https://xn--bcher-kva.example:8443/a?b=c&d=%20e",
    "https://[2606:4700::1111]/",
    "https://1.1.1.1:443/x",
    "https://BÜCHER.example./",
    "arn:aws:events:eu-west-1:123456789012:event-bus/orders",
    "pubsub://example.com:shop-analytics/orders",
];
const CLOUD_KEYS: &[&str] = &[
    r#"{"accessKeyId":"AKIAIOSFODNN7EXAMPLE","secretAccessKey":"a+secret/key","roleArn":"arn:aws:iam::123456789012:role/shopery","externalId":"tnt_8w2k"}"#,
    r#"{"type":"service_account","client_email":"hooks@p.iam.gserviceaccount.com","private_key_id":"0a1b","private_key":"-----BEGIN PRIVATE KEY-----\nMIIE\n-----END PRIVATE KEY-----\n","token_uri":"https://x"}"#,
    r#"{"accessKeyId":"AKIAIOSFODNN7EXAMPLE","secretAccessKey":"***"}"#,
];
const HEADERS: &[&str] = &["Authorization: Bearer abc", "X-A: 1\nX-B: two words\nx-c: ***", "X-Api-Key: k"];
const SECRETS: &[&str] = &["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"];
const NAMES: &[&str] = &["tnt_a", "Zoë.shop*>", "a b", "日本", "~7e_-"];
const SETTINGS: &[&str] = &["10s", "1m,5m", "24h", "7d", "10.0.0.0/8", "fd00::/8", "order-created", "orders-*", "*"];

pub const TARGETS: &[Target] = &[
    Target { name: "event", samples: EVENTS, check: event },
    Target { name: "event in binary mode", samples: BINARY_EVENTS, check: binary_event },
    Target { name: "stored event", samples: EVENTS, check: stored_event },
    Target { name: "filter", samples: FILTERS, check: filter },
    Target { name: "filter on document", samples: &[DOCUMENT_TEXT], check: filter_on_document },
    Target { name: "fields and changed", samples: PATHS, check: fields },
    Target { name: "fields on document", samples: &[DOCUMENT_TEXT], check: fields_on_document },
    Target { name: "url", samples: URLS, check: url },
    Target { name: "headers", samples: HEADERS, check: headers },
    Target { name: "secret", samples: SECRETS, check: secret },
    Target { name: "key of a cloud", samples: CLOUD_KEYS, check: cloud_key },
    Target { name: "sealed", samples: SEALED, check: sealed },
    Target { name: "names in subjects", samples: NAMES, check: names },
    Target { name: "settings", samples: SETTINGS, check: settings },
];

fn text(input: &[u8]) -> Option<&str> {
    std::str::from_utf8(input).ok()
}

/// What is taken reads back as itself, and its data is an object, byte for byte.
fn event(input: &[u8]) -> bool {
    let input = Bytes::copy_from_slice(input);
    let event = match Event::parse(&input, NOW) {
        Ok(event) => event,
        Err(wrong) => {
            assert!(!wrong.is_empty(), "refused without a reason");
            return false;
        }
    };
    assert!(input.len() <= MAX_EVENT_BYTES && !event.event_type.is_operational());
    assert!(event.data.starts_with(b"{") && serde_json::from_slice::<&RawValue>(&event.data).is_ok());
    let again = Event::parse_stored(&event.encode(), NOW).expect("what was taken is stored so that it reads");
    assert_eq!((&again.id, &again.data, &again.resource), (&event.id, &event.data, &event.resource));
    assert_eq!((again.time, &again.extensions), (event.time, &event.extensions));
    assert!(again.says_the_same_as(&event) && again.content_digest() == event.content_digest());
    true
}

/// An event in binary mode: headers up to an empty line, then the data. What is taken is the same in structured mode.
fn binary_event(input: &[u8]) -> bool {
    let at = input.windows(2).position(|two| two == b"\n\n").unwrap_or(input.len());
    let mut headers = BinaryAttributes::default();
    for line in input[..at].split(|byte| *byte == b'\n') {
        if let Some(colon) = line.iter().position(|byte| *byte == b':') {
            headers.add(&String::from_utf8_lossy(&line[..colon]), &line[colon + 1..]);
        }
    }
    let body = Bytes::copy_from_slice(input.get(at + 2..).unwrap_or_default());
    let event = match Event::parse_binary(headers, &body, NOW) {
        Ok(event) => event,
        Err(wrong) => {
            assert!(!wrong.is_empty(), "refused without a reason");
            return false;
        }
    };
    assert_eq!(Event::parse_stored(&event.encode(), NOW).expect("what was taken is stored so that it reads"), event);
    true
}

fn stored_event(input: &[u8]) -> bool {
    Event::parse_stored(&Bytes::copy_from_slice(input), NOW).is_ok()
}

/// What is taken is kept as it was written, and can be asked about any document.
fn filter(input: &[u8]) -> bool {
    let Ok(json) = serde_json::from_slice::<&RawValue>(input) else { return false };
    let Ok(filter) = Filter::parse(json) else { return false };
    assert_eq!(Filter::parse(filter.as_json()).expect("it reads back"), filter);
    filter.matches(DOCUMENT);
    filter.matches(input);
    true
}

fn filter_on_document(input: &[u8]) -> bool {
    static FILTERS_READ: LazyLock<Vec<Filter>> =
        LazyLock::new(|| FILTERS.iter().filter_map(|json| serde_json::from_str(json).ok()).collect());
    let matching = FILTERS_READ.iter().filter(|filter| filter.matches(input)).count();
    let is_object = serde_json::from_slice::<&RawValue>(input).is_ok_and(|json| json.get().starts_with('{'));
    assert!(is_object || matching == 0, "what is no object matches no filter");
    is_object
}

/// A projection is an object, and of itself nothing else; nothing has changed from a document to itself.
fn fields(input: &[u8]) -> bool {
    let Some(text) = text(input) else { return false };
    let paths: Vec<String> = text.split('\n').map(str::to_owned).collect();
    if let Ok(changed) = Changed::parse(paths.clone()) {
        assert_eq!(changed.between(Some(DOCUMENT), DOCUMENT), Vec::<&str>::new());
        let all = changed.between(None, DOCUMENT);
        assert!(all.len() <= paths.len());
    }
    let Ok(fields) = Fields::parse(paths) else { return false };
    assert_projects(&fields, DOCUMENT);
    true
}

fn assert_projects(fields: &Fields, document: &[u8]) {
    let projected = fields.project(document);
    assert!(projected.starts_with(b"{") && projected.len() <= document.len().max(2));
    serde_json::from_slice::<&RawValue>(&projected).expect("a projection is JSON");
    assert_eq!(fields.project(&projected), projected, "a projection of a projection is the same");
}

fn fields_on_document(input: &[u8]) -> bool {
    static READ: LazyLock<Vec<(Fields, Changed)>> = LazyLock::new(|| {
        let paths = |text: &&str| text.split('\n').map(str::to_owned).collect::<Vec<_>>();
        PATHS.iter().map(paths).map(|p| (Fields::parse(p.clone()).unwrap(), Changed::parse(p).unwrap())).collect()
    });
    for (fields, changed) in READ.iter() {
        assert_projects(fields, input);
        assert_eq!(changed.between(Some(input), input), Vec::<&str>::new());
        // What a webhook is sent has what it waits for.
        let projected = fields.project(input);
        assert_eq!(changed.between(Some(&projected), input), Vec::<&str>::new());
    }
    serde_json::from_slice::<&RawValue>(input).is_ok()
}

/// What is taken goes over TLS, without a user, to a port that may be, and to no address that the standard library
/// calls special; or to a host of a cloud that is formed from nothing but a region.
fn url(input: &[u8]) -> bool {
    static EGRESS: LazyLock<Egress> =
        LazyLock::new(|| Egress::read(&mut Env::of::<&str, &str>([])).expect("the defaults are right"));
    let Some(text) = text(input) else { return false };
    let Ok(destination) = EGRESS.destination(text) else { return false };
    assert_eq!(EGRESS.destination(&destination.to_string()).expect("it reads back"), destination);
    let Destination::Https(url) = destination else {
        let host = destination.host().expect("a host");
        let region =
            host.strip_prefix("events.").map(|rest| rest.trim_end_matches(".cn").trim_end_matches(".amazonaws.com"));
        let is_region =
            |text: &str| text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
        assert!(host == Topic::HOST || region.is_some_and(is_region), "{host}");
        return true;
    };
    assert_eq!((url.scheme(), url.username(), url.password(), url.fragment()), ("https", "", None, None));
    assert!(matches!(url.port_or_known_default(), Some(443 | 8443)));
    match url.host().expect("a host") {
        Host::Domain(name) => {
            assert!(name.contains('.') && name.parse::<IpAddr>().is_err() && name.len() <= 254, "{name}");
            assert_ne!(name.trim_end_matches('.').rsplit('.').next(), Some("localhost"), "{name}");
        }
        Host::Ipv4(v4) => assert!(
            !(v4.is_private() || v4.is_loopback() || v4.is_link_local() || v4.is_unspecified() || v4.is_multicast()),
            "{v4}"
        ),
        Host::Ipv6(v6) => assert!(!(v6.is_loopback() || v6.is_unspecified() || v6.is_multicast()), "{v6}"),
    }
    true
}

/// What is taken can be sent: names and values that no header line can be broken with.
fn headers(input: &[u8]) -> bool {
    let Some(text) = text(input) else { return false };
    let split = |line: &str| line.split_once(": ").map(|(name, value)| (name.to_owned(), value.to_owned().into()));
    let given: Vec<_> = text.split('\n').filter_map(split).collect();
    let Ok(change) = HeadersChange::parse(given) else { return false };
    // One that is masked has nothing to stay.
    let Ok(headers) = change.apply(&Headers::default()) else { return true };
    for (name, value) in headers.iter() {
        let is_safe = |text: &str| text.bytes().all(|byte| (b' '..=b'~').contains(&byte));
        assert!(is_safe(name) && is_safe(value) && !name.contains([' ', ':']) && !value.is_empty());
        let lower = name.to_ascii_lowercase();
        assert!(!["x-shopery-", "webhook-", "content-"].iter().any(|ours| lower.starts_with(ours)), "{name}");
        assert!(!["host", "connection", "transfer-encoding", "user-agent"].contains(&lower.as_str()), "{name}");
    }
    true
}

fn secret(input: &[u8]) -> bool {
    let Some(text) = text(input) else { return false };
    let Ok(secret) = EndpointSecret::parse(text) else { return false };
    assert_eq!(secret.expose(), text);
    assert!(secret.sign("dlv_1", 0, input).starts_with("v1,"));
    assert!(!format!("{secret:?}").contains(&text[6..]), "Debug shows it");
    true
}

/// What is taken is shown without its secret, and what is shown is taken for the same key again.
fn cloud_key(input: &[u8]) -> bool {
    let Ok(json) = serde_json::from_slice::<&RawValue>(input) else { return false };
    let change = match CloudKeyChange::parse(json) {
        Ok(change) => change,
        Err(wrong) => {
            assert!(!wrong.is_empty() && wrong.iter().all(|invalid| invalid.field.starts_with("credentials")));
            return false;
        }
    };
    // One that is masked has nothing to stay.
    let Ok(key) = change.apply(None) else { return true };
    let shown = key.masked();
    let secret = shown.get("secretAccessKey").or(shown.get("private_key"));
    assert_eq!(secret.map(String::as_str), Some(Headers::MASK));
    let shown = serde_json::value::to_raw_value(&shown).expect("texts by name");
    let again = CloudKeyChange::parse(&shown).expect("what is shown is taken");
    assert_eq!(again.apply(Some(&key)).expect("it is the same key"), key);
    true
}

/// Of before there were keys.
const SEALED: &[&str] = &["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"];

/// A seal that was tampered with does not open.
fn sealed(input: &[u8]) -> bool {
    static KEYS: LazyLock<Keyring> =
        LazyLock::new(|| "first:dGhlIGZpcnN0IGtleSBvZiB0aGUgZTJlIHN1aXRlISE=".parse().unwrap());
    static GOOD: LazyLock<String> = LazyLock::new(|| {
        let sealed = KEYS.seal_text("owner", b"whatever is secret".to_vec()).unwrap();
        sealed.stored().to_owned()
    });
    let Some(text) = text(input) else { return false };
    let (tenant, webhook): (TenantId, WebhookId) =
        ("t".parse().unwrap(), "wbh_01HA4XCG60CT4G3EWF4CKYM1MF".parse().unwrap());
    let opened = KEYS.open(&tenant, webhook, &Sealed::of_stored(text.to_owned()));
    assert!(opened.is_err() || text.starts_with("whsec_"));
    // As many of its characters as the input has are replaced by those of the input.
    let broken: String = GOOD
        .chars()
        .zip(text.chars().map(Some).chain(std::iter::repeat(None)))
        .map(|(good, bad)| bad.unwrap_or(good))
        .collect();
    let opened_broken = KEYS.open_text("owner", &Sealed::of_stored(broken.clone()));
    assert_eq!(opened_broken.is_ok(), broken == *GOOD, "{broken}");
    opened.is_ok()
}

/// A name of any letters is one token of a subject, and comes back.
fn names(input: &[u8]) -> bool {
    let Some(text) = text(input).filter(|text| !text.is_empty()) else { return false };
    let token = escape(text);
    assert!(!token.is_empty());
    assert!(token.bytes().all(|byte| byte.is_ascii_graphic() && !b".*>".contains(&byte)), "{token}");
    assert_eq!(unescape(&token).as_deref(), Some(text));
    if let Some(read) = unescape(text) {
        // One spelling only, or two subjects would be one tenant's.
        assert_eq!(escape(&read), text);
    }
    text.parse::<TenantId>().is_ok()
}

fn settings(input: &[u8]) -> bool {
    let Some(text) = text(input) else { return false };
    let schedule = text.parse::<RetrySchedule>().is_ok();
    let (debounce, overlap) = (text.parse::<Debounce>().is_ok(), text.parse::<Overlap>().is_ok());
    let network = text.parse::<Network>().map(|network| network.contains([10, 0, 0, 1].into())).is_ok();
    schedule || debounce || overlap || network || text.parse::<EventPattern>().is_ok()
}
