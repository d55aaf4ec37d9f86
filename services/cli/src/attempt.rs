//! `shopery deliveries attempt`: what was sent and what was answered, as it was.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::Deserialize;

use crate::client::Request;
use crate::context::Context;
use crate::failure::Failure;
use crate::output::Format;
use crate::table::{DIM, paint};
use crate::terminal::{plain, plain_lines};

#[derive(Deserialize)]
struct Delivery {
    attempts: Vec<Known>,
}

#[derive(Deserialize)]
struct Known {
    id: String,
    number: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Attempt {
    started_at: String,
    duration_ms: u64,
    request: Sent,
    response: Option<Answered>,
    error: Option<Reason>,
    note: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Sent {
    method: String,
    url: String,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    body: Option<String>,
    body_unavailable: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Answered {
    status: Option<u16>,
    /// Of a bus or a topic.
    code: Option<String>,
    message_id: Option<String>,
    #[serde(default)]
    headers: Vec<Header>,
    body: String,
}

#[derive(Deserialize)]
struct Header {
    name: String,
    value: String,
}

#[derive(Deserialize)]
struct Reason {
    detail: String,
}

/// The attempt with this number, or the last one.
pub async fn show(context: &Context, delivery: &str, number: Option<u64>) -> Result<(), Failure> {
    let found = context.json(Request::get(&["company", "deliveries", delivery])).await?;
    let known: Delivery =
        serde_json::from_str(found.get()).map_err(|_| Failure::failed("the API answered with what is no delivery"))?;
    let wanted = known.attempts.iter().rfind(|attempt| number.is_none_or(|number| attempt.number == number));
    let Some(wanted) = wanted else {
        let numbers: Vec<_> = known.attempts.iter().map(|attempt| attempt.number.to_string()).collect();
        return Err(Failure::usage(match numbers.as_slice() {
            [] => "no attempt of this delivery was made".to_owned(),
            numbers => format!("the attempts of this delivery are {}", numbers.join(", ")),
        }));
    };
    let path = ["company", "deliveries", delivery, "attempts", &wanted.id];
    let found = context.json(Request::get(&path)).await?;
    if context.output.format != Format::Human {
        return context.output.json(found.get());
    }
    let attempt: Attempt =
        serde_json::from_str(found.get()).map_err(|_| Failure::failed("the API answered with what is no attempt"))?;
    context.output.line(tell(&attempt, context.output.terminal.has_colour).trim_end())
}

/// As HTTP is written.
fn tell(attempt: &Attempt, has_colour: bool) -> String {
    let Attempt { started_at, duration_ms, request, response, error, note } = attempt;
    let mut told = paint(&format!("{}, {duration_ms} ms", plain(started_at)), DIM, has_colour) + "\n";
    // Writing to a String cannot fail.
    let _ = writeln!(told, "{} {}", plain(&request.method), plain(&request.url));
    for (name, value) in &request.headers {
        let _ = writeln!(told, "{}: {}", plain(name), plain(value));
    }
    let body = match (&request.body, &request.body_unavailable) {
        (Some(body), _) => plain_lines(body),
        (None, Some(why)) => paint(&format!("(no body: {})", plain(why)), DIM, has_colour),
        (None, None) => String::new(),
    };
    let _ = writeln!(told, "\n{body}\n");
    if let Some(Answered { status, code, message_id, headers, body }) = response {
        let status = status.map(|status| status.to_string());
        for answered in [status.as_ref(), code.as_ref(), message_id.as_ref()].into_iter().flatten() {
            let _ = writeln!(told, "{}", plain(answered));
        }
        for Header { name, value } in headers {
            let _ = writeln!(told, "{}: {}", plain(name), plain(value));
        }
        let _ = writeln!(told, "\n{}", plain_lines(body));
    }
    if let Some(Reason { detail }) = error {
        let _ = writeln!(told, "\n{}", plain(detail));
    }
    if let Some(note) = note {
        let _ = writeln!(told, "\n{}", plain(note));
    }
    told
}
