//! The document as a page for people: plain HTML, nothing to load and no script.

use std::fmt::Write;

use serde_json::Value;

/// The page loads nothing, and nothing else may show it.
pub(super) const POLICY: &str =
    "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'";

const STYLE: &str = include_str!("page.css");
const METHODS: [&str; 4] = ["get", "post", "patch", "delete"];

/// `url` is the variable that has the address of this face.
pub(super) fn render(document: &Value, url: &str) -> String {
    let mut page = Page { document, url, html: String::with_capacity(128 * 1024) };
    page.all();
    page.html
}

struct Page<'a> {
    document: &'a Value,
    url: &'a str,
    html: String,
}

/// An operation and where it is.
struct Operation<'a> {
    method: &'a str,
    path: &'a str,
    about: &'a Value,
}

impl<'a> Page<'a> {
    fn all(&mut self) {
        let (document, info) = (self.document, &self.document["info"]);
        let title = escape(text(&info["title"]));
        let _ = write!(
            self.html,
            "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content=\"width=device-width\">\
             <title>{title}: API</title><style>{STYLE}</style><header><h1>{title}</h1><p>{}</p>\
             <p>Version {}. The same for programs: <a href=\"/openapi.json\">openapi.json</a>.</p></header><nav aria-label=\"Operations\">",
            prose(text(&info["description"])),
            escape(text(&info["version"])),
        );
        let tags: Vec<_> = document["tags"].as_array().into_iter().flatten().collect();
        for tag in &tags {
            let _ = write!(self.html, "<h2>{}</h2><ul>", escape(text(&tag["name"])));
            for operation in operations(document, text(&tag["name"])) {
                let (id, method) = (escape(text(&operation.about["operationId"])), operation.method.to_uppercase());
                let _ = write!(self.html, "<li><a href=\"#{id}\"><b>{method}</b> {}</a>", escape(operation.path));
            }
            self.html.push_str("</ul>");
        }
        self.html.push_str("<h2>schemas</h2><ul>");
        for (name, _) in schemas(document) {
            let _ = write!(self.html, "<li><a href=\"#schema-{0}\">{0}</a>", escape(name));
        }
        self.html.push_str("</ul></nav><main>");
        for tag in &tags {
            let (name, description) = (text(&tag["name"]), text(&tag["description"]));
            let _ = write!(self.html, "<h2>{}</h2><p>{}</p>", escape(name), prose(description));
            for operation in operations(document, name) {
                self.operation(&operation);
            }
        }
        self.html.push_str("<h2>schemas</h2>");
        for (name, schema) in schemas(document) {
            let _ = write!(self.html, "<section id=\"schema-{0}\"><h3>{0}</h3>", escape(name));
            self.schema(schema);
            self.html.push_str("</section>");
        }
        self.html.push_str("</main></html>");
    }

    fn operation(&mut self, operation: &Operation<'a>) {
        let Operation { method, path, about } = operation;
        let (id, method) = (escape(text(&about["operationId"])), method.to_uppercase());
        let permissions = about["security"].as_array().into_iter().flatten().flat_map(|one| one["bearer"].as_array());
        let permissions: Vec<_> =
            permissions.flatten().map(|name| format!("<code>{}</code>", escape(text(name)))).collect();
        let _ = write!(
            self.html,
            "<section id=\"{id}\"><h3><b>{method}</b> <code>{}</code></h3><p>{}</p><p>{}</p><p>Permission: {}</p>",
            escape(path),
            prose(text(&about["summary"])),
            prose(text(&about["description"])),
            permissions.join(", "),
        );
        let parameters: Vec<_> =
            about["parameters"].as_array().into_iter().flatten().map(|one| self.resolve(one)).collect();
        self.html.push_str("<h4>Parameters</h4><table><tr><th>name<th>in<th>type<th>");
        for parameter in &parameters {
            let needed = if parameter["required"] == true { " (required)" } else { "" };
            let _ = write!(
                self.html,
                "<tr><td><code>{}</code>{needed}<td>{}<td>{}<td>{}",
                escape(text(&parameter["name"])),
                escape(text(&parameter["in"])),
                kind(&parameter["schema"]),
                prose(text(&parameter["description"])),
            );
        }
        self.html.push_str("</table>");
        let bodies: Vec<_> = about["requestBody"]["content"].as_object().into_iter().flatten().collect();
        if !bodies.is_empty() {
            self.html.push_str("<h4>Body</h4>");
        }
        for (media_type, body) in bodies {
            let _ = write!(self.html, "<p><code>{}</code>: {}</p>", escape(media_type), kind(&body["schema"]));
        }
        self.html.push_str("<h4>Answers</h4><table><tr><th>status<th>content<th>");
        for (status, answer) in about["responses"].as_object().into_iter().flatten() {
            let answer = self.resolve(answer);
            let contents = answer["content"].as_object().into_iter().flatten();
            let contents: Vec<_> = contents.map(|(_, content)| kind(&content["schema"])).collect();
            let _ = write!(
                self.html,
                "<tr><td>{}<td>{}<td>{}",
                escape(status),
                contents.join(", "),
                prose(text(&answer["description"]))
            );
        }
        let _ = write!(
            self.html,
            "</table><h4>Example</h4><pre>{}</pre></section>",
            escape(&self.curl(operation, &parameters))
        );
    }

