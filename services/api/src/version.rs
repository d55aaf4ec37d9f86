//! `ETag` and `If-Match` (RFC 9110): whoever has read a webhook can change it only as long as nobody else has.
//!
//! The tag is the version of the webhook: it changes with whatever a PATCH can change, and when we disable it. What
//! happens to its deliveries (`failingSince`, `waiting`) leaves it as it is.

use axum::http::{HeaderMap, header};
use shopery_http::Problem;

pub(crate) fn tag(version: i64) -> String {
    format!("\"{version}\"")
}

/// The version that a change is for, if the request names any; an error if it is not that of the webhook.
pub(crate) fn wanted(headers: &HeaderMap, version: i64) -> Result<Option<i64>, Problem> {
    let (mut is_named, tag) = (false, tag(version));
    for value in headers.get_all(header::IF_MATCH) {
        let form =
            || Problem::malformed("the header If-Match must have the ETag of an earlier answer, unchanged, or *");
        for named in value.to_str().map_err(|_| form())?.split(',').map(str::trim) {
            // A proxy that compresses an answer makes its tag a weak one (nginx does). RFC 9110 (13.1.1) has that never match; but the
            // version is the same, and whoever goes by such a proxy could not change anything.
            let strong = named.strip_prefix("W/").unwrap_or(named);
            if named == "*" || strong == tag {
                return Ok((strong == tag).then_some(version));
            }
            if strong.len() < 2 || !strong.starts_with('"') || !strong.ends_with('"') {
                return Err(form());
            }
            is_named = true;
        }
    }
    if is_named { Err(changed()) } else { Ok(None) }
}

pub(crate) fn changed() -> Problem {
    Problem::precondition_failed(
        "the webhook is not the one that If-Match names any more: read it again, then change it",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    #[test]
    fn a_change_is_for_the_version_that_it_names() {
        for (named, found) in [
            (None, Ok(None)),
            (Some("*"), Ok(None)),
            (Some("\"1\""), Ok(Some(1))),
            (Some("\"7\", \"1\""), Ok(Some(1))),
            (Some("\"2\""), Err(412)),
            (Some("W/\"1\""), Ok(Some(1))),
            (Some("W/\"2\""), Err(412)),
            (Some("W/*"), Err(400)),
            (Some("1"), Err(400)),
            (Some("\""), Err(400)),
            (Some(""), Err(400)),
        ] {
            let mut headers = HeaderMap::new();
            headers.extend(named.map(|named| (header::IF_MATCH, HeaderValue::from_static(named))));
            assert_eq!(wanted(&headers, 1).map_err(|problem| problem.status), found, "{named:?}");
        }
    }
}
