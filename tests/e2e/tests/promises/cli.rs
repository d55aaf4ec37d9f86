//! The command line does what the API does, tells scripts how it went, and shows no token.

use std::collections::HashMap;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use shopery_e2e::{Behaviour, Event, Person, Service, Stack, ports, token, wait};
use shopery_model::catalogue;
use tokio::io::{AsyncReadExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};

const SOON: Duration = Duration::from_secs(60);

fn lines(printed: &str) -> Vec<Value> {
    printed.lines().filter(|line| line.starts_with('{')).map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_is_kept_for_its_owner_alone_and_goes_nowhere_else() {
    let stack = Stack::start().await;
    let person = Person::without_variables(&stack, "tnt_a");
    let (api, ingest) = (stack.url(Service::Api), stack.url(Service::Ingest));
    let kept = person.home.join(".config/shopery/config.json");
    assert!(person.fails(2, &["webhooks", "list"]).await.contains("shopery login"));

    // What the API does not accept is not kept.
    let bad = token::sign(&token::claims(&["tnt_a"], token::ALL), jsonwebtoken::Algorithm::HS256, &"x".repeat(40));
    let refused = person.pipe(&["login", "--api-url", &api], bad.as_bytes()).await;
    assert!(refused.code == 1 && !kept.exists() && !refused.err.contains(&bad), "{}", refused.err);

    let login = person.pipe(&["login", "--api-url", &api, "--ingest-url", &ingest], person.token.as_bytes()).await;
    assert_eq!(login.code, 0, "{}", login.err);
    let mode = |path: &PathBuf| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&kept), mode(&kept.parent().unwrap().to_owned())), (0o600, 0o700));

    let me = person.json(&["whoami"]).await;
    assert_eq!((&me["tenant"], &me["accepted"], &me["tokenFrom"]), (&json!("tnt_a"), &json!(true), &json!("login")));
    assert_eq!(me["scopes"], json!(["webhooks:read", "webhooks:write", "events:write"]), "{me}");
    assert!(me["expiresAt"].is_string());
    let told = person.ok(&["whoami"]).await;
    assert!(told.contains("accepted  yes") && told.contains("of e2e"), "{told}");
    assert_eq!(person.json(&["webhooks", "list"]).await, json!([]));

    // The token of a login is not sent to whatever URL somebody names.
    let elsewhere = stack.merchant.url("");
    assert!(
        person.fails(2, &["webhooks", "list", "--api-url", &elsewhere]).await.contains("not where you have logged in")
    );
    assert_eq!(stack.merchant.count(), 0);

    // A file that others may read is not used.
    std::fs::set_permissions(&kept, std::fs::Permissions::from_mode(0o644)).unwrap();
    assert!(person.fails(2, &["webhooks", "list"]).await.contains("chmod 600"));
    person.ok(&["logout"]).await;
    assert!(!kept.exists());
    // A token in the wrong place is not repeated.
    assert!(person.fails(2, &["login", &person.token]).await.contains("***"));
}

