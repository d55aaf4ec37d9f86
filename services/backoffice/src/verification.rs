//! Code that verifies the deliveries of one webhook, to be pasted into a receiver.
//!
//! The code is in files of its own, so that it can be read and run as what it is. It reads the secret from the
//! environment; only who asks for it, by a form, gets the code with the secret in it.

use axum::Router;
use axum::extract::{Path, RawQuery};
use axum::response::Response;
use axum::routing::get;
use maud::{Markup, html};
use shopery_model::DestinationKind;
use url::form_urlencoded::parse;

use crate::App;
use crate::api::{Secret, Webhook};
use crate::clouds;
use crate::copy;
use crate::form::Form;
use crate::layout::{Room, command, key, page};
use crate::texts::Texts;
use crate::visitor::{NoPage, Visitor, html as answer};

pub(crate) fn routes() -> Router<App> {
    Router::new().route("/webhooks/{id}/verify", get(show).post(reveal))
}

/// The code of a language.
#[derive(Debug, Clone, Copy)]
struct Snippet {
    code: &'static str,
    /// The expression that reads the key from the environment.
    reads: &'static str,
    /// The expression that takes its place, with `{}` for the key.
    literal: &'static str,
    /// What the code has for reading the environment alone, and nothing else uses: some compilers refuse that.
    import: &'static str,
}

impl Snippet {
    const fn new(code: &'static str, reads: &'static str, literal: &'static str) -> Self {
        Self { code, reads, literal, import: "" }
    }

    const fn with_import(self, import: &'static str) -> Self {
        Self { import, ..self }
    }

    /// With the key in it. What would need escaping in some language is no key, and is left out.
    fn with(self, key: &str) -> String {
        let is_plain = key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_+/=".contains(&byte));
        if !is_plain {
            return self.code.to_owned();
        }
        let code = self.code.replace(self.reads, &self.literal.replace("{}", key));
        if self.import.is_empty() { code } else { code.replace(self.import, "") }
    }
}

struct Language {
    /// In the URL.
    name: &'static str,
    title: &'static str,
    /// For `v1`, an HMAC with the secret.
    secret: Snippet,
    /// For `v1a`, Ed25519 with the public key; where it needs no more than a package, and is tested.
    public_key: Option<Snippet>,
}

static LANGUAGES: [Language; 8] = [
    Language {
        name: "node",
        title: "Node.js",
        secret: Snippet::new(include_str!("verification/node.js"), "process.env.SHOPERY_WEBHOOK_SECRET", "\"{}\""),
        public_key: Some(Snippet::new(
            include_str!("verification/public_key.js"),
            "process.env.SHOPERY_WEBHOOK_PUBLIC_KEY",
            "\"{}\"",
        )),
    },
    Language {
        name: "python",
        title: "Python",
        secret: Snippet::new(
            include_str!("verification/verify.py"),
            "os.environ[\"SHOPERY_WEBHOOK_SECRET\"]",
            "\"{}\"",
        ),
        public_key: Some(Snippet::new(
            include_str!("verification/public_key.py"),
            "os.environ[\"SHOPERY_WEBHOOK_PUBLIC_KEY\"]",
            "\"{}\"",
        )),
    },
    Language {
        name: "rust",
        title: "Rust",
        secret: Snippet::new(
            include_str!("verification/verify.rs"),
            "std::env::var(\"SHOPERY_WEBHOOK_SECRET\").ok()",
            "Some(\"{}\".to_owned())",
        ),
        public_key: None,
    },
    Language {
        name: "php",
        title: "PHP",
        secret: Snippet::new(
            include_str!("verification/verify.php"),
            "(string) getenv('SHOPERY_WEBHOOK_SECRET')",
            "'{}'",
        ),
        public_key: None,
    },
    Language {
        name: "ruby",
        title: "Ruby",
        secret: Snippet::new(include_str!("verification/verify.rb"), "ENV.fetch(\"SHOPERY_WEBHOOK_SECRET\")", "\"{}\""),
        public_key: None,
    },
    Language {
        name: "go",
        title: "Go",
        secret: Snippet::new(include_str!("verification/verify.go"), "os.Getenv(\"SHOPERY_WEBHOOK_SECRET\")", "\"{}\"")
            .with_import("\t\"os\"\n"),
        public_key: None,
    },
    Language {
        name: "csharp",
        title: "C#",
        secret: Snippet::new(
            include_str!("verification/Verify.cs"),
            "Environment.GetEnvironmentVariable(\"SHOPERY_WEBHOOK_SECRET\") ?? \"\"",
            "\"{}\"",
        ),
        public_key: None,
    },
    Language {
        name: "java",
        title: "Java",
        secret: Snippet::new(
            include_str!("verification/Verify.java"),
            "System.getenv(\"SHOPERY_WEBHOOK_SECRET\")",
            "\"{}\"",
        ),
        public_key: Some(Snippet::new(
            include_str!("verification/PublicKey.java"),
            "System.getenv(\"SHOPERY_WEBHOOK_PUBLIC_KEY\")",
            "\"{}\"",
        )),
    },
];

