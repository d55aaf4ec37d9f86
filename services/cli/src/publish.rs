//! `shopery events publish`: one event, or a file with one on each line.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::PathBuf;

use aws_lc_rs::digest::{SHA256, digest};
use clap::Args;
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};
use shopery_client::Problem;
use ulid::Ulid;

use crate::client::Request;
use crate::context::Context;
use crate::failure::Failure;
use crate::input;
use crate::json::Members;
use crate::output::Format;
use crate::terminal::Terminal;

const ONE: &str = "application/cloudevents+json";
const BATCH: &str = "application/cloudevents-batch+json";
const SOURCE: &str = "shopery-cli";
/// What ingest takes in one request, with room for the brackets.
const MAX_BATCH: usize = 1000;
const MAX_BATCH_BYTES: usize = 15 * 1024 * 1024;
/// An event has at most 256 KiB.
const MAX_LINE: u64 = 512 * 1024;

/// Example: shopery events publish order-created --subject order/ord_123 @order.json
#[derive(Debug, Args)]
pub struct Publish {
    /// What happened, such as order-created
    #[arg(required_unless_present = "file")]
    event_type: Option<String>,

    /// The resource as JSON, @FILE, or - for stdin
    #[arg(required_unless_present = "file")]
    data: Option<String>,

    /// Which resource: order/ord_123
    #[arg(long, value_name = "RESOURCE/ID", required_unless_present = "file")]
    subject: Option<String>,

    /// The event's id; publishing it again within ten minutes stores nothing new, which is said [one that is made up]
    #[arg(long)]
    id: Option<String>,

    #[arg(long, default_value = SOURCE)]
    source: String,

    /// When it happened, in RFC 3339 [when it is accepted]
    #[arg(long, value_name = "TIME")]
    time: Option<String>,

    /// Publish a file, or - for stdin, with a CloudEvent on each line, in batches of up to 1,000; id, source and
    /// specversion may be left out
    #[arg(long, value_name = "FILE", conflicts_with_all = ["event_type", "data", "subject", "id", "time"])]
    file: Option<PathBuf>,
}

#[derive(Serialize)]
struct Event<'a> {
    specversion: &'static str,
    id: &'a str,
    source: &'a str,
    #[serde(rename = "type")]
    event_type: &'a str,
    subject: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    time: Option<&'a str>,
    data: &'a RawValue,
}

impl Publish {
    pub async fn run(self, context: &Context) -> Result<(), Failure> {
        if let Some(path) = &self.file {
            return self.file(context, path).await;
        }
        let data = input::text("the data", self.data.as_deref().unwrap_or("-"))?;
        let data: &RawValue =
            serde_json::from_str(&data).map_err(|error| Failure::usage(format!("the data is not JSON: {error}")))?;
        let made_up = format!("evt_{}", Ulid::generate());
        let event = Event {
            specversion: "1.0",
            id: self.id.as_deref().unwrap_or(&made_up),
            source: &self.source,
            event_type: self.event_type.as_deref().unwrap_or_default(),
            subject: self.subject.as_deref().unwrap_or_default(),
            time: self.time.as_deref(),
            data,
        };
        let body = serde_json::to_vec(&event).map_err(|_| Failure::failed("the event cannot be written as JSON"))?;
        let answer = context.json(Request::post(&["events"]).ingest().body(ONE, body)).await?;
        if context.output.is_human() && serde_json::from_str::<Answer>(answer.get()).is_ok_and(|one| one.duplicate) {
            context.output.note("it had been published before: nothing new was stored");
        }
        context.output.one(&answer, |members| members.text("id"))
    }

    async fn file(&self, context: &Context, path: &PathBuf) -> Result<(), Failure> {
        let name = path.display().to_string();
        let reader: Box<dyn Read> = if name == "-" {
            Box::new(io::stdin())
        } else {
            let opened = File::open(path);
            Box::new(opened.map_err(|error| Failure::usage(format!("cannot read {name}: {error}")))?)
        };
        let mut lines = Lines { reader: BufReader::new(reader), number: 0, held: None, source: &self.source };
        let mut published = Published { format: context.output.format, count: 0, duplicates: 0 };
        while let Some(batch) = lines.batch()? {
            let request = Request::post(&["events"]).ingest().body(BATCH, batch.body());
            let answer = context.send(request).await.map_err(|failure| batch.failed(failure, published.count))?;
            published.batch(&answer.json()?, answer.read::<Ids>()?)?;
        }
        published.end()
    }
}

/// Of each event of a batch too; an ingest of before says of none that it is a duplicate.
#[derive(Debug, Deserialize)]
struct Answer {
    #[serde(default)]
    duplicate: bool,
}

