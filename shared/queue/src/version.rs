//! Versions of the messages between our services, for the time in which old and new ones run side by side.
//!
//! What a message of one version has in addition, an older reader ignores or leaves as it is. Only where that would be wrong the
//! version rises, and its messages say so in a header: an older reader then leaves them to those who know them, and neither works
//! on them nor puts them on DEAD.

use async_nats::HeaderMap;

/// The version that this code writes, and the newest one that it reads. (What is before the first rise has no header, since
/// every message would pay for it.)
pub(crate) const VERSION: u32 = 1;
pub(crate) const HEADER: &str = "Shopery-Version";

/// The header of what is written, if it needs one.
pub(crate) fn header() -> Option<(&'static str, String)> {
    (VERSION > 1).then(|| (HEADER, VERSION.to_string()))
}

/// Whether a message is for newer readers than this one.
pub(crate) fn is_too_new(headers: Option<&HeaderMap>) -> bool {
    let Some(version) = headers.and_then(|headers| headers.get(HEADER)) else { return false };
    // A version that is no number is none of ours.
    version.as_str().parse::<u32>().map_or(true, |version| version > VERSION)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_newer_is_told_apart() {
        for (version, is_newer) in [(None, false), (Some("1"), false), (Some("2"), true), (Some("next"), true)] {
            let mut headers = HeaderMap::new();
            version.into_iter().for_each(|version| headers.insert(HEADER, version));
            assert_eq!(is_too_new(Some(&headers)), is_newer, "{version:?}");
        }
        assert!(!is_too_new(None));
        assert_eq!(header().is_some(), VERSION > 1);
    }
}
