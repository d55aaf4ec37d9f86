//! The identity provider: OpenID Connect with authorization code and PKCE. It says who somebody is; what we take from it
//! is the access token, which the API verifies as every other.
//!
//! Invariants: nothing is sent to it but over TLS (or on this machine), no redirect is followed, and every request has a
//! timeout and a bound. What it said of itself is known for [`MAX_AGE`] at most. No error has a token, a code or a secret
//! in it.

use std::pin::Pin;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use openidconnect::core::{
    CoreAuthenticationFlow, CoreClient, CoreClientAuthMethod, CoreErrorResponseType, CoreJwsSigningAlgorithm,
    CoreTokenResponse,
};
use openidconnect::{
    AccessTokenHash, AsyncHttpClient, AuthType, AuthorizationCode, ClaimsVerificationError, ClientId, ClientSecret,
    CsrfToken, DiscoveryError, EndpointMaybeSet, EndpointNotSet, EndpointSet, HttpRequest, HttpResponse, IssuerUrl,
    LanguageTag, LogoutRequest, Nonce, OAuth2TokenResponse, PkceCodeChallenge, PkceCodeVerifier, PostLogoutRedirectUrl,
    ProviderMetadataWithLogout, RedirectUrl, RequestTokenError, Scope, SignatureVerificationError, TokenResponse,
};
use secrecy::{ExposeSecret, SecretString};
use shopery_runtime::Env;
use tokio::sync::Mutex;
use url::{Host, Url};

/// How long we go by what it has said of itself, its keys included.
const MAX_AGE: Duration = Duration::from_secs(3600);
/// A key that is not known is looked for again at most so often, whoever sends tokens with it.
const MIN_AGE: Duration = Duration::from_secs(10);
/// Of one request, connection and body included. Whoever comes back from the provider waits for five of them at most: discovery is
/// two, the exchange of the code is one, and discovery is repeated if the key of the ID token is not known.
const TIMEOUT: Duration = Duration::from_secs(5);
const MAX_ANSWER: usize = 256 * 1024;
/// What the pages need of the API.
const SCOPES: &str = "openid webhooks:read webhooks:write";
/// With these it signs; never with a secret, which a public client does not have.
const ALGORITHMS: [CoreJwsSigningAlgorithm; 9] = [
    CoreJwsSigningAlgorithm::RsaSsaPkcs1V15Sha256,
    CoreJwsSigningAlgorithm::RsaSsaPkcs1V15Sha384,
    CoreJwsSigningAlgorithm::RsaSsaPkcs1V15Sha512,
    CoreJwsSigningAlgorithm::RsaSsaPssSha256,
    CoreJwsSigningAlgorithm::RsaSsaPssSha384,
    CoreJwsSigningAlgorithm::RsaSsaPssSha512,
    CoreJwsSigningAlgorithm::EcdsaP256Sha256,
    CoreJwsSigningAlgorithm::EcdsaP384Sha384,
    CoreJwsSigningAlgorithm::EdDsa,
];

#[derive(Debug, Clone)]
pub(crate) struct Config {
    issuer: Issuer,
    client_id: String,
    client_secret: Option<SecretString>,
    scopes: Vec<String>,
    audience: Option<String>,
    ca_file: Option<String>,
}

#[derive(Debug, Clone)]
struct Issuer(IssuerUrl);

impl FromStr for Issuer {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let issuer = IssuerUrl::new(text.to_owned()).map_err(|error| error.to_string())?;
        let url = issuer.url();
        if !is_safe(url) {
            return Err("must start with https://: whoever changes what it says can sign in as anybody".to_owned());
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err("an issuer has no query and no fragment".to_owned());
        }
        Ok(Self(issuer))
    }
}

/// Over TLS, or not over a network.
fn is_safe(url: &Url) -> bool {
    let is_loopback = match url.host() {
        Some(Host::Ipv4(v4)) => v4.is_loopback(),
        Some(Host::Ipv6(v6)) => v6.is_loopback(),
        Some(Host::Domain(name)) => name == "localhost",
        None => false,
    };
    url.scheme() == "https" || url.scheme() == "http" && is_loopback
}

