//! Creating a webhook, and changing one, in the words of the product's documentation. The same form tests the URL and shows what
//! would be sent, and keeps what was typed whatever comes of it.

use axum::Router;
use axum::extract::Path;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::get;
use maud::{Markup, html};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};
use shopery_client::{Answer, Error, FieldError, JSON, Method, Problem, Request};

use crate::App;
use crate::api::{List, Made, MatchReport, TestReport, Type, Webhook};
use crate::form::{Form, REOPEN};
use crate::layout::{Room, key, page, pretty};
use crate::texts::Texts;
use crate::visitor::{NoPage, Visitor, html as answer, told};

pub(crate) fn routes() -> Router<App> {
    Router::new().route("/webhooks/new", get(new).post(create)).route("/webhooks/{id}/edit", get(edit).post(change))
}

/// What was typed, or is there.
#[derive(Debug, Default)]
struct Typed {
    name: String,
    description: String,
    url: String,
    events: Vec<String>,
    fields: String,
    filter: String,
    changed: String,
    debounce: String,
    rate_limit: String,
    /// The version that is changed.
    etag: String,
}

impl Typed {
    fn of_form(form: &Form) -> Self {
        let text = |name: &str| form.text(name).to_owned();
        Self {
            name: text("name"),
            description: text("description"),
            url: text("url"),
            events: form.all("events").map(str::to_owned).collect(),
            fields: text("fields"),
            filter: text("filter"),
            changed: text("changed"),
            debounce: text("debounce"),
            rate_limit: text("rateLimit"),
            etag: text("etag"),
        }
    }

    fn of_webhook(webhook: Webhook, etag: Option<String>) -> Self {
        let lines = |list: Option<Vec<String>>| list.unwrap_or_default().join("\n");
        Self {
            name: webhook.name,
            description: webhook.description.unwrap_or_default(),
            url: webhook.url,
            events: webhook.events,
            fields: lines(webhook.fields),
            filter: webhook.filter.map(|filter| pretty(filter.get())).unwrap_or_default(),
            changed: lines(webhook.changed),
            debounce: webhook.debounce.unwrap_or_default(),
            rate_limit: webhook.rate_limit.map(|limit| limit.to_string()).unwrap_or_default(),
            etag: etag.unwrap_or_default(),
        }
    }

    /// The rules, `null` where there is none. What is no JSON goes as a text, so that the API names the field.
    fn rules(&self) -> Map<String, Value> {
        let lines = |text: &str| {
            let lines: Vec<_> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
            if lines.is_empty() { Value::Null } else { json!(lines) }
        };
        let text = |text: &str| if text.is_empty() { Value::Null } else { json!(text) };
        let rate_limit = self.rate_limit.parse::<u32>().map_or_else(|_| text(&self.rate_limit), |limit| json!(limit));
        Map::from_iter([
            ("fields".to_owned(), lines(&self.fields)),
            ("changed".to_owned(), lines(&self.changed)),
            ("debounce".to_owned(), text(&self.debounce)),
            ("rateLimit".to_owned(), rate_limit),
        ])
    }

    /// The body of a request. The filter keeps the digits of its numbers, so it is put in as it was typed.
    fn body(&self, more: Map<String, Value>) -> String {
        let mut body = self.rules();
        body.extend(more);
        let filter = match serde_json::from_str::<&RawValue>(&self.filter) {
            _ if self.filter.is_empty() => "null".to_owned(),
            Ok(filter) => filter.get().to_owned(),
            Err(_) => json!(self.filter).to_string(),
        };
        let body = Value::Object(body).to_string();
        format!("{},\"filter\":{filter}}}", body.strip_suffix('}').unwrap_or(&body))
    }

    fn whole(&self) -> String {
        let description = if self.description.is_empty() { Value::Null } else { json!(self.description) };
        self.body(Map::from_iter([
            ("name".to_owned(), json!(self.name)),
            ("description".to_owned(), description),
            ("url".to_owned(), json!(self.url)),
            ("events".to_owned(), json!(self.events)),
        ]))
    }
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
    let types = types(&visitor).await?;
    Ok(answer(shown(&visitor, None, &types, &Typed::default(), &Said::Nothing)))
}

async fn types(visitor: &Visitor) -> Result<Vec<Type>, NoPage> {
    Ok(visitor.get::<List<Type>>(&["company", "event-types"], &[]).await?.data)
}

async fn edit(visitor: Visitor, Path(id): Path<String>) -> Result<Response, NoPage> {
    let types = types(&visitor).await?;
    let found = visitor.send(Request::get(&["company", "webhooks", &id])).await?;
    let webhook: Webhook = found.read().map_err(|error| visitor.failed(error))?;
    let typed = Typed::of_webhook(webhook, found.etag);
    Ok(answer(shown(&visitor, Some(&id), &types, &typed, &Said::Nothing)))
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
            let body = json!({ "url": typed.url }).to_string();
            let request = Request::post(&["company", "webhooks", "test"]).body(JSON, body);
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
        _ => return Ok(None),
    };
    let said = match said {
        Ok(said) => said,
        Err(Error::Refused(problem)) if problem.status == 422 => Said::Wrong(problem),
        Err(error) => return Err(visitor.failed(error)),
    };
    let types = types(visitor).await?;
    Ok(Some(answer(shown(visitor, id, &types, typed, &said))))
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
    let types = types(visitor).await?;
    let typed = Typed { etag, ..Typed::of_form(form) };
    Ok((status, answer(shown(visitor, id, &types, &typed, &said))).into_response())
}

