//! Creating a webhook, and changing one, in the words of the product's documentation. The same form tests the URL and shows what
//! would be sent, and keeps what was typed whatever comes of it.

use axum::Router;
use axum::extract::Path;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::get;
use maud::{Markup, html};
use serde_json::{Map, json};
use shopery_client::{Answer, Error, FieldError, JSON, Method, Problem, Request};

use crate::App;
use crate::api::{List, Made, MatchReport, Setup, TestReport, Type, Webhook};
use crate::form::{Form, REOPEN};
use crate::layout::{Room, key, page, pretty};
use crate::texts::Texts;
use crate::typed::Typed;
use crate::visitor::{NoPage, Visitor, html as answer, told};
use crate::{catalogue, clouds};

pub(crate) fn routes() -> Router<App> {
    Router::new().route("/webhooks/new", get(new).post(create)).route("/webhooks/{id}/edit", get(edit).post(change))
}

/// What is shown above the form.
enum Said {
    Nothing,
    Wrong(Box<Problem>),
    /// Somebody else has changed it.
    Overtaken,
    Tested(TestReport),
    Matched {
        event_type: String,
        report: MatchReport,
    },
}

async fn new(visitor: Visitor) -> Result<Response, NoPage> {
    show(&visitor, None, &Typed::default(), &Said::Nothing).await
}

/// The form, with the catalogue, and how an owner lets us in at the address that was typed.
async fn show(visitor: &Visitor, id: Option<&str>, typed: &Typed, said: &Said) -> Result<Response, NoPage> {
    let types = visitor.get::<List<Type>>(&["company", "event-types"], &[]).await?.data;
    let setup = clouds::setup_of(visitor, &typed.url).await;
    Ok(answer(shown(visitor, id, &types, typed, said, setup.as_ref())))
}

async fn edit(visitor: Visitor, Path(id): Path<String>) -> Result<Response, NoPage> {
    let found = visitor.send(Request::get(&["company", "webhooks", &id])).await?;
    let webhook: Webhook = found.read().map_err(|error| visitor.failed(error))?;
    let typed = Typed::of_webhook(webhook, found.etag);
    show(&visitor, Some(&id), &typed, &Said::Nothing).await
}

async fn create(form: Form) -> Result<Response, NoPage> {
    let typed = Typed::of_form(&form);
    if let Some(tried) = tried(&form, None, &typed).await? {
        return Ok(tried);
    }
    let request = Request::post(&["company", "webhooks"]).body(JSON, typed.whole());
    match form.visitor.try_send(request).await {
        Ok(made) => {
            let made: Made = made.read().map_err(|error| form.visitor.failed(error))?;
            Ok(Redirect::to(&format!("/webhooks/{}", made.id)).into_response())
        }
        Err(error) => refused(&form, None, &typed, error).await,
    }
}

async fn change(Path(id): Path<String>, form: Form) -> Result<Response, NoPage> {
    let typed = Typed::of_form(&form);
    if let Some(tried) = tried(&form, Some(&id), &typed).await? {
        return Ok(tried);
    }
    let tag = Some(typed.etag.clone()).filter(|tag| !tag.is_empty());
    let request = Request::new(Method::PATCH, &["company", "webhooks", &id]).body(JSON, typed.whole()).if_match(tag);
    match form.visitor.try_send(request).await {
        Ok(_) => Ok(Redirect::to(&format!("/webhooks/{id}")).into_response()),
        Err(error) => refused(&form, Some(&id), &typed, error).await,
    }
}

