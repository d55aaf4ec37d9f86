//! The version of the messages between our services, for rollouts in which old and new services run side by side.
//!
//! An older reader ignores the fields that it does not know. If that would be wrong, the writer raises the version and names it
//! in a header. An older reader then neither processes the message nor moves it to DEAD: it leaves it to newer services.

use async_nats::HeaderMap;

/// The version that this code writes, and the newest one that it reads. Version 1 has no header, because every message would
/// carry it.
pub(crate) const VERSION: u32 = 1;
pub(crate) const HEADER: &str = "Shopery-Version";

/// The header of every message that we publish.
pub(crate) fn header() -> Option<(&'static str, String)> {
    (VERSION > 1).then(|| (HEADER, VERSION.to_string()))
}

/// Whether only a newer service can read the message.
pub(crate) fn is_too_new(headers: Option<&HeaderMap>) -> bool {
    let Some(version) = headers.and_then(|headers| headers.get(HEADER)) else { return false };
    // We never wrote a version that is not a number.
    version.as_str().parse::<u32>().map_or(true, |version| version > VERSION)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newer_versions_are_recognized() {
        for (version, is_newer) in [(None, false), (Some("1"), false), (Some("2"), true), (Some("next"), true)] {
            let mut headers = HeaderMap::new();
            version.into_iter().for_each(|version| headers.insert(HEADER, version));
            assert_eq!(is_too_new(Some(&headers)), is_newer, "{version:?}");
        }
        assert!(!is_too_new(None));
        assert_eq!(header().is_some(), VERSION > 1);
    }
}
