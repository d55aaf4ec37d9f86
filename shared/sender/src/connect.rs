//! From a host to a connection: its name, one of its addresses, TLS.
//!
//! A host may have many addresses, and some that do not answer. They are tried one after another, a quarter of a second
//! apart and without waiting for the end of the one before (RFC 8305, "happy eyeballs"); each has its whole second. All
//! addresses are judged before the first is tried.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use rustls::pki_types::pem::PemObject;
use rustls::{CertificateError, ClientConfig, RootCertStore};
use shopery_model::{Fault, Timing};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use url::{Host, Url};

use crate::egress::Resolver;
use crate::failure::{Failure, SenderFault, find};

/// TCP and TLS, for each address.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Delay before the next address is tried, as RFC 8305 recommends.
const STAGGER: Duration = Duration::from_millis(250);
/// Maximum number of addresses to try: started 250 ms apart, they take less than the five seconds of an exchange.
const MAX_ADDRESSES: usize = 16;
/// TLS sessions that are kept to be resumed.
const SESSIONS: usize = 4096;
const HTTP2: &[u8] = b"h2";
const HTTP1: &[u8] = b"http/1.1";

/// Where connections lead.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Origin {
    is_tls: bool,
    host: Host<String>,
    port: u16,
}

impl Origin {
    pub(crate) fn of(url: &Url) -> Option<Self> {
        let host = url.host()?.to_owned();
        Some(Self { is_tls: url.scheme() == "https", host, port: url.port_or_known_default()? })
    }
}

pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// A connection on which nothing has been said yet.
pub(crate) struct Connected {
    pub(crate) stream: Box<dyn Stream>,
    pub(crate) is_http2: bool,
}

pub(crate) struct Connector {
    resolver: Resolver,
    tls: TlsConnector,
    /// For endpoints that refuse HTTP/2.
    tls_http1: TlsConnector,
}

impl Connector {
    /// `ca_file`: certificates to trust besides the system's.
    pub(crate) fn new(resolver: Resolver, ca_file: Option<&str>) -> anyhow::Result<Self> {
        let roots = Arc::new(trusted(ca_file)?);
        let tls = |protocols: &[&[u8]]| {
            let mut config = ClientConfig::builder_with_provider(rustls::crypto::aws_lc_rs::default_provider().into())
                .with_safe_default_protocol_versions()
                .context("cannot set up TLS")?
                .with_root_certificates(roots.clone())
                .with_no_client_auth();
            config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
            config.resumption = Resumption::in_memory_sessions(SESSIONS);
            anyhow::Ok(TlsConnector::from(Arc::new(config)))
        };
        Ok(Self { resolver, tls: tls(&[HTTP2, HTTP1])?, tls_http1: tls(&[HTTP1])? })
    }

    /// `timing` has the parts that were done, also if another was not.
    pub(crate) async fn connect(
        &self,
        origin: &Origin,
        is_http1: bool,
        timing: &mut Timing,
    ) -> Result<Connected, Failure> {
        let asked = Instant::now();
        let addresses = match &origin.host {
            // A literal address has been judged with its URL.
            Host::Ipv4(v4) => vec![IpAddr::V4(*v4)],
            Host::Ipv6(v6) => vec![IpAddr::V6(*v6)],
            Host::Domain(name) => {
                let addresses = self.resolver.resolve(name).await?;
                timing.dns = Some(asked.elapsed());
                addresses
            }
        };
        let addresses = alternating(addresses).into_iter().map(|address| SocketAddr::new(address, origin.port));
        let (stream, began) = first_to_answer(addresses.collect()).await?;
        timing.connect = Some(began.elapsed());
        if !origin.is_tls {
            return Ok(Connected { stream: Box::new(stream), is_http2: false });
        }
        let name = match &origin.host {
            Host::Domain(name) => ServerName::try_from(name.trim_end_matches('.').to_owned())
                .map_err(|_| Failure::Endpoint(Fault::TlsFailed, "the host name is not one for TLS".to_owned()))?,
            Host::Ipv4(v4) => ServerName::IpAddress((*v4).into()),
            Host::Ipv6(v6) => ServerName::IpAddress((*v6).into()),
        };
        let tls = if is_http1 { &self.tls_http1 } else { &self.tls };
        let connected = Instant::now();
        let stream = tokio::time::timeout_at(began + CONNECT_TIMEOUT, tls.connect(name, stream)).await;
        let stream = stream.map_err(|_| no_connection())?.map_err(|error| explain(&error))?;
        let is_http2 = stream.get_ref().1.alpn_protocol() == Some(HTTP2);
        timing.tls = Some(connected.elapsed());
        Ok(Connected { stream: Box::new(stream), is_http2 })
    }
}

fn trusted(ca_file: Option<&str>) -> anyhow::Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    let system = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(system.certs);
    if let Some(path) = ca_file {
        let pem = std::fs::read(path).with_context(|| format!("cannot read SHOPERY_CA_FILE {path}"))?;
        let not_pem = || format!("SHOPERY_CA_FILE {path} is not PEM");
        for certificate in rustls::pki_types::CertificateDer::pem_slice_iter(&pem) {
            roots.add(certificate.with_context(not_pem)?).with_context(not_pem)?;
        }
    }
    if roots.is_empty() {
        tracing::warn!("this host trusts no certificate authority; no endpoint with TLS can be sent to");
    }
    Ok(roots)
}

/// The families in turn, so that one that leads nowhere from here delays little; as many as are tried.
fn alternating(addresses: Vec<IpAddr>) -> Vec<IpAddr> {
    let first_is_v4 = addresses.first().is_some_and(IpAddr::is_ipv4);
    let (first, second): (Vec<_>, Vec<_>) = addresses.into_iter().partition(|address| address.is_ipv4() == first_is_v4);
    let (mut first, mut second) = (first.into_iter(), second.into_iter());
    let mut all = Vec::new();
    while all.len() < MAX_ADDRESSES {
        let before = all.len();
        all.extend(first.next());
        all.extend(second.next());
        if all.len() == before {
            break;
        }
    }
    all.truncate(MAX_ADDRESSES);
    all
}