#[tokio::test(flavor = "multi_thread")]
async fn from_creating_a_webhook_to_verifying_what_arrived() {
    let stack = Stack::start().await;
    let person = Person::of(&stack, "tnt_a");
    let url = stack.merchant.url("/orders");
    let id = person.ok(&["webhooks", "create", "--name", "mine", "--url", &url, "--event", "order-created"]).await;
    assert!(id.starts_with("wbh_"), "{id}");
    assert!(person.ok(&["webhooks", "test", &id]).await.starts_with("status 200 in "));
    let listed = person.ok(&["webhooks", "list"]).await;
    assert!(listed.starts_with("ID") && listed.contains(&id) && !listed.contains('\u{1b}'), "{listed}");

    let mut tail = person.start(&["deliveries", "tail", "--webhook", &id]);
    tail.says("watching").await;
    let example = catalogue().example("order-created".parse().unwrap()).unwrap();
    let data = example.get();
    let event = person.ok(&["events", "publish", "order-created", "--subject", "order/ord_123", data]).await;
    tail.says("delivered").await;
    let arrived = stack.merchant.wait_at("/orders", 2, SOON).await.pop().unwrap();
    assert_eq!((arrived.event_id(), arrived.body.as_ref()), (event.as_str(), data.as_bytes()));
    let delivery = arrived.webhook_id().to_owned();

    let shown = person.json(&["deliveries", "get", &delivery]).await;
    assert_eq!((&shown["state"], &shown["attempts"][0]["response"]["status"]), (&json!("delivered"), &json!(200)));
    assert!(person.ok(&["deliveries", "get", &delivery]).await.contains("ATTEMPT  STARTED"));
    assert_eq!(person.ok(&["deliveries", "resend", &delivery]).await, delivery);
    stack.merchant.wait_at("/orders", 3, SOON).await;
    wait::until("the second round in the tail", SOON, async || {
        let said = tail.process.output();
        if said.contains("2 attempts") { Ok(()) } else { Err(said) }
    })
    .await;
    let (code, said) = tail.interrupt().await;
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(said.matches("delivered").count(), 2, "{said}");
    let metrics = person.json(&["metrics", &id, "--step", "1m", "--since", "10m"]).await;
    assert_eq!(metrics["total"]["deliveries"]["delivered"], 2, "{metrics}");
    assert_eq!(person.json(&["metrics"]).await["total"]["attempts"], 2);
    assert!(person.ok(&["metrics"]).await.contains("P99 MS"));

    // What really arrived is verified, and what was changed is not, and why is said.
    let secret = stack.client("tnt_a").secret(&id).await;
    std::fs::write(person.home.join("secret"), format!("{secret}\n")).unwrap();
    let headers: String = ["webhook-id", "webhook-timestamp", "webhook-signature"]
        .iter()
        .map(|name| format!("{name}: {}\n", arrived.header(name)))
        .collect();
    std::fs::write(person.home.join("headers"), headers).unwrap();
    let verify = ["verify", "--secret", "@secret", "--headers", "@headers"];
    let good = person.pipe(&verify, &arrived.body).await;
    assert_eq!((good.code, good.out.trim_end()), (0, "verified, by a v1 signature"), "{}", good.err);
    let longer = person.pipe(&verify, &[&arrived.body, b"\n".as_slice()].concat()).await;
    assert_eq!(longer.code, 1);
    assert!(longer.err.contains("line end behind it that was not sent"), "{}", longer.err);
    let late = person.pipe(&[verify.as_slice(), &["--at", "2099-01-01", "--json"]].concat(), &arrived.body).await;
    let verdict: Value = serde_json::from_str(&late.out).unwrap();
    assert_eq!((late.code, &verdict["verified"]), (1, &json!(false)));
    assert!(text(&verdict["wrong"][0]).contains("s old"), "{verdict}");
}

