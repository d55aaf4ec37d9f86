//! Where a request comes from.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;

use axum::extract::Request;
use axum::http::HeaderMap;
use shopery_model::{Network, NotANetwork};
use shopery_runtime::Env;

/// The other end of the connection, which the server notes with every request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer(pub(crate) SocketAddr);

/// The proxies whose `X-Forwarded-For` is believed.
#[derive(Debug, Clone, Default)]
pub struct Proxies(Arc<[Network]>);

impl FromStr for Proxies {
    type Err = NotANetwork;

    fn from_str(text: &str) -> Result<Self, NotANetwork> {
        let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
        parts.map(str::parse).collect::<Result<Vec<_>, _>>().map(|networks| Self(networks.into()))
    }
}

impl Proxies {
    pub fn read(env: &mut Env) -> Option<Self> {
        let doc = "Addresses and networks of proxies whose X-Forwarded-For is believed; comma-separated";
        env.or("SHOPERY_TRUSTED_PROXIES", "", doc)
    }

    /// The address that a request comes from, as far as anybody whom we believe can tell.
    pub fn origin(&self, request: &Request) -> IpAddr {
        let peer = request.extensions().get::<Peer>().map_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED), |peer| peer.0.ip());
        customer(self.behind(peer, request.headers()))
    }

    /// Whose the connection is: the customer's at this address. Those of a proxy that is believed are each on their own,
    /// since they are made for others.
    pub(crate) fn owner(&self, peer: SocketAddr) -> SocketAddr {
        if self.contains(peer.ip().to_canonical()) { peer } else { SocketAddr::new(customer(peer.ip()), 0) }
    }

    fn contains(&self, address: IpAddr) -> bool {
        self.0.iter().any(|proxy| proxy.contains(address))
    }

    /// Each proxy adds the address that it was called from at the end, so the list is read from there, as long as the
    /// one that has added is believed.
    fn behind(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let values: Vec<_> =
            headers.get_all("x-forwarded-for").iter().filter_map(|value| value.to_str().ok()).collect();
        let mut listed = values.iter().rev().flat_map(|value| value.rsplit(','));
        let mut origin = peer.to_canonical();
        while self.contains(origin) {
            match listed.next().map(|address| address.trim().parse::<IpAddr>()) {
                Some(Ok(address)) => origin = address.to_canonical(),
                Some(Err(_)) | None => break,
            }
        }
        origin
    }
}

/// Of an IPv6 address the /64, since that is what one customer is given.
fn customer(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from(u128::from(v6) & (u128::MAX << 64)).into(),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body;

    fn origin(proxies: &str, peer: &str, forwarded: &[&str]) -> String {
        let mut request = Request::builder().extension(Peer(SocketAddr::new(peer.parse().unwrap(), 1)));
        for value in forwarded {
            request = request.header("X-Forwarded-For", *value);
        }
        proxies.parse::<Proxies>().unwrap().origin(&request.body(Body::empty()).unwrap()).to_string()
    }

    #[test]
    fn only_a_known_proxy_is_believed() {
        for (proxies, peer, forwarded, found) in [
            ("", "192.0.2.1", &["198.51.100.7"][..], "192.0.2.1"),
            ("10.0.0.0/8", "192.0.2.1", &["198.51.100.7"], "192.0.2.1"),
            ("10.0.0.0/8", "10.1.1.1", &["198.51.100.7"], "198.51.100.7"),
            ("10.0.0.0/8", "::ffff:10.1.1.1", &["198.51.100.7"], "198.51.100.7"),
            // What stands before it may be invented.
            ("10.0.0.0/8", "10.1.1.1", &["1.2.3.4, 198.51.100.7"], "198.51.100.7"),
            ("10.0.0.0/8", "10.1.1.1", &["1.2.3.4", "198.51.100.7, 10.2.2.2"], "198.51.100.7"),
            ("10.0.0.0/8", "10.1.1.1", &["198.51.100.7, nonsense"], "10.1.1.1"),
            ("10.0.0.0/8", "10.1.1.1", &[], "10.1.1.1"),
            ("10.0.0.0/8,fd00::/8", "fd00::1", &["2001:db8:1:2:3:4:5:6"], "2001:db8:1:2::"),
        ] {
            assert_eq!(origin(proxies, peer, forwarded), found, "{peer} {forwarded:?}");
        }
        assert!("10.0.0.0/8,x".parse::<Proxies>().is_err());
    }

    #[test]
    fn connections_belong_to_an_address_and_those_of_a_known_proxy_to_nobody() {
        let proxies: Proxies = "10.0.0.0/8".parse().unwrap();
        for (peer, owner) in [
            ("192.0.2.1:4711", "192.0.2.1:0"),
            ("[::ffff:192.0.2.1]:4711", "192.0.2.1:0"),
            ("[2001:db8:1:2:3:4:5:6]:4711", "[2001:db8:1:2::]:0"),
            ("10.1.1.1:4711", "10.1.1.1:4711"),
        ] {
            assert_eq!(proxies.owner(peer.parse().unwrap()).to_string(), owner, "{peer}");
        }
    }
}
