//! Name resolution: by the name servers of the operating system, or by others of the operator's choice.
//!
//! Answers are used again for as long as they say, and negative ones too, at most a minute. Rejected: the operating system's
//! own resolver, which has neither, and whose calls hold a thread each for as long as a name server is silent.

use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{LookupIpStrategy, NameServerConfig, ResolveHosts, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::RecordType;
use shopery_model::Fault;

use crate::failure::{Failure, SenderFault};

/// Of one question to one server.
const TIMEOUT: Duration = Duration::from_millis(400);
/// Of a name, whoever is asked.
const LOOK_UP_TIMEOUT: Duration = Duration::from_secs(1);
/// An answer is used again for no longer, whatever its time to live.
const REUSED: Duration = Duration::from_secs(60);
/// Answers that are kept.
const MAX_ANSWERS: u64 = 100_000;

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

/// Those who are asked: of each family by itself, so that it is known what became of either question.
#[derive(Clone)]
pub(crate) struct Names {
    v4: TokioResolver,
    v6: TokioResolver,
}

impl Names {
    pub(crate) fn of(servers: &NameServers) -> anyhow::Result<Self> {
        Ok(Self {
            v4: resolver(servers, LookupIpStrategy::Ipv4Only)?,
            v6: resolver(servers, LookupIpStrategy::Ipv6Only)?,
        })
    }

    /// All addresses of a name, of both families.
    pub(crate) async fn look_up(&self, name: &str) -> Result<Vec<IpAddr>, Failure> {
        let unresolved = |why: &str| Failure::Endpoint(Fault::DnsFailed, why.to_owned());
        // A name with its last dot is not tried in search domains.
        let name = if name.ends_with('.') { name.to_owned() } else { format!("{name}.") };
        let ask = async |resolver: &TokioResolver| {
            let found = tokio::time::timeout(LOOK_UP_TIMEOUT, resolver.lookup_ip(name.as_str())).await;
            match found.unwrap_or(Err(NetError::Timeout)) {
                Ok(found) => Ok(found.iter().collect()),
                Err(error) if is_negative(&error) => Ok(Vec::new()),
                Err(error) => Err(error),
            }
        };
        match tokio::join!(ask(&self.v4), ask(&self.v6)) {
            (Ok(v4), Ok(v6)) if v4.is_empty() && v6.is_empty() => {
                Err(unresolved("the host name cannot be resolved: it has no address"))
            }
            (Ok(v4), Ok(v6)) => Ok([v4, v6].concat()),
            // Half of an answer is better than none.
            (Ok(found), Err(_)) | (Err(_), Ok(found)) if !found.is_empty() => Ok(found),
            // They know us, and do not want to be asked.
            (Err(error), _) | (_, Err(error)) if is_refusal(&error) => Err(Failure::Ours(SenderFault::Resolver)),
            // Whose name servers are silent, those of the name or ours?
            _ if self.are_answering().await => {
                Err(unresolved("the host name cannot be resolved: its name servers do not answer"))
            }
            _ => Err(Failure::Ours(SenderFault::Resolver)),
        }
    }

    /// Whether our name servers answer at all: every one knows the root.
    async fn are_answering(&self) -> bool {
        self.v4.clear_lookup_cache(".", RecordType::NS);
        match tokio::time::timeout(LOOK_UP_TIMEOUT, self.v4.lookup(".", RecordType::NS)).await {
            Ok(Ok(_)) => true,
            Ok(Err(NetError::Dns(DnsError::ResponseCode(code)))) => code != ResponseCode::ServFail,
            Ok(Err(error)) => is_negative(&error),
            Err(_) => false,
        }
    }
}

fn resolver(servers: &NameServers, families: LookupIpStrategy) -> anyhow::Result<TokioResolver> {
    let is_system = servers.0.is_empty();
    let mut builder = if is_system {
        let why = "cannot read which name servers this host has; set SHOPERY_EGRESS_DNS";
        TokioResolver::builder_tokio().context(why)?
    } else {
        let of_port = |server: &SocketAddr| {
            let mut config = NameServerConfig::udp_and_tcp(server.ip());
            config.connections.iter_mut().for_each(|connection| connection.port = server.port());
            config
        };
        let config = ResolverConfig::from_name_servers(servers.0.iter().map(of_port).collect());
        TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
    };
    let options = builder.options_mut();
    options.timeout = TIMEOUT;
    options.attempts = 2;
    options.ip_strategy = families;
    options.use_hosts_file = if is_system { ResolveHosts::Auto } else { ResolveHosts::Never };
    options.positive_max_ttl = Some(REUSED);
    options.negative_max_ttl = Some(REUSED);
    options.cache_size = MAX_ANSWERS;
    builder.build().context("cannot set up the look-up of names")
}

fn is_refusal(error: &NetError) -> bool {
    matches!(error, NetError::Dns(DnsError::ResponseCode(ResponseCode::Refused)))
}

/// The name servers know that there is nothing.
fn is_negative(error: &NetError) -> bool {
    error.is_nx_domain() || error.is_no_records_found()
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
