//! How a tenant is named to a cloud.
//!
//! With one principal of ours, any tenant can name any bus or topic that lets that in (the "confused deputy"). So the owner of a
//! bus lets in a source that only one tenant has, and the owner of a topic gives it a label with the tenant's name.
//!
//! Invariant: no two tenants have the same source, or the same label.

use std::borrow::Cow;

use aws_lc_rs::digest::{SHA256, digest};

/// As long as a label of Google's may be.
const MAX_LABEL: usize = 63;
/// Hexadecimal digits of a hash: 128 bits, which nobody finds a second tenant id for.
const DIGITS: usize = 32;

/// The value of the label `shopery-tenant` of a topic that this tenant may send to: its id, or a hash of that if it is no label.
pub fn tenant_label(tenant: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-".contains(&byte);
    named(tenant, is_plain).into_owned()
}

/// The `Source` of what this tenant sends to a bus, which the policy of the bus is conditioned on: `shopery/<tenant>`, or a hash
/// in place of an id that a policy could read as something else than itself.
pub fn bus_source(tenant: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.:@+=,/".contains(&byte);
    format!("shopery/{}", named(tenant, is_plain))
}

fn named(tenant: &str, is_plain: impl Fn(u8) -> bool) -> Cow<'_, str> {
    let is_short = (1..=MAX_LABEL).contains(&tenant.len());
    // Else a tenant could be given the hash of another as its id.
    let looks_like_a_hash = tenant.len() == DIGITS && tenant.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_short && !looks_like_a_hash && tenant.bytes().all(is_plain) {
        return tenant.into();
    }
    let hash = digest(&SHA256, tenant.as_bytes());
    hash.as_ref()[..DIGITS / 2].iter().map(|byte| format!("{byte:02x}")).collect::<String>().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenant_is_named_by_its_id_if_that_can_be_written() {
        let long = "a".repeat(64);
        let hash = "a".repeat(32);
        for (tenant, label, source) in [
            ("acme-1", "acme-1", "shopery/acme-1"),
            // sha256sum says so.
            ("Acme", "37036cd8f9746d335038eca92f8a73ae", "shopery/Acme"),
            ("zoë", "2752b88686847fa5c86f47b94ce652b7", "shopery/2752b88686847fa5c86f47b94ce652b7"),
            ("${aws:username}", "7cec39ee957f071f5d5f9a8212f5b49f", "shopery/7cec39ee957f071f5d5f9a8212f5b49f"),
            (&long, "ffe054fe7ae0cb6dc65c3af9b61d5209", "shopery/ffe054fe7ae0cb6dc65c3af9b61d5209"),
            (&hash, "3ba3f5f43b92602683c19aee62a20342", "shopery/3ba3f5f43b92602683c19aee62a20342"),
        ] {
            assert_eq!((tenant_label(tenant).as_str(), bus_source(tenant).as_str()), (label, source), "{tenant}");
        }
    }
}
