//! An identity provider: a JWKS over TLS, and the private keys of it.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use rcgen::{KeyPair, PKCS_ED25519, PKCS_RSA_SHA256, PublicKeyData, RsaKeySize};
use serde_json::{Value, json};
use shopery_local::tls::Authority;

use crate::{Behaviour, Merchant};

const PATH: &str = "/jwks";

/// A key of the provider, the private half included.
#[derive(Clone)]
pub struct SigningKey {
    pub kid: String,
    algorithm: Algorithm,
    key: EncodingKey,
    /// The public half as anybody can have it: PEM, DER, and the bare key.
    pub public: [Vec<u8>; 3],
}

impl SigningKey {
    /// RS256, ES256 or EdDSA.
    pub fn generate(kid: &str, algorithm: Algorithm) -> Self {
        let pair = match algorithm {
            Algorithm::RS256 => KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048),
            Algorithm::ES256 => KeyPair::generate(),
            _ => KeyPair::generate_for(&PKCS_ED25519),
        };
        let pair = pair.unwrap();
        let pem = pair.serialize_pem();
        let key = match algorithm {
            Algorithm::RS256 => EncodingKey::from_rsa_pem(pem.as_bytes()),
            Algorithm::ES256 => EncodingKey::from_ec_pem(pem.as_bytes()),
            _ => EncodingKey::from_ed_pem(pem.as_bytes()),
        };
        let public =
            [pair.public_key_pem().into_bytes(), pair.subject_public_key_info(), pair.public_key_raw().to_vec()];
        Self { kid: kid.to_owned(), algorithm, key: key.unwrap(), public }
    }

    /// A token that this key has signed, with its name.
    pub fn sign(&self, claims: &Value) -> String {
        self.sign_as(Some(&self.kid), claims)
    }

    /// With another name, or none.
    pub fn sign_as(&self, kid: Option<&str>, claims: &Value) -> String {
        let mut header = Header::new(self.algorithm);
        header.kid = kid.map(str::to_owned);
        encode(&header, claims, &self.key).unwrap()
    }

    fn jwk(&self) -> Value {
        let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let [_, _, bare] = &self.public;
        let mut jwk = match self.algorithm {
            Algorithm::RS256 => {
                serde_json::to_value(Jwk::from_encoding_key(&self.key, self.algorithm).unwrap()).unwrap()
            }
            // A byte that says that both coordinates follow.
            Algorithm::ES256 => {
                json!({ "kty": "EC", "crv": "P-256", "x": encode(&bare[1..33]), "y": encode(&bare[33..]) })
            }
            _ => json!({ "kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "x": encode(bare) }),
        };
        jwk["kid"] = json!(self.kid);
        jwk["use"] = json!("sig");
        jwk
    }
}

/// The server of the JWKS.
#[derive(Debug)]
pub struct Provider {
    server: Merchant,
}

impl Provider {
    pub async fn start(authority: &Authority, keys: &[&SigningKey]) -> Self {
        let provider = Self { server: Merchant::with_http1(authority).await };
        provider.publish(keys);
        provider
    }

    pub fn url(&self) -> String {
        self.server.url(PATH)
    }

    /// These are its keys from now on.
    pub fn publish(&self, keys: &[&SigningKey]) {
        let keys: Vec<_> = keys.iter().map(|key| key.jwk()).collect();
        self.behave(Behaviour::Body(json!({ "keys": keys }).to_string()));
    }

    pub fn behave(&self, behaviour: Behaviour) {
        self.server.behave(PATH, behaviour);
    }

    /// How often its keys were asked for.
    pub fn fetches(&self) -> usize {
        self.server.arrivals_at(PATH).len()
    }
}
