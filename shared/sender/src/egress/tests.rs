use super::*;

fn egress(variables: &[(&str, &str)]) -> Egress {
    let mut env = Env::of(variables.iter().copied());
    let egress = Egress::read(&mut env);
    env.finish(egress).unwrap()
}

fn allowing(allow: &str) -> Egress {
    egress(&[("SHOPERY_EGRESS_ALLOW", allow)])
}

/// The end-to-end suite has them for real services.
const FORBIDDEN: &str = include_str!("forbidden.txt");

#[test]
fn what_is_no_endpoint_is_refused_when_it_is_saved_and_when_it_is_sent_to() {
    let strict = egress(&[]);
    let urls = FORBIDDEN.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    for text in urls {
        let saved = strict.destination(text);
        assert_eq!(saved.unwrap_err().field, "url", "{text}");
        let url: Url = text.parse().unwrap();
        assert!(strict.judge(&url).is_err(), "{text}");
    }
    // A backslash is a slash to browsers and to us: the host is the one before it.
    let odd = strict.destination("https://test.example\\@127.0.0.1/").unwrap();
    assert_eq!(odd.host().as_deref(), Some("test.example"));
    let label = format!("https://{}.example/", "a".repeat(64));
    let long = format!("https://{}example/", "a.".repeat(130));
    for text in [label.as_str(), long.as_str(), "https://[fe80::1%25eth0]/", "https://[::1%lo]/", "https://1.2.3.4.5/"]
    {
        assert!(strict.destination(text).is_err(), "{text}");
    }
    for text in
        ["https://1.1.1.1/", "https://test.example./", "https://test.example:8443/", "https://[2606:4700::1111]/"]
    {
        assert!(strict.destination(text).is_ok(), "{text}");
    }
}

#[test]
fn exceptions_are_as_narrow_as_they_are_written() {
    let narrow = allowing("127.0.0.1:9443, 10.1.0.0/16,fd00::/8");
    for (url, allowed) in [
        ("https://127.0.0.1:9443/", true),
        ("https://127.0.0.1/", false),
        ("https://127.0.0.1:9444/", false),
        ("https://127.0.0.2:9443/", false),
        ("https://10.1.255.1/", true),
        ("https://10.1.255.1:9443/", false),
        ("https://10.2.0.1/", false),
        ("https://[fd12::1]/", true),
        ("https://[fe80::1]/", false),
        ("http://10.1.0.1/", false),
        ("https://hooks.internal/", true),
        ("https://metadata.google.internal/", false),
    ] {
        assert_eq!(narrow.judge(&url.parse().unwrap()).is_ok(), allowed, "{url}");
    }
    let insecure = egress(&[("SHOPERY_INSECURE_ENDPOINTS", "true")]);
    for (url, allowed) in [
        ("http://127.0.0.1:9000/", true),
        ("http://localhost:9000/", true),
        ("http://10.0.0.1/", false),
        ("ftp://127.0.0.1/", false),
    ] {
        assert_eq!(insecure.judge(&url.parse().unwrap()).is_ok(), allowed, "{url}");
    }
    let ports = egress(&[("SHOPERY_EGRESS_PORTS", "443, 9000-9010")]);
    for (port, allowed) in [(443, true), (8443, false), (9000, true), (9010, true), (9011, false)] {
        assert_eq!(ports.judge(&format!("https://1.1.1.1:{port}/").parse().unwrap()).is_ok(), allowed, "{port}");
    }
}

#[test]
fn a_bad_exception_or_port_is_named() {
    for bad in ["10.0.0.0/33", "x", "127.0.0.1:99999", "fd00::/129", "10.0.0.0/"] {
        assert!(bad.parse::<Exceptions>().unwrap_err().contains(bad), "{bad}");
    }
    for bad in ["x", "0", "99999", "9-1", "1-", "-"] {
        assert!(bad.parse::<Ports>().unwrap_err().contains(bad), "{bad}");
    }
}

#[tokio::test]
async fn a_name_is_judged_by_what_it_resolves_to() {
    let refused = egress(&[]).resolver().unwrap().resolve("localhost").await.unwrap_err();
    assert!(matches!(refused, Failure::Endpoint(Fault::AddressForbidden, _)), "{refused:?}");
    let insecure = egress(&[("SHOPERY_INSECURE_ENDPOINTS", "true")]);
    let found = insecure.resolver().unwrap().resolve("localhost").await.unwrap();
    assert!(!found.is_empty() && found.iter().all(IpAddr::is_loopback), "{found:?}");
}
