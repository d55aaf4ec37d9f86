//! The messages in streams and buckets as files: those that this version writes, and those of older versions
//! (`….before.json`). A change of a message fails here if the two sides of a rollout cannot read each other. Never change a file
//! that has landed: add one for a new shape.

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use shopery_model::{Circuit, Event, Job, Outcome, Webhook};
use time::macros::datetime;

use crate::Progress;
use crate::partitions::Table;

/// The line breaks at the ends of files are no part of messages.
fn trimmed(file: &'static str) -> Bytes {
    Bytes::from_static(file.trim_end().as_bytes())
}

fn check<T: DeserializeOwned + Serialize>(name: &str, written: &'static str, before: &[&str]) {
    let read = |text: &str| serde_json::from_str::<T>(text).unwrap_or_else(|error| panic!("{name}: {error}: {text}"));
    assert_eq!(serde_json::to_string(&read(written)).unwrap(), written.trim_end(), "{name}");
    for text in before {
        let again = serde_json::to_string(&read(text)).unwrap();
        assert_eq!(serde_json::to_string(&read(&again)).unwrap(), again, "{name}");
    }
}

#[test]
fn messages_are_read_as_this_version_and_those_of_before_write_them() {
    check::<Vec<Outcome>>(
        "outcomes",
        include_str!("../golden/outcomes.json"),
        &[include_str!("../golden/outcomes.before.json")],
    );
    check::<Vec<Outcome>>("outcomes", include_str!("../golden/outcomes.posted.json"), &[]);
    check::<Webhook>(
        "webhook",
        include_str!("../golden/webhook.json"),
        &[include_str!("../golden/webhook.before.json")],
    );
    check::<Circuit>(
        "circuit",
        include_str!("../golden/circuit.json"),
        &[include_str!("../golden/circuit.before.json")],
    );
    check::<Progress>("progress", include_str!("../golden/progress.json"), &["{}"]);
    check::<Table>("partitions", include_str!("../golden/partitions.json"), &[]);

    let (written, before) =
        (trimmed(include_str!("../golden/job.json")), trimmed(include_str!("../golden/job.before.json")));
    let with_fields = trimmed(include_str!("../golden/job.fields.json"));
    for written in [written, with_fields] {
        assert_eq!(Job::decode(&written).unwrap().encode(), written);
    }
    let job = Job::decode(&before).unwrap();
    assert_eq!((job.meta.source.as_str(), job.meta.stored_ns, job.payload.len()), ("", None, 29));
    assert_eq!(Job::decode(&job.encode()).unwrap(), job);

    let (written, before) =
        (trimmed(include_str!("../golden/event.json")), trimmed(include_str!("../golden/event.before.json")));
    let read = |event: &Bytes| Event::parse_stored(event, datetime!(2026-11-24 10:00 UTC)).unwrap();
    assert_eq!(read(&written).encode(), written);
    assert_eq!(read(&read(&before).encode()), read(&before));
}

/// A newer version may say more.
#[test]
fn what_a_newer_version_says_in_addition_is_passed_over() {
    let with_more = |file: &str| file.replacen('{', r#"{"unheardOf":{"a":[1]},"#, 1);
    serde_json::from_str::<Webhook>(&with_more(include_str!("../golden/webhook.json"))).unwrap();
    serde_json::from_str::<Circuit>(&with_more(include_str!("../golden/circuit.json"))).unwrap();
    Job::decode(&with_more(include_str!("../golden/job.json")).into()).unwrap();
}
