//! Verifying a signature of Standard Webhooks, and saying exactly what is wrong with it.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use shopery_model::EndpointSecret;

/// What a receiver verifies with.
#[derive(Debug, Clone)]
pub enum Key {
    Secret(EndpointSecret),
    Public([u8; 32]),
}

impl Key {
    pub fn public(text: &str) -> Result<Self, String> {
        let key = text.strip_prefix("whpk_").and_then(|key| STANDARD.decode(key).ok());
        let key = key.and_then(|key| key.try_into().ok());
        key.map(Self::Public).ok_or_else(|| "must be whpk_ and the base64 of 32 bytes".into())
    }

    /// The version of the signatures that it verifies.
    fn version(&self) -> &'static str {
        match self {
            Self::Secret(_) => "v1",
            Self::Public(_) => "v1a",
        }
    }

    fn accepts(&self, id: &str, timestamp: i64, body: &[u8], signature: &[u8]) -> bool {
        match self {
            Self::Secret(secret) => {
                let ours = secret.sign(id, timestamp, body);
                let ours = ours.strip_prefix("v1,").and_then(|ours| STANDARD.decode(ours).ok());
                ours.is_some_and(|ours| verify_slices_are_equal(&ours, signature).is_ok())
            }
            Self::Public(key) => {
                let text = [format!("{id}.{timestamp}.").as_bytes(), body].concat();
                UnparsedPublicKey::new(&ED25519, key).verify(&text, signature).is_ok()
            }
        }
    }
}

/// What arrived.
#[derive(Debug, Clone, Copy)]
pub struct Arrived<'a> {
    pub id: Option<&'a str>,
    pub timestamp: Option<&'a str>,
    pub signature: Option<&'a str>,
    pub body: &'a [u8],
    /// What the three above were: a header, or what a cloud has in its place.
    pub place: &'static str,
}

/// How far the timestamp may be from now, in seconds; `None`: as far as it likes.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    pub now: i64,
    pub tolerance: Option<i64>,
}

/// The version of the signature that is good, or all that is wrong.
pub fn verify(arrived: Arrived<'_>, keys: &[Key], clock: Clock) -> Result<&'static str, Vec<String>> {
    let mut wrong = Vec::new();
    for (name, value) in
        [("webhook-id", arrived.id), ("webhook-timestamp", arrived.timestamp), ("webhook-signature", arrived.signature)]
    {
        if value.is_none_or(str::is_empty) {
            wrong.push(format!("the {} {name} is missing", arrived.place));
        }
    }
    let (Some(id), Some(stamp), Some(header)) = (arrived.id, arrived.timestamp, arrived.signature) else {
        return Err(wrong);
    };
    if !wrong.is_empty() {
        return Err(wrong);
    }
    let Ok(timestamp) = stamp.parse::<i64>() else {
        let place = arrived.place;
        return Err(vec![format!("the {place} webhook-timestamp is not a number of seconds since 1970")]);
    };
    wrong.extend(clock.complaint(timestamp));
    match good(id, timestamp, header, arrived.body, keys) {
        Ok(version) if wrong.is_empty() => return Ok(version),
        Ok(_) => {}
        Err(why) => wrong.extend(why),
    }
    Err(wrong)
}

impl Clock {
    fn complaint(self, timestamp: i64) -> Option<String> {
        let (tolerance, age) = (self.tolerance?, self.now.saturating_sub(timestamp));
        let rule = format!("{tolerance} s are tolerated, see --tolerance");
        match age {
            age if age > tolerance => Some(format!("the timestamp is {age} s old; {rule}")),
            age if age < -tolerance => {
                Some(format!("the timestamp is {} s in the future; {rule}", age.saturating_neg()))
            }
            _ => None,
        }
    }
}

fn good(id: &str, timestamp: i64, header: &str, body: &[u8], keys: &[Key]) -> Result<&'static str, Vec<String>> {
    let mut wrong = Vec::new();
    let mut signatures = Vec::new();
    for (place, part) in header.split_whitespace().enumerate() {
        let nth = place + 1;
        match part.split_once(',').map(|(version, text)| (version, STANDARD.decode(text))) {
            Some((version, Ok(bytes))) => signatures.push((version, bytes)),
            Some((_, Err(_))) => {
                wrong.push(format!("signature {nth} of webhook-signature is not base64: is it cut off?"))
            }
            None => wrong.push(format!("signature {nth} of webhook-signature is not like v1,<base64>")),
        }
    }
    let by = |key: &Key, body: &[u8]| {
        let mut of_version = signatures.iter().filter(|(version, _)| *version == key.version());
        of_version.any(|(_, signature)| key.accepts(id, timestamp, body, signature))
    };
    if let Some(key) = keys.iter().find(|key| by(key, body)) {
        return Ok(key.version());
    }
    let versions: Vec<_> = signatures.iter().map(|(version, _)| *version).collect();
    for (version, option) in [("v1", "--secret"), ("v1a", "--public-key")] {
        let is_there = versions.contains(&version);
        let has_key = keys.iter().any(|key| key.version() == version);
        match (is_there, has_key) {
            (true, false) => wrong.push(format!("there is a {version} signature, which {option} would verify")),
            (false, true) => wrong.push(format!("there is no {version} signature, which is what {option} verifies")),
            (true, true) => wrong.push(format!(
                "no {version} signature is one of this id, timestamp and body by this {}",
                option.trim_start_matches("--").replace('-', " ")
            )),
            (false, false) => {}
        }
    }
    let cause = variants(body).into_iter().find(|(_, body)| keys.iter().any(|key| by(key, body)));
    wrong.extend(cause.map(|(cause, _)| format!("the body was changed on its way here: {cause}")));
    Err(wrong)
}

