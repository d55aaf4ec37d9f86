//! `/openapi.json` and `/docs`: what the API is, told by its own code.
//!
//! Every route is declared together with its description, so that there is none without the other. What all of them have
//! in common (the tenant, the problems that any can answer with, the limits) is added here, from what all faces have.

pub(crate) mod schemas;

use axum::Router;
use serde_json::{Value, json};
use shopery_http::document::{self, extend};
use shopery_model::catalogue;
use utoipa::OpenApi;

use schemas::{AwsCredentials, FaultName, GoogleCredentials, Rules};

use crate::matching;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Shopery Webhooks",
        description = "Webhooks of a tenant: what they are sent, what became of it, and how to have it again.",
        license(name = "MIT OR Apache-2.0")
    ),
    servers((url = "/")),
    tags(
        (name = "webhooks", description = "What is sent where."),
        (name = "deliveries", description = "What became of each event for each webhook."),
        (name = "recovery", description = "Sending again what was missed."),
        (name = "events", description = "The events themselves."),
    ),
    components(schemas(Rules, FaultName, AwsCredentials, GoogleCredentials))
)]
struct About;

/// The document before the routes are added.
pub(crate) fn about() -> utoipa::openapi::OpenApi {
    About::openapi()
}

/// What anybody may read.
pub(crate) fn routes(document: utoipa::openapi::OpenApi) -> anyhow::Result<Router> {
    document::routes(&complete(serde_json::to_value(document)?), "SHOPERY_API_URL")
}

/// Of an id that we make: a prefix, and a ULID.
const ID_LENGTH: usize = 30;

/// Adds what all operations have in common.
fn complete(mut document: Value) -> Value {
    narrow(&mut document);
    let rules = document["components"]["schemas"]["Rules"]["properties"].take();
    for name in ["Webhook", "WebhookCreate", "WebhookUpdate", "MatchRequest"] {
        let schema = &mut document["components"]["schemas"][name];
        if name != "Webhook" {
            close(schema, &["headers", "credentials", "description", "metadata"]);
        }
        let mut rules = rules.clone();
        if name == "Webhook" {
            without_null(&mut rules, &[]);
        } else {
            without_null(&mut rules, &["fields", "filter", "changed", "debounce", "rateLimit"]);
        }
        extend(&mut schema["properties"], rules);
    }
    if let Some(schemas) = document["components"]["schemas"].as_object_mut() {
        schemas.remove("Rules");
    }
    for name in ["RotateSecret", "TestRequest", "RecoverRequest", "ResendRequest", "TestOfWebhook"] {
        let clearable: &[&str] = if name == "TestRequest" { &["headers", "credentials"] } else { &[] };
        close(&mut document["components"]["schemas"][name], clearable);
    }
    close(&mut document["components"]["schemas"]["AwsCredentials"], &[]);
    document::add_common(&mut document);
    let Some(paths) = document["paths"].as_object_mut() else { return document };
    for (path, operations) in paths {
        let Some(operations) = operations.as_object_mut() else { continue };
        for (method, operation) in operations {
            complete_operation(path, method, operation);
        }
    }
    document
}

/// What derived schemas cannot say.
fn narrow(document: &mut Value) {
    let mut set = |place: &str, more: Value| {
        if let Some(schema) = document.pointer_mut(place) {
            extend(schema, more);
        }
    };
    let resources = || catalogue().resources();
    let types = resources().flat_map(|resource| resource.types().map(|(event_type, _)| event_type.to_string()));
    let types: Vec<_> = types.collect();
    let families = resources().map(|resource| format!("{}-*", resource.name));
    let events: Vec<_> = types.iter().cloned().chain(families).chain(["*".to_owned()]).collect();
    let names = json!({ "pattern": "^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}$" });
    for schema in ["WebhookCreate", "WebhookUpdate", "TestRequest", "TestOfWebhook", "MatchRequest"] {
        let of = |member: &str| format!("/components/schemas/{schema}/properties/{member}");
        set(&of("events/items"), json!({ "enum": events }));
        set(&of("metadata"), json!({ "maxProperties": 16 }));
        set(&of("metadata/propertyNames"), json!({ "minLength": 1, "maxLength": 40 }));
        set(&of("metadata/additionalProperties"), json!({ "maxLength": 500 }));
        set(&of("eventType"), json!({ "enum": types }));
        set(&of("headers"), json!({ "maxProperties": 16 }));
        set(&of("headers/propertyNames"), names.clone());
        set(&of("headers/additionalProperties"), json!({ "pattern": "^[!-~]([ -~]{0,1022}[!-~])?$" }));
    }
    let path = json!({ "minLength": 1, "maxLength": 200 });
    for member in ["fields", "changed"] {
        set(&format!("/components/schemas/Rules/properties/{member}/items"), path.clone());
    }
    for schema in ["WebhookCreate", "WebhookUpdate", "TestRequest"] {
        let property = &mut document["components"]["schemas"][schema]["properties"]["credentials"];
        let description = property["description"].take();
        *property = json!({
            "description": description,
            "oneOf": [
                { "$ref": "#/components/schemas/AwsCredentials" },
                { "$ref": "#/components/schemas/GoogleCredentials" },
                { "type": "null" },
            ],
        });
    }
    document["components"]["schemas"]["Filter"] = filter();
    let of_filter = &mut document["components"]["schemas"]["Rules"]["properties"]["filter"];
    let description = of_filter["description"].take();
    *of_filter = json!({
        "description": description,
        "oneOf": [{ "$ref": "#/components/schemas/Filter" }, { "type": "null" }],
        "example": { "total_price": [{ "numeric": [">", 50] }] },
    });
}

