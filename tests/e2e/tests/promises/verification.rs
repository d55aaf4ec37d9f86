//! The code that the pages offer for verifying signatures does it: it accepts what was really delivered, refuses what was
//! not, and has the secret in it for nobody but who asked.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use regex::Regex;
use reqwest::header::{CONTENT_TYPE, COOKIE, ORIGIN, SET_COOKIE};
use reqwest::{Client as Http, Method};
use serde_json::json;
use shopery_e2e::{Arrival, Client, Event, Stack, parts, token};
use shopery_model::EndpointSecret;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::backoffice::{Backoffice, url_encoded};

const SOON: Duration = Duration::from_secs(60);
const WRONG_SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
pub(crate) const LANGUAGES: [&str; 8] = ["node", "python", "rust", "php", "ruby", "go", "csharp", "java"];

/// The pages, and somebody who has signed in.
pub(crate) struct Pages {
    backoffice: Backoffice,
    http: Http,
    cookie: String,
}

impl Pages {
    pub(crate) async fn of(stack: &Stack, client: &Client) -> Self {
        let backoffice = Backoffice::start(stack).await;
        let http = Http::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
        let mut pages = Self { backoffice, http, cookie: String::new() };
        let form = [("token", &*client.token), ("tenant", ""), ("back", "/webhooks")];
        let answer = pages.request(Method::POST, "/sign-in", &form).await;
        assert_eq!(answer.status(), 303);
        let cookie = answer.headers()[SET_COOKIE].to_str().unwrap();
        pages.cookie = cookie.split(';').next().unwrap().to_owned();
        pages
    }

    async fn request(&self, method: Method, path: &str, form: &[(&str, &str)]) -> reqwest::Response {
        let url = &self.backoffice.url;
        let request = self.http.request(method, format!("{url}{path}")).header(COOKIE, &self.cookie);
        let request = request.header(ORIGIN, url).header(CONTENT_TYPE, "application/x-www-form-urlencoded");
        request.body(url_encoded(form)).send().await.unwrap()
    }

    pub(crate) async fn get(&self, path: &str) -> String {
        let (status, page) = self.look(path).await;
        assert_eq!(status, 200, "{path}");
        page
    }

    /// A page, whatever status it has.
    pub(crate) async fn look(&self, path: &str) -> (u16, String) {
        let answer = self.request(Method::GET, path, &[]).await;
        (answer.status().as_u16(), answer.text().await.unwrap())
    }

    /// Sends a form of that page to the same path.
    pub(crate) async fn post(&self, path: &str, form: &[(&str, &str)]) -> (u16, String) {
        let key = Regex::new("name=\"form_key\" value=\"([^\"]*)\"").unwrap();
        let key = key.captures(&self.get(path).await).unwrap()[1].to_owned();
        let form = [form, &[("form_key", &*key)]].concat();
        let answer = self.request(Method::POST, path, &form).await;
        (answer.status().as_u16(), answer.text().await.unwrap())
    }
}

/// The code of a page, as who selects and copies it has it.
fn code(page: &str) -> String {
    let code = Regex::new("(?s)<pre class=\"code\"><code>(.*?)</code>").unwrap();
    let found = code.captures(page).unwrap_or_else(|| panic!("no code in {page}"));
    found[1].replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"").replace("&amp;", "&")
}

/// How code of a language is run: a receiver around it reads a message a line (id, timestamp, signatures and the base64 of
/// the body, with tabs between) and says `ok` or something else of each.
struct Runner {
    language: &'static str,
    /// Where the code goes, with this after it.
    file: &'static str,
    tail: &'static str,
    more: &'static [(&'static str, &'static str)],
    build: &'static [&'static str],
    run: &'static [&'static str],
}