/// The buttons that save nothing.
async fn tried(form: &Form, id: Option<&str>, typed: &Typed) -> Result<Option<Response>, NoPage> {
    let visitor = &form.visitor;
    let said = match form.text("action") {
        REOPEN => Ok(Said::Nothing),
        "test" => {
            let request = test(visitor, id, typed).await?;
            read(visitor.try_send(request).await, Said::Tested)
        }
        "preview" => {
            let event_type = form.text("example").to_owned();
            let mut more = Map::from_iter([("eventType".to_owned(), json!(event_type))]);
            if !typed.events.is_empty() {
                more.insert("events".to_owned(), json!(typed.events));
            }
            let request = Request::post(&["company", "webhooks", "match"]).body(JSON, typed.body(more));
            read(visitor.try_send(request).await, |report| Said::Matched { event_type, report })
        }
        "fields" => Ok(Said::Nothing),
        _ => return Ok(None),
    };
    let said = match said {
        Ok(said) => said,
        Err(Error::Refused(problem)) if problem.status == 422 => Said::Wrong(problem),
        Err(error) => return Err(visitor.failed(error)),
    };
    show(visitor, id, typed, &said).await.map(Some)
}

/// A test of what was typed. A secret that is only shown as a mask is known to the API alone: it is tested as the webhook is saved, if
/// that has this address.
async fn test(visitor: &Visitor, id: Option<&str>, typed: &Typed) -> Result<Request, NoPage> {
    if let Some(id) = id.filter(|_| typed.is_masked()) {
        let saved: Webhook = visitor.get(&["company", "webhooks", id], &[]).await?;
        if saved.url == typed.url {
            return Ok(Request::post(&["company", "webhooks", id, "test"]).body(JSON, "{}"));
        }
    }
    Ok(Request::post(&["company", "webhooks", "test"]).body(JSON, typed.test()))
}

fn read<T: serde::de::DeserializeOwned>(
    answer: Result<Answer, Error>,
    says: impl FnOnce(T) -> Said,
) -> Result<Said, Error> {
    answer?.read().map(says)
}

/// The form once more, with what is wrong beside its fields.
async fn refused(form: &Form, id: Option<&str>, typed: &Typed, error: Error) -> Result<Response, NoPage> {
    let visitor = &form.visitor;
    let (status, said, etag) = match error {
        Error::Refused(problem) if problem.status == 422 => {
            (StatusCode::UNPROCESSABLE_ENTITY, Said::Wrong(problem), typed.etag.clone())
        }
        Error::Refused(problem) if problem.status == 412 => {
            // The next save of this form, which has seen that, goes through.
            let now = visitor.send(Request::get(&["company", "webhooks", id.unwrap_or_default()])).await?;
            (StatusCode::PRECONDITION_FAILED, Said::Overtaken, now.etag.unwrap_or_default())
        }
        error => return Err(visitor.failed(error)),
    };
    let typed = Typed { etag, ..Typed::of_form(form) };
    let page = show(visitor, id, &typed, &said).await?;
    Ok((status, page).into_response())
}

fn shown(
    visitor: &Visitor,
    id: Option<&str>,
    types: &[Type],
    typed: &Typed,
    said: &Said,
    setup: Option<&Setup>,
) -> String {
    let texts = visitor.texts;
    let wrong = match said {
        Said::Wrong(problem) => problem.errors.as_slice(),
        _ => &[],
    };
    let title = if id.is_some() { texts.edit } else { texts.create_webhook };
    let content = html! {
        (message(texts, id, said))
        form method="post" {
            (key(visitor))
            // Enter presses the first button of a form.
            button.unseen name="action" value="save" tabindex="-1" aria-hidden="true" {}
            input type="hidden" name="etag" value=(typed.etag);
            (field(texts, wrong, "name", texts.name, "", |described| html! {
                input #name type="text" name="name" value=(typed.name) required maxlength="200" aria-invalid=[invalid(wrong, "name")] aria-describedby=[described];
            }))
            (field(texts, wrong, "url", texts.url, texts.url_hint, |described| html! {
                // A browser takes the address of a topic for no URL.
                input #url type="text" inputmode="url" autocomplete="off" spellcheck="false" name="url" value=(typed.url) required placeholder="https://" aria-invalid=[invalid(wrong, "url")] aria-describedby=[described];
            }))
            (clouds::credentials(texts, wrong, typed))
            @if let Some(setup) = setup { (clouds::setup(texts, &typed.url, setup, is_shut_out(said))) }
            p { button.quiet name="action" value="test" formnovalidate { (texts.test_url) } }
            fieldset {
                legend { (texts.subscribed) }
                p.hint { (texts.events_hint) }
                (catalogue::events(texts, types, &typed.events))
                @for error in of(wrong, "events") { p.wrong { (error.field) " " (error.detail) } }
            }
            (field(texts, wrong, "description", texts.description, "", |described| html! {
                textarea #description name="description" maxlength="1000" aria-describedby=[described] { (typed.description) }
            }))
            (advanced(texts, wrong, types, typed))
            div.actions {
                button name="action" value="save" { (texts.save) }
                a.button.quiet href=(id.map_or_else(|| "/webhooks".to_owned(), |id| format!("/webhooks/{id}"))) { (texts.cancel) }
            }
        }
    };
    page(visitor, Room::Webhooks, title, &content)
}