/// A filter, as far as a schema can say: how its operators go together is said in words.
fn filter() -> Value {
    let text = json!({ "type": "string", "maxLength": 200 });
    let scalar = json!([text, { "type": "number", "minimum": -1e15, "maximum": 1e15 }, { "type": "boolean" }, { "type": "null" }]);
    let operator = |name: &str, argument: Value| json!({ "type": "object", "properties": { name: argument }, "required": [name], "additionalProperties": false });
    let of_text = ["prefix", "suffix", "equals-ignore-case"].map(|name| operator(name, text.clone()));
    let but = json!({ "anyOf": [
        { "anyOf": scalar },
        { "type": "array", "items": { "anyOf": scalar }, "minItems": 1, "maxItems": 20 },
        { "anyOf": of_text },
    ] });
    let sign = json!({ "enum": ["=", "<", "<=", ">", ">="] });
    let numeric = json!({
        "type": "array", "minItems": 2, "maxItems": 4,
        "prefixItems": [sign, { "type": "number" }, sign, { "type": "number" }],
        "items": false,
    });
    let mut tests = vec![json!({ "anyOf": scalar })];
    tests.extend(of_text);
    tests.push(operator("wildcard", json!({ "type": "string", "maxLength": 200, "description": "`*` is any text." })));
    tests.push(operator("exists", json!({ "type": "boolean" })));
    tests.push(operator("anything-but", but));
    tests.push(operator("numeric", numeric));
    json!({
        "description": "Each member is a field, with an array of which one must match, or a filter on what is in it. At most 8 KiB, 8 levels and 100 values.",
        "type": "object",
        "minProperties": 1,
        "properties": { "$or": {
            "type": "array", "minItems": 1, "maxItems": 16, "items": { "$ref": "#/components/schemas/Filter" },
        } },
        "additionalProperties": { "anyOf": [
            { "type": "array", "minItems": 1, "maxItems": 20, "items": { "anyOf": tests } },
            { "$ref": "#/components/schemas/Filter" },
        ] },
    })
}