static RUNNERS: [Runner; 7] = [
    Runner {
        language: "node",
        file: "verify.js",
        tail: r#"
require("node:readline").createInterface({ input: process.stdin }).on("line", (line) => {
  const [id, timestamp, signatures, body] = line.split("\t");
  const headers = { "webhook-id": id, "webhook-timestamp": timestamp, "webhook-signature": signatures };
  try { verify(headers, Buffer.from(body, "base64")); console.log("ok"); } catch (error) { console.log(`${error}`); }
});"#,
        more: &[],
        build: &[],
        run: &["node", "verify.js"],
    },
    Runner {
        language: "python",
        file: "verify.py",
        tail: r#"
import sys
for line in sys.stdin:
    id, timestamp, signatures, body = line.rstrip("\n").split("\t")
    headers = {"webhook-id": id, "webhook-timestamp": timestamp, "webhook-signature": signatures}
    try:
        verify(headers, base64.b64decode(body))
        print("ok")
    except ValueError as error:
        print(error)
"#,
        more: &[],
        build: &[],
        run: &["python", "verify.py"],
    },
    Runner {
        language: "rust",
        file: "src/main.rs",
        tail: r#"
fn main() {
    for line in std::io::stdin().lines() {
        let line = line.unwrap();
        let parts: Vec<&str> = line.split('\t').collect();
        let header = |name: &str| ["webhook-id", "webhook-timestamp", "webhook-signature"].iter()
            .position(|known| *known == name).map(|place| parts[place]);
        match verify(header, &STANDARD.decode(parts[3]).unwrap()) { Ok(()) => println!("ok"), Err(error) => println!("{error}") }
    }
}"#,
        more: &[(
            "Cargo.toml",
            "[package]\nname = \"receiver\"\nedition = \"2021\"\n[dependencies]\nbase64 = \"0.22\"\nhmac = \"0.13\"\n\
             sha2 = \"0.11\"\n[workspace]\n",
        )],
        // The workspace itself depends on these, so they are there.
        build: &["cargo", "build", "--quiet", "--offline", "--target-dir", "target"],
        run: &["target/debug/receiver"],
    },
    Runner {
        language: "java",
        file: "Verify.java",
        tail: "",
        more: &[(
            "Receive.java",
            r#"
import java.io.*;
import java.util.*;
class Receive {
    public static void main(String[] arguments) throws IOException {
        List<String> names = List.of("webhook-id", "webhook-timestamp", "webhook-signature");
        BufferedReader input = new BufferedReader(new InputStreamReader(System.in));
        for (String line = input.readLine(); line != null; line = input.readLine()) {
            String[] parts = line.split("\t", -1);
            try {
                Verify.verify(name -> parts[names.indexOf(name)], Base64.getDecoder().decode(parts[3]));
                System.out.println("ok");
            } catch (Exception error) {
                System.out.println(error.getMessage());
            }
        }
    }
}"#,
        )],
        build: &["javac", "Verify.java", "Receive.java"],
        run: &["java", "-Xmx64m", "-cp", ".", "Receive"],
    },
    Runner {
        language: "php",
        file: "verify.php",
        tail: r#"
while (($line = fgets(STDIN)) !== false) {
    [$id, $timestamp, $signatures, $body] = explode("\t", rtrim($line, "\n"));
    $headers = ['webhook-id' => $id, 'webhook-timestamp' => $timestamp, 'webhook-signature' => $signatures];
    try { verify_shopery_webhook($headers, base64_decode($body)); echo "ok\n"; }
    catch (RuntimeException $error) { echo $error->getMessage(), "\n"; }
}"#,
        more: &[],
        build: &[],
        run: &["php", "verify.php"],
    },
    Runner {
        language: "ruby",
        file: "verify.rb",
        tail: r#"
STDIN.each_line do |line|
  id, timestamp, signatures, body = line.chomp.split("\t", -1)
  headers = { "webhook-id" => id, "webhook-timestamp" => timestamp, "webhook-signature" => signatures }
  puts(begin verify_shopery_webhook(headers, body.unpack1("m0")); "ok" rescue ArgumentError => error; error.message end)
end"#,
        more: &[],
        build: &[],
        run: &["ruby", "verify.rb"],
    },
    Runner {
        language: "go",
        file: "shopery/verify.go",
        tail: "",
        more: &[
            ("go.mod", "module receiver\n\ngo 1.19\n"),
            (
                "main.go",
                r#"
package main

import (
	"bufio"
	"encoding/base64"
	"fmt"
	"net/http"
	"os"
	"receiver/shopery"
	"strings"
)

func main() {
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		parts := strings.Split(lines.Text(), "\t")
		header := http.Header{}
		for place, name := range []string{"webhook-id", "webhook-timestamp", "webhook-signature"} {
			header.Set(name, parts[place])
		}
		body, _ := base64.StdEncoding.DecodeString(parts[3])
		if err := shopery.Verify(header, body); err != nil {
			fmt.Println(err)
		} else {
			fmt.Println("ok")
		}
	}
}"#,
            ),
        ],
        build: &["go", "build", "-o", "receiver", "."],
        run: &["./receiver"],
    },
];

/// tests/run installs these; the others are tried where they are.
const NEEDED: [&str; 3] = ["node", "python", "rust"];