#[derive(Debug, Deserialize)]
struct Ids {
    ids: Vec<Box<RawValue>>,
    #[serde(default)]
    events: Vec<Answer>,
}

/// Events that are sent together, and the lines they are on.
#[derive(Debug, Default)]
struct Batch {
    events: Vec<Vec<u8>>,
    lines: Vec<usize>,
    bytes: usize,
}

impl Batch {
    fn body(&self) -> Vec<u8> {
        [b"[".as_slice(), &self.events.join(&b','), b"]"].concat()
    }

    /// Errors name the lines of the file; and what has been published stays so.
    fn failed(&self, failure: Failure, published: usize) -> Failure {
        let done = match published {
            0 => "no event was published".to_owned(),
            n => format!("{n} events were published, up to this batch, and need not be again"),
        };
        match failure {
            Failure::Refused(problem) => {
                // Of a batch with a conflict, a part may be stored: the detail says how much.
                let what = if problem.status == 409 { &problem.detail } else { &problem.title };
                let done =
                    if problem.status == 409 { done.replace("no event was", "no other event was") } else { done };
                let mut problem = Problem { title: format!("{what}; {done}"), ..*problem };
                for error in &mut problem.errors {
                    error.field = self.line_of(&error.field);
                }
                Failure::Refused(Box::new(problem))
            }
            Failure::Unavailable(why) => {
                Failure::Unavailable(format!("{why}\n{done}; run it again: what is there already is not stored twice"))
            }
            other => other,
        }
    }

    /// `[3].type` is the type on the line of the fourth event.
    fn line_of(&self, field: &str) -> String {
        let index = field.strip_prefix('[').and_then(|rest| rest.split_once(']'));
        let line = index.and_then(|(index, rest)| Some((self.lines.get(index.parse::<usize>().ok()?)?, rest)));
        line.map_or_else(|| field.to_owned(), |(line, rest)| format!("line {line}{}", rest.replacen('.', ", ", 1)))
    }
}

struct Lines<'a> {
    reader: BufReader<Box<dyn Read>>,
    number: usize,
    /// An event that found no room in the batch before.
    held: Option<(usize, Vec<u8>)>,
    source: &'a str,
}

impl Lines<'_> {
    /// The next events, as many as go into one request.
    fn batch(&mut self) -> Result<Option<Batch>, Failure> {
        let mut batch = Batch::default();
        while batch.events.len() < MAX_BATCH {
            let Some((line, event)) = self.next()? else { break };
            if batch.bytes + event.len() > MAX_BATCH_BYTES {
                self.held = Some((line, event));
                break;
            }
            batch.bytes += event.len() + 1;
            batch.lines.push(line);
            batch.events.push(event);
        }
        Ok(Some(batch).filter(|batch| !batch.events.is_empty()))
    }

    fn next(&mut self) -> Result<Option<(usize, Vec<u8>)>, Failure> {
        if let Some(held) = self.held.take() {
            return Ok(Some(held));
        }
        loop {
            let mut line = Vec::new();
            let read = self.reader.by_ref().take(MAX_LINE).read_until(b'\n', &mut line);
            let read = read.map_err(|error| Failure::usage(format!("the file cannot be read: {error}")))?;
            if read == 0 {
                return Ok(None);
            }
            self.number += 1;
            if read as u64 == MAX_LINE {
                return Err(Failure::usage(format!("line {} is larger than any event may be", self.number)));
            }
            if !line.trim_ascii().is_empty() {
                return Ok(Some((self.number, complete(line.trim_ascii(), self.number, self.source)?)));
            }
        }
    }
}

/// Adds what every event has. An id that is made up follows from line and place, so that the same file published again
/// has the same ids.
fn complete(line: &[u8], number: usize, source: &str) -> Result<Vec<u8>, Failure> {
    let wrong = || Failure::usage(format!("line {number} is not a JSON object"));
    let mut members: Members = serde_json::from_slice(line).map_err(|_| wrong())?;
    let hash = digest(&SHA256, &[number.to_string().as_bytes(), b":", line].concat());
    let id: String = hash.as_ref().iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    for (name, value) in [("specversion", "1.0"), ("id", &format!("evt_{id}")), ("source", source)] {
        if members.0.iter().all(|(known, _)| known != name) {
            members.0.push((name.to_owned(), to_raw_value(value).map_err(|_| wrong())?));
        }
    }
    serde_json::to_vec(&members).map_err(|_| wrong())
}

/// What is printed of a file: for scripts the ids, as if it had been one batch, and how many of them were published
/// before; or each answer on a line.
#[derive(Debug)]
struct Published {
    format: Format,
    count: usize,
    duplicates: usize,
}

