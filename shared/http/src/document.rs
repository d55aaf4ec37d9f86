//! How a face describes itself: `/openapi.json` for programs, `/docs` for people. What all faces have in common is here: the
//! tenant, the token, the limits, and the problems that are answered.

mod page;

use axum::Router;
use axum::http::header;
use axum::routing::get;
use bytes::Bytes;
use serde_json::{Map, Value, json};

/// What anybody may read. `url` is the variable that has the address of this face, for examples.
pub fn routes(document: &Value, url: &str) -> anyhow::Result<Router> {
    let page = Bytes::from(page::render(document, url));
    let json = Bytes::from(serde_json::to_vec(document)?);
    let as_json = [(header::CONTENT_TYPE, "application/json")];
    let as_page = [(header::CONTENT_TYPE, "text/html; charset=utf-8"), (header::CONTENT_SECURITY_POLICY, page::POLICY)];
    Ok(Router::new()
        .route("/openapi.json", get(move || async move { (as_json, json) }))
        .route("/docs", get(move || async move { (as_page, page) })))
}

/// Adds the components that operations refer to.
pub fn add_common(document: &mut Value) {
    let Value::Object(common) = common() else { return };
    for (kind, components) in common {
        let known = &mut document["components"][kind];
        if known.is_null() {
            *known = json!({});
        }
        extend(known, components);
    }
}

/// Says with which problems an operation may answer, by the names of [`PROBLEMS`].
pub fn add_problems(operation: &mut Value, names: &[&str]) {
    for (name, status, ..) in PROBLEMS.iter().filter(|problem| names.contains(&problem.0)) {
        operation["responses"][status.to_string()] = json!({ "$ref": format!("#/components/responses/{name}") });
    }
}

pub fn extend(object: &mut Value, more: Value) {
    if let (Some(object), Value::Object(more)) = (object.as_object_mut(), more) {
        object.extend(more);
    }
}

/// Name of the answer, status, name of the problem, when it is given, and the header that goes with it.
const PROBLEMS: [(&str, u16, &str, &str, Option<&str>); 13] = [
    (
        "BadRequest",
        400,
        "malformed-request",
        "The request cannot be read, or the header `X-tenant-ID` is missing.",
        None,
    ),
    ("Unauthorized", 401, "unauthorized", "There is no token, or it does not hold.", Some("WWW-Authenticate")),
    (
        "Forbidden",
        403,
        "forbidden",
        "The token lacks the permission, or is for other tenants.",
        Some("WWW-Authenticate"),
    ),
    ("NotFound", 404, "not-found", "There is no such thing; what is another tenant's is answered the same.", None),
    ("RequestTimeout", 408, "request-timeout", "The request took too long to arrive or to answer.", None),
    ("Conflict", 409, "conflict", "It does not go with how things are now; `detail` says with what.", None),
    ("PreconditionFailed", 412, "precondition-failed", "It was changed since it was read.", None),
    ("TooLarge", 413, "too-large", "The body is larger than is allowed.", None),
    (
        "UnsupportedMediaType",
        415,
        "unsupported-media-type",
        "The `Content-Type` is none of those above, or the `Content-Encoding` is not supported.",
        None,
    ),
    ("InvalidFields", 422, "invalid-fields", "`errors` names what is wrong.", None),
    ("TooManyRequests", 429, "too-many-requests", "There are too many requests.", Some("Retry-After")),
    ("Internal", 500, "internal", "Something failed on our side.", None),
    ("Unavailable", 503, "unavailable", "Nothing was done; the same request may succeed later.", Some("Retry-After")),
];

fn common() -> Value {
    let mut responses = Map::new();
    for (name, status, problem, description, with) in PROBLEMS {
        let example = json!({
            "type": format!("urn:shopery:problem:{problem}"), "title": "…", "status": status, "detail": "…",
        });
        let content = json!({ "schema": { "$ref": "#/components/schemas/Problem" }, "example": example });
        let mut headers = Map::new();
        if let Some(with) = with {
            headers.insert(with.to_owned(), json!({ "$ref": format!("#/components/headers/{with}") }));
        }
        let response = json!({ "description": description, "headers": headers, "content": { "application/problem+json": content } });
        responses.insert(name.to_owned(), response);
    }
    let text = |description: &str| json!({ "description": description, "schema": { "type": "string" } });
    json!({
        "schemas": { "Problem": problem() },
        "responses": responses,
        "parameters": {
            "Tenant": {
                "name": "X-tenant-ID", "in": "header", "required": true, "description": "The tenant to act for.",
                "schema": { "type": "string", "minLength": 1, "maxLength": 64 }, "example": "tnt_demo",
            },
            "IdempotencyKey": {
                "name": "Idempotency-Key", "in": "header", "required": false,
                "description": "A request that is repeated under its key within 24 hours is done once, and answered the same.",
                "schema": { "type": "string", "pattern": "^[!-~]{1,255}$" },
            },
        },
        "headers": {
            "RateLimit": text("What is left of each limit."),
            "RateLimit-Policy": text("What the limits are."),
            "Retry-After": { "description": "When to come again, in seconds.", "schema": { "type": "integer" } },
            "WWW-Authenticate": text("What is wrong with the token, as RFC 6750 has it."),
            "ETag": text("For `If-Match`."),
            "Location": text("Where it is."),
            "Idempotent-Replayed": text("`true` if this was answered before."),
        },
        "securitySchemes": {
            "bearer": { "type": "http", "scheme": "bearer", "bearerFormat": "JWT", "description": "Its claim `scope` has the permissions, `tenants` those that it is for." },
        },
    })
}

/// RFC 9457.
fn problem() -> Value {
    let text = || json!({ "type": "string" });
    let with = |mut schema: Value, more: Value| {
        extend(&mut schema, more);
        schema
    };
    json!({
        "description": "An error: RFC 9457. `type` is `urn:shopery:problem:` and the name of the problem.",
        "type": "object",
        "required": ["type", "title", "status", "detail"],
        "properties": {
            "type": with(text(), json!({ "example": "urn:shopery:problem:invalid-fields" })),
            "title": text(),
            "status": { "type": "integer", "minimum": 400, "maximum": 599, "example": 422 },
            "detail": with(text(), json!({ "description": "What is wrong, and how to mend it." })),
            "errors": {
                "description": "What is wrong with the input, field by field.",
                "type": "array",
                "items": {
                    "type": "object",
                    "required": ["field", "detail"],
                    "properties": { "field": with(text(), json!({ "example": "events[0]" })), "detail": text() },
                },
            },
        },
    })
}
