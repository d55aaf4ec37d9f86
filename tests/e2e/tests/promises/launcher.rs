//! `cargo run`: one command shows the main job, and leaves nothing behind.

use std::collections::HashMap;
use std::fs::Permissions;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::StatusCode;
use serde_json::Value;
use shopery_e2e::publisher::Credentials;
use shopery_e2e::{Client, Event, Folder, Process, Publisher, Signal, parts, ports, process, wait};
use shopery_local::emulators::PubSub;
use shopery_model::catalogue;
use tokio::process::Command;
use tokio::sync::mpsc;

const START: Duration = Duration::from_secs(60);
const SOON: Duration = Duration::from_secs(30);

struct Launcher {
    process: Process,
    data: PathBuf,
}

impl Launcher {
    async fn start(folder: &Folder, arguments: &[&str]) -> Self {
        let data = folder.join(".local");
        let log = folder.join("launcher.log");
        // What an earlier run said is not mistaken for this one's.
        let _ = std::fs::remove_file(&log);
        let mut command = command(folder).await;
        command.args(arguments);
        Self { process: Process::start("shopery-local", command, &log), data }
    }

    /// Waits until its output holds a text.
    async fn says(&mut self, text: &str) {
        wait::until(&format!("the launcher to say {text:?}"), START, async || {
            let output = self.process.output();
            if let Some(status) = self.process.ended() {
                panic!("the launcher has ended: {status}\n{output}");
            }
            if output.to_lowercase().contains(text) { Ok(()) } else { Err(process::tail(&output, 20)) }
        })
        .await;
    }

    /// Waits for `<data-dir>/env`; the variables as a shell reads them.
    async fn env(&mut self) -> HashMap<String, String> {
        let path = self.data.join("env");
        wait::until("the env file", START, async || {
            if let Some(status) = self.process.ended() {
                panic!("the launcher has ended: {status}\n{}", self.process.output());
            }
            if path.exists() { Ok(()) } else { Err(process::tail(&self.process.output(), 20)) }
        })
        .await;
        read_env(&path).await
    }

    /// Ctrl-C, and all its processes are gone.
    async fn interrupt(mut self) {
        let family = process::descendants(self.process.pid());
        assert!(!family.is_empty(), "there is no nats-server");
        self.process.signal(Signal::SIGINT);
        let status = self.process.exit(SOON).await;
        assert_eq!(status.code(), Some(0), "{status}\n{}", self.process.output());
        for pid in family {
            wait::until_true(&format!("the end of process {pid}"), SOON, async || !process::is_running(pid)).await;
        }
    }
}

async fn command(folder: &Folder) -> Command {
    let nats = parts::nats_server().await;
    let path = format!("{}:{}", nats.parent().unwrap().display(), std::env::var("PATH").unwrap());
    let mut command = Command::new(parts::binary("shopery-local"));
    command.env_clear().env("PATH", path).env("HOME", folder.path()).current_dir(folder.path());
    command
}

async fn read_env(path: &Path) -> HashMap<String, String> {
    let script = format!("set -a; . '{}'; set +a; env -0", path.display());
    let read = Command::new("sh").args(["-euc", &script]).env_clear().output().await.unwrap();
    assert!(read.status.success(), "the env file cannot be sourced: {}", String::from_utf8_lossy(&read.stderr));
    let pairs = String::from_utf8(read.stdout).unwrap();
    pairs.split('\0').filter_map(|pair| pair.split_once('=')).map(|(n, v)| (n.to_owned(), v.to_owned())).collect()
}

/// On ports of its own, so that several may run at once.
fn addresses() -> [String; 2] {
    [ports::free(), ports::free()].map(|port| format!("127.0.0.1:{port}"))
}

fn client(env: &HashMap<String, String>) -> Client {
    let (api, ingest) = (env["SHOPERY_API_URL"].clone(), env["SHOPERY_INGEST_URL"].clone());
    Client::new(api, ingest, &env["SHOPERY_TENANT"]).with_token(&env["SHOPERY_TOKEN"])
}