/// The one of this name; the first one if there is none.
fn language(name: &str) -> &'static Language {
    let [first, ..] = &LANGUAGES;
    LANGUAGES.iter().find(|language| language.name == name).unwrap_or(first)
}

async fn show(visitor: Visitor, Path(id): Path<String>, RawQuery(query): RawQuery) -> Result<Response, NoPage> {
    let asked = parse(query.as_deref().unwrap_or_default().as_bytes()).find(|(name, _)| name == "language");
    let language = language(asked.as_ref().map_or("", |(_, value)| value));
    let webhook: Webhook = visitor.get(&["company", "webhooks", &id], &[]).await?;
    Ok(shown(&visitor, &webhook, language, None))
}

/// A secret is asked for by a form, so that it is in no page that a link leads to.
async fn reveal(Path(id): Path<String>, form: Form) -> Result<Response, NoPage> {
    let visitor = &form.visitor;
    let webhook: Webhook = visitor.get(&["company", "webhooks", &id], &[]).await?;
    let secret: Secret = visitor.get(&["company", "webhooks", &id, "secret"], &[]).await?;
    Ok(shown(visitor, &webhook, language(form.text("language")), Some(&secret)))
}

fn shown(visitor: &Visitor, webhook: &Webhook, language: &Language, secret: Option<&Secret>) -> Response {
    let texts = visitor.texts;
    let is_asymmetric = webhook.signature.as_deref() == Some("asymmetric");
    let snippet = if is_asymmetric { language.public_key } else { Some(language.secret) };
    let of = |secret: &Secret| if is_asymmetric { secret.public_key.clone() } else { Some(secret.secret.clone()) };
    let own_key = secret.and_then(of);
    let content = html! {
        p { (texts.verify_intro) }
        @match webhook.signature.as_deref() {
            Some("asymmetric") => { p.notice { (texts.verify_asymmetric) } }
            Some("both") => { p.notice { (texts.verify_both) } }
            _ => {}
        }
        @if clouds::is_cloud(&webhook.url) { (of_cloud(texts, &webhook.url)) }
        nav.tabs aria-label=(texts.language) {
            @for one in &LANGUAGES {
                a href={ "/webhooks/" (webhook.id) "/verify?language=" (one.name) }
                    aria-current=[(one.name == language.name).then_some("page")] { (one.title) }
            }
        }
        @if let Some(snippet) = snippet {
            (placeholder(visitor, webhook, language, is_asymmetric, own_key.is_some()))
            div.copyable {
                pre.code { code { (own_key.as_deref().map_or_else(|| snippet.code.to_owned(), |key| snippet.with(key))) } }
                (copy::button(texts, None, texts.verify_code))
            }
        } @else {
            p { (texts.verify_no_asymmetric) }
        }
        (rules(texts))
        p { a href={ "/webhooks/" (webhook.id) } { (webhook.name) } }
        (command(texts, command_line(is_asymmetric)))
    };
    answer(page(visitor, Room::Webhooks, texts.verify, &content))
}