impl Config {
    /// `Some(None)` if there is no provider.
    pub(crate) fn read(env: &mut Env) -> Option<Option<Self>> {
        let issuer = env.optional::<Issuer>(
            "SHOPERY_OIDC_ISSUER",
            "Issuer of the OpenID provider where people sign in, as it names itself; unset: no provider",
        );
        let client_id = env.optional::<String>("SHOPERY_OIDC_CLIENT_ID", "What the provider knows us by");
        let client_secret = env
            .optional::<String>("SHOPERY_OIDC_CLIENT_SECRET", "Our secret at the provider; a public client has none");
        let scopes = env.optional::<String>(
            "SHOPERY_OIDC_SCOPES",
            "What is asked for, separated by spaces; unset: openid webhooks:read webhooks:write",
        );
        let audience = env.optional::<String>(
            "SHOPERY_OIDC_AUDIENCE",
            "The API as the provider names it, if access tokens for it have to be asked for: sent as resource (RFC 8707) and audience",
        );
        let ca_file = env.optional::<String>(
            "SHOPERY_OIDC_CA_FILE",
            "PEM file of a CA to trust besides the system's, for the provider",
        );
        let set: Vec<_> = [
            ("SHOPERY_OIDC_CLIENT_ID", client_id.is_some()),
            ("SHOPERY_OIDC_CLIENT_SECRET", client_secret.is_some()),
            ("SHOPERY_OIDC_SCOPES", scopes.is_some()),
            ("SHOPERY_OIDC_AUDIENCE", audience.is_some()),
            ("SHOPERY_OIDC_CA_FILE", ca_file.is_some()),
        ]
        .into_iter()
        .filter_map(|(name, is_set)| is_set.then_some(name))
        .collect();
        let Some(issuer) = issuer else {
            if set.is_empty() {
                return Some(None);
            }
            // A bad issuer has been refused already; saying both does no harm.
            env.refuse(format!("{}: useless without a good SHOPERY_OIDC_ISSUER", set.join(", ")));
            return None;
        };
        let Some(client_id) = client_id else {
            env.refuse("SHOPERY_OIDC_CLIENT_ID is not set: SHOPERY_OIDC_ISSUER needs it");
            return None;
        };
        let scopes = scopes.as_deref().unwrap_or(SCOPES).split_whitespace();
        // The library asks for that by itself.
        let scopes = scopes.filter(|scope| *scope != "openid").map(str::to_owned).collect();
        Some(Some(Self { issuer, client_id, client_secret: client_secret.map(Into::into), scopes, audience, ca_file }))
    }

    /// What the page calls it.
    fn host(&self) -> String {
        self.issuer.0.url().host_str().unwrap_or_default().to_owned()
    }
}

/// Why nobody is signed in. Its text is for the log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoToken {
    #[error("the provider does not answer: {0}")]
    Away(String),
    #[error("the provider did not answer in time")]
    Slow,
    #[error("the code was used before, is too old, or is another browser's")]
    UsedUp,
    /// With the code of OAuth.
    #[error("the provider refuses us: {0}")]
    Refused(String),
    #[error("what the provider answers cannot be trusted: {0}")]
    Untrusted(String),
}

/// What must come back from the provider, and what only we know of a sign-in that was begun.
#[derive(Debug)]
pub(crate) struct Begun {
    /// Where the browser goes now.
    pub(crate) url: Url,
    pub(crate) state: SecretString,
    pub(crate) nonce: SecretString,
    pub(crate) verifier: SecretString,
}

#[derive(Debug)]
pub(crate) struct Provider {
    pub(crate) host: String,
    config: Config,
    redirect: RedirectUrl,
    signed_out: PostLogoutRedirectUrl,
    http: Http,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    metadata: Option<(Arc<ProviderMetadataWithLogout>, Instant)>,
    /// When the last try ended that failed, and why.
    failed: Option<(Instant, NoToken)>,
}

type OpenId =
    CoreClient<EndpointSet, EndpointNotSet, EndpointNotSet, EndpointNotSet, EndpointMaybeSet, EndpointMaybeSet>;

impl Provider {
    /// Asks it nothing yet: it may be away when we start. `own` is where people reach us.
    pub(crate) fn new(config: Config, own: &Url) -> anyhow::Result<Self> {
        let mut http = reqwest::Client::builder()
            .user_agent(concat!("shopery-backoffice/", env!("CARGO_PKG_VERSION")))
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .referer(false)
            .connect_timeout(TIMEOUT / 2)
            .timeout(TIMEOUT);
        if let Some(path) = &config.ca_file {
            let pem = std::fs::read(path).with_context(|| format!("cannot read SHOPERY_OIDC_CA_FILE {path}"))?;
            let roots = reqwest::Certificate::from_pem_bundle(&pem)
                .with_context(|| format!("SHOPERY_OIDC_CA_FILE {path} is not PEM"))?;
            http = http.tls_certs_merge(roots);
        }
        let page = |path| own.join(path).with_context(|| format!("SHOPERY_BACKOFFICE_URL {own} can have no pages"));
        Ok(Self {
            host: config.host(),
            redirect: RedirectUrl::from_url(page("/sign-in/callback")?),
            signed_out: PostLogoutRedirectUrl::from_url(page("/sign-in")?),
            http: Http(http.build().context("cannot set up the HTTP client of the provider")?),
            known: Mutex::default(),
            config,
        })
    }