fn credentials(env: &HashMap<String, String>) -> Credentials {
    Credentials {
        url: env["SHOPERY_NATS_URL"].clone(),
        user: env["SHOPERY_NATS_USER"].clone(),
        password: env["SHOPERY_NATS_PASSWORD"].clone(),
        inbox_prefix: env["SHOPERY_NATS_INBOX_PREFIX"].clone(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_demo_delivers_an_order_with_a_verified_signature_and_ctrl_c_leaves_no_process() {
    let folder = Folder::create();
    let [api, ingest] = addresses();
    let arguments = ["--ephemeral", "--api", &api, "--ingest", &ingest];
    let mut launcher = Launcher::start(&folder, &arguments).await;
    launcher.says("verified").await;
    let output = launcher.process.output();
    for part in ["webhook-id", "webhook-signature", "order-created"] {
        assert!(output.to_lowercase().contains(part), "{part} is not in\n{output}");
    }
    let link = output.lines().find_map(|line| line.trim().strip_prefix("pages")).expect("there is no link");
    let link = link.split_whitespace().next().unwrap();
    let browser = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
    let signed_in = browser.get(link).send().await.unwrap();
    assert_eq!(
        (signed_in.status(), &signed_in.headers()["location"]),
        (StatusCode::SEE_OTHER, &"/webhooks".parse().unwrap())
    );
    let cookie = signed_in.headers()["set-cookie"].to_str().unwrap().split(';').next().unwrap().to_owned();
    let pages = link.split("/link/").next().unwrap();
    let page = browser.get(format!("{pages}/webhooks")).header("cookie", cookie).send().await.unwrap();
    let page = page.text().await.unwrap();
    assert!(page.contains(">demo<"), "{page}");
    assert_eq!(browser.get(format!("{link}x")).send().await.unwrap().status(), StatusCode::NOT_FOUND);
    launcher.interrupt().await;
    for address in [api, ingest] {
        assert!(TcpListener::bind(&address).is_ok(), "{address} is still taken");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_is_shown_through_each_cloud_that_has_an_emulator_here() {
    let folder = Folder::create();
    let data = folder.join(".local").display().to_string();
    let [api, ingest] = addresses();
    let arguments = ["--data-dir", &data, "--cloud-emulators", "--api", &api, "--ingest", &ingest];
    let has_pubsub = PubSub::find().is_some();
    let mut launcher = Launcher::start(&folder, &arguments).await;
    launcher.says("signature through eventbridge verified").await;
    if has_pubsub {
        launcher.says("signature through pub/sub verified").await;
    } else {
        launcher.says("there is no emulator of pub/sub on this machine").await;
    }
    launcher.says("ready.").await;
    // What comes later is said too.
    let env = launcher.env().await;
    let client = client(&env);
    client.publish(&Event::order("later")).await.expect(202);
    let ways = ["through eventbridge"].into_iter().chain(has_pubsub.then_some("through pub/sub"));
    for way in ways {
        wait::until(&format!("the next delivery {way}"), SOON, async || {
            let output = launcher.process.output().to_lowercase();
            let came = output.lines().filter(|line| line.starts_with("received order-created") && line.ends_with(way));
            if came.count() >= 1 { Ok(()) } else { Err(process::tail(&output, 20)) }
        })
        .await;
    }
    let named = client.all("/company/webhooks").await;
    let named: Vec<_> = named.iter().map(|webhook| webhook["name"].as_str().unwrap()).collect();
    assert!(named.contains(&"demo-eventbridge") && named.contains(&"demo-pubsub") == has_pubsub, "{named:?}");
    assert!(
        env["AWS_ENDPOINT_URL"].starts_with("http://127.0.0.1:")
            && env.contains_key("PUBSUB_EMULATOR_HOST") == has_pubsub
    );
    // All of it ends, the emulators too.
    launcher.interrupt().await;

    // Without them, what was sent to them is paused.
    let mut launcher =
        Launcher::start(&folder, &arguments.map(|one| if one == "--cloud-emulators" { "--no-demo" } else { one }))
            .await;
    launcher.says("ready.").await;
    let client = self::client(&launcher.env().await);
    for webhook in client.all("/company/webhooks").await {
        let is_of_a_cloud = webhook["name"].as_str().unwrap().starts_with("demo-");
        assert_eq!(webhook["isEnabled"], !is_of_a_cloud, "{webhook}");
    }
    launcher.interrupt().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn emulators_that_are_missing_are_one_clear_line() {
    let folder = Folder::create();
    let [api, ingest] = addresses();
    // A copy of it has no Python of ours beside it, and no PATH either.
    let binary = folder.join("shopery-local");
    std::fs::copy(parts::binary("shopery-local"), &binary).unwrap();
    let mut command = Command::new(&binary);
    let nats = parts::nats_server().await;
    let path = format!("{}:/usr/bin:/bin", nats.parent().unwrap().display());
    command.env_clear().env("PATH", path).env("HOME", folder.path()).current_dir(folder.path());
    command.args(["--ephemeral", "--cloud-emulators", "--api", &api, "--ingest", &ingest]);
    let mut process = Process::start("shopery-local", command, &folder.join("launcher.log"));
    assert_eq!(process.exit(START).await.code(), Some(1));
    let output = process.output();
    assert!(output.contains("moto_server is missing: pip install 'moto[server]'"), "{output}");
    assert!(!output.contains("panicked") && output.lines().count() <= 3, "{output}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_start_on_the_same_data_resumes() {
    let folder = Folder::create();
    let path = folder.join(".local");
    let data = path.display().to_string();
    // A folder that everybody on the machine can read.
    std::fs::create_dir(&path).unwrap();
    std::fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
    let [api, ingest] = addresses();
    let arguments = ["--data-dir", &data, "--api", &api, "--ingest", &ingest];
    let mut launcher = Launcher::start(&folder, &arguments).await;
    launcher.says("verified").await;
    let env = launcher.env().await;
    let client = client(&env);
    assert!(launcher.process.output().contains(&format!("{}/link/", env["SHOPERY_BACKOFFICE_URL"])));
    check_private(&path);
    // Others with the same URL, as the README's first webhook is, must not be taken for the demo's.
    for _ in 0..5 {
        client.create_webhook(&env["SHOPERY_ENDPOINT_URL"], &["order-created"]).await;
    }
    let webhooks = ids(client.all("/company/webhooks").await);
    let first = wait::until("the demo delivery in the history", SOON, async || {
        let delivered = client.all("/company/deliveries").await;
        let delivered: Vec<_> = delivered.into_iter().filter(|one| one["state"] == "delivered").collect();
        if delivered.is_empty() { Err("none".to_owned()) } else { Ok(ids(delivered)) }
    })
    .await;
    assert!(!webhooks.is_empty());
    launcher.interrupt().await;
    // As a version of ours from before made it.
    std::fs::set_permissions(path.join("shopery.db"), Permissions::from_mode(0o644)).unwrap();

    let mut launcher = Launcher::start(&folder, &arguments).await;
    launcher.says("verified").await;
    let env = launcher.env().await;
    assert_eq!(env["SHOPERY_API_URL"], client.api);
    let client = self::client(&env);
    assert_eq!(ids(client.all("/company/webhooks").await), webhooks, "the demo webhook is found again");
    let now = ids(client.all("/company/deliveries").await);
    assert!(first.iter().all(|id| now.contains(id)), "{first:?} are not among {now:?}");
    check_private(&path);
    launcher.interrupt().await;
    check_private(&path);
}

/// Nobody else can read what is in this directory.
#[track_caller]
fn check_private(directory: &Path) {
    // What a server removes meanwhile is nobody's concern.
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        let Ok(found) = path.symlink_metadata() else { continue };
        let mode = found.permissions().mode() & 0o777;
        assert_eq!(mode & 0o077, 0, "{} is {mode:o}", path.display());
        if found.is_dir() {
            check_private(&path);
        }
    }
}

fn ids(list: Vec<Value>) -> Vec<String> {
    list.iter().map(|entry| entry["id"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_taken_port_is_one_clear_line() {
    let folder = Folder::create();
    let [api, ingest] = addresses();
    let _taken = TcpListener::bind(&api).unwrap();
    let mut launcher = Launcher::start(&folder, &["--ephemeral", "--api", &api, "--ingest", &ingest]).await;
    let status = launcher.process.exit(START).await;
    assert_eq!(status.code(), Some(1));
    let output = launcher.process.output();
    let lines: Vec<_> = output.lines().filter(|line| line.contains(&api)).collect();
    assert_eq!(lines.len(), 1, "{output}");
    assert!(!output.contains("panicked") && output.lines().count() <= 5, "{output}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_publisher_of_the_env_file_can_publish_its_tenants_events_and_nothing_else() {
    let folder = Folder::create();
    let data = folder.join(".local").display().to_string();
    let [api, ingest] = addresses();
    let arguments = ["--data-dir", &data, "--no-demo", "--api", &api, "--ingest", &ingest];
    let mut launcher = Launcher::start(&folder, &arguments).await;
    let env = launcher.env().await;
    let tenant = &env["SHOPERY_TENANT"];

    let publisher = Publisher::connect(&credentials(&env), tenant).await;
    let event = Event::order("over_nats");
    let reply = publisher.publish(&event).await.unwrap();
    assert!(reply["seq"].is_u64(), "{reply}");
    // Whatever webhook there is gets it; without the demo we bring one, whose failure is a delivery too.
    let client = client(&env);
    let webhook = client.create_webhook("https://no-such-shop.invalid/", &["*"]).await;
    let second = Event::order("over_nats_2");
    publisher.publish(&second).await.unwrap();
    wait::until("the delivery of the event", SOON, async || {
        let found = client.all(&format!("/company/webhooks/{webhook}/deliveries")).await;
        // The first one too, if it was routed after the webhook was there.
        if found.iter().any(|one| one["eventId"] == *second.id) { Ok(()) } else { Err(format!("{found:?}")) }
    })
    .await;

    check_permissions(&credentials(&env), tenant).await;
    launcher.interrupt().await;
}

/// Everything else is refused by the server, to its face.
async fn check_permissions(credentials: &Credentials, tenant: &str) {
    let (told, mut hears) = mpsc::unbounded_channel();
    let options = credentials.options().event_callback(move |event| {
        let _ = told.send(event.to_string());
        std::future::ready(())
    });
    let client = options.connect(&credentials.url).await.unwrap();
    let mut refused = async |action: &str, subject: &str| {
        let what = format!("the refusal to {action} {subject}");
        let violation = wait::within(&what, SOON, async {
            loop {
                let said = hears.recv().await.expect("an open connection");
                if said.to_lowercase().contains("permissions violation") {
                    return said;
                }
            }
        })
        .await;
        assert!(violation.contains(subject), "{action} {subject}: {violation}");
    };
    for subject in [
        "in.tnt_other.order-created",
        "events.tnt_other.order.1",
        &format!("events.{tenant}.order.1"),
        "jobs.fast.x.y",
        "retry.x.y.z",
        "due.x.y",
        "outcomes.x",
        "dead.x.y",
        "$KV.CONFIG.x.y",
        "$JS.API.STREAM.NAMES",
        "$JS.API.STREAM.MSG.GET.EVENTS",
        "$JS.API.DIRECT.GET.EVENTS",
        "$JS.API.CONSUMER.CREATE.EVENTS",
        "$JS.API.STREAM.PURGE.EVENTS",
        "$JS.ACK.x",
        "$SYS.REQ.SERVER.PING",
        "_INBOX.x",
    ] {
        client.publish(subject.to_owned(), "{}".into()).await.unwrap();
        client.flush().await.unwrap();
        refused("publish to", subject).await;
    }
    for subject in [
        ">",
        "in.>",
        &format!("in.{tenant}.>"),
        "events.>",
        "jobs.>",
        "_INBOX.>",
        "$KV.CONFIG.>",
        "$JS.ACK.>",
        "$SYS.>",
    ] {
        let _subscriber = client.subscribe(subject.to_owned()).await.unwrap();
        client.flush().await.unwrap();
        refused("subscribe to", subject).await;
    }
}

/// The blocks of the README that a newcomer copies, fenced as ```sh first-webhook and ```sh first-command, in the folder of
/// `cargo run`.
#[tokio::test(flavor = "multi_thread")]
async fn the_shell_lines_of_the_readme_work_as_written() {
    let folder = Folder::create();
    let [api, ingest] = addresses();
    let mut launcher = Launcher::start(&folder, &["--api", &api, "--ingest", &ingest]).await;
    launcher.says("verified").await;
    let webhook_block =
        ["{\"id\":\"wbh_", "\"success\":true", "\"state\":\"delivered\"", "\"event\":\"order-created\""].as_slice();
    // Twice, as a newcomer does: the same order in another event is delivered again, to all webhooks there are by then.
    for (block, parts) in [
        ("first-webhook", webhook_block),
        ("first-webhook", webhook_block),
        ("first-command", &["status 200 in ", "evt_", "delivered"]),
    ] {
        let said = run_block(&folder, block).await;
        for part in parts {
            assert!(said.contains(part), "{part} is not in the answers:\n{said}");
        }
        assert!(!said.contains("urn:shopery:problem"), "{said}");
    }
    let client = client(&launcher.env().await);
    // The demo's event for one webhook, the first block's for two and then for three, and the command's for four.
    let delivered = wait::until("the deliveries of all four events", SOON, async || {
        let found = client.all("/company/deliveries").await;
        let delivered = found.iter().filter(|one| one["state"] == "delivered").count();
        if delivered == 1 + 2 + 3 + 4 { Ok(found) } else { Err(format!("{delivered} of {}: {found:?}", found.len())) }
    })
    .await;
    assert_eq!(delivered.len(), 10, "{delivered:?}");
    let order = std::fs::read_to_string(folder.join(".local/order.json")).unwrap();
    let example = catalogue().example("order-created".parse().unwrap()).unwrap();
    let [order, example] = [&order, example.get()].map(|json| serde_json::from_str::<Value>(json).unwrap());
    assert_eq!(order, example, "the README shows another order than the catalogue");
    launcher.interrupt().await;
}

/// What a block of the README says, which must go well; with our binaries on the PATH.
async fn run_block(folder: &Folder, name: &str) -> String {
    let readme = std::fs::read_to_string(parts::workspace().join("README.md")).expect("A README.md IS MISSING");
    let block = readme.split(&format!("```sh {name}\n")).nth(1).and_then(|rest| rest.split("\n```").next());
    let block = block.unwrap_or_else(|| panic!("README.md HAS NO BLOCK ```sh {name}"));
    let binaries = parts::binary("shopery").parent().unwrap().display().to_string();
    let mut sh = Command::new("sh");
    sh.env("PATH", format!("{binaries}:{}", std::env::var("PATH").unwrap())).env("HOME", folder.path());
    sh.args(["-euc", block]).current_dir(folder.path()).kill_on_drop(true);
    let done = wait::within("the lines of the README", START, sh.output()).await.unwrap();
    let said = format!("{}\n{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert!(done.status.success(), "{}\n{said}\nin\n{block}", done.status);
    said
}