impl Published {
    fn batch(&mut self, answer: &RawValue, ids: Ids) -> Result<(), Failure> {
        let (terminal, mut out) = (Terminal::stdout(), io::stdout().lock());
        self.duplicates += ids.events.iter().filter(|event| event.duplicate).count();
        match self.format {
            Format::Human => eprintln!("{}", told(self.count + ids.ids.len(), self.duplicates)),
            Format::JsonLines => writeln!(out, "{}", terminal.json(answer.get()))?,
            Format::Json => {
                for (place, id) in ids.ids.iter().enumerate() {
                    out.write_all(if self.count + place == 0 { b"{\"ids\":[" } else { b"," })?;
                    out.write_all(terminal.json(id.get()).as_bytes())?;
                }
            }
        }
        self.count += ids.ids.len();
        Ok(())
    }

    fn end(self) -> Result<(), Failure> {
        let mut out = io::stdout().lock();
        match (self.format, self.count) {
            (Format::Json, 0) => writeln!(out, "{{\"ids\":[],\"duplicates\":0}}")?,
            (Format::Json, _) => writeln!(out, "],\"duplicates\":{}}}", self.duplicates)?,
            (Format::Human, 0) => eprintln!("there are no events in it"),
            _ => {}
        }
        Ok(out.flush()?)
    }
}

fn told(count: usize, duplicates: usize) -> String {
    match duplicates {
        0 => format!("{count} published"),
        n => format!("{count} published, {n} of them before: nothing new was stored of those"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shopery_client::FieldError;

    fn lines(text: &str) -> Lines<'static> {
        let reader: Box<dyn Read> = Box::new(io::Cursor::new(text.to_owned().into_bytes()));
        Lines { reader: BufReader::new(reader), number: 0, held: None, source: "s" }
    }

    #[test]
    fn a_line_is_completed_and_otherwise_left_as_it_is() {
        let line = br#"{"type":"order-created","data":{"total_price":59.80,"b":1,"a":2},"id":"mine"}"#;
        assert_eq!(
            String::from_utf8(complete(line, 1, "s").unwrap()).unwrap(),
            r#"{"type":"order-created","data":{"total_price":59.80,"b":1,"a":2},"id":"mine","specversion":"1.0","source":"s"}"#
        );
        let (one, same, other) = (complete(b"{}", 1, "s"), complete(b"{}", 1, "s"), complete(b"{}", 2, "s"));
        assert_eq!(one.as_ref().unwrap(), &same.unwrap());
        assert_ne!(one.unwrap(), other.unwrap());
        assert!(complete(b"[1]", 7, "s").unwrap_err().to_string().contains("line 7"));
    }

    #[test]
    fn a_file_is_cut_into_batches_that_ingest_takes() {
        let mut many = lines(&"{\"a\":1}\n\n".repeat(2001));
        let sizes: Vec<_> = std::iter::from_fn(|| many.batch().unwrap()).map(|batch| batch.events.len()).collect();
        assert_eq!(sizes, [1000, 1000, 1]);
        let mut large = lines(&format!("{{\"a\":\"{}\"}}\n", "x".repeat(400_000)).repeat(50));
        let batches: Vec<_> = std::iter::from_fn(|| large.batch().unwrap()).collect();
        assert!(batches.iter().all(|batch| batch.body().len() <= 16 * 1024 * 1024));
        assert_eq!(batches.iter().map(|batch| batch.events.len()).sum::<usize>(), 50);
        assert!(lines("").batch().unwrap().is_none());
    }

    #[test]
    fn an_error_of_a_batch_names_the_line() {
        let batch = Batch { lines: vec![4, 9], ..Batch::default() };
        let error = |field: &str| FieldError { field: field.into(), detail: "is missing".into() };
        let problem = Problem {
            status: 422,
            title: "Fields are invalid".into(),
            detail: String::new(),
            errors: vec![error("[1].type"), error("batch")],
        };
        let conflict = Problem { status: 409, detail: "1 of 2 events were stored".into(), ..problem.clone() };
        let told = batch.failed(Failure::Refused(Box::new(problem)), 1000).to_string();
        assert!(told.contains("line 9, type: is missing") && told.contains("1000 events were published"), "{told}");
        let told = batch.failed(Failure::Refused(Box::new(conflict)), 0).to_string();
        assert!(told.contains("1 of 2 events were stored; no other event was published"), "{told}");
    }

    #[test]
    fn duplicates_are_told() {
        let ids: Ids = serde_json::from_str(r#"{"ids":["a","b"],"events":[{"duplicate":true},{}]}"#).unwrap();
        assert_eq!(ids.events.iter().filter(|event| event.duplicate).count(), 1);
        assert!(serde_json::from_str::<Ids>(r#"{"ids":["a"]}"#).is_ok());
        assert_eq!((told(2, 0), told(2, 1).contains("1 of them before")), ("2 published".to_owned(), true));
    }
}