    /// A sign-in, up to where the browser leaves us. `language` is that of the page.
    pub(crate) async fn begin(&self, language: &str) -> Result<Begun, NoToken> {
        let metadata = self.metadata(MAX_AGE).await?;
        let client = self.client(&metadata);
        let (challenge, verifier) = PkceCodeChallenge::new_random_sha256();
        let flow = CoreAuthenticationFlow::AuthorizationCode;
        let mut request = client
            .authorize_url(flow, CsrfToken::new_random, Nonce::new_random)
            .add_scopes(self.config.scopes.iter().cloned().map(Scope::new))
            .add_ui_locale(LanguageTag::new(language.to_owned()))
            .set_pkce_challenge(challenge);
        for (name, audience) in self.audience() {
            request = request.add_extra_param(name, audience);
        }
        let (url, state, nonce) = request.url();
        if !is_safe(&url) {
            return Err(NoToken::Untrusted("its authorization endpoint is not https://".to_owned()));
        }
        let [state, nonce] = [state.secret(), nonce.secret()].map(|secret| SecretString::from(secret.as_str()));
        Ok(Begun { url, state, nonce, verifier: verifier.secret().as_str().into() })
    }

    /// The access token that a code stands for, once the ID token beside it has shown that it is of this sign-in.
    pub(crate) async fn exchange(&self, code: &str, nonce: &str, verifier: &str) -> Result<SecretString, NoToken> {
        let metadata = self.metadata(MAX_AGE).await?;
        let client = self.client(&metadata);
        let exchange = client.exchange_code(AuthorizationCode::new(code.to_owned()));
        let mut exchange = exchange
            .map_err(|_| NoToken::Untrusted("it has no token endpoint".to_owned()))?
            .set_pkce_verifier(PkceCodeVerifier::new(verifier.to_owned()));
        for (name, audience) in self.audience() {
            exchange = exchange.add_extra_param(name, audience);
        }
        let tokens = exchange.request_async(&self.http).await.map_err(refused)?;
        let nonce = Nonce::new(nonce.to_owned());
        match verify(&client, &tokens, &nonce) {
            // It may have changed its keys since we asked for them.
            Err(NoMatch::Key) => {
                let metadata = self.metadata(MIN_AGE).await?;
                verify(&self.client(&metadata), &tokens, &nonce)
            }
            verified => verified,
        }
        .map_err(|no| NoToken::Untrusted(format!("{:#}", anyhow::Error::new(no))))?;
        Ok(tokens.access_token().secret().as_str().into())
    }

    /// Where its own session is ended, if it says so.
    pub(crate) async fn end_session_url(&self) -> Result<Option<Url>, NoToken> {
        let metadata = self.metadata(MAX_AGE).await?;
        let endpoint = metadata.additional_metadata().end_session_endpoint.clone();
        // Without the ID token, which would not fit into the cookie: it asks the person then whether it is their wish.
        let url = endpoint.map(|endpoint| {
            LogoutRequest::from(endpoint)
                .set_client_id(ClientId::new(self.config.client_id.clone()))
                .set_post_logout_redirect_uri(self.signed_out.clone())
                .http_get_url()
        });
        Ok(url.filter(is_safe))
    }

    /// Whether this is what it calls itself (RFC 9207).
    pub(crate) fn is_issuer(&self, named: &str) -> bool {
        self.config.issuer.0.as_str() == named
    }

