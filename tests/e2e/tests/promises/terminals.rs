//! No text from an API commands the terminal at which `shopery` shows it.

use std::collections::BTreeSet;

use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::http::header::{CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use axum::response::Response;
use serde_json::Value;
use shopery_e2e::{Event, Person, Service, Stack};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// What a terminal obeys or hides: a C1 control, DEL, a change of direction, what has no width, line separators, a tag, and
/// an escape sequence.
const HOSTILE: &str = "\u{9b}2J\u{7f}\u{202e}\u{200b}\u{2028}\u{2029}\u{feff}\u{e0041}\u{1b}]0;gone\u{7}";
const MOST: usize = 4 * 1024 * 1024;

/// Passes requests on, and writes [`HOSTILE`] behind every text of an answer that is not for programs.
async fn hostile(far: String) -> String {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let pass_on = move |request: Request| {
        let (client, far) = (client.clone(), far.clone());
        async move {
            let (mut parts, body) = request.into_parts();
            parts.headers.remove(HOST);
            let url = format!("{far}{}", parts.uri);
            let request = client.request(parts.method, url).headers(parts.headers);
            let answer = request.body(to_bytes(body, MOST).await.unwrap()).send().await.unwrap();
            let mut response = Response::builder().status(answer.status());
            for (name, value) in answer.headers() {
                if ![CONTENT_LENGTH, TRANSFER_ENCODING].contains(name) {
                    response = response.header(name, value);
                }
            }
            let body = answer.bytes().await.unwrap();
            let poisoned = serde_json::from_slice(&body).map(|mut json| {
                poison(&mut json, "");
                json.to_string()
            });
            response.body(poisoned.map_or_else(|_| Body::from(body), Body::from)).unwrap()
        }
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, axum::Router::new().fallback(pass_on)).await });
    format!("http://{address}")
}

