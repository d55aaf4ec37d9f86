//! The frame that all pages have.

use maud::{DOCTYPE, Markup, html};
use secrecy::ExposeSecret;
use time::OffsetDateTime;

use crate::assets::{COPY, HTMX, ICON, STYLE};
use crate::copy;
use crate::form::KEY;
use crate::sign_in::ends_soon;
use crate::texts::Texts;
use crate::visitor::Visitor;

/// The pages that are always a step away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Room {
    Webhooks,
    Deliveries,
    Events,
}

fn head(texts: &Texts, title: &str, more: &Markup) -> Markup {
    html! {
        head {
            meta charset="utf-8";
            meta name="viewport" content="width=device-width, initial-scale=1";
            meta name="color-scheme" content="light dark";
            title { (title) " · " (texts.product) }
            link rel="stylesheet" href=(STYLE.path());
            link rel="icon" type="image/svg+xml" href=(ICON.path());
            (more)
        }
    }
}

/// A page of somebody who has signed in.
pub(crate) fn page(visitor: &Visitor, room: Room, title: &str, content: &Markup) -> String {
    let texts = visitor.texts;
    let rooms = [
        (Room::Webhooks, "/webhooks", texts.webhooks),
        (Room::Deliveries, "/deliveries", texts.deliveries),
        (Room::Events, "/events", texts.events),
    ];
    let page = html! {
        (DOCTYPE)
        html lang=(texts.code) {
            (head(texts, title, &scripts()))
            body {
                a.skip href="#content" { (texts.skip) }
                header {
                    span.product { (texts.product) }
                    nav aria-label=(texts.product) {
                        @for (of, path, name) in rooms {
                            a href=(path) aria-current=[(of == room).then_some("page")] { (name) }
                        }
                    }
                    (tenants(visitor))
                    form method="post" action="/sign-out" { (key(visitor)) button.quiet { (texts.sign_out) } }
                }
                main #content {
                    (ends_soon(visitor, OffsetDateTime::now_utc()))
                    @if !visitor.session.may_write() { p.notice { (texts.read_only) } }
                    h1 { (title) }
                    (content)
                }
                (copy::status(texts))
            }
        }
    };
    page.into_string()
}

/// What updates parts of a page, and what copies. htmx evaluates nothing, brings no style of its own, asks nobody but us and keeps
/// no page.
fn scripts() -> Markup {
    const CONFIG: &str =
        r#"{"allowEval":false,"includeIndicatorStyles":false,"selfRequestsOnly":true,"historyCacheSize":0}"#;
    html! {
        meta name="htmx-config" content=(CONFIG);
        script src=(HTMX.path()) defer {}
        script src=(COPY.path()) defer {}
    }
}

/// Which tenant, and the others of the token.
fn tenants(visitor: &Visitor) -> Markup {
    let (session, texts) = (&visitor.session, visitor.texts);
    html! {
        @if session.claims.tenants.len() < 2 {
            span.tenant { (texts.signed_in_as) " " b { (session.tenant) } }
        } @else {
            form.tenant method="post" action="/tenant" {
                (key(visitor))
                label for="tenant" { (texts.signed_in_as) }
                select #tenant name="tenant" {
                    @for tenant in &session.claims.tenants {
                        option value=(tenant) selected[*tenant == session.tenant] { (tenant) }
                    }
                }
                button.quiet { (texts.switch_tenant) }
            }
        }
    }
}

/// A page of nobody.
pub(crate) fn bare_with(texts: &Texts, title: &str, content: &Markup) -> String {
    let page = html! {
        (DOCTYPE)
        html lang=(texts.code) {
            (head(texts, title, &html! {}))
            body.bare { main #content { h1 { (title) } (content) } }
        }
    };
    page.into_string()
}

pub(crate) fn bare(texts: &Texts, title: &str, why: &str) -> String {
    bare_with(texts, title, &html! { p.problem role="alert" { (why) } p { a href="/" { (texts.webhooks) } } })
}

/// A page in place of another one.
pub(crate) fn problem(visitor: &Visitor, title: &str, why: &str) -> String {
    page(visitor, Room::Webhooks, title, &html! { p.problem role="alert" { (why) } })
}

/// What tells a form of this session.
pub(crate) fn key(visitor: &Visitor) -> Markup {
    html! { input type="hidden" name=(KEY) value=(visitor.session.form_key.expose_secret()); }
}

/// A word of a shell, whatever is in it.
pub(crate) fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

/// The same action at a prompt. What is secret is not in it.
pub(crate) fn command(texts: &Texts, line: &str) -> Markup {
    html! { details.command { summary { (texts.command) } (copy::block(texts, texts.command_line, line)) } }
}

/// JSON as somebody reads it: indented, if it is JSON. No digit of a number is lost.
pub(crate) fn pretty(text: &str) -> String {
    let indented = serde_json::from_str::<serde_json::Value>(text).ok().map(|_| indent(text));
    indented.unwrap_or_else(|| text.to_owned())
}

fn indent(json: &str) -> String {
    let (mut out, mut depth, mut in_text, mut escaped) = (String::with_capacity(json.len() * 2), 0_usize, false, false);
    let line = |out: &mut String, depth: usize| {
        out.push('\n');
        out.extend(std::iter::repeat_n(' ', depth * 2));
    };
    let mut chars = json.chars().peekable();
    while let Some(char) = chars.next() {
        if in_text {
            out.push(char);
            (in_text, escaped) = (escaped || char != '"', !escaped && char == '\\');
            continue;
        }
        match char {
            '"' => {
                in_text = true;
                out.push(char);
            }
            '{' | '[' => {
                while chars.peek().is_some_and(|next| next.is_ascii_whitespace()) {
                    chars.next();
                }
                out.push(char);
                if chars.peek().is_some_and(|next| matches!(next, '}' | ']')) {
                    out.extend(chars.next());
                } else {
                    depth += 1;
                    line(&mut out, depth);
                }
            }
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                line(&mut out, depth);
                out.push(char);
            }
            ',' => {
                out.push(char);
                line(&mut out, depth);
            }
            ':' => out.push_str(": "),
            char if char.is_ascii_whitespace() => {}
            char => out.push(char),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_indented_and_keeps_every_digit() {
        let json = r#"{"id":9007199254740993, "total":10.10,"a":[],"b":[1,{"c":"x\"{,:"}]}"#;
        let shown = pretty(json);
        assert_eq!(
            shown,
            "{\n  \"id\": 9007199254740993,\n  \"total\": 10.10,\n  \"a\": [],\n  \"b\": [\n    1,\n    {\n      \"c\": \"x\\\"{,:\"\n    }\n  ]\n}"
        );
        let same = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
        assert_eq!(same(&shown), same(json));
        assert_eq!(pretty("no json"), "no json");
    }
}