fn message(texts: &Texts, id: Option<&str>, said: &Said) -> Markup {
    html! {
        @match said {
            Said::Nothing => {}
            Said::Wrong(problem) => { p.problem role="alert" { (told(problem)) } }
            Said::Overtaken => {
                p.problem role="alert" {
                    (texts.changed_meanwhile) " "
                    @if let Some(id) = id { a href={ "/webhooks/" (id) "/changes" } { (texts.changes) } }
                }
            }
            Said::Tested(report) if report.success => { p.done role="status" { (passed(texts, report)) } }
            Said::Tested(report) => {
                div.problem role="alert" {
                    b { (texts.test_failed) } ": "
                    @if let Some(error) = &report.error { (error.detail) }
                    @if let Some(advice) = &report.advice { p { (advice) } }
                }
            }
            Said::Matched { event_type, report } => {
                @let sentence = if report.matches { texts.would_match } else { texts.would_not_match };
                div role="status" class=(if report.matches { "done" } else { "notice" }) {
                    (sentence.replace("{}", event_type))
                    ul { @for objection in &report.objections { li { b { (objection.rule) } ": " (objection.detail) } } }
                    pre { code { (pretty(report.payload.get())) } }
                }
            }
        }
    }
}

/// That a test went well.
pub(crate) fn passed(texts: &Texts, report: &TestReport) -> &'static str {
    if report.status.is_some() { texts.test_passed } else { texts.test_accepted }
}

/// Whether a bus or topic was just found not to let us in.
fn is_shut_out(said: &Said) -> bool {
    matches!(said, Said::Tested(report) if report.setup.is_some())
}

pub(crate) fn invalid(wrong: &[FieldError], name: &str) -> Option<&'static str> {
    of(wrong, name).next().map(|_| "true")
}

/// Whether the field is one that is never folded.
fn is_in_sight(error: &FieldError) -> bool {
    let name = error.field.split(['[', '.']).next().unwrap_or_default();
    ["name", "url", "credentials", "events", "description"].contains(&name)
}

/// What is wrong with a field, or with a part of it.
fn of<'a>(wrong: &'a [FieldError], name: &'a str) -> impl Iterator<Item = &'a FieldError> {
    wrong.iter().filter(move |error| error.field.split(['[', '.']).next() == Some(name))
}

/// What a screen reader says besides the label.
fn described(wrong: &[FieldError], name: &str, hint: &str) -> Option<String> {
    let hint = (!hint.is_empty()).then(|| format!("{name}-hint"));
    let wrong = invalid(wrong, name).map(|_| format!("{name}-wrong"));
    let ids: Vec<_> = hint.into_iter().chain(wrong).collect();
    (!ids.is_empty()).then(|| ids.join(" "))
}

/// `input` is given the ids of its hint and of what is wrong with it.
pub(crate) fn field(
    texts: &Texts,
    wrong: &[FieldError],
    name: &str,
    label: &str,
    hint: &str,
    input: impl FnOnce(Option<String>) -> Markup,
) -> Markup {
    let is_needed = matches!(name, "name" | "url");
    html! {
        div.field {
            label for=(name) { (label) @if !is_needed { span.faint { " (" (texts.optional) ")" } } }
            (input(described(wrong, name, hint)))
            @if !hint.is_empty() { p.hint id={ (name) "-hint" } { (hint) } }
            @if invalid(wrong, name).is_some() {
                div id={ (name) "-wrong" } { @for error in of(wrong, name) { p.wrong { (error.field) " " (error.detail) } } }
            }
        }
    }
}

