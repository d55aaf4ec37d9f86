//! Certificates, good ones and those that a sender must not accept.

use std::sync::Arc;

use rcgen::{CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};

/// TLS with a certificate for 127.0.0.1 that vouches for itself.
pub fn self_signed() -> Arc<rustls::ServerConfig> {
    let key = KeyPair::generate().unwrap();
    let certificate = leaf().self_signed(&key).unwrap();
    config(vec![certificate.der().clone()], &key)
}

/// For a server that reads PEM: an authority, a certificate of it for 127.0.0.1, and its key.
pub fn good() -> (String, String, String) {
    let (root, issuer) = authority();
    let key = KeyPair::generate().unwrap();
    (root, leaf().signed_by(&key, &issuer).unwrap().pem(), key.serialize_pem())
}

/// An authority, as PEM, and TLS with a certificate of it for 127.0.0.1 whose time is over.
pub fn expired() -> (String, Arc<rustls::ServerConfig>) {
    let (root, issuer) = authority();
    let mut params = leaf();
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(2021, 1, 1);
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, &issuer).unwrap();
    (root, config(vec![certificate.der().clone()], &key))
}

fn authority() -> (String, Issuer<'static, KeyPair>) {
    let mut authority = CertificateParams::default();
    authority.distinguished_name.push(rcgen::DnType::CommonName, "an authority of the end-to-end suite");
    authority.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    (authority.self_signed(&key).unwrap().pem(), Issuer::new(authority, key))
}

fn leaf() -> CertificateParams {
    CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap()
}

fn config(chain: Vec<CertificateDer<'static>>, key: &KeyPair) -> Arc<rustls::ServerConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, PrivatePkcs8KeyDer::from(key.serialize_der()).into())
        .unwrap();
    Arc::new(config)
}
