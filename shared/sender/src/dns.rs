//! Name resolution: by the operating system, or by name servers of the operator's choice.

use std::error::Error;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{LookupIpStrategy, NameServerConfig, ResolveHosts, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;

/// Of one question to one server; a connection has a second for all of them.
const TIMEOUT: Duration = Duration::from_millis(400);
/// An answer is used again for no longer, whatever its time to live.
const REUSED: Duration = Duration::from_secs(60);

/// Addresses of name servers. None: the system's way.
#[derive(Debug, Clone, Default)]
pub(crate) struct NameServers(Arc<[SocketAddr]>);

impl FromStr for NameServers {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parse = |part: &str| match (part.parse::<SocketAddr>(), part.parse::<IpAddr>()) {
            (Ok(server), _) => Ok(server),
            (_, Ok(address)) => Ok(SocketAddr::new(address, 53)),
            _ => Err(format!("{part:?} is not an address or address:port")),
        };
        let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
        parts.map(parse).collect::<Result<Vec<_>, _>>().map(|servers| Self(servers.into()))
    }
}

/// Whoever is asked; nobody: the system.
#[derive(Clone)]
pub(crate) struct Names(Option<Arc<TokioResolver>>);

impl Names {
    pub(crate) fn of(servers: &NameServers) -> anyhow::Result<Self> {
        if servers.0.is_empty() {
            return Ok(Self(None));
        }
        let of_port = |server: &SocketAddr| {
            let mut config = NameServerConfig::udp_and_tcp(server.ip());
            config.connections.iter_mut().for_each(|connection| connection.port = server.port());
            config
        };
        let config = ResolverConfig::from_name_servers(servers.0.iter().map(of_port).collect());
        let mut resolver = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        let options = resolver.options_mut();
        options.timeout = TIMEOUT;
        options.attempts = 2;
        options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
        options.use_hosts_file = ResolveHosts::Never;
        options.positive_max_ttl = Some(REUSED);
        options.negative_max_ttl = Some(REUSED);
        let resolver = resolver.build().context("cannot set up the resolver of SHOPERY_EGRESS_DNS")?;
        Ok(Self(Some(Arc::new(resolver))))
    }

    /// All addresses of a name, of both families.
    pub(crate) async fn look_up(&self, name: &str) -> Result<Vec<IpAddr>, Box<dyn Error + Send + Sync>> {
        match &self.0 {
            None => Ok(tokio::net::lookup_host((name, 0)).await?.map(|found| found.ip()).collect()),
            Some(resolver) => {
                // A name with its last dot is not tried in search domains.
                let name = if name.ends_with('.') { name.to_owned() } else { format!("{name}.") };
                Ok(resolver.lookup_ip(name).await?.iter().collect())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_servers_are_addresses() {
        let servers = |text: &str| text.parse::<NameServers>().map(|servers| servers.0.to_vec());
        assert_eq!(servers(""), Ok(vec![]));
        let both = ["10.0.0.2:53".parse().unwrap(), "[fd00::2]:5353".parse().unwrap()];
        assert_eq!(servers("10.0.0.2, [fd00::2]:5353"), Ok(both.to_vec()));
        for bad in ["dns.example", "10.0.0.2:", "10.0.0.2:99999"] {
            assert!(servers(bad).unwrap_err().contains(bad), "{bad}");
        }
    }
}
