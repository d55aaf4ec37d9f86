//! What two lists of deliveries have in common, in 32 bytes.

use std::fmt;

use aws_lc_rs::digest::{SHA256, digest};

use crate::DeliveryId;

/// The bitwise exclusive or of the SHA-256 of each `webhook-id`, as it is written. Neither order nor where a list is cut
/// changes it, so whoever has the same ids has the same digest; who has others has another, but for a chance of 1 in
/// 2²⁵⁶. It finds what is missing; it is no seal against somebody who makes up ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Digest([u8; 32]);

impl Digest {
    pub fn add(&mut self, id: DeliveryId) {
        let hash = digest(&SHA256, id.to_string().as_bytes());
        for (byte, other) in self.0.iter_mut().zip(hash.as_ref()) {
            *byte ^= other;
        }
    }
}

/// 64 hexadecimal digits, in lower case.
impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(ids: &[&str]) -> String {
        let mut digest = Digest::default();
        ids.iter().for_each(|id| digest.add(id.parse().unwrap()));
        digest.to_string()
    }

    #[test]
    fn a_digest_is_that_of_a_set() {
        let (a, b) = ("dlv_01HA4XCG60CT4G3EWF4CKYM1MF", "dlv_01HA4XCG60CT4G3EWF4CKYM1MG");
        assert_eq!(of(&[]), "0".repeat(64));
        // sha256sum says so.
        assert_eq!(of(&[a]), "5a283073a361ad41fd7ecde8abebcf44d71f8c1b0e5b08bf9dbf40d5dd44a0be");
        assert_eq!(of(&[a, b]), of(&[b, a]));
        assert_ne!(of(&[a, b]), of(&[a]));
        assert_ne!(of(&[a, b]), of(&[b]));
    }
}
