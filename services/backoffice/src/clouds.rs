//! Event buses and topics: what they are called, how their owner lets us in, and the part of the form of a webhook that has
//! credentials for them.

use maud::{Markup, html};
use shopery_client::{FieldError, Request};
use shopery_model::DestinationKind;

use crate::api::Setup;
use crate::layout::{command, pretty, quoted};
use crate::texts::Texts;
use crate::typed::Typed;
use crate::visitor::Visitor;
use crate::webhook_form::{field, invalid};

const AMAZON: &str = "Amazon EventBridge";
const GOOGLE: &str = "Google Cloud Pub/Sub";

pub(crate) fn is_cloud(url: &str) -> bool {
    DestinationKind::of(url) != DestinationKind::Https
}

/// The kind of an address, by the names of the products.
pub(crate) fn kind(url: &str) -> &'static str {
    match DestinationKind::of(url) {
        DestinationKind::Https => "HTTPS",
        DestinationKind::EventBridge => AMAZON,
        DestinationKind::PubSub => GOOGLE,
    }
}

/// How the owner of an address lets us publish there; `None` of an HTTPS endpoint, or if the API does not say: the page has other
/// things to show.
pub(crate) async fn setup_of(visitor: &Visitor, url: &str) -> Option<Setup> {
    if !is_cloud(url) {
        return None;
    }
    let request = Request::get(&["company", "destinations", "setup"]).query(&[("url", url.to_owned())]);
    visitor.try_send(request).await.ok()?.read().ok()
}

/// What the owner of an address does there.
pub(crate) fn setup(texts: &Texts, url: &str, setup: &Setup, is_open: bool) -> Markup {
    html! {
        details.card open[is_open] {
            summary { (texts.setup) }
            p { (setup.instructions) }
            @if !setup.commands.is_empty() { pre { code { (setup.commands.join("\n")) } } }
            @if let Some(policy) = &setup.policy {
                p { (texts.setup_policy) }
                pre { code { (pretty(policy.get())) } }
            }
            (command(texts, &format!("shopery webhooks setup {}", quoted(url))))
        }
    }
}

/// The credentials of the owner's own. Nothing is hidden by what was typed as the URL, which would need JavaScript: each says what it
/// is for.
pub(crate) fn credentials(texts: &Texts, wrong: &[FieldError], typed: &Typed) -> Markup {
    let lines = [
        ("accessKeyId", "text", texts.access_key_id, "", &typed.access_key_id),
        ("secretAccessKey", "password", texts.secret_access_key, texts.mask_hint, &typed.secret_access_key),
        ("roleArn", "text", texts.role_arn, "", &typed.role_arn),
        ("externalId", "text", texts.external_id, "", &typed.external_id),
    ];
    let within = within(wrong);
    // What is wrong with the key file, or with both, is not about a line.
    let (of_lines, others): (Vec<_>, Vec<_>) =
        within.into_iter().partition(|error| lines.iter().any(|(name, ..)| *name == error.field));
    let is_open = is_cloud(&typed.url) || typed.has_credentials() || !of_lines.is_empty() || !others.is_empty();
    html! {
        details.card open[is_open] {
            summary { (texts.cloud_credentials) }
            p.hint { (texts.cloud_credentials_hint) }
            @for error in &others { p.wrong { (error.field) " " (error.detail) } }
            @if typed.has_key { input type="hidden" name="hasKey" value="1"; }
            fieldset {
                legend { (AMAZON) }
                @for (name, kind, label, hint, value) in lines {
                    (field(texts, &of_lines, name, label, hint, |described| html! {
                        input id=(name) type=(kind) name=(name) value=(value) autocomplete="off" spellcheck="false" aria-invalid=[invalid(&of_lines, name)] aria-describedby=[described];
                    }))
                }
            }
            fieldset {
                legend { (GOOGLE) }
                (field(texts, &[], "keyFile", texts.key_file, texts.key_file_hint, |described| html! {
                    textarea #keyFile name="keyFile" autocomplete="off" spellcheck="false" aria-describedby=[described] { (typed.key_file) }
                }))
            }
        }
    }
}

/// What is wrong with the members of `credentials`, by their own names; with the whole, by its name.
fn within(wrong: &[FieldError]) -> Vec<FieldError> {
    let of_credentials = wrong.iter().filter_map(|FieldError { field, detail }| {
        let rest = field.strip_prefix("credentials")?;
        let field = if rest.is_empty() { field.as_str() } else { rest.strip_prefix('.')? };
        Some(FieldError { field: field.to_owned(), detail: detail.clone() })
    });
    of_credentials.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::texts::Language;

    fn wrong(field: &str) -> FieldError {
        FieldError { field: field.to_owned(), detail: format!("of {field}") }
    }

    #[test]
    fn what_is_wrong_stands_beside_its_field() {
        let wrong = ["credentials", "credentials.roleArn", "credentials.private_key", "url", "credentialsX"].map(wrong);
        let names: Vec<_> = within(&wrong).into_iter().map(|error| error.field).collect();
        assert_eq!(names, ["credentials", "roleArn", "private_key"]);
        let shown = credentials(Language::English.texts(), &wrong, &Typed::default()).into_string();
        assert!(
            shown.contains("<div id=\"roleArn-wrong\"><p class=\"wrong\">roleArn of credentials.roleArn</p></div>"),
            "{shown}"
        );
        for general in ["credentials of credentials<", "private_key of credentials.private_key<"] {
            assert_eq!(shown.matches(general).count(), 1, "{general}: {shown}");
        }
        assert!(shown.starts_with("<details class=\"card\" open"), "{shown}");
    }

    #[test]
    fn the_part_is_folded_where_nothing_is_in_it() {
        let texts = Language::English.texts();
        let of = |url: &str, key_file: &str, has_key| {
            let (url, key_file) = (url.to_owned(), key_file.to_owned());
            credentials(texts, &[], &Typed { url, key_file, has_key, ..Typed::default() }).into_string()
        };
        for (url, key_file, is_open) in [
            ("https://a.example/", "", false),
            ("", "", false),
            ("", "{}", true),
            ("pubsub://shop-analytics/orders", "", true),
        ] {
            let shown = of(url, key_file, false);
            assert_eq!(shown.starts_with("<details class=\"card\" open"), is_open, "{url}: {shown}");
        }
        assert!(of("", "", true).contains("name=\"hasKey\"") && !of("", "", false).contains("hasKey"));
    }

    #[test]
    fn a_kind_is_called_by_its_product() {
        for (url, name) in [
            ("https://test.com/wh", "HTTPS"),
            ("arn:aws:events:eu-west-1:123456789012:event-bus/orders", AMAZON),
            ("pubsub://shop-analytics/orders", GOOGLE),
        ] {
            assert_eq!((kind(url), is_cloud(url)), (name, name != "HTTPS"));
        }
    }
}
