//! Whether the data of an event looks as the catalogue says (`SHOPERY_VALIDATE_EVENTS`).
//!
//! The catalogue's JSON Schemas describe what receivers may expect; a publisher can differ from them without anybody
//! noticing. `warn` counts and logs such events and takes them, `reject` refuses them. Off costs nothing: there are no
//! validators then.
//!
//! Invariant: what is logged and counted has no content of `data`, and what is answered has names and no values of it.

use std::collections::HashMap;
use std::fmt::Write;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use jsonschema::paths::{Location, LocationSegment};
use jsonschema::{PatternOptions, ValidationError, Validator};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use serde_json::Value;
use serde_json::value::RawValue;
use shopery_model::{Catalogue, Event, EventType, Invalid, TenantId};
use shopery_runtime::Metrics;

/// Of one event; the publisher mends those and sees the others then.
const MAX_ERRORS: usize = 20;
const MAX_TEXT_CHARS: usize = 300;

/// The shortest time between two lines of the log; those between are counted in the metric alone.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Off,
    Warn,
    Reject,
}

impl FromStr for Mode {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "off" => Ok(Self::Off),
            "warn" => Ok(Self::Warn),
            "reject" => Ok(Self::Reject),
            _ => Err("must be off, warn or reject"),
        }
    }
}

/// Who asks. A message of NATS is seen by two tasks, of which one counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// To take the event or to refuse it; it counts.
    Accept,
    /// To answer for an event that another task takes or refuses.
    Answer,
}