#[tokio::test(flavor = "multi_thread")]
async fn webhooks_are_changed_as_the_api_changes_them() {
    let stack = Stack::start().await;
    let person = Person::of(&stack, "tnt_a");
    let url = stack.merchant.url("/w");
    let id = person
        .ok(&[
            "webhooks",
            "create",
            "--name",
            "all of it",
            "--url",
            &url,
            "--event",
            "order-*,product-created",
            "--filter",
            r#"{"total_price":[{"numeric":[">",50]}]}"#,
            "--header",
            "X-Gate: hush-hush",
            "--field",
            "id,total_price",
            "--changed",
            "total_price",
            "--debounce",
            "5s",
            "--rate-limit",
            "50",
            "--signature",
            "both",
            "--drop-duplicates",
            "false",
            "--disabled",
        ])
        .await;
    let shown = person.json(&["webhooks", "get", &id]).await;
    assert_eq!(shown, stack.client("tnt_a").get(&format!("/company/webhooks/{id}")).await.json());
    assert_eq!(
        (&shown["state"], &shown["rateLimit"], &shown["debounce"]),
        (&json!("paused"), &json!(50), &json!("5s"))
    );
    assert_eq!((&shown["fields"], &shown["headers"]), (&json!(["id", "total_price"]), &json!({ "X-Gate": "***" })));

    let etag = person.ok(&["webhooks", "get", &id, "--etag"]).await;
    let update = ["webhooks", "update", &id, "--if-match", &etag, "--name", "b", "--clear", "filter,rate-limit"];
    let changed = person.json(&update).await;
    assert_eq!((&changed["name"], changed.get("filter"), changed.get("rateLimit")), (&json!("b"), None, None));
    let stale = person.fails(1, &update).await;
    assert!(stale.contains("(412)") && stale.contains("etag"), "{stale}");
    let enabled = person.json(&["webhooks", "enable", &id, "--waiting", "discard"]).await;
    assert_eq!(enabled["state"], "active");
    assert_eq!(person.json(&["webhooks", "disable", &id]).await["state"], "paused");

    let before = stack.client("tnt_a").secret(&id).await;
    let rotated =
        person.command(&["webhooks", "rotate-secret", &id, "--overlap", "1h", "--json"]).output().await.unwrap();
    let rotated: Value = serde_json::from_slice(&rotated.stdout).unwrap();
    assert_eq!((&rotated["previous"][0]["secret"], rotated["publicKey"].is_string()), (&json!(before), true));

    let changes = person.json(&["webhooks", "changes", &id]).await;
    assert_eq!(changes[0]["changes"]["secret"], json!({ "from": "***", "to": "***" }), "{changes}");
    let told = person.ok(&["webhooks", "changes", &id]).await;
    assert!(told.starts_with("AT") && told.contains("created") && !told.contains("hush-hush"), "{told}");

    assert!(person.fails(2, &["webhooks", "delete", &id]).await.contains("--yes"));
    person.ok(&["webhooks", "delete", &id, "--yes"]).await;
    assert!(person.fails(1, &["webhooks", "get", &id]).await.contains("(404)"));
    stack.merchant.behave("/down", Behaviour::Answer(500));
    let down = person.run(&["webhooks", "test", "--url", &stack.merchant.url("/down"), "--json"]).await;
    assert_eq!(down.code, 1, "{}", down.err);
    assert_eq!(serde_json::from_str::<Value>(&down.out).unwrap()["status"], 500);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_published_in_batches_and_lists_follow_their_cursors() {
    let stack = Stack::start().await;
    let person = Person::of(&stack, "tnt_a");
    let url = stack.merchant.url("/many");
    let id = person.ok(&["webhooks", "create", "--name", "n", "--url", &url, "--event", "*"]).await;
    let mut follow = person.start(&["events", "list", "--follow", "--json"]);
    follow.says("watching").await;
    let file: String = (0..1205)
        .map(|n| {
            format!("{}\n", json!({ "type": "order-created", "subject": format!("order/{n}"), "data": { "id": n } }))
        })
        .collect();
    let published = person.pipe(&["events", "publish", "--file", "-", "--json"], file.as_bytes()).await;
    assert_eq!(published.code, 0, "{}", published.err);
    let published: Value = serde_json::from_str(&published.out).unwrap();
    assert_eq!(published["ids"].as_array().unwrap().len(), 1205);
    // Again: the ids follow from the lines, so nothing new is stored.
    let again = person.pipe(&["events", "publish", "--file", "-", "--json"], file.as_bytes()).await;
    let again: Value = serde_json::from_str(&again.out).unwrap();
    assert_eq!(again["ids"], published["ids"]);
    assert_eq!((&published["duplicates"], &again["duplicates"]), (&json!(0), &json!(1205)));
    stack.client("tnt_a").settled(&id, 1205, SOON).await;

    let all = person.json(&["deliveries", "list", "--webhook", &id, "--status", "delivered", "--all"]).await;
    let ids: std::collections::HashSet<_> = all.as_array().unwrap().iter().map(|one| text(&one["id"])).collect();
    assert_eq!((all.as_array().unwrap().len(), ids.len()), (1205, 1205));
    let some = person.ok(&["deliveries", "list", "--limit", "3", "--jsonl"]).await;
    assert_eq!(lines(&some), all.as_array().unwrap()[..3]);
    let none = person.run(&["deliveries", "list", "--status", "failed", "--json"]).await;
    assert_eq!((none.code, none.out.as_str()), (0, "[]\n"));
    let events = person.json(&["events", "list", "--all"]).await;
    assert_eq!(events.as_array().unwrap().len(), 1205);
    wait::until("all events in the feed", SOON, async || {
        let seen = lines(&follow.process.output()).len();
        if seen == 1205 { Ok(()) } else { Err(format!("{seen}")) }
    })
    .await;
    assert_eq!(follow.interrupt().await.0, Some(0));

    let wrong =
        "{\"type\":\"order-created\",\"subject\":\"order/1\",\"data\":{}}\n\n{\"type\":\"no-such\",\"data\":{}}\n";
    let wrong = person.pipe(&["events", "publish", "--file", "-"], wrong.as_bytes()).await;
    assert_eq!(wrong.code, 1);
    assert!(wrong.err.contains("line 3, type") && wrong.err.contains("no event was published"), "{}", wrong.err);
    let digest = person.json(&["digest", &id, "--since", "1h", "--step", "2h"]).await;
    assert_eq!((&digest[0]["delivered"], text(&digest[0]["digest"]).len()), (&json!(1205), 64));
    assert!(person.ok(&["events", "types"]).await.contains("order-created"));
    // Whoever has read enough closes the pipe.
    let mut head = person.command(&["deliveries", "list", "--all"]);
    let mut head = head.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(head.stdout.take());
    let ended = wait::within("the end of a list that nobody reads", SOON, head.wait_with_output()).await.unwrap();
    assert_eq!((ended.status.code(), ended.stderr.as_slice()), (Some(0), b"".as_slice()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recovery_shows_how_it_gets_on_and_what_came_of_it() {
    let stack =
        Stack::plan().env("SHOPERY_RETRY_SCHEDULE", "100ms").env("SHOPERY_CIRCUIT_FAILURES", "50").start().await;
    let (person, client) = (Person::of(&stack, "tnt_a"), stack.client("tnt_a"));
    stack.merchant.behave("/down", Behaviour::Answer(500));
    let id = client.create_webhook(&stack.merchant.url("/down"), &["*"]).await;
    let events: Vec<_> = (0..20).map(|n| Event::order(&format!("o{n}"))).collect();
    client.try_publish_batch(&events).await.unwrap().expect(202);
    client.in_state(&id, "failed", 20, SOON).await;
    stack.merchant.behave("/down", Behaviour::Answer(200));

    let ran = person.run(&["recover", &id, "--since", "1h", "--status", "failed", "--json"]).await;
    assert_eq!(ran.code, 0, "{}", ran.err);
    let recovery: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!((&recovery["state"], &recovery["resent"]), (&json!("completed"), &json!(20)), "{recovery}");
    assert!(ran.err.contains("20/20  20 resent") && !ran.err.contains('\u{1b}'), "{}", ran.err);
    client.in_state(&id, "delivered", 20, SOON).await;

    let listed = person.json(&["recoveries", "list", &id]).await;
    assert_eq!((listed.as_array().unwrap().len(), &listed[0]["id"]), (1, &recovery["id"]));
    let got = person.json(&["recoveries", "get", text(&recovery["id"]), "--follow"]).await;
    assert_eq!(got, recovery);
    let over = person.fails(1, &["recoveries", "cancel", text(&recovery["id"])]).await;
    assert!(over.contains("(409)"), "{over}");
    let wrong = person.fails(1, &["recover", &id, "--since", "1h", "--status", "pending"]).await;
    assert!(wrong.contains("--status") && wrong.contains("(422)"), "{wrong}");
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_on_a_recovery_says_how_to_go_on() {
    // With NATS away nothing can be handed over, so it runs until we look away.
    let mut stack =
        Stack::plan().env("SHOPERY_RETRY_SCHEDULE", "100ms").env("SHOPERY_CIRCUIT_FAILURES", "50").start().await;
    let (person, client) = (Person::of(&stack, "tnt_a"), stack.client("tnt_a"));
    stack.merchant.behave("/down", Behaviour::Answer(500));
    let id = client.create_webhook(&stack.merchant.url("/down"), &["*"]).await;
    client.publish(&Event::order("o")).await.expect(202);
    client.in_state(&id, "failed", 1, SOON).await;
    stack.kill_nats().await;
    let mut running = person.start(&["recover", &id, "--since", "1h"]);
    running.says("resent").await;
    let (code, said) = running.interrupt().await;
    assert_eq!(code, Some(130), "{said}");
    assert!(said.contains("the recovery goes on") && said.contains("shopery recoveries get rcv_"), "{said}");
    stack.start_nats().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn exit_codes_and_errors_tell_what_to_do_and_another_tenant_is_refused() {
    let mut stack = Stack::start().await;
    let person = Person::of(&stack, "tnt_a");
    let theirs = stack.client("tnt_b").create_webhook(&stack.merchant.url("/b"), &["*"]).await;
    let denied = person.fails(1, &["webhooks", "list", "--tenant", "tnt_b"]).await;
    assert!(denied.contains("(403)") && denied.contains("whoami"), "{denied}");
    for arguments in [
        vec!["webhooks", "get", &theirs],
        vec!["webhooks", "delete", &theirs, "--yes"],
        vec!["webhooks", "secret", &theirs],
        vec!["webhooks", "changes", &theirs],
        vec!["metrics", &theirs],
        vec!["deliveries", "list", "--webhook", &theirs],
        vec!["recover", &theirs, "--since", "1h"],
    ] {
        assert!(person.fails(1, &arguments).await.contains("(404)"), "{arguments:?}");
    }
    // An id is one segment of a path, whatever is in it.
    person.fails(1, &["webhooks", "get", &format!("x/../{theirs}")]).await;
    let wrong =
        person.fails(1, &["webhooks", "create", "--name", "", "--url", "http://127.0.0.1", "--event", "no-such"]).await;
    for part in ["(422)", "--name:", "--url:", "--event [0]:"] {
        assert!(wrong.contains(part), "{part}: {wrong}");
    }
    for usage in [
        vec!["webhooks", "lst"],
        vec!["webhooks", "list", "--json", "--jsonl"],
        vec!["webhooks", "list", "--timeout", "soon"],
        vec!["webhooks", "update", &theirs],
        vec!["webhooks", "create", "--filter", "{"],
        vec!["events", "publish", "order-created", "{}"],
        vec!["verify", "--body", "x"],
        vec!["deliveries", "list", "--ca", "no-such-file"],
    ] {
        person.fails(2, &usage).await;
    }
    let similar = person.fails(2, &["webhooks", "lst"]).await;
    assert!(similar.contains("list"), "{similar}");
    let bad = token::mint(&["tnt_a"], token::ALL) + "x";
    let stranger = Person::of(&stack, "tnt_a").with("SHOPERY_TOKEN", &bad);
    let refused = stranger.fails(1, &["webhooks", "list"]).await;
    assert!(refused.contains("(401)") && refused.contains("SHOPERY_TOKEN") && !refused.contains(&bad), "{refused}");
    assert_eq!(stranger.run(&["whoami", "--json"]).await.code, 1);
    stack.kill(Service::Api).await;
    let away = person.fails(3, &["webhooks", "list"]).await;
    assert!(away.contains("cannot reach 127.0.0.1:"), "{away}");
    for shell in ["bash", "zsh", "fish"] {
        assert!(person.ok(&["completions", shell]).await.contains("rotate-secret"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_must_be_one_that_is_trusted() {
    let stack = Stack::start().await;
    let person = Person::of(&stack, "tnt_a").with("SHOPERY_API_URL", &stack.merchant.url(""));
    stack.merchant.behave("/company/webhooks", Behaviour::Body(r#"{"data":[],"nextCursor":null}"#.to_owned()));
    let distrusted = person.fails(3, &["webhooks", "list"]).await;
    assert!(distrusted.contains("SHOPERY_CA") && stack.merchant.count() == 0, "{distrusted}");
    std::fs::write(person.home.join("ca.pem"), stack.authority.pem()).unwrap();
    assert_eq!(person.json(&["webhooks", "list", "--ca", "ca.pem"]).await, json!([]));
    let person = person.with("SHOPERY_CA", "ca.pem");
    assert_eq!(person.json(&["webhooks", "list"]).await, json!([]));
    // What is at the URL but is not the API.
    person.fails(3, &["webhooks", "get", "x"]).await;
    stack.merchant.behave("/company/webhooks", Behaviour::Redirect(stack.url(Service::Api)));
    assert!(person.fails(3, &["webhooks", "list"]).await.contains("redirects"));
    stack.merchant.behave("/company/webhooks", Behaviour::Hang);
    let slow = person.fails(3, &["webhooks", "list", "--timeout", "200ms"]).await;
    assert!(slow.contains("did not answer in time"), "{slow}");
}

/// Passes connections on to the API; of the first one the answer is lost, after the API has given it.
async fn lossy(api: String) -> String {
    let port = ports::free();
    let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    let api = api.strip_prefix("http://").unwrap().to_owned();
    tokio::spawn(async move {
        for is_first in std::iter::once(true).chain(std::iter::repeat(false)) {
            let Ok((mut near, _)) = listener.accept().await else { return };
            let mut far = TcpStream::connect(&api).await.unwrap();
            if !is_first {
                let _ = copy_bidirectional(&mut near, &mut far).await;
                continue;
            }
            let (mut from_near, _to_near) = near.split();
            let (mut from_far, mut to_far) = far.split();
            tokio::select! {
                _ = tokio::io::copy(&mut from_near, &mut to_far) => {}
                _ = from_far.read_u8() => {}
            }
        }
    });
    format!("http://127.0.0.1:{port}")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_post_whose_answer_is_lost_is_done_once_and_limits_are_waited_for() {
    let stack = Stack::plan().env("SHOPERY_API_TENANT_LIMIT", "4/2s").start().await;
    let person = Person::of(&stack, "tnt_a");
    let lossy = lossy(stack.url(Service::Api)).await;
    let create = ["webhooks", "create", "--name", "once", "--url", &stack.merchant.url("/o"), "--event", "*"];
    let id = person.ok(&[create.as_slice(), &["--api-url", &lossy]].concat()).await;
    let all = person.json(&["webhooks", "list"]).await;
    assert_eq!((all.as_array().unwrap().len(), text(&all[0]["id"])), (1, id.as_str()));
    let mut waited = 0;
    for _ in 0..6 {
        let ran = person.run(&["webhooks", "list"]).await;
        assert_eq!(ran.code, 0, "{}", ran.err);
        waited += ran.err.matches("waiting ").count();
    }
    assert!(waited > 0, "nothing was refused");
}

/// The last state of each delivery in what a tail has printed; a change that is printed twice is an error.
fn watched(said: &str) -> HashMap<String, String> {
    let mut last = HashMap::new();
    let mut seen = std::collections::HashSet::new();
    for row in lines(said) {
        let version = format!("{} {} {} {}", row["id"], row["updatedAt"], row["state"], row["attemptCount"]);
        assert!(seen.insert(version.clone()), "twice: {version}");
        last.insert(text(&row["id"]).to_owned(), text(&row["state"]).to_owned());
    }
    last
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tail_misses_nothing_and_repeats_nothing_while_the_api_comes_and_goes() {
    let mut stack = Stack::plan().env("SHOPERY_CIRCUIT_FAILURES", "50").start().await;
    let (person, client) = (Person::of(&stack, "tnt_a"), stack.client("tnt_a"));
    let id = client.create_webhook(&stack.merchant.url("/flaky"), &["*"]).await;
    client.publish(&Event::order("before")).await.expect(202);
    client.settled(&id, 1, SOON).await;
    stack.merchant.behave("/flaky", Behaviour::FailFirst { times: 40, status: 500 });
    let mut tail = person.start(&["deliveries", "tail", "--json", "--interval", "200ms"]);
    tail.says("watching").await;
    for round in 0..4 {
        // Outcomes wait for the api to come back, and bear the time at which they happened.
        stack.kill(Service::Api).await;
        let events: Vec<_> = (0..100).map(|n| Event::order(&format!("{round}-{n}"))).collect();
        client.try_publish_batch(&events).await.unwrap().expect(202);
        if round == 1 {
            tail.says("trying on").await;
        }
        stack.run(Service::Api).await;
    }
    client.settled(&id, 401, SOON).await;
    wait::until("all deliveries in the tail", SOON, async || {
        let seen = watched(&tail.process.output());
        let delivered = seen.values().filter(|state| *state == "delivered").count();
        if delivered >= 400 { Ok(()) } else { Err(format!("{delivered} delivered of {}", seen.len())) }
    })
    .await;
    let (code, said) = tail.interrupt().await;
    assert_eq!((code, watched(&said).len()), (Some(0), 400));
}