    fn curl(&self, operation: &Operation<'_>, parameters: &[&Value]) -> String {
        let mut path = operation.path.to_owned();
        for parameter in parameters.iter().filter(|parameter| parameter["in"] == "path") {
            path = path.replace(&format!("{{{}}}", text(&parameter["name"])), text(&parameter["example"]));
        }
        let needed = parameters.iter().filter(|parameter| parameter["in"] == "query" && parameter["required"] == true);
        for parameter in needed {
            let _ = write!(path, "?{}={}", text(&parameter["name"]), text(&parameter["example"]));
        }
        let method =
            if operation.method == "get" { String::new() } else { format!(" -X {}", operation.method.to_uppercase()) };
        let mut curl = format!(
            "curl{method} \"${}{path}\" \\\n  -H \"Authorization: Bearer $SHOPERY_TOKEN\" -H \"X-tenant-ID: $SHOPERY_TENANT\"",
            self.url
        );
        let body = &operation.about["requestBody"]["content"]["application/json"]["schema"];
        if !body.is_null() {
            let example = self.example(body).to_string().replace('\'', "'\\''");
            let _ = write!(curl, " \\\n  -H 'Content-Type: application/json' -d '{example}'");
        }
        curl
    }

    /// What is required of a body, by the examples of its members; of one that needs nothing, all that has an example.
    fn example(&self, schema: &Value) -> Value {
        let schema = schema["oneOf"].as_array().and_then(|of| of.first()).unwrap_or(schema);
        let schema = self.resolve(schema);
        let required: Vec<_> = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let members = schema["properties"].as_object().into_iter().flatten();
        let members = members.filter(|(name, _)| required.is_empty() || required.contains(&name.as_str()));
        let shown =
            members.filter(|(_, member)| !member["example"].is_null()).take(if required.is_empty() { 1 } else { 16 });
        shown.map(|(name, member)| (name.clone(), member["example"].clone())).collect()
    }

    fn schema(&mut self, schema: &Value) {
        let _ = write!(self.html, "<p>{}</p>", prose(text(&schema["description"])));
        let Some(members) = schema["properties"].as_object() else {
            let _ = write!(self.html, "<p>{}</p>", kind(schema));
            return;
        };
        self.html.push_str("<table><tr><th>member<th>type<th>");
        for (name, member) in members {
            let is_required = schema["required"].as_array().is_some_and(|names| names.iter().any(|one| one == name));
            let needed = if is_required { " (always)" } else { "" };
            let _ = write!(
                self.html,
                "<tr><td><code>{}</code>{needed}<td>{}<td>{}",
                escape(name),
                kind(member),
                prose(text(&member["description"]))
            );
        }
        self.html.push_str("</table>");
    }

    /// What a reference leads to.
    fn resolve(&self, value: &'a Value) -> &'a Value {
        let place = value["$ref"].as_str().and_then(|reference| reference.strip_prefix('#'));
        place.and_then(|place| self.document.pointer(place)).unwrap_or(value)
    }
}

fn operations<'a>(document: &'a Value, tag: &str) -> Vec<Operation<'a>> {
    let paths = document["paths"].as_object().into_iter().flatten();
    let all = paths.flat_map(|(path, operations)| {
        METHODS.iter().filter_map(move |method| Some(Operation { method, path, about: operations.get(*method)? }))
    });
    all.filter(|operation| operation.about["tags"][0] == tag).collect()
}

fn schemas(document: &Value) -> impl Iterator<Item = (&String, &Value)> {
    document["components"]["schemas"].as_object().into_iter().flatten()
}

/// A type in words, with a link to its schema.
fn kind(schema: &Value) -> String {
    if let Some(name) = schema["$ref"].as_str().and_then(|reference| reference.rsplit('/').next()) {
        return format!("<a href=\"#schema-{0}\">{0}</a>", escape(name));
    }
    for several in ["oneOf", "anyOf"] {
        if let Some(of) = schema[several].as_array() {
            return of.iter().map(kind).collect::<Vec<_>>().join(" or ");
        }
    }
    let mut kind_of = match &schema["type"] {
        Value::Array(kinds) => kinds.iter().map(text).collect::<Vec<_>>().join(" or "),
        kind => escape(text(kind)),
    };
    if let Some(items) = schema.get("items") {
        kind_of = format!("{kind_of} of {}", kind(items));
    }
    if let Some(values) = schema.get("additionalProperties").filter(|values| values.is_object()) {
        kind_of = format!("{kind_of} of {}", kind(values));
    }
    if let Some(names) = schema["enum"].as_array() {
        let names: Vec<_> = names.iter().map(|name| format!("<code>{}</code>", escape(text(name)))).collect();
        return names.join(" ");
    }
    let bounds = [("format", ""), ("minimum", "from "), ("maximum", "to "), ("default", "else ")];
    for (name, word) in bounds {
        match schema.get(name) {
            Some(Value::String(value)) => kind_of = format!("{kind_of}, {word}{}", escape(value)),
            Some(value) if !value.is_null() => kind_of = format!("{kind_of}, {word}{}", escape(&value.to_string())),
            _ => {}
        }
    }
    kind_of
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// Text whose words in backticks are code.
fn prose(text: &str) -> String {
    let mut html = String::with_capacity(text.len() + 16);
    for (index, part) in escape(text).split('`').enumerate() {
        match index % 2 {
            0 => html.push_str(part),
            _ => drop(write!(html, "<code>{part}</code>")),
        }
    }
    html
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_markup_is_shown_as_it_is() {
        assert_eq!(prose("a <b> & `c <d>`"), "a &lt;b&gt; &amp; <code>c &lt;d&gt;</code>");
    }
}