#[derive(Debug)]
pub(crate) struct Validation {
    is_strict: bool,
    /// Types of one resource share a schema, but for some.
    validators: HashMap<EventType, Arc<Validator>>,
    /// By event type, which is one of the catalogue.
    unexpected: Family<[(&'static str, String); 1], Counter>,
    started: Instant,
    /// When a line may be logged again, in milliseconds after `started`.
    next_log: AtomicU64,
}

impl Validation {
    /// Compiles the schemas, once. `None` if events are not validated.
    pub(crate) fn start(mode: Mode, catalogue: &Catalogue, metrics: &Metrics) -> anyhow::Result<Option<Self>> {
        if mode == Mode::Off {
            return Ok(None);
        }
        let (mut validators, mut compiled) = (HashMap::new(), HashMap::<&str, Arc<Validator>>::new());
        for event_type in catalogue.types() {
            let Some(schema) = catalogue.schema(event_type).map(RawValue::get) else { continue };
            let validator = match compiled.get(schema) {
                Some(validator) => validator.clone(),
                None => {
                    let wrong = || format!("the JSON Schema of {event_type} in the catalogue cannot be used");
                    Arc::new(compile(schema).with_context(wrong)?)
                }
            };
            compiled.insert(schema, validator.clone());
            validators.insert(event_type, validator);
        }
        let unexpected = metrics.register(
            "events_unexpected",
            "Events whose data is not as the catalogue's JSON Schema says, by type",
            Family::default(),
        );
        let next_log = AtomicU64::new(0);
        Ok(Some(Self { is_strict: mode == Mode::Reject, validators, unexpected, started: Instant::now(), next_log }))
    }

    /// What the publisher has to mend; nothing in the mode `warn`, which only notes it.
    pub(crate) fn check(&self, tenant: &TenantId, event: &Event, purpose: Purpose) -> Result<(), Vec<Invalid>> {
        if !self.is_strict && purpose == Purpose::Answer {
            return Ok(());
        }
        let Some(validator) = self.validators.get(&event.event_type) else { return Ok(()) };
        // Numbers that no 64-bit float can hold and a depth of more than 128 do not read; the schema says nothing of them.
        let wrong = match serde_json::from_slice::<Value>(&event.data) {
            Ok(data) => {
                let mut errors = validator.iter_errors(&data).peekable();
                let Some(first) = errors.peek() else { return Ok(()) };
                self.note(tenant, event, first.schema_path().as_str(), purpose);
                errors.take(MAX_ERRORS).map(|error| invalid(&error)).collect()
            }
            Err(_) => {
                self.note(tenant, event, "", purpose);
                let detail = "cannot be compared with its schema: it is too deep, or has a number that is too large";
                vec![Invalid::new("data", detail)]
            }
        };
        if self.is_strict { Err(wrong) } else { Ok(()) }
    }

    fn note(&self, tenant: &TenantId, event: &Event, schema_path: &str, purpose: Purpose) {
        if purpose == Purpose::Answer {
            return;
        }
        self.unexpected.get_or_create(&[("type", event.event_type.to_string())]).inc();
        if self.may_log(self.started.elapsed()) {
            tracing::warn!(
                tenant = tenant.as_str(),
                event.r#type = %event.event_type,
                event.source,
                event.id,
                schema_path,
                "the data of an event is not as the catalogue says; others may be, see the metric"
            );
        }
    }

    fn may_log(&self, now: Duration) -> bool {
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let next = self.next_log.load(Ordering::Relaxed);
        // Of those that come at the same time, one wins.
        millis(now) >= next
            && self
                .next_log
                .compare_exchange(next, millis(now + LOG_INTERVAL), Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
    }
}

/// Patterns run in linear time: the engine that backtracks could be held up for minutes by a text that is made for it.
/// References to elsewhere are errors, nothing is fetched.
fn compile(schema: &str) -> anyhow::Result<Validator> {
    let schema: Value = serde_json::from_str(schema)?;
    let options = jsonschema::options().with_pattern_options(PatternOptions::regex());
    options.build(&schema).map_err(|error| anyhow!("{error}"))
}

fn invalid(error: &ValidationError<'_>) -> Invalid {
    Invalid::new(shorten(&field(error.instance_path())), shorten(&error.masked_with("it").to_string()))
}

/// `data.line_items[0].quantity`
fn field(path: &Location) -> String {
    let mut field = "data".to_owned();
    for segment in path.iter() {
        // Writing to a String cannot fail.
        let _ = match segment {
            LocationSegment::Property(name) => write!(field, ".{name}"),
            LocationSegment::Index(index) => write!(field, "[{index}]"),
        };
    }
    field
}

fn shorten(text: &str) -> String {
    text.chars().take(MAX_TEXT_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use serde_json::json;
    use shopery_model::catalogue;
    use time::OffsetDateTime;

    fn event(event_type: &str, data: &Value) -> Event {
        let event = json!({
            "specversion": "1.0", "id": "e", "source": "s", "type": event_type, "subject": "order/1", "data": data,
        });
        Event::parse(&Bytes::from(event.to_string()), OffsetDateTime::now_utc()).unwrap()
    }

    /// The example of the catalogue, with other members.
    fn order(more: Value) -> Value {
        let example = catalogue().example("order-created".parse().unwrap()).unwrap();
        let mut order: Value = serde_json::from_str(example.get()).unwrap();
        order.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        order
    }

    fn start(mode: Mode) -> (Validation, Metrics) {
        let metrics = Metrics::default();
        (Validation::start(mode, catalogue(), &metrics).unwrap().unwrap(), metrics)
    }

    #[test]
    fn what_is_not_as_the_catalogue_says_is_refused_by_its_path() {
        let (validation, metrics) = start(Mode::Reject);
        let tenant = "t".parse().unwrap();
        let fields = |event_type: &str, data: Value, purpose| -> Vec<(String, String)> {
            let wrong = validation.check(&tenant, &event(event_type, &data), purpose).err().unwrap_or_default();
            wrong.into_iter().map(|wrong| (wrong.field.into_owned(), wrong.detail.into_owned())).collect()
        };
        let created = |data, purpose| fields("order-created", data, purpose);
        assert_eq!(created(order(json!({})), Purpose::Accept), []);
        let item = order(json!({}))["line_items"][0].clone();
        let mut wrong_item = item.clone();
        wrong_item["quantity"] = json!("a secret");
        let wrong = created(order(json!({ "line_items": [item, wrong_item] })), Purpose::Accept);
        assert_eq!(wrong.len(), 1, "{wrong:?}");
        assert_eq!(wrong[0].0, "data.line_items[1].quantity");
        assert!(wrong[0].1.contains("integer") && !wrong[0].1.contains("secret"), "{wrong:?}");
        let bare = json!({ "id": "1", "deleted_at": "2026-11-24T10:00:00Z" });
        let wrong = created(bare.clone(), Purpose::Answer);
        assert!(wrong.iter().any(|(field, detail)| field == "data" && detail.contains("created_at")), "{wrong:?}");
        assert_eq!(fields("order-deleted", bare, Purpose::Accept), []);
        assert_eq!(created(order(json!({ "line_items": vec![7; 100] })), Purpose::Accept).len(), MAX_ERRORS);
        let text = metrics.encode();
        assert!(text.contains("events_unexpected_total{type=\"order-created\"} 2"), "{text}");
    }

    #[test]
    fn warn_counts_and_takes() {
        let (validation, metrics) = start(Mode::Warn);
        let tenant = "t".parse().unwrap();
        for purpose in [Purpose::Accept, Purpose::Answer] {
            assert_eq!(validation.check(&tenant, &event("order-created", &json!({})), purpose), Ok(()));
        }
        assert!(metrics.encode().contains("events_unexpected_total{type=\"order-created\"} 1"));
    }

    #[test]
    fn the_log_has_a_line_now_and_then() {
        let (validation, _) = start(Mode::Warn);
        let lines = (0..100).filter(|second| validation.may_log(Duration::from_secs(*second))).count();
        assert_eq!(lines, 10);
    }

    #[test]
    fn off_has_no_validators() {
        let metrics = Metrics::default();
        assert!(Validation::start(Mode::Off, catalogue(), &metrics).unwrap().is_none());
        assert!(!metrics.encode().contains("unexpected"));
    }

    #[test]
    fn a_schema_that_cannot_be_used_ends_the_start() {
        for schema in [
            r#"{"type":"no-such"}"#,
            r#"{"$ref":"https://example.com/order.json"}"#,
            r##"{"$ref":"#/$defs/none"}"##,
            r#"{"properties":{"a":{"pattern":"("}}}"#,
            r#"{"properties":{"a":{"pattern":"(a)\\1"}}}"#,
        ] {
            let added = format!(r#"[{{"resource":"invoice","actions":{{"paid":""}},"schema":{schema}}}]"#);
            let catalogue = Catalogue::with_added(&added).unwrap();
            let error = Validation::start(Mode::Warn, &catalogue, &Metrics::default()).unwrap_err();
            assert!(format!("{error:#}").contains("invoice"), "{schema}: {error:#}");
        }
    }
}