/// What is signed elsewhere than in a request: the code below is for endpoints.
fn of_cloud(texts: &Texts, url: &str) -> Markup {
    let signed = match DestinationKind::of(url) {
        DestinationKind::PubSub => texts.verify_topic,
        DestinationKind::EventBridge | DestinationKind::Https => texts.verify_bus,
    };
    html! {
        div.notice { p { (signed) } pre { code { "shopery verify --secret @secret --body @message.json" } } }
    }
}

fn command_line(is_asymmetric: bool) -> &'static str {
    if is_asymmetric {
        "shopery verify --public-key whpk_… --headers @headers.txt --body @body.json"
    } else {
        "shopery verify --secret @secret --headers @headers.txt --body @body.json"
    }
}

/// Where the code has its key from, and how to have it in the code.
fn placeholder(
    visitor: &Visitor,
    webhook: &Webhook,
    language: &Language,
    is_asymmetric: bool,
    is_revealed: bool,
) -> Markup {
    let texts = visitor.texts;
    let variable = if is_asymmetric { "SHOPERY_WEBHOOK_PUBLIC_KEY" } else { "SHOPERY_WEBHOOK_SECRET" };
    html! {
        @if is_revealed {
            p.notice role="status" { (if is_asymmetric { texts.verify_has_key } else { texts.verify_has_secret }) }
        } @else {
            p.hint { (texts.verify_variable) " " code { (variable) } }
            @if visitor.session.may_write() {
                form method="post" action={ "/webhooks/" (webhook.id) "/verify" } {
                    (key(visitor))
                    input type="hidden" name="language" value=(language.name);
                    button.quiet { (if is_asymmetric { texts.verify_put_key } else { texts.verify_put_secret }) }
                }
            }
        }
    }
}

/// What counts in any language.
fn rules(texts: &Texts) -> Markup {
    html! {
        h2 { (texts.verify_rules) }
        ul {
            li { (texts.verify_body) }
            li { (texts.verify_time) }
            li { (texts.verify_several) }
            li { code { "webhook-id" } ": " (texts.verify_id) }
            li { code { "X-Shopery-Sequence" } ": " (texts.verify_sequence) }
            li { code { "X-Shopery-Test" } ": " (texts.verify_test) }
            li { code { "X-Shopery-Secret" } ": " (texts.verify_plain_secret) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLa+/==";

    fn snippets() -> impl Iterator<Item = (&'static str, Snippet)> {
        LANGUAGES
            .iter()
            .flat_map(|one| [(one.name, Some(one.secret)), (one.name, one.public_key)])
            .filter_map(|(name, snippet)| Some((name, snippet?)))
    }

    #[test]
    fn code_reads_its_key_in_one_place_which_the_key_takes_if_it_is_asked_for() {
        for (name, snippet) in snippets() {
            assert_eq!(snippet.code.matches(snippet.reads).count(), 1, "{name}");
            let with = snippet.with(KEY);
            assert!(snippet.import.is_empty() || !with.contains(snippet.import), "{name}: {with}");
            assert!(snippet.code.contains(snippet.import), "{name}");
            assert!(
                with.contains(&snippet.literal.replace("{}", KEY)) && !with.contains(snippet.reads),
                "{name}: {with}"
            );
            for odd in ["a\"b", "a'b", "a\\", "#{a}", "$a", "\n"] {
                assert_eq!(snippet.with(odd), snippet.code, "{name}: {odd:?}");
            }
        }
    }

    #[test]
    fn code_checks_what_the_scheme_asks_for_and_fits_a_screen() {
        for (name, snippet) in snippets() {
            for part in ["webhook-id", "webhook-timestamp", "webhook-signature", "too far from now"] {
                assert!(snippet.code.contains(part), "{name} has no {part}");
            }
            let widest = snippet.code.lines().map(|line| line.chars().count()).max();
            assert!(snippet.code.lines().count() <= 50 && widest <= Some(120), "{name}: {widest:?}");
        }
    }

    #[test]
    fn a_language_is_found_by_its_name() {
        assert_eq!((language("go").title, language("csharp").title), ("Go", "C#"));
        assert_eq!((language("").name, language("cobol").name), ("node", "node"));
    }
}
