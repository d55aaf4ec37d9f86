//! A certificate authority for development: the sample endpoint, the tests and the benchmark get their certificates
//! from it, and the deliverer is told to trust it (`SHOPERY_CA_FILE`). Nothing else ever should.
//!
//! Only the key and the certificate of the authority are kept. A server's certificate is made when the server starts.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, bail};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use time::{Duration, OffsetDateTime};

use crate::private_file;

const NAME: &str = "Shopery development CA";
const LIFE: Duration = Duration::days(3650);
/// Longer than any process that uses one; shorter than the year or so that verifiers accept.
const LEAF_LIFE: Duration = Duration::days(365);
/// For a clock that is behind ours.
const LEEWAY: Duration = Duration::days(1);

pub struct Authority {
    pem: String,
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Authority")
    }
}

impl Authority {
    /// A new authority, in memory alone.
    pub fn generate() -> anyhow::Result<Self> {
        let key = KeyPair::generate()?;
        let pem = parameters().self_signed(&key)?.pem();
        Self::of(pem, key)
    }

    /// The authority of `ca.pem` and `ca.key` in `dir`, which are made if either is missing.
    pub fn load_or_create(dir: &Path) -> anyhow::Result<Self> {
        let (certificate, key) = (dir.join("ca.pem"), dir.join("ca.key"));
        if let (Some(pem), Some(key)) = (private_file::read(&certificate)?, private_file::read(&key)?) {
            return Self::load(pem, &key).with_context(|| {
                format!("the development CA in {} is unusable; delete ca.pem and ca.key there", dir.display())
            });
        }
        let authority = Self::generate()?;
        private_file::write(&key, &authority.issuer.key().serialize_pem())?;
        private_file::write(&certificate, &authority.pem)?;
        Ok(authority)
    }

    fn load(pem: String, key: &str) -> anyhow::Result<Self> {
        let authority = Self::of(pem, KeyPair::from_pem(key).context("ca.key is no private key")?)?;
        authority.check().context("ca.pem is not the certificate of ca.key")?;
        Ok(authority)
    }

    fn of(pem: String, key: KeyPair) -> anyhow::Result<Self> {
        let certificate = CertificateDer::from_pem_slice(pem.as_bytes()).context("ca.pem is no certificate")?;
        // What the issuer puts into a leaf is its name and its key, and the name is always the same.
        Ok(Self { pem, certificate, issuer: Issuer::new(parameters(), key) })
    }

    /// The certificate to trust.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// TLS for a server under these DNS names and IP addresses, offering the protocols `alpn` in this order.
    pub fn server_config(&self, names: &[&str], alpn: &[&[u8]]) -> anyhow::Result<Arc<rustls::ServerConfig>> {
        let (leaf, key) = self.leaf(names)?;
        let mut config = rustls::ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![leaf, self.certificate.clone()], key)?;
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
        Ok(Arc::new(config))
    }

    fn leaf(&self, names: &[&str]) -> anyhow::Result<(CertificateDer<'static>, PrivateKeyDer<'static>)> {
        let Some(first) = names.first() else { bail!("a certificate needs a name") };
        let mut leaf = CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())
            .with_context(|| format!("a certificate cannot be for {names:?}"))?;
        leaf.distinguished_name = named(first);
        (leaf.not_before, leaf.not_after) = validity(LEAF_LIFE);
        leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        leaf.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate()?;
        let certificate = leaf.signed_by(&key, &self.issuer)?;
        Ok((certificate.der().clone(), PrivatePkcs8KeyDer::from(key.serialize_der()).into()))
    }

    /// Whether a client that trusts `ca.pem` would accept what we sign.
    fn check(&self) -> anyhow::Result<()> {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone())?;
        let client = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider()).build()?;
        let (leaf, _) = self.leaf(&["localhost"])?;
        client.verify_server_cert(&leaf, &[], &ServerName::try_from("localhost")?, &[], UnixTime::now())?;
        Ok(())
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

fn parameters() -> CertificateParams {
    let mut authority = CertificateParams::default();
    authority.distinguished_name = named(NAME);
    (authority.not_before, authority.not_after) = validity(LIFE);
    authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    authority
}

fn named(name: &str) -> DistinguishedName {
    let mut named = DistinguishedName::new();
    named.push(DnType::CommonName, name);
    named
}

fn validity(life: Duration) -> (OffsetDateTime, OffsetDateTime) {
    let now = OffsetDateTime::now_utc();
    (now - LEEWAY, now + life)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;

    #[test]
    fn a_loaded_authority_signs_for_those_who_trust_its_file() {
        let dir = TempDir::new();
        let made = Authority::load_or_create(dir.path()).unwrap();
        let loaded = Authority::load_or_create(dir.path()).unwrap();
        assert_eq!(made.pem(), loaded.pem());
        loaded.check().unwrap();
        loaded.server_config(&["127.0.0.1", "::1", "shop.example"], &[b"h2", b"http/1.1"]).unwrap();
        assert!(loaded.server_config(&[], &[]).is_err());
    }

    #[test]
    fn garbage_is_named() {
        let dir = TempDir::new();
        let other = Authority::generate().unwrap();
        Authority::load_or_create(dir.path()).unwrap();
        for (file, text) in [("ca.pem", "garbage"), ("ca.pem", other.pem()), ("ca.key", "garbage")] {
            let path = dir.path().join(file);
            let kept = std::fs::read_to_string(&path).unwrap();
            std::fs::write(&path, text).unwrap();
            let error = format!("{:#}", Authority::load_or_create(dir.path()).unwrap_err());
            assert!(error.contains("delete ca.pem and ca.key"), "{error}");
            std::fs::write(&path, kept).unwrap();
        }
    }
}