/// The fields of an example, to be checked, and a text for what it does not have.
fn fields(texts: &Texts, wrong: &[FieldError], types: &[Type], typed: &Typed) -> Markup {
    let example = typed.example_of(types);
    let paths = example.and_then(|one| one.example.as_ref()).map(|example| catalogue::paths(example.get()));
    let (paths, chosen) = (paths.unwrap_or_default(), typed.paths());
    let others: Vec<_> = chosen.iter().filter(|path| paths.iter().all(|one| one.path != **path)).cloned().collect();
    html! {
        fieldset {
            legend { (texts.fields) span.faint { " (" (texts.optional) ")" } }
            p.hint { (texts.fields_choose) }
            div.row {
                label for="example" { (texts.fields_of) }
                select #example name="example" {
                    @for one in types {
                        option value=(one.name) selected[example.is_some_and(|example| example.name == one.name)] { (one.name) }
                    }
                }
                button.quiet name="action" value="fields" formnovalidate { (texts.fields_show) }
            }
            @for path in &chosen { input type="hidden" name="order" value=(path); }
            @if paths.is_empty() { p.hint { (texts.no_example) } } @else { (catalogue::fields(&paths, &chosen)) }
            (field(texts, &[], "fields", texts.fields_other, texts.fields_other_hint, |described| html! {
                textarea #fields name="fields" spellcheck="false" aria-invalid=[invalid(wrong, "fields")] aria-describedby=[described] { (others.join("\n")) }
            }))
            @for error in of(wrong, "fields") { p.wrong { (path_of(&error.field, &chosen)) " " (error.detail) } }
        }
    }
}

/// The path that an error is about: the API counts them, but nobody sees their numbers.
fn path_of<'a>(field: &'a str, chosen: &'a [String]) -> &'a str {
    let number = field.strip_prefix("fields[").and_then(|rest| rest.strip_suffix(']'));
    number.and_then(|number| chosen.get(number.parse::<usize>().ok()?)).map_or(field, String::as_str)
}

fn advanced(texts: &Texts, wrong: &[FieldError], types: &[Type], typed: &Typed) -> Markup {
    let rules = [&typed.fields, &typed.filter, &typed.changed, &typed.debounce, &typed.rate_limit];
    let is_open = !typed.checked.is_empty() || rules.iter().any(|text| !text.is_empty());
    let area = |name: &'static str, label: &str, hint: &str, text: &str| {
        field(texts, wrong, name, label, hint, |described| {
            html! {
                textarea id=(name) name=(name) spellcheck="false" aria-invalid=[invalid(wrong, name)] aria-describedby=[described] { (text) }
            }
        })
    };
    let line = |name: &'static str, label: &str, hint: &str, text: &str| {
        field(texts, wrong, name, label, hint, |described| {
            html! {
                input id=(name) type="text" name=(name) value=(text) aria-invalid=[invalid(wrong, name)] aria-describedby=[described];
            }
        })
    };
    html! {
        details.card open[is_open || typed.is_advanced || wrong.iter().any(|error| !is_in_sight(error))] {
            summary { (texts.advanced) }
            (fields(texts, wrong, types, typed))
            (area("filter", texts.filter_rule, texts.filter_hint, &typed.filter))
            (area("changed", texts.changed_rule, texts.changed_hint, &typed.changed))
            (line("debounce", texts.debounce, texts.debounce_hint, &typed.debounce))
            (line("rateLimit", texts.rate_limit, texts.rate_limit_hint, &typed.rate_limit))
            button.quiet name="action" value="preview" formnovalidate { (texts.preview) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_about_a_path_rather_than_its_number() {
        let chosen = ["id".to_owned(), "a..b".to_owned()];
        for (field, shown) in
            [("fields[1]", "a..b"), ("fields[2]", "fields[2]"), ("fields", "fields"), ("fields[x]", "fields[x]")]
        {
            assert_eq!(path_of(field, &chosen), shown);
        }
    }
}
