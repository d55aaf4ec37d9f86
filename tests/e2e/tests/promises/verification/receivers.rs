//! Receivers around the code that the pages offer, in every language that a machine of tests has.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use shopery_e2e::parts;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// A message as a receiver reads it: id, timestamp, signatures and body in base64, with tabs between. A header that is `None` is
/// missing.
pub(crate) fn line(headers: [Option<&[u8]>; 3], body: &[u8]) -> String {
    let encode = |header: Option<&[u8]>| header.map_or_else(|| "-".to_owned(), |bytes| STANDARD.encode(bytes));
    let [id, timestamp, signatures] = headers.map(encode);
    format!("{id}\t{timestamp}\t{signatures}\t{}", STANDARD.encode(body))
}

/// How code of a language is run: a receiver around it reads a message a line, and says `ok` of it, or why the code refuses it in the
/// way that the code documents. Whatever else the code may throw ends the receiver.
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
const text = (field) => (field === "-" ? undefined : Buffer.from(field, "base64").toString("latin1"));
require("node:readline").createInterface({ input: process.stdin }).on("line", (line) => {
  const [id, timestamp, signatures, body] = line.split("\t");
  const headers = { "webhook-id": text(id), "webhook-timestamp": text(timestamp), "webhook-signature": text(signatures) };
  try {
    verify(headers, Buffer.from(body, "base64"));
    console.log("ok");
  } catch (error) {
    if (error.constructor !== Error) throw error;
    console.log(error.message);
  }
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
    *fields, body = line.rstrip("\n").split("\t")
    names = ["webhook-id", "webhook-timestamp", "webhook-signature"]
    headers = {name: base64.b64decode(field).decode("latin-1") for name, field in zip(names, fields) if field != "-"}
    try:
        verify(headers, base64.b64decode(body))
        print("ok")
    except ValueError as error:
        print(ascii(error))
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
        let fields: Vec<_> = line.split('\t').map(|field| STANDARD.decode(field).ok()).collect();
        let header = |name: &str| {
            let names = ["webhook-id", "webhook-timestamp", "webhook-signature"];
            let field = &fields[names.iter().position(|known| *known == name)?];
            std::str::from_utf8(field.as_deref()?).ok()
        };
        match verify(header, fields[3].as_deref().unwrap()) {
            Ok(()) => println!("ok"),
            Err(error) => println!("{error}"),
        }
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
import static java.nio.charset.StandardCharsets.ISO_8859_1;
import java.io.*;
import java.util.*;
class Receive {
    static String text(String field) {
        return field.equals("-") ? null : new String(Base64.getDecoder().decode(field), ISO_8859_1);
    }
    public static void main(String[] arguments) throws Exception {
        List<String> names = List.of("webhook-id", "webhook-timestamp", "webhook-signature");
        BufferedReader input = new BufferedReader(new InputStreamReader(System.in));
        for (String line = input.readLine(); line != null; line = input.readLine()) {
            String[] fields = line.split("\t", -1);
            try {
                Verify.verify(name -> text(fields[names.indexOf(name)]), Base64.getDecoder().decode(fields[3]));
                System.out.println("ok");
            } catch (SecurityException error) {
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
    $fields = explode("\t", rtrim($line, "\n"));
    $headers = [];
    foreach (['webhook-id', 'webhook-timestamp', 'webhook-signature'] as $place => $name) {
        if ($fields[$place] !== '-') { $headers[$name] = base64_decode($fields[$place]); }
    }
    try { verify_shopery_webhook($headers, base64_decode($fields[3])); echo "ok\n"; }
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
  *fields, body = line.chomp.split("\t", -1)
  texts = fields.map { |field| field.unpack1("m0").force_encoding("UTF-8") unless field == "-" }
  headers = ["webhook-id", "webhook-timestamp", "webhook-signature"].zip(texts).to_h
  begin
    verify_shopery_webhook(headers, body.unpack1("m0"))
    puts "ok"
  rescue ArgumentError => error
    puts error.inspect
  end
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
		fields := strings.Split(lines.Text(), "\t")
		header := http.Header{}
		for place, name := range []string{"webhook-id", "webhook-timestamp", "webhook-signature"} {
			if fields[place] != "-" {
				value, _ := base64.StdEncoding.DecodeString(fields[place])
				header.Set(name, string(value))
			}
		}
		body, _ := base64.StdEncoding.DecodeString(fields[3])
		if err := shopery.Verify(header, body); err != nil {
			fmt.Println(err)
		} else {
			fmt.Println("ok")
		}
	}
}"#,
            ),
        ],
        build: &["go", "build", "-buildvcs=false", "-o", "receiver", "."],
        run: &["./receiver"],
    },
];

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
pub(crate) struct Receiver {
    runner: &'static Runner,
    folder: PathBuf,
}

impl Receiver {
    pub(crate) async fn build(folder: &Path, language: &str, code: &str) -> Self {
        let runner = RUNNERS.iter().find(|runner| runner.language == language).unwrap();
        let code = format!("{code}{}", runner.tail);
        for (name, text) in [(runner.file, code.as_str())].iter().chain(runner.more) {
            let path = folder.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        if !runner.build.is_empty() {
            let built = program(runner.build, folder).output().await;
            let built = built
                .unwrap_or_else(|error| panic!("{language} IS MISSING: run tests/run, which installs it: {error}"));
            assert!(built.status.success(), "{language}: {}", String::from_utf8_lossy(&built.stderr));
        }
        Self { runner, folder: folder.to_owned() }
    }

    /// What it says of each message, with this variable in its environment.
    pub(crate) async fn says(&self, variable: Option<(&str, &str)>, messages: &[String]) -> Vec<String> {
        let mut program = program(self.runner.run, &self.folder);
        program.env_remove("SHOPERY_WEBHOOK_SECRET").env_remove("SHOPERY_WEBHOOK_PUBLIC_KEY").envs(variable);
        program.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut running = program.spawn().unwrap_or_else(|error| {
            panic!("{} IS MISSING: run tests/run, which installs it: {error}", self.runner.language)
        });
        let (mut input, lines) = (running.stdin.take().unwrap(), messages.join("\n") + "\n");
        let write = async move { input.write_all(lines.as_bytes()).await };
        // It answers while it reads.
        let (written, done) = tokio::join!(write, running.wait_with_output());
        let done = done.unwrap();
        assert!(written.is_ok() && done.status.success(), "{}: {written:?} {done:?}", self.runner.language);
        String::from_utf8(done.stdout).unwrap().lines().map(str::to_owned).collect()
    }

    /// It accepts the first ones of the messages, and refuses the others.
    pub(crate) async fn assert_accepts(&self, count: usize, variable: Option<(&str, &str)>, messages: &[String]) {
        let said = self.says(variable, messages).await;
        let accepted: Vec<_> = said.iter().map(|said| said == "ok").collect();
        let expected: Vec<_> = (0..messages.len()).map(|place| place < count).collect();
        assert_eq!(accepted, expected, "{}: {said:?}", self.runner.language);
    }
}
