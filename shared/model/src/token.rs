//! Subject tokens. NATS separates tokens with `.`, gives `*` and `>` a meaning, and refuses spaces; key-value keys
//! allow even less. So every id is escaped as in quoted-printable: a byte other than `A-Z a-z 0-9 _ -` becomes `=`
//! and two upper-case hex digits. Plain ids read as they are, and no two ids share a token.

use std::fmt::Write;

/// The same in every process and version, whatever it was built with: FNV-1a, and what MurmurHash3 ends with, without which
/// ids that differ in their last letter alone would be neighbours.
pub fn stable_hash(bytes: &[u8]) -> u32 {
    let mut hash =
        bytes.iter().fold(0x811c_9dc5, |hash: u32, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193));
    hash = (hash ^ (hash >> 16)).wrapping_mul(0x85eb_ca6b);
    hash = (hash ^ (hash >> 13)).wrapping_mul(0xc2b2_ae35);
    hash ^ (hash >> 16)
}

/// `a.b` becomes `a=2Eb`.
pub fn escape(id: &str) -> String {
    let mut token = String::with_capacity(id.len());
    for byte in id.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' => token.push(char::from(byte)),
            // Writing to a String cannot fail.
            _ => {
                let _ = write!(token, "={byte:02X}");
            }
        }
    }
    token
}

/// The id behind a token, or `None` if [`escape`] could not have made it.
pub fn unescape(token: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(token.len());
    let mut rest = token.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        rest = tail;
        if first == b'=' {
            let (hex, tail) = rest.split_at_checked(2)?;
            bytes.push(u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok()?);
            rest = tail;
        } else {
            bytes.push(first);
        }
    }
    let id = String::from_utf8(bytes).ok()?;
    (!id.is_empty() && escape(&id) == token).then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn plain_ids_read_as_they_are() {
        assert_eq!(escape("ord_123-A"), "ord_123-A");
        assert_eq!(escape("a.b *>é"), "a=2Eb=20=2A=3E=C3=A9");
    }

    #[test]
    fn a_token_that_escape_did_not_make_is_refused() {
        for token in ["", "=", "=2", "=2e", "=41", "a b", "=FF", "=+1", "a.b"] {
            assert_eq!(unescape(token), None, "{token}");
        }
    }

    proptest! {
        #[test]
        fn every_id_survives_the_way_there_and_back(id in "\\PC{1,40}") {
            let token = escape(&id);
            prop_assert!(token.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-=".contains(&b)));
            prop_assert_eq!(unescape(&token), Some(id));
        }
    }
}
