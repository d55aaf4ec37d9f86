//! What `POST /events` takes and answers, for `/openapi.json` and `/docs`. The bounds are those of the code that reads events.

use serde_json::{Value, json};
use shopery_http::document::{add_common, add_problems};
use shopery_model::{ResourceType, catalogue};

use crate::http::MAX_BATCH;

const PROBLEMS: [&str; 11] = [
    "BadRequest",
    "Unauthorized",
    "Forbidden",
    "RequestTimeout",
    "Conflict",
    "TooLarge",
    "UnsupportedMediaType",
    "InvalidFields",
    "TooManyRequests",
    "Internal",
    "Unavailable",
];

const DESCRIPTION: &str = "\
Whatever was not answered with 202 can be sent again: within ten minutes the same `source` and `id` store nothing new, and the \
answer says `duplicate`. The same with another `type`, `subject` or `data` is answered with 409.

**Binary mode** of CloudEvents is taken too: the attributes are headers (`ce-specversion`, `ce-id`, `ce-source`, `ce-type`, \
`ce-subject`, and any other as `ce-` and its name; values percent-encoded), the `Content-Type` is `application/json` or ends in \
`+json`, and the body is the data. With a `Content-Type` of CloudEvents, the body is the event and such headers are not read. \
A batch has no binary mode.

**`Content-Encoding: gzip`** is taken for all of these; the limits are those of the unpacked body.";

pub(crate) fn document() -> Value {
    let event = json!({ "$ref": "#/components/schemas/CloudEvent" });
    let batch = json!({ "type": "array", "minItems": 1, "maxItems": MAX_BATCH, "items": event });
    let header = |name: &str| json!({ "$ref": format!("#/components/headers/{name}") });
    let mut publish = json!({
        "tags": ["events"],
        "summary": "Publishes an event, or a batch of them.",
        "description": DESCRIPTION,
        "operationId": "publishEvents",
        "security": [{ "bearer": ["events:write"] }],
        "parameters": [{ "$ref": "#/components/parameters/Tenant" }],
        "requestBody": { "required": true, "content": {
            "application/cloudevents+json": { "schema": event },
            "application/json": { "schema": event },
            "application/cloudevents-batch+json": { "schema": batch },
        } },
        "responses": { "202": {
            "description": "The stream EVENTS has stored it, or all of them.",
            "headers": { "RateLimit": header("RateLimit"), "RateLimit-Policy": header("RateLimit-Policy") },
            "content": { "application/json": { "schema": { "oneOf": [
                { "$ref": "#/components/schemas/Published" },
                { "$ref": "#/components/schemas/PublishedBatch" },
            ] } } },
        } },
    });
    add_problems(&mut publish, &PROBLEMS);
    let mut document = json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Shopery Webhooks: events",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Where the platform publishes what happens to its resources.",
            "license": { "name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0" },
        },
        "servers": [{ "url": "/" }],
        "tags": [{ "name": "events", "description": "What happened." }],
        "paths": { "/events": { "post": publish } },
        "components": { "schemas": {
            "CloudEvent": cloud_event(),
            "Published": object(json!({
                "id": { "type": "string", "example": "evt-7" },
                "duplicate": {
                    "type": "boolean", "example": false,
                    "description": "Whether it had been stored before. Nothing new was stored then.",
                },
            })),
            "PublishedBatch": object(json!({
                "ids": { "type": "array", "items": { "type": "string" }, "example": ["evt-7"] },
                "events": {
                    "description": "In the order of the batch.",
                    "type": "array", "items": { "$ref": "#/components/schemas/Published" },
                },
            })),
        } },
    });
    add_common(&mut document);
    document
}

/// An object that has all of these, and no others.
fn object(properties: Value) -> Value {
    let names: Vec<_> = properties.as_object().into_iter().flatten().map(|(name, _)| name.clone()).collect();
    json!({ "type": "object", "required": names, "properties": properties, "additionalProperties": false })
}

/// What an attribute may be that CloudEvents does not know, or that we do not use.
fn extension() -> Value {
    json!({
        "type": ["string", "boolean", "integer", "null"],
        "minimum": i32::MIN, "maximum": i32::MAX, "pattern": "^[^\\u0000-\\u001f\\u007f-\\u009f]*$",
    })
}

fn cloud_event() -> Value {
    let text = |example: &str, description: &str| {
        json!({
            "type": "string", "pattern": "^[^\\u0000-\\u001f\\u007f-\\u009f]{1,128}$",
            "example": example, "description": description,
        })
    };
    // Of some, we alone publish.
    let types = |resource: &ResourceType| {
        let types =
            resource.types().map(|(event_type, _)| event_type).filter(|event_type| !event_type.is_operational());
        types.map(|event_type| event_type.to_string()).collect::<Vec<_>>()
    };
    let resources = || catalogue().resources().filter(|resource| !types(resource).is_empty());
    // The subject is of the kind that the type is about.
    let kinds: Vec<_> = resources()
        .map(|resource| {
            let subject = format!("^{}/[^\\u0000-\\u001f\\u007f-\\u009f]{{1,128}}$", resource.name);
            json!({ "properties": { "type": { "enum": types(resource) }, "subject": { "pattern": subject } } })
        })
        .collect();
    let all: Vec<_> = resources().flat_map(types).collect();
    let mut traceparent = extension();
    traceparent["description"] = json!("W3C trace context.");
    json!({
        "description": "CloudEvents 1.0 in structured JSON, at most 256 KiB. Up to 64 other attributes may be there; they are kept and come back with the event.",
        "type": "object",
        "propertyNames": { "pattern": "^[a-z0-9]{1,64}$" },
        "additionalProperties": extension(),
        "maxProperties": 64,
        "required": ["specversion", "id", "source", "type", "subject", "data"],
        "properties": {
            "specversion": { "type": "string", "const": "1.0", "example": "1.0" },
            "id": text("evt-7", "Yours. Repeats of it within ten minutes are stored once."),
            "source": text("orders", "Who publishes."),
            "type": { "type": "string", "enum": all, "example": "order-created" },
            "subject": { "type": "string", "description": "Kind and id of the resource.", "example": "order/ord_123" },
            "time": {
                "type": ["string", "null"], "format": "date-time", "example": "2026-11-24T10:00:00Z",
                "description": "When it happened; otherwise when it was stored.",
            },
            "datacontenttype": { "enum": ["application/json", null], "example": "application/json" },
            "traceparent": traceparent,
            "data": {
                "type": "object",
                "description": "The resource, delivered byte for byte; of a deletion, its id and when it was deleted.",
                "example": {
                    "id": "ord_123", "number": 1042, "status": "open", "currency": "EUR", "total_price": 59.80,
                    "customer": { "id": "cus_7", "email": "zoe@example.com" },
                    "line_items": [{ "sku": "MUG-BLUE", "title": "Blue mug", "quantity": 2, "price": 29.90 }],
                    "created_at": "2026-11-24T10:00:00Z", "updated_at": "2026-11-24T10:00:00Z",
                },
            },
        },
        "anyOf": kinds,
    })
}