fn is_here(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

/// A program in the folder of its code.
fn program(line: &[&str], folder: &Path) -> Command {
    let name = match line[0] {
        "python" => parts::python(),
        own if own.contains('/') => folder.join(own),
        other => PathBuf::from(other),
    };
    let mut program = Command::new(name);
    program.args(&line[1..]).current_dir(folder).kill_on_drop(true);
    program
}

/// Code that was built.
struct Receiver {
    runner: &'static Runner,
    folder: PathBuf,
}

impl Receiver {
    /// `None` if there is no such language on this machine.
    async fn build(folder: &Path, language: &str, code: &str) -> Option<Self> {
        let runner = RUNNERS.iter().find(|runner| runner.language == language)?;
        let first = runner.build.first().or(runner.run.first()).unwrap();
        if !NEEDED.contains(&language) && !is_here(first) {
            eprintln!("{language} is not on this machine: its code is not tried");
            return None;
        }
        let code = format!("{code}{}", runner.tail);
        for (name, text) in [(runner.file, code.as_str())].iter().chain(runner.more) {
            let path = folder.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        if !runner.build.is_empty() {
            let built = program(runner.build, folder).output().await.unwrap();
            assert!(built.status.success(), "{language}: {}", String::from_utf8_lossy(&built.stderr));
        }
        Some(Self { runner, folder: folder.to_owned() })
    }

    /// What it says of each message, with this variable in its environment.
    async fn says(&self, variable: Option<(&str, &str)>, messages: &[String]) -> Vec<String> {
        let mut program = program(self.runner.run, &self.folder);
        program.env_remove("SHOPERY_WEBHOOK_SECRET").env_remove("SHOPERY_WEBHOOK_PUBLIC_KEY").envs(variable);
        program.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut running = program.spawn().unwrap_or_else(|error| panic!("{program:?} IS MISSING: {error}"));
        let (mut input, lines) = (running.stdin.take().unwrap(), messages.join("\n") + "\n");
        let write = async move { input.write_all(lines.as_bytes()).await };
        // It answers while it reads.
        let (written, done) = tokio::join!(write, running.wait_with_output());
        let done = done.unwrap();
        assert!(written.is_ok() && done.status.success(), "{}: {written:?} {done:?}", self.runner.language);
        String::from_utf8(done.stdout).unwrap().lines().map(str::to_owned).collect()
    }

    /// It accepts the first ones of the messages, and refuses the others.
    async fn assert_accepts(&self, count: usize, variable: Option<(&str, &str)>, messages: &[String]) {
        let said = self.says(variable, messages).await;
        let accepted: Vec<_> = said.iter().map(|said| said == "ok").collect();
        let expected: Vec<_> = (0..messages.len()).map(|place| place < count).collect();
        assert_eq!(accepted, expected, "{}: {said:?}", self.runner.language);
    }
}

fn message(id: &str, timestamp: i64, signatures: &str, body: &[u8]) -> String {
    format!("{id}\t{timestamp}\t{signatures}\t{}", STANDARD.encode(body))
}

/// A message that was delivered, and the same in ways in which it was not sent.
fn arrived(arrival: &Arrival) -> Vec<String> {
    let (id, signatures, body) = (arrival.webhook_id(), arrival.header("webhook-signature"), &arrival.body[..]);
    let timestamp = arrival.header("webhook-timestamp").parse().unwrap();
    vec![
        message(id, timestamp, signatures, body),
        message(id, timestamp, signatures, &[body, b" "].concat()),
        message(id, timestamp + 1, signatures, body),
        message("another", timestamp, signatures, body),
        message(id, timestamp, "", body),
        message(id, timestamp, "v1,AAAA v1, v1a,AAAA nothing", body),
        message(id, timestamp, &signatures.replace("v1,", "v2,").replace("v1a,", "v2,"), body),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn the_code_of_the_page_accepts_what_was_delivered_and_refuses_what_was_not() {
    let stack = Stack::start().await;
    let client = stack.client("tnt_a");
    let webhook = client.create_webhook(&stack.merchant.url("/a"), &["order-*"]).await;
    let (first, path) = (client.secret(&webhook).await, format!("/webhooks/{webhook}/verify"));
    // Two secrets are valid, so a delivery has two signatures.
    client.post(&format!("/company/webhooks/{webhook}/rotate-secret"), &json!({})).await.expect(200);
    let second = client.secret(&webhook).await;
    let mut sent = 0;
    let delivered = loop {
        sent += 1;
        client.publish(&Event::order(&sent.to_string())).await.expect(202);
        let last = stack.merchant.wait_at("/a", sent, SOON).await.pop().unwrap();
        if last.header("webhook-signature").split(' ').count() == 2 {
            break last;
        }
    };
    let messages = arrived(&delivered);

    // Signed as it should be, at another time.
    let (secret, now) = (EndpointSecret::parse(&second).unwrap(), i64::try_from(token::unix_now()).unwrap());
    let at = |at: i64| message("dlv_1", at, &secret.sign("dlv_1", at, b"{}"), b"{}");
    let times = [at(now - 200), at(now + 200), at(now - 330), at(now + 330), at(0)];

    let pages = Pages::of(&stack, &client).await;
    for language in LANGUAGES {
        let page = pages.get(&format!("{path}?language={language}")).await;
        assert!(!page.contains(&first) && !page.contains(&second), "{language} shows a secret that nobody asked for");
        assert!(page.contains(&format!("language={language}\" aria-current=\"page\"")), "{page}");
        let (status, revealed) = pages.post(&path, &[("language", language)]).await;
        assert_eq!((status, revealed.matches(&second).count()), (200, 1), "{language}: {revealed}");
        let folder = stack.folder().join(language);
        let Some(receiver) = Receiver::build(&folder, language, &code(&page)).await else { continue };
        for secret in [&first, &second] {
            receiver.assert_accepts(1, Some(("SHOPERY_WEBHOOK_SECRET", secret)), &messages).await;
        }
        receiver.assert_accepts(0, Some(("SHOPERY_WEBHOOK_SECRET", WRONG_SECRET)), &messages).await;
        receiver.assert_accepts(2, Some(("SHOPERY_WEBHOOK_SECRET", &second)), &times).await;
        // An empty secret is one that everybody knows.
        let empty = receiver.says(Some(("SHOPERY_WEBHOOK_SECRET", "")), &messages).await;
        assert!(!empty.contains(&"ok".to_owned()), "{language}: {empty:?}");
        let receiver = Receiver::build(&folder, language, &code(&revealed)).await.unwrap();
        receiver.assert_accepts(1, None, &messages).await;
    }
    let unknown = pages.get(&format!("{path}?language=cobol")).await;
    assert!(unknown.contains("language=node\" aria-current=\"page\""), "{unknown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_webhook_with_asymmetric_signatures_the_code_verifies_those() {
    let stack = Stack::start().await;
    let client = stack.client("tnt_a");
    let rules = json!({ "signature": "asymmetric" });
    let webhook = client.create_webhook_with(&stack.merchant.url("/a"), &["order-*"], rules).await;
    client.publish(&Event::order("1")).await.expect(202);
    let delivered = stack.merchant.wait_at("/a", 1, SOON).await.remove(0);
    let messages = arrived(&delivered);
    let shown = client.get(&format!("/company/webhooks/{webhook}/secret")).await.expect(200).json();
    let (secret, public_key) = (shown["secret"].as_str().unwrap(), shown["publicKey"].as_str().unwrap());
    let other =
        client.create_webhook_with(&stack.merchant.url("/b"), &["order-*"], json!({ "signature": "both" })).await;
    let other = client.get(&format!("/company/webhooks/{other}/secret")).await.expect(200).json();

    let (pages, path) = (Pages::of(&stack, &client).await, format!("/webhooks/{webhook}/verify"));
    for language in ["node", "python", "java"] {
        let page = pages.get(&format!("{path}?language={language}")).await;
        let (_, revealed) = pages.post(&path, &[("language", language)]).await;
        assert!(
            !page.contains(public_key) && revealed.contains(public_key) && !revealed.contains(secret),
            "{revealed}"
        );
        let folder = stack.folder().join(language);
        let Some(receiver) = Receiver::build(&folder, language, &code(&page)).await else { continue };
        receiver.assert_accepts(1, Some(("SHOPERY_WEBHOOK_PUBLIC_KEY", public_key)), &messages).await;
        let wrong = other["publicKey"].as_str().unwrap();
        receiver.assert_accepts(0, Some(("SHOPERY_WEBHOOK_PUBLIC_KEY", wrong)), &messages).await;
        let receiver = Receiver::build(&folder, language, &code(&revealed)).await.unwrap();
        receiver.assert_accepts(1, None, &messages).await;
    }
    // Where we have no code, there is none that would refuse everything.
    for language in ["rust", "php", "ruby", "go", "csharp"] {
        let page = pages.get(&format!("{path}?language={language}")).await;
        assert!(!page.contains("<pre class=\"code\">") && page.contains("verify id.timestamp.body"), "{page}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_only_read_is_shown_code_without_the_secret() {
    let stack = Stack::start().await;
    let client = stack.client("tnt_a");
    let webhook = client.create_webhook(&stack.merchant.url("/a"), &["order-*"]).await;
    let reader = client.with_token(&token::mint(&["tnt_a"], "webhooks:read"));
    let (pages, path) = (Pages::of(&stack, &reader).await, format!("/webhooks/{webhook}/verify"));
    let page = pages.get(&path).await;
    assert!(page.contains("process.env.SHOPERY_WEBHOOK_SECRET") && !page.contains("with my secret"), "{page}");
    let (status, refused) = pages.post(&path, &[("language", "node")]).await;
    assert!(status == 403 && !refused.contains(&client.secret(&webhook).await), "{status} {refused}");
}
