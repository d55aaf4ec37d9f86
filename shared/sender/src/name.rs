//! Which host names can be those of an endpoint on the internet. What a name leads to is judged when it is resolved;
//! this says early, and in words, what would be refused then, or should not even be asked for.

const MAX_NAME: usize = 253;
const MAX_LABEL: usize = 63;

/// Cloud providers serve the secrets of their machines under these.
const METADATA: [&str; 4] =
    ["metadata.google.internal", "metadata.goog", "instance-data.ec2.internal", "metadata.tencentyun.com"];

/// What networks name their own machines with; none of these is a domain of the internet.
const LOCAL: [&str; 12] = [
    "localhost",
    "localdomain",
    "localdomain4",
    "localdomain6",
    "local",
    "internal",
    "intranet",
    "private",
    "corp",
    "lan",
    "svc",
    "home.arpa",
];

/// Judges a name as [`url::Url`] gives it: in lower case and in ASCII. `may_be_local`: some addresses that are not
/// public are allowed, so names of them may be too.
pub(crate) fn judge(name: &str, may_be_local: bool) -> Result<(), String> {
    let bare = name.strip_suffix('.').unwrap_or(name);
    if bare.len() > MAX_NAME || bare.split('.').any(|label| label.is_empty() || label.len() > MAX_LABEL) {
        return Err(format!("the host must be at most {MAX_NAME} bytes of labels of 1 to {MAX_LABEL}"));
    }
    if METADATA.contains(&bare) {
        return Err(format!("{bare} serves the metadata of a cloud"));
    }
    let is_within = |zone: &&str| bare == *zone || bare.strip_suffix(*zone).is_some_and(|rest| rest.ends_with('.'));
    if !may_be_local && (!bare.contains('.') || LOCAL.iter().any(is_within)) {
        return Err(format!("{bare} is a name of a local network, not a public address"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_names_and_those_of_metadata_are_refused() {
        for name in [
            "localhost",
            "localhost.",
            "a.localhost",
            "localhost.localdomain",
            "localhost6.localdomain6",
            "printer.local",
            "api.internal",
            "api.default.svc",
            "api.default.svc.cluster.local",
            "router.lan",
            "nas.home.arpa",
            "intranet",
            "kubernetes",
        ] {
            assert!(judge(name, false).is_err(), "{name}");
            assert!(judge(name, true).is_ok(), "{name}");
        }
        for name in METADATA {
            assert!(judge(name, true).is_err(), "{name}");
            assert!(judge(&format!("{name}."), true).is_err(), "{name}.");
        }
    }

    #[test]
    fn names_of_the_internet_are_taken_and_impossible_ones_are_not() {
        let longest = format!("{}.{}.{}.{}", "a".repeat(63), "b".repeat(63), "c".repeat(63), "d".repeat(61));
        for name in ["test.com", "test.com.", "xn--bcher-kva.example", "notlocalhost.com", "localhost.com", &longest] {
            assert!(judge(name, false).is_ok(), "{name}");
        }
        for name in
            ["", ".", "a..b", ".test.com", "test.com..", &format!("{}.com", "a".repeat(64)), &format!("{longest}d")]
        {
            assert!(judge(name, true).is_err(), "{name}");
        }
    }
}