fn complete_operation(path: &str, method: &str, operation: &mut Value) {
    let (is_post, has_body) = (method == "post", operation.get("requestBody").is_some());
    let mut parameters = vec![json!({ "$ref": "#/components/parameters/Tenant" })];
    let own = operation["parameters"].as_array().cloned().unwrap_or_default();
    let has_query = own.iter().any(|parameter| parameter["in"] == "query");
    // A question has no key: it may be asked as often as one likes.
    let has_key = is_post && path != matching::PATH;
    if has_key {
        parameters.push(json!({ "$ref": "#/components/parameters/IdempotencyKey" }));
    }
    parameters.extend(own.into_iter().map(|mut parameter| {
        without_null(&mut parameter, &[]);
        // The example of an id says of what kind it is.
        if let Some(prefix) = parameter["example"]
            .as_str()
            .filter(|id| parameter["in"] == "path" && id.len() == ID_LENGTH)
            .and_then(|id| id.get(..4))
        {
            let pattern = format!("^{prefix}[0-7][0-9A-HJKMNP-TV-Z]{{25}}$");
            extend(&mut parameter["schema"], json!({ "pattern": pattern }));
        }
        if parameter["in"] == "query" && parameter["name"] == "event" {
            let types = catalogue().resources().flat_map(|resource| resource.types());
            let types: Vec<_> = types.map(|(event_type, _)| event_type.to_string()).collect();
            extend(&mut parameter["schema"], json!({ "enum": types }));
        }
        parameter
    }));
    let mut names =
        vec!["BadRequest", "Unauthorized", "Forbidden", "RequestTimeout", "TooManyRequests", "Internal", "Unavailable"];
    names.extend(path.contains("{id}").then_some("NotFound"));
    names.extend(has_key.then_some("Conflict"));
    names.extend((is_post || has_body || has_query).then_some("InvalidFields"));
    names.extend((method == "patch").then_some("PreconditionFailed"));
    names.extend((method == "patch").then_some("Conflict"));
    names.extend(has_body.then_some("TooLarge"));
    names.extend(has_body.then_some("UnsupportedMediaType"));
    if let Some(schema) = operation.pointer_mut("/requestBody/content/application~1json") {
        without_null(schema, &[]);
    }
    let shown = path == "/company/webhooks/{id}" && (method == "get" || method == "patch");
    for (status, response) in operation["responses"].as_object_mut().into_iter().flatten() {
        let mut headers = json!({
            "RateLimit": { "$ref": "#/components/headers/RateLimit" },
            "RateLimit-Policy": { "$ref": "#/components/headers/RateLimit-Policy" },
        });
        if shown || path == "/company/webhooks" && status == "201" {
            extend(&mut headers, json!({ "ETag": { "$ref": "#/components/headers/ETag" } }));
        }
        if status == "201" || status == "202" {
            extend(&mut headers, json!({ "Location": { "$ref": "#/components/headers/Location" } }));
        }
        if has_key {
            extend(
                &mut headers,
                json!({ "Idempotent-Replayed": { "$ref": "#/components/headers/Idempotent-Replayed" } }),
            );
        }
        response["headers"] = headers;
        if status.starts_with('4') {
            response["content"] =
                json!({ "application/problem+json": { "schema": { "$ref": "#/components/schemas/Problem" } } });
        }
    }
    document::add_problems(operation, &names);
    operation["parameters"] = parameters.into();
}

/// A request may have no other fields, and none that is `null` but these.
fn close(schema: &mut Value, clearable: &[&str]) {
    schema["additionalProperties"] = false.into();
    if let Some(properties) = schema.get_mut("properties") {
        without_null(properties, clearable);
    }
}

/// What is absent is not `null`, but for these.
fn without_null(properties: &mut Value, but: &[&str]) {
    let Some(properties) = properties.as_object_mut() else { return };
    for (_, schema) in properties.iter_mut().filter(|(name, _)| !but.contains(&name.as_str())) {
        if let Some(Value::Array(kinds)) = schema.get_mut("type") {
            kinds.retain(|kind| kind != "null");
            if let [one] = kinds.as_slice() {
                schema["type"] = one.clone();
            }
        }
        let Some(of) = schema.get_mut("oneOf").and_then(Value::as_array_mut) else { continue };
        of.retain(|one| one["type"] != "null");
        if let ([one], true) = (of.clone().as_slice(), schema.is_object()) {
            *schema = one.clone();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn references(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(members) => {
                found.extend(members.get("$ref").and_then(Value::as_str).map(str::to_owned));
                members.values().for_each(|value| references(value, found));
            }
            Value::Array(elements) => elements.iter().for_each(|value| references(value, found)),
            _ => {}
        }
    }

    #[test]
    fn the_document_hangs_together() {
        let document = complete(serde_json::to_value(crate::described().into_openapi()).unwrap());
        let mut found = Vec::new();
        references(&document, &mut found);
        assert!(found.len() > 100);
        for reference in found {
            let place = document.pointer(reference.trim_start_matches('#'));
            assert!(place.is_some(), "{reference} leads nowhere");
        }
        let create = &document["components"]["schemas"]["WebhookCreate"];
        assert_eq!(create["additionalProperties"], false);
        assert_eq!(create["properties"]["ordered"]["type"], "boolean");
        assert_eq!(document["components"]["schemas"]["TestOfWebhook"]["additionalProperties"], false);
        assert_eq!(create["properties"]["isEnabled"]["type"], "boolean");
        assert_eq!(create["properties"]["filter"]["oneOf"][1]["type"], "null");
        assert_eq!(create["properties"]["credentials"]["oneOf"][2]["type"], "null");
        let key = &document["components"]["schemas"]["AwsCredentials"];
        assert_eq!(
            (&key["additionalProperties"], &key["properties"]["roleArn"]["type"]),
            (&false.into(), &"string".into())
        );
    }
}