    /// RFC 8707 calls it `resource`; some providers know `audience` alone. What is unknown is not looked at (RFC 6749).
    fn audience(&self) -> impl Iterator<Item = (&'static str, String)> + '_ {
        let names = ["resource", "audience"].into_iter();
        names.filter_map(|name| Some((name, self.config.audience.clone()?)))
    }

    fn client(&self, metadata: &ProviderMetadataWithLogout) -> OpenId {
        let secret = self.config.client_secret.as_ref();
        let secret = secret.map(|secret| ClientSecret::new(secret.expose_secret().to_owned()));
        let id = ClientId::new(self.config.client_id.clone());
        let client = CoreClient::from_provider_metadata(metadata.clone(), id, secret);
        let client = client.set_redirect_uri(self.redirect.clone());
        // Basic, which all must know (RFC 6749), unless this one says that it does not.
        let methods = metadata.token_endpoint_auth_methods_supported().map_or(&[][..], Vec::as_slice);
        let knows = |method| methods.contains(&method);
        if knows(CoreClientAuthMethod::ClientSecretPost) && !knows(CoreClientAuthMethod::ClientSecretBasic) {
            return client.set_auth_type(AuthType::RequestBody);
        }
        client
    }

    /// What it says of itself, no older than `max_age`.
    async fn metadata(&self, max_age: Duration) -> Result<Arc<ProviderMetadataWithLogout>, NoToken> {
        let asked_at = Instant::now();
        let mut known = self.known.lock().await;
        if let Some((metadata, at)) = &known.metadata
            && at.elapsed() < max_age
        {
            return Ok(metadata.clone());
        }
        // A caller that waited while another asked in vain does not ask as well: the waits would add up.
        if let Some((at, why)) = &known.failed
            && *at > asked_at
        {
            return Err(why.clone());
        }
        let issuer = self.config.issuer.0.clone();
        match ProviderMetadataWithLogout::discover_async(issuer, &self.http).await {
            Ok(metadata) => {
                let metadata = Arc::new(metadata);
                known.metadata = Some((metadata.clone(), Instant::now()));
                Ok(metadata)
            }
            Err(error) => {
                let why = undiscovered(error);
                known.failed = Some((Instant::now(), why.clone()));
                Err(why)
            }
        }
    }
}

fn undiscovered(error: DiscoveryError<HttpError>) -> NoToken {
    match error {
        DiscoveryError::Request(HttpError::Slow) => NoToken::Slow,
        DiscoveryError::Request(error) => NoToken::Away(error.to_string()),
        DiscoveryError::Response(_, _, why) => NoToken::Away(why),
        error => NoToken::Untrusted(format!("{:#}", anyhow::Error::new(error))),
    }
}

fn refused(
    error: RequestTokenError<HttpError, openidconnect::StandardErrorResponse<CoreErrorResponseType>>,
) -> NoToken {
    match error {
        RequestTokenError::ServerResponse(answer) => match answer.error() {
            CoreErrorResponseType::InvalidGrant => NoToken::UsedUp,
            // It may be anything that the provider makes up.
            code => NoToken::Refused(code.to_string().chars().filter(|char| !char.is_control()).take(100).collect()),
        },
        RequestTokenError::Request(HttpError::Slow) => NoToken::Slow,
        RequestTokenError::Request(error) => NoToken::Away(error.to_string()),
        // Its source may quote the answer, and that has tokens.
        RequestTokenError::Parse(..) => NoToken::Away("its answer is not that of a token endpoint".to_owned()),
        RequestTokenError::Other(why) => NoToken::Away(why),
    }
}

#[derive(Debug, thiserror::Error)]
enum NoMatch {
    #[error("the ID token is signed with a key that is not known")]
    Key,
    #[error("there is no ID token")]
    NoIdToken,
    #[error("the ID token is not good")]
    Claims(#[source] ClaimsVerificationError),
    #[error("the access token is not that of the ID token")]
    AccessToken,
}

impl From<ClaimsVerificationError> for NoMatch {
    fn from(error: ClaimsVerificationError) -> Self {
        match error {
            ClaimsVerificationError::SignatureVerification(error) => error.into(),
            error => Self::Claims(error),
        }
    }
}

impl From<SignatureVerificationError> for NoMatch {
    fn from(error: SignatureVerificationError) -> Self {
        match error {
            SignatureVerificationError::NoMatchingKey => Self::Key,
            error => Self::Claims(ClaimsVerificationError::SignatureVerification(error)),
        }
    }
}

/// The ID token is the provider's, for us, of this sign-in; and if it has `at_hash`, the access token is the one it was issued with.
/// It need not have one in this flow (OpenID Connect Core, 3.1.3.6): both come over TLS from the provider itself.
fn verify(client: &OpenId, tokens: &CoreTokenResponse, nonce: &Nonce) -> Result<(), NoMatch> {
    let id_token = tokens.id_token().ok_or(NoMatch::NoIdToken)?;
    let verifier = client.id_token_verifier().set_allowed_algs(ALGORITHMS);
    let claims = id_token.claims(&verifier, nonce)?;
    if let Some(hash) = claims.access_token_hash() {
        let (algorithm, key) = (id_token.signing_alg()?, id_token.signing_key(&verifier)?);
        let own = AccessTokenHash::from_token(tokens.access_token(), algorithm, key);
        if own.as_ref().ok() != Some(hash) {
            return Err(NoMatch::AccessToken);
        }
    }
    Ok(())
}

/// Our HTTP client, as the library wants one.
#[derive(Debug, Clone)]
struct Http(reqwest::Client);

#[derive(Debug, thiserror::Error)]
enum HttpError {
    #[error("{0} is neither https:// nor on this machine")]
    NotSafe(String),
    #[error("it did not answer in time")]
    Slow,
    #[error("{0}")]
    Lost(String),
    #[error("its answer is over {} KiB", MAX_ANSWER / 1024)]
    TooLarge,
}

impl From<reqwest::Error> for HttpError {
    fn from(error: reqwest::Error) -> Self {
        if error.is_timeout() {
            return Self::Slow;
        }
        // The cause at the bottom is what a person can mend.
        let error = error.without_url();
        let mut cause: &dyn std::error::Error = &error;
        while let Some(deeper) = cause.source() {
            cause = deeper;
        }
        Self::Lost(cause.to_string())
    }
}

impl<'c> AsyncHttpClient<'c> for Http {
    type Error = HttpError;
    type Future = Pin<Box<dyn Future<Output = Result<HttpResponse, HttpError>> + Send + 'c>>;