/// Ids, times, states and cursors are what the command goes on with.
fn poison(value: &mut Value, name: &str) {
    match value {
        Value::String(text) => {
            let is_of_ours =
                ["id", "state", "type", "secret"].contains(&name) || name.ends_with("Id") || name.ends_with("Cursor");
            if !is_of_ours && OffsetDateTime::parse(text, &Rfc3339).is_err() {
                text.push_str(HOSTILE);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| poison(item, name)),
        Value::Object(members) => members.iter_mut().for_each(|(name, value)| poison(value, name)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// The commands, as the command line itself lists them.
async fn commands(person: &Person) -> BTreeSet<String> {
    let mut commands = BTreeSet::new();
    for group in listed(&person.ok(&["--help"]).await) {
        let within = listed(&person.ok(&[&group, "--help"]).await);
        if within.is_empty() {
            commands.insert(group);
        } else {
            commands.extend(within.iter().map(|command| format!("{group} {command}")));
        }
    }
    commands
}

fn listed(help: &str) -> Vec<String> {
    let lines = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let names = lines.filter_map(|line| line.split_whitespace().next());
    names.filter(|name| *name != "help").map(str::to_owned).collect()
}

#[track_caller]
fn check(what: &str, shown: &str) {
    // A progress bar is written over.
    let shown = shown.replace("\r\u{1b}[K", "");
    let found =
        shown.chars().find(|c| (c.is_control() && !"\r\n".contains(*c)) || HOSTILE.contains(*c) && !c.is_ascii());
    assert_eq!(found, None, "{what}: {shown:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_command_hands_on_to_a_terminal_what_it_would_obey() {
    let stack = Stack::start().await;
    let [api, ingest] = [hostile(stack.url(Service::Api)).await, hostile(stack.url(Service::Ingest)).await];
    let person = Person::of(&stack, "tnt_a").with("NO_COLOR", "1");
    let person = person.with("SHOPERY_API_URL", &api).with("SHOPERY_INGEST_URL", &ingest);
    let client = stack.client("tnt_a");
    let url = stack.merchant.url("/w");
    let [id, other] = [client.create_webhook(&url, &["*"]).await, client.create_webhook(&url, &["order-paid"]).await];
    client.publish(&Event::order("1")).await.expect(202);
    let settled = client.settled(&id, 1, std::time::Duration::from_secs(60)).await.remove(0);
    let delivery = settled["id"].as_str().unwrap().to_owned();
    let since = serde_json::json!({ "since": "2020-01-01T00:00:00Z", "statuses": ["delivered"] });
    let recovery = client.post(&format!("/company/webhooks/{id}/recover"), &since).await.expect(202).json();
    let recovery = recovery["id"].as_str().unwrap().to_owned();
    std::fs::write(person.home.join("headers"), format!("webhook-id: dlv{HOSTILE}\nwebhook-timestamp: 1\n")).unwrap();
    let secret = client.secret(&id).await;
    let data = r#"{"id":"1"}"#;

    let publish = ["order-created", "--subject", "order/2", data];
    let create = ["--name", "new", "--url", &url, "--event", "order-created"];
    let table: Vec<(&str, Vec<&str>)> = vec![
        ("completions", vec!["bash"]),
        ("deliveries attempt", vec![&delivery]),
        ("deliveries get", vec![&delivery]),
        ("deliveries list", vec![]),
        ("deliveries resend", vec![&delivery]),
        ("deliveries tail", vec![]),
        ("digest", vec![&id, "--since", "1h"]),
        ("events get", vec!["evt_1", "--resource", "order/1"]),
        ("events list", vec![]),
        ("events publish", publish.to_vec()),
        ("events types", vec![]),
        ("login", vec!["--token", &person.token]),
        ("metrics", vec![]),
        ("recover", vec![&id, "--since", "1h"]),
        ("recoveries cancel", vec![&recovery]),
        ("recoveries get", vec![&recovery]),
        ("recoveries list", vec![&id]),
        ("verify", vec!["--secret", &secret, "--headers", "@headers"]),
        ("webhooks changes", vec![&id]),
        ("webhooks create", create.to_vec()),
        ("webhooks disable", vec![&id]),
        ("webhooks enable", vec![&id]),
        ("webhooks get", vec![&id]),
        ("webhooks list", vec![]),
        ("webhooks match", vec!["order-created"]),
        ("webhooks rotate-secret", vec![&id]),
        ("webhooks secret", vec![&id]),
        ("webhooks setup", vec!["arn:aws:events:eu-west-1:123456789012:event-bus/orders"]),
        ("webhooks test", vec![&id]),
        ("webhooks update", vec![&id, "--name", "another"]),
        // In the second form it is gone, and the API says so.
        ("webhooks delete", vec![&other, "--yes"]),
        ("whoami", vec![]),
        ("logout", vec![]),
    ];
    let known: BTreeSet<_> = table.iter().map(|(command, _)| (*command).to_owned()).collect();
    assert_eq!(commands(&person).await, known, "each command is to be tried");

    let mut escaped = BTreeSet::new();
    for (command, arguments) in &table {
        for form in [&[][..], &["--json"]] {
            let arguments: Vec<&str> =
                command.split(' ').chain(form.iter().copied()).chain(arguments.iter().copied()).collect();
            let terminal = person.at_terminal(&arguments);
            if *command == "deliveries tail" {
                terminal.shows("watching").await;
                client.publish(&Event::order(&format!("tail-{}", form.len()))).await.expect(202);
                terminal.shows("delivered").await;
                terminal.interrupt();
            }
            let (code, shown) = terminal.end().await;
            // What is gone, has ended, is under way or is not verified is an error, which is shown too.
            let may_fail = ["deliveries resend", "recoveries cancel", "verify", "webhooks delete"].contains(command);
            assert!(code == Some(0) || (may_fail && code == Some(1)), "{arguments:?}: {code:?} {shown}");
            assert!(!shown.contains(&person.token), "{arguments:?}: the token was shown");
            check(&format!("{arguments:?}"), &shown);
            if shown.contains("u{202e}") || shown.contains("\\u202e") {
                escaped.insert((*command, form.len()));
            }
        }
    }
    // Most of them show something of what was hostile; the others show ids, numbers and times.
    println!("{} forms had something to escape: {escaped:?}", escaped.len());
    assert!(escaped.len() >= 30, "{escaped:?}");
}
