//! Where we may send to. A literal address is judged before we connect; a name is judged by the resolver that the
//! HTTP client dials with, so the addresses that were judged are the addresses that are dialled: there is no second
//! look-up for an attacker to answer differently.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use shopery_runtime::Env;
use url::{Host, Url};

use crate::address::{is_loopback, is_public};

#[derive(Debug, Clone)]
pub struct Egress {
    allow: Arc<[Exception]>,
    /// `http://` and loopback, for development.
    pub insecure: bool,
}

/// A range that is allowed though it is not public; with a port, for URLs that name the address itself.
#[derive(Debug, Clone, PartialEq)]
struct Exception {
    network: IpAddr,
    prefix: u8,
    port: Option<u16>,
}

/// A name led to addresses that we do not send to.
#[derive(Debug, thiserror::Error)]
#[error("{0} resolves to {1}, which is not a public address")]
pub(crate) struct Forbidden(String, IpAddr);

impl Egress {
    pub fn read(env: &mut Env) -> Option<Self> {
        let allow = env.or::<Exceptions>(
            "SHOPERY_EGRESS_ALLOW",
            "",
            "Addresses to allow though they are not public: 10.1.0.0/16, fd00::/8, 127.0.0.1:8443; comma-separated",
        );
        let insecure =
            env.or("SHOPERY_INSECURE_ENDPOINTS", "false", "true: also http:// and loopback endpoints; for development");
        Some(Self { allow: allow?.0.into(), insecure: insecure? })
    }

    /// Judges a URL as far as it can be without the network: its scheme, and its host if that is an address.
    pub(crate) fn judge(&self, url: &Url) -> Result<(), String> {
        if url.scheme() != "https" && !self.insecure {
            return Err("the URL does not start with https://".to_owned());
        }
        let address = match url.host() {
            Some(Host::Ipv4(v4)) => IpAddr::V4(v4),
            Some(Host::Ipv6(v6)) => IpAddr::V6(v6),
            _ => return Ok(()),
        };
        if self.permits(address, url.port_or_known_default()) {
            Ok(())
        } else {
            Err(format!("{address} is not a public address"))
        }
    }

    pub(crate) fn resolver(&self) -> Arc<Self> {
        Arc::new(self.clone())
    }

    fn permits(&self, address: IpAddr, port: Option<u16>) -> bool {
        is_public(address)
            || (self.insecure && is_loopback(address))
            || self.allow.iter().any(|exception| exception.covers(address, port))
    }
}

impl Resolve for Egress {
    fn resolve(&self, name: Name) -> Resolving {
        let egress = self.clone();
        Box::pin(async move {
            let found: Vec<SocketAddr> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            let refused = found.iter().map(SocketAddr::ip).find(|address| !egress.permits(*address, None));
            match refused {
                // One bad address among good ones is reason enough: it was put there by somebody.
                Some(address) => Err(Forbidden(name.as_str().to_owned(), address).into()),
                None => Ok(Box::new(found.into_iter()) as Addrs),
            }
        })
    }
}

impl Exception {
    fn covers(&self, address: IpAddr, port: Option<u16>) -> bool {
        if self.port.is_some() && self.port != port {
            return false;
        }
        match (self.network, address) {
            (IpAddr::V4(network), IpAddr::V4(address)) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.prefix)).unwrap_or(0);
                u32::from(network) & mask == u32::from(address) & mask
            }
            (IpAddr::V6(network), IpAddr::V6(address)) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.prefix)).unwrap_or(0);
                u128::from(network) & mask == u128::from(address) & mask
            }
            _ => false,
        }
    }
}

#[derive(Debug)]
struct Exceptions(Vec<Exception>);

impl FromStr for Exceptions {
    type Err = NotAnAddress;

    fn from_str(text: &str) -> Result<Self, NotAnAddress> {
        let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
        parts.map(|part| part.parse().map_err(|()| NotAnAddress(part.to_owned()))).collect::<Result<_, _>>().map(Self)
    }
}

#[derive(Debug)]
struct NotAnAddress(String);

impl fmt::Display for NotAnAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is not an address, network or address:port", self.0)
    }
}

impl FromStr for Exception {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        if let Ok(address) = text.parse::<SocketAddr>() {
            let prefix = if address.is_ipv4() { 32 } else { 128 };
            return Ok(Self { network: address.ip(), prefix, port: Some(address.port()) });
        }
        let (address, prefix) = text.split_once('/').map_or((text, None), |(address, prefix)| (address, Some(prefix)));
        let network: IpAddr = address.parse().map_err(|_| ())?;
        let bits = if network.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.map_or(Ok(bits), str::parse).map_err(|_| ())?;
        if prefix > bits { Err(()) } else { Ok(Self { network, prefix, port: None }) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn egress(allow: &str, insecure: &str) -> Egress {
        let mut env = Env::of([("SHOPERY_EGRESS_ALLOW", allow), ("SHOPERY_INSECURE_ENDPOINTS", insecure)]);
        let egress = Egress::read(&mut env);
        env.finish(egress).unwrap()
    }

    #[test]
    fn an_address_in_whatever_spelling_is_judged_as_itself() {
        let strict = egress("", "false");
        for url in [
            "https://127.0.0.1/",
            "https://2130706433/",
            "https://0x7f.1/",
            "https://0177.0.0.1/",
            "https://127.1/",
            "https://[::1]/",
            "https://[::ffff:127.0.0.1]/",
            "https://169.254.169.254/latest",
            "https://10.0.0.1:8443/",
            "https://[64:ff9b::a9fe:a9fe]/",
            "https://[2002:7f00:1::]/",
            "https://0/",
            "http://1.1.1.1/",
            "https://１２７.0.0.1/",
        ] {
            assert!(strict.judge(&url.parse().unwrap()).is_err(), "{url}");
        }
        assert!(strict.judge(&"https://1.1.1.1/".parse().unwrap()).is_ok());
    }

    #[test]
    fn exceptions_are_as_narrow_as_they_are_written() {
        let narrow = egress("127.0.0.1:8443, 10.1.0.0/16,fd00::/8", "false");
        for (url, allowed) in [
            ("https://127.0.0.1:8443/", true),
            ("https://127.0.0.1:8444/", false),
            ("https://127.0.0.2:8443/", false),
            ("https://10.1.255.1/", true),
            ("https://10.2.0.1/", false),
            ("https://[fd12::1]/", true),
            ("https://[fe80::1]/", false),
            ("http://10.1.0.1/", false),
        ] {
            assert_eq!(narrow.judge(&url.parse().unwrap()).is_ok(), allowed, "{url}");
        }
        let insecure = egress("", "true");
        assert!(insecure.judge(&"http://127.0.0.1:9000/".parse().unwrap()).is_ok());
        assert!(insecure.judge(&"http://10.0.0.1/".parse().unwrap()).is_err());
    }

    #[test]
    fn a_bad_exception_is_named() {
        for bad in ["10.0.0.0/33", "x", "127.0.0.1:99999", "fd00::/129", "10.0.0.0/"] {
            assert!(bad.parse::<Exceptions>().unwrap_err().to_string().contains(bad), "{bad}");
        }
    }

    #[tokio::test]
    async fn a_name_is_judged_by_what_it_resolves_to() {
        let name = || Name::from_str("localhost").unwrap();
        let refused = egress("", "false").resolve(name()).await.err().unwrap();
        assert!(refused.downcast_ref::<Forbidden>().is_some(), "{refused}");
        assert!(egress("", "true").resolve(name()).await.is_ok());
    }
}