fn shown(visitor: &Visitor, id: Option<&str>, types: &[Type], typed: &Typed, said: &Said) -> String {
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
            input type="hidden" name="etag" value=(typed.etag);
            (field(texts, wrong, "name", texts.name, "", html! {
                input #name type="text" name="name" value=(typed.name) required maxlength="200" aria-invalid=[invalid(wrong, "name")];
            }))
            (field(texts, wrong, "url", texts.url, "", html! {
                input #url type="url" name="url" value=(typed.url) required placeholder="https://" aria-invalid=[invalid(wrong, "url")];
            }))
            p { button.quiet name="action" value="test" formnovalidate { (texts.test_url) } }
            (events(texts, wrong, types, typed))
            (field(texts, wrong, "description", texts.description, "", html! {
                textarea #description name="description" maxlength="1000" { (typed.description) }
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
            Said::Tested(report) if report.success => { p.done role="status" { (texts.test_passed) } }
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

fn invalid(wrong: &[FieldError], name: &str) -> Option<&'static str> {
    of(wrong, name).next().map(|_| "true")
}

/// What is wrong with a field, or with a part of it.
fn of<'a>(wrong: &'a [FieldError], name: &'a str) -> impl Iterator<Item = &'a FieldError> {
    wrong.iter().filter(move |error| error.field.split(['[', '.']).next() == Some(name))
}

fn field(texts: &Texts, wrong: &[FieldError], name: &str, label: &str, hint: &str, input: Markup) -> Markup {
    let is_needed = matches!(name, "name" | "url");
    html! {
        div.field {
            label for=(name) { (label) @if !is_needed { span.faint { " (" (texts.optional) ")" } } }
            (input)
            @if !hint.is_empty() { p.hint { (hint) } }
            @for error in of(wrong, name) { p.wrong { (error.field) " " (error.detail) } }
        }
    }
}

fn events(texts: &Texts, wrong: &[FieldError], types: &[Type], typed: &Typed) -> Markup {
    let mut resources: Vec<&str> = types.iter().map(|one| one.resource.as_str()).collect();
    resources.dedup();
    let choice = |value: &str, label: Markup| {
        html! {
            label.choice {
                input type="checkbox" name="events" value=(value) checked[typed.events.iter().any(|event| event == value)];
                " " (label)
            }
        }
    };
    html! {
        fieldset {
            legend { (texts.subscribed) }
            p.hint { (texts.events_hint) }
            (choice("*", html! { (texts.all_events) " " code { "*" } }))
            @for resource in resources {
                @let all = format!("{resource}-*");
                (choice(&all, html! { code { (all) } }))
                @for one in types.iter().filter(|one| one.resource == resource) {
                    (choice(&one.name, html! { code { (one.name) } " " span.faint { (one.description) } }))
                }
            }
            @for error in of(wrong, "events") { p.wrong { (error.field) " " (error.detail) } }
        }
    }
}

fn advanced(texts: &Texts, wrong: &[FieldError], types: &[Type], typed: &Typed) -> Markup {
    let is_open = [&typed.fields, &typed.filter, &typed.changed, &typed.debounce, &typed.rate_limit]
        .iter()
        .any(|text| !text.is_empty());
    let area = |name: &'static str, text: &str| {
        html! { textarea id=(name) name=(name) spellcheck="false" aria-invalid=[invalid(wrong, name)] { (text) } }
    };
    let line = |name: &'static str, text: &str| {
        html! { input id=(name) type="text" name=(name) value=(text) aria-invalid=[invalid(wrong, name)]; }
    };
    html! {
        details.card open[is_open || !wrong.is_empty()] {
            summary { (texts.advanced) }
            (field(texts, wrong, "fields", texts.fields, texts.fields_hint, area("fields", &typed.fields)))
            (field(texts, wrong, "filter", texts.filter_rule, texts.filter_hint, area("filter", &typed.filter)))
            (field(texts, wrong, "changed", texts.changed_rule, texts.changed_hint, area("changed", &typed.changed)))
            (field(texts, wrong, "debounce", texts.debounce, texts.debounce_hint, line("debounce", &typed.debounce)))
            (field(texts, wrong, "rateLimit", texts.rate_limit, texts.rate_limit_hint, line("rateLimit", &typed.rate_limit)))
            div.actions {
                select name="example" aria-label=(texts.preview) {
                    @for one in types { option value=(one.name) { (one.name) } }
                }
                button.quiet name="action" value="preview" formnovalidate { (texts.preview) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_typed_is_the_body_and_no_number_loses_a_digit() {
        let typed = Typed {
            name: "a".to_owned(),
            url: "https://a.example/".to_owned(),
            events: vec!["order-*".to_owned()],
            fields: " id\n\ncustomer.email \n".to_owned(),
            filter: r#"{ "total_price": [10.10] }"#.to_owned(),
            rate_limit: "50".to_owned(),
            ..Typed::default()
        };
        let body = typed.whole();
        let read: Value = serde_json::from_str(&body).unwrap();
        assert_eq!((&read["fields"], &read["rateLimit"]), (&json!(["id", "customer.email"]), &json!(50)), "{body}");
        assert_eq!((&read["changed"], &read["description"]), (&Value::Null, &Value::Null));
        assert!(body.contains(r#""filter":{ "total_price": [10.10] }"#), "{body}");
        // The API says what is wrong with what is not as it should be.
        let odd = Typed { filter: "{".to_owned(), rate_limit: "many".to_owned(), ..Typed::default() };
        let read: Value = serde_json::from_str(&odd.whole()).unwrap();
        assert_eq!((&read["filter"], &read["rateLimit"]), (&json!("{"), &json!("many")));
    }
}
