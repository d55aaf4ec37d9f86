//! Where we may send to. A literal address is judged before we connect; a name is judged by what it resolves to, and the
//! addresses that were judged are the addresses that are dialled: there is no second look-up for an attacker to answer
//! differently.
//!
//! Invariant: what a webhook is saved with, the Test call, a delivery and a probe are judged here, by the same rules.

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::sync::Arc;

use shopery_model::{Destination, Fault, Invalid, Network};
use shopery_runtime::Env;
use url::{Host, Url};

use crate::address::{is_loopback, is_public};
use crate::dns::{NameServers, Names};
use crate::failure::Failure;
use crate::name;

#[derive(Debug, Clone)]
pub struct Egress {
    allow: Arc<[Exception]>,
    ports: Ports,
    name_servers: NameServers,
    /// `http://`, loopback and any port, for development.
    insecure: bool,
}

/// A range that is allowed though it is not public; with a port, for URLs that name the address itself.
#[derive(Debug, Clone, PartialEq)]
struct Exception {
    network: Network,
    port: Option<u16>,
}

impl Egress {
    pub fn read(env: &mut Env) -> Option<Self> {
        let allow = env.or::<Exceptions>(
            "SHOPERY_EGRESS_ALLOW",
            "",
            "Addresses to allow though they are not public: 10.1.0.0/16, fd00::/8, 127.0.0.1:8443; comma-separated",
        );
        let ports = env.or(
            "SHOPERY_EGRESS_PORTS",
            "443,8443",
            "Ports that endpoints may have: 443, 8000-8999; comma-separated. An address:port that is allowed is so too",
        );
        let name_servers = env.or(
            "SHOPERY_EGRESS_DNS",
            "",
            "Name servers that are asked for endpoints, in place of the system's: 10.0.0.2, 10.0.0.3:5353",
        );
        let insecure = env.or(
            "SHOPERY_INSECURE_ENDPOINTS",
            "false",
            "true: also http://, loopback endpoints and any port; for development",
        );
        Some(Self { allow: allow?.0.into(), ports: ports?, name_servers: name_servers?, insecure: insecure? })
    }

    /// An address that may be sent to, as far as that can be told without the network.
    pub fn destination(&self, text: &str) -> Result<Destination, Invalid> {
        let destination = Destination::parse(text, self.insecure)?;
        if let Destination::Https(url) = &destination {
            self.judge(url).map_err(|why| Invalid::new("url", why))?;
        }
        Ok(destination)
    }

    /// Judges a URL as far as it can be without the network: all of it but what a name leads to.
    pub(crate) fn judge(&self, url: &Url) -> Result<(), String> {
        if url.scheme() != "https" && !(self.insecure && url.scheme() == "http") {
            return Err("the URL does not start with https://".to_owned());
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err("the URL contains a user name or password".to_owned());
        }
        let port = url.port_or_known_default().unwrap_or_default();
        let address = match url.host() {
            Some(Host::Ipv4(v4)) => IpAddr::V4(v4),
            Some(Host::Ipv6(v6)) => IpAddr::V6(v6),
            Some(Host::Domain(name)) => {
                // An exception with a port is for URLs that name the address.
                name::judge(name, self.insecure || self.allow.iter().any(|exception| exception.port.is_none()))?;
                return if self.permits_port(port) { Ok(()) } else { Err(wrong_port(port)) };
            }
            None => return Err("the URL names no host".to_owned()),
        };
        if self.allow.iter().any(|exception| exception.names(address, port)) {
            return Ok(());
        }
        if !self.permits(address) {
            return Err(format!("{address} is not a public address"));
        }
        if self.permits_port(port) { Ok(()) } else { Err(wrong_port(port)) }
    }

    pub(crate) fn resolver(&self) -> anyhow::Result<Resolver> {
        Ok(Resolver { egress: self.clone(), names: Names::of(&self.name_servers)? })
    }

    fn permits(&self, address: IpAddr) -> bool {
        is_public(address)
            || (self.insecure && is_loopback(address))
            || self.allow.iter().any(|exception| exception.port.is_none() && exception.network.contains(address))
    }

    fn permits_port(&self, port: u16) -> bool {
        self.insecure || self.ports.0.iter().any(|range| range.contains(&port))
    }
}

fn wrong_port(port: u16) -> String {
    format!("the port {port} is not one that endpoints may have")
}

/// Resolves names to addresses that may be sent to.
pub(crate) struct Resolver {
    egress: Egress,
    names: Names,
}

impl Resolver {
    /// The addresses of a name, to be dialled as they are.
    pub(crate) async fn resolve(&self, name: &str) -> Result<Vec<IpAddr>, Failure> {
        let found = self.names.look_up(name).await?;
        // One bad address among good ones is reason enough: it was put there by somebody.
        // Which address it is, is not said: names of ours that only our name servers know would be found out by asking.
        if found.iter().all(|address| self.egress.permits(*address)) {
            return Ok(found);
        }
        let why = format!("{name} resolves to an address that is not public");
        Err(Failure::Endpoint(Fault::AddressForbidden, why))
    }
}

impl Exception {
    /// Whether it is about this very address and port.
    fn names(&self, address: IpAddr, port: u16) -> bool {
        self.port == Some(port) && self.network.contains(address)
    }
}

#[derive(Debug)]
struct Exceptions(Vec<Exception>);

impl FromStr for Exceptions {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
        parts.map(str::parse).collect::<Result<_, _>>().map(Self)
    }
}

impl FromStr for Exception {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(address) = text.parse::<SocketAddr>() {
            return Ok(Self { network: address.ip().into(), port: Some(address.port()) });
        }
        let network = text.parse().map_err(|_| format!("{text:?} is not an address, network or address:port"))?;
        Ok(Self { network, port: None })
    }
}

#[derive(Debug, Clone)]
struct Ports(Arc<[RangeInclusive<u16>]>);

impl FromStr for Ports {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parse = |part: &str| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            match (first.trim().parse(), last.trim().parse()) {
                (Ok(first), Ok(last)) if 1 <= first && first <= last => Ok(first..=last),
                _ => Err(format!("{part:?} is not a port or range of ports")),
            }
        };
        let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
        parts.map(parse).collect::<Result<Vec<_>, _>>().map(|ranges| Self(ranges.into()))
    }
}

#[cfg(test)]
mod tests;