/// A connection to the address that takes it first, and when that was begun.
pub(crate) async fn first_to_answer(addresses: Vec<SocketAddr>) -> Result<(TcpStream, Instant), Failure> {
    let (mut addresses, mut attempts) = (addresses.into_iter(), FuturesUnordered::new());
    let mut failure = None;
    let mut next = pin!(tokio::time::sleep(Duration::ZERO));
    loop {
        tokio::select! {
            Some(attempted) = attempts.next() => match attempted {
                Ok(connected) => return Ok(connected),
                Err(failed) => {
                    failure = Some(more_telling(failure, failed));
                    next.as_mut().reset(Instant::now());
                }
            },
            () = &mut next, if addresses.len() > 0 => {
                attempts.extend(addresses.next().map(attempt));
                next.as_mut().reset(Instant::now() + STAGGER);
            }
            else => return Err(failure.unwrap_or_else(no_connection)),
        }
    }
}

async fn attempt(address: SocketAddr) -> Result<(TcpStream, Instant), Failure> {
    let began = Instant::now();
    let stream = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await;
    let stream = stream.map_err(|_| no_connection())?.map_err(|error| match explain(&error) {
        // So says a host without an address of this family.
        Failure::Ours(SenderFault::Ports) if address.is_ipv6() => {
            Failure::Endpoint(Fault::ConnectionFailed, "IPv6 addresses cannot be reached from here".to_owned())
        }
        failure => failure,
    })?;
    // A request is written at once; waiting for more to send would only delay it.
    stream.set_nodelay(true).map_err(|error| explain(&error))?;
    Ok((stream, began))
}

/// Of two addresses' failures. That this host cannot reach one, or has nothing left for it, says least.
fn more_telling(before: Option<Failure>, now: Failure) -> Failure {
    match before {
        Some(before @ Failure::Endpoint(fault, _)) if fault != Fault::ConnectionFailed => before,
        Some(before @ Failure::Endpoint(..)) if matches!(now, Failure::Ours(_)) => before,
        _ => now,
    }
}

fn no_connection() -> Failure {
    Failure::Endpoint(Fault::ConnectTimeout, format!("no connection within {} s", CONNECT_TIMEOUT.as_secs()))
}

pub(crate) fn explain(error: &io::Error) -> Failure {
    if let Some(ours) = SenderFault::of(error) {
        return Failure::Ours(ours);
    }
    let (fault, detail) = match find::<rustls::Error>(error) {
        Some(tls) => explain_tls(tls),
        None if error.kind() == io::ErrorKind::ConnectionRefused => {
            (Fault::ConnectionRefused, "the host refused the connection: nothing listens there".to_owned())
        }
        None => (Fault::ConnectionFailed, format!("the connection failed: {}", error.kind())),
    };
    Failure::Endpoint(fault, detail)
}

fn explain_tls(error: &rustls::Error) -> (Fault, String) {
    let rustls::Error::InvalidCertificate(reason) = error else {
        return (Fault::TlsFailed, format!("the TLS handshake failed: {error}"));
    };
    let detail = match reason {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => "the certificate has expired",
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "the certificate is not valid yet"
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "the certificate is for another host name"
        }
        CertificateError::UnknownIssuer => {
            "the certificate is self-signed, or its chain to a trusted authority is incomplete"
        }
        CertificateError::BadSignature => "the certificate is not signed by the authority that it names",
        CertificateError::Revoked => "the certificate is revoked",
        _ => return (Fault::CertificateInvalid, format!("the certificate is invalid: {error}")),
    };
    (Fault::CertificateInvalid, detail.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_take_turns() {
        let list = |text: &str| text.split(' ').map(|address| address.parse().unwrap()).collect::<Vec<IpAddr>>();
        for (found, tried) in [
            ("192.0.2.1 192.0.2.2 2001:db8::1", "192.0.2.1 2001:db8::1 192.0.2.2"),
            ("2001:db8::1 192.0.2.1 192.0.2.2", "2001:db8::1 192.0.2.1 192.0.2.2"),
            ("192.0.2.1", "192.0.2.1"),
        ] {
            assert_eq!(alternating(list(found)), list(tried));
        }
        assert_eq!(alternating((0..=255).map(|last| IpAddr::from([192, 0, 2, last])).collect()).len(), MAX_ADDRESSES);
        assert!(alternating(Vec::new()).is_empty());
    }

    #[test]
    fn of_many_addresses_the_endpoints_own_failure_is_told() {
        let endpoint = |fault| Failure::Endpoint(fault, String::new());
        let ours = Failure::Ours(SenderFault::Descriptors);
        let told = |before: &Failure, now: &Failure| match more_telling(Some(before.clone()), now.clone()) {
            Failure::Endpoint(fault, _) => Some(fault),
            Failure::Ours(_) => None,
        };
        let (refused, unreachable) = (endpoint(Fault::ConnectionRefused), endpoint(Fault::ConnectionFailed));
        for (before, now, fault) in [
            (&refused, &unreachable, Some(Fault::ConnectionRefused)),
            (&unreachable, &refused, Some(Fault::ConnectionRefused)),
            (&unreachable, &ours, Some(Fault::ConnectionFailed)),
            (&ours, &refused, Some(Fault::ConnectionRefused)),
            (&ours, &ours, None),
        ] {
            assert_eq!(told(before, now), fault, "{before:?} {now:?}");
        }
    }
}