    fn call(&'c self, request: HttpRequest) -> Self::Future {
        Box::pin(self.send(request))
    }
}

impl Http {
    async fn send(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let request = reqwest::Request::try_from(request)?;
        if !is_safe(request.url()) {
            return Err(HttpError::NotSafe(request.url().host_str().unwrap_or_default().to_owned()));
        }
        let mut answer = self.0.execute(request).await?;
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await? {
            if body.len() + chunk.len() > MAX_ANSWER {
                return Err(HttpError::TooLarge);
            }
            body.extend_from_slice(&chunk);
        }
        let mut response = HttpResponse::new(body);
        *response.status_mut() = answer.status();
        *response.headers_mut() = answer.headers().clone();
        Ok(response)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(values: &[(&str, &str)]) -> Result<Option<Config>, String> {
        let mut env = Env::of(values.iter().copied());
        let config = Config::read(&mut env);
        env.finish(config)
    }

    #[test]
    fn a_provider_is_whole_or_there_is_none() {
        assert!(read(&[]).unwrap().is_none());
        let issuer = ("SHOPERY_OIDC_ISSUER", "https://id.example/realms/a");
        let id = ("SHOPERY_OIDC_CLIENT_ID", "us");
        let config = read(&[issuer, id]).unwrap().unwrap();
        assert_eq!((config.host().as_str(), &*config.scopes.join(" ")), ("id.example", "webhooks:read webhooks:write"));
        let secret = ("SHOPERY_OIDC_CLIENT_SECRET", "hunter2");
        let config = read(&[issuer, id, secret, ("SHOPERY_OIDC_SCOPES", "openid  a b")]).unwrap().unwrap();
        assert_eq!(config.scopes, ["a", "b"]);
        assert!(!format!("{config:?}").contains("hunter2"));
        for (values, says) in [
            (&[issuer][..], "SHOPERY_OIDC_CLIENT_ID is not set"),
            (&[id], "SHOPERY_OIDC_CLIENT_ID: useless without"),
            (&[secret], "SHOPERY_OIDC_CLIENT_SECRET: useless without"),
            (&[("SHOPERY_OIDC_ISSUER", "http://id.example"), id], "must start with https://"),
            (&[("SHOPERY_OIDC_ISSUER", "https://id.example/?a"), id], "no query"),
            (&[("SHOPERY_OIDC_ISSUER", "id.example"), id], "SHOPERY_OIDC_ISSUER: "),
        ] {
            let wrong = read(values).unwrap_err();
            assert!(wrong.contains(says) && !wrong.contains("hunter2"), "{wrong}");
        }
    }

    #[test]
    fn nothing_is_sent_over_a_network_in_plain() {
        for (url, is_good) in [
            ("https://id.example/a", true),
            ("http://127.0.0.1:8000/a", true),
            ("http://[::1]/a", true),
            ("http://localhost/a", true),
            ("http://id.example/a", false),
            ("http://localhost.id.example/a", false),
            ("javascript:alert(1)", false),
            ("file:///a", false),
        ] {
            assert_eq!(is_safe(&url.parse().unwrap()), is_good, "{url}");
        }
    }
}