/// What tools commonly do to a body, undone.
fn variants(body: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let mut variants = vec![("the line end behind it is missing", [body, b"\n"].concat())];
    if let Some(shorter) = body.strip_suffix(b"\r\n").or_else(|| body.strip_suffix(b"\n")) {
        variants.push(("there is a line end behind it that was not sent", shorter.to_vec()));
    }
    if let Ok(text) = std::str::from_utf8(body) {
        variants.push(("its line ends have become CR LF", text.replace("\r\n", "\n").into_bytes()));
        variants.push(("its line ends were CR LF", text.replace("\r\n", "\n").replace('\n', "\r\n").into_bytes()));
        if let Some(text) = text.strip_prefix('\u{feff}') {
            variants.push(("there is a byte order mark before it", text.as_bytes().to_vec()));
        }
    }
    variants
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the Standard Webhooks specification.
    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    const ID: &str = "msg_p5jXN8AQM9LWM0D4loKWxJek";
    const AT: i64 = 1_614_265_330;
    const BODY: &[u8] = br#"{"test": 2432232314}"#;
    const GOOD: &str = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
    /// Of a secret of somebody else, as during a rotation.
    const OTHER: &str = "v1,K5oZfzN95Z9UVu1EsfQmfVNQhnkZ2pj9o9NDN/H/pI4=";

    fn secret() -> Vec<Key> {
        vec![Key::Secret(EndpointSecret::parse(SECRET).unwrap())]
    }

    fn arrived<'a>(signature: &'a str, body: &'a [u8]) -> Arrived<'a> {
        Arrived { id: Some(ID), timestamp: Some("1614265330"), signature: Some(signature), body, place: "header" }
    }

    fn clock(after: i64) -> Clock {
        Clock { now: AT + after, tolerance: Some(300) }
    }

    #[test]
    fn the_example_of_the_specification_is_good_and_so_it_is_beside_others() {
        for header in [GOOD.to_owned(), format!("{OTHER} {GOOD}"), format!("v1a,AAAA {GOOD} v9,AAAA")] {
            assert_eq!(verify(arrived(&header, BODY), &secret(), clock(0)), Ok("v1"), "{header}");
        }
    }

    #[test]
    fn the_timestamp_is_tolerated_to_the_second() {
        for (after, is_good) in [(300, true), (301, false), (-300, true), (-301, false)] {
            assert_eq!(verify(arrived(GOOD, BODY), &secret(), clock(after)).is_ok(), is_good, "{after}");
        }
        let forever = Clock { now: AT + 1_000_000, tolerance: None };
        assert!(verify(arrived(GOOD, BODY), &secret(), forever).is_ok());
        let far = Arrived { timestamp: Some("-9223372036854775808"), ..arrived(GOOD, BODY) };
        assert!(verify(far, &secret(), clock(0)).is_err());
    }

    #[test]
    fn what_is_wrong_is_said() {
        let line_end = [BODY, b"\n"].concat();
        let marked = [b"\xef\xbb\xbf", BODY].concat();
        for (what, arrived, words) in [
            (
                "another body",
                arrived(GOOD, b"{}"),
                "no v1 signature is one of this id, timestamp and body by this secret",
            ),
            ("a line end", arrived(GOOD, &line_end), "there is a line end behind it that was not sent"),
            ("a mark", arrived(GOOD, &marked), "byte order mark"),
            ("no id", Arrived { id: None, ..arrived(GOOD, BODY) }, "the header webhook-id is missing"),
            ("an empty signature", arrived("", BODY), "the header webhook-signature is missing"),
            ("no number", Arrived { timestamp: Some("now"), ..arrived(GOOD, BODY) }, "is not a number of seconds"),
            ("another time", Arrived { timestamp: Some("1614265331"), ..arrived(GOOD, BODY) }, "no v1 signature"),
            ("v1a alone", arrived("v1a,AAAA", BODY), "which --public-key would verify"),
            ("cut off", arrived("v1,g0hM9SsE+OTPJ*", BODY), "is not base64"),
            ("no version", arrived("g0hM9SsE", BODY), "is not like v1,<base64>"),
        ] {
            let wrong = verify(arrived, &secret(), clock(0)).unwrap_err().join("\n");
            assert!(wrong.contains(words), "{what}: {wrong}");
        }
        let both = verify(arrived(GOOD, b"{}"), &secret(), clock(999)).unwrap_err();
        assert_eq!(both.len(), 2, "{both:?}");
    }

    #[test]
    fn an_asymmetric_signature_is_verified_with_the_public_key() {
        // The key of the first test of RFC 8032, section 7.1.
        let ours: shopery_model::SigningKey =
            serde_json::from_str("\"whsk_nWGxne/9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A=\"").unwrap();
        let key = Key::public("whpk_11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=").unwrap();
        let header = ours.sign(ID, AT, BODY);
        assert_eq!(verify(arrived(&header, BODY), std::slice::from_ref(&key), clock(0)), Ok("v1a"));
        assert!(verify(arrived(&header, b"{}"), std::slice::from_ref(&key), clock(0)).is_err());
        let with_secret = verify(arrived(GOOD, BODY), &[key], clock(0)).unwrap_err().join("\n");
        assert!(with_secret.contains("there is no v1a signature"), "{with_secret}");
        for bad in ["", "whpk_", "whpk_AAAA", SECRET] {
            assert!(Key::public(bad).is_err());
        }
    }
}
