use std::fmt::Write;
use std::path::Path;

use shopery_model::escape;

use super::Options;

/// A limit for the account as a whole; each stream has its own.
const MAX_FILE_STORE: &str = "64GiB";

/// The configuration of a server that listens on loopback, keeps streams in `options.store`, and lets publishers do
/// nothing but publish their tenant's events and hear the answers. It writes where it listens into `ports`.
pub(super) fn text(options: &Options, ports: &Path) -> String {
    let port = options.port.map_or("-1".to_owned(), |port| port.to_string());
    let mut users = String::new();
    let (user, password) = &options.service;
    let _ = writeln!(users, "    {{ user: {}, password: {} }}", quoted(user), quoted(password));
    for publisher in &options.publishers {
        let _ = writeln!(
            users,
            "    {{ user: {}, password: {}, permissions: {{ publish: {{ allow: [{}] }}, subscribe: {{ allow: [{}] }} }} }}",
            quoted(&publisher.user),
            quoted(&publisher.password),
            quoted(&format!("in.{}.>", escape(&publisher.tenant))),
            quoted(&format!("{}.>", publisher.inbox_prefix)),
        );
    }
    format!(
        "listen: {}\n\
         server_name: \"shopery-local\"\n\
         ports_file_dir: {}\n\
         jetstream {{ store_dir: {}, max_file_store: {MAX_FILE_STORE} }}\n\
         authorization {{\n  users: [\n{users}  ]\n}}\n",
        quoted(&format!("127.0.0.1:{port}")),
        quoted(&ports.to_string_lossy()),
        quoted(&options.store.to_string_lossy()),
    )
}

/// A string as the configuration file writes it. Only quoted is it free of variables, numbers and units.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for character in text.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            _ => quoted.push(character),
        }
    }
    quoted.push('"');
    quoted
}
