//! An error of the API (RFC 9457, `application/problem+json`), as it is told to people: with the fields, the options they
//! came from, and how to mend it.

use std::fmt::Write;

use shopery_client::{FieldError, Problem};

use crate::terminal::plain;

/// Lines of errors that are shown; a batch may have a thousand.
const SHOWN: usize = 20;

fn advice(status: u16) -> Option<&'static str> {
    match status {
        401 => Some("give a good token: `shopery login`, or SHOPERY_TOKEN; `shopery whoami` shows the one in use"),
        403 => Some("`shopery whoami` shows the tenants and scopes of the token; --tenant names another tenant"),
        404 => Some("an id of another tenant is not found either; `shopery whoami` shows the tenant"),
        412 => Some("read it again with `shopery webhooks get ID`, which shows its etag"),
        _ => None,
    }
}

/// A problem as a person at a terminal reads it.
pub fn tell(problem: &Problem) -> String {
    let Problem { status, title, detail, errors } = problem;
    let mut told = match (errors.is_empty(), detail.is_empty()) {
        // The fields say all that the detail says.
        (true, false) => format!("{} ({status})", plain(detail)),
        _ => format!("{} ({status})", plain(title)),
    };
    for FieldError { field, detail } in errors.iter().take(SHOWN) {
        let field = option_of(field).unwrap_or_else(|| plain(field));
        // Writing to a String cannot fail.
        let _ = write!(told, "\n  {field}: {}", plain(detail));
    }
    if errors.len() > SHOWN {
        let _ = write!(told, "\n  and {} more", errors.len() - SHOWN);
    }
    if let Some(advice) = advice(*status) {
        let _ = write!(told, "\nhint: {advice}");
    }
    told
}

/// The option by which a field or parameter of the API is given, with what follows the name: `events[0]` is `--event [0]`.
fn option_of(field: &str) -> Option<String> {
    let end = field.find(['[', '.']).unwrap_or(field.len());
    let (name, within) = field.split_at(end);
    let option = match name {
        "name" | "url" | "secret" | "credentials" | "filter" | "changed" | "payload" | "debounce" | "signature"
        | "format" | "ordered" | "mode" | "step" | "overlap" | "waiting" | "since" | "until" | "limit" | "event"
        | "status" | "subject" | "time" | "source" | "id" | "description" | "metadata" | "resource" | "reason"
        | "webhook" | "data" | "previous" => format!("--{name}"),
        "events" | "eventType" => "--event".into(),
        "response_status" => "--response-status".into(),
        "sinceDelivery" => "--since-delivery".into(),
        "headers" => "--header".into(),
        "fields" => "--field".into(),
        "statuses" => "--status".into(),
        "rateLimit" => "--rate-limit".into(),
        "dropDuplicates" => "--drop-duplicates".into(),
        "created_at_min" => "--since".into(),
        "created_at_max" => "--until".into(),
        "updated_at_min" => "--updated-since".into(),
        "updated_at_max" => "--updated-until".into(),
        _ => return None,
    };
    Some(if within.is_empty() { option } else { format!("{option} {}", plain(within.trim_start_matches('.'))) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_names_the_option_and_what_to_do() {
        let body = br#"{"type":"urn:shopery:problem:invalid-fields","title":"Fields of the request are invalid","status":422,
            "detail":"url must be https (and 2 more, see errors)","errors":[{"field":"url","detail":"must be https"},
            {"field":"events[1]","detail":"is not known"},{"field":"headers.Host","detail":"is refused"},{"field":"credentials.roleArn","detail":"is odd"},{"field":"odd","detail":"x"}]}"#;
        assert_eq!(
            tell(&Problem::read(422, body)),
            "Fields of the request are invalid (422)\n  --url: must be https\n  --event [1]: is not known\n  \
             --header Host: is refused\n  --credentials roleArn: is odd\n  odd: x"
        );
        let body = br#"{"title":"The token is missing or invalid","status":401,"detail":"the token has expired"}"#;
        let said = tell(&Problem::read(401, body));
        assert!(said.starts_with("the token has expired (401)\nhint: ") && said.contains("shopery login"), "{said}");
    }

    #[test]
    fn what_is_no_problem_is_told_by_its_status_and_cannot_write_to_the_terminal() {
        assert_eq!(Problem::read(404, b"<html>").status, 404);
        let body = br#"{"title":"t","detail":"\u001b[2Jgone"}"#;
        assert_eq!(tell(&Problem::read(400, body)), "\\u{1b}[2Jgone (400)");
        let many = (0..30).map(|n| FieldError { field: format!("[{n}].id"), detail: "is missing".into() }).collect();
        let problem = Problem { status: 422, title: "t".into(), detail: String::new(), errors: many };
        assert!(tell(&problem).ends_with("and 10 more"));
    }
}
