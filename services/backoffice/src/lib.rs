//! backoffice: the pages of Settings → Webhooks. A client of the REST API with the token of the person who signed in: what the API
//! refuses is not shown, and tenants stay apart because their tokens do. It keeps nothing: a session is a sealed cookie.
//!
//! A request's way through the code: [`visitor`] says who asks, a file for each group of pages asks the API by
//! [`api`] and makes HTML, [`layout`] puts it into the frame that all have. Every page is whole without JavaScript; with it, some
//! keep themselves up to date ([`live`]).

mod api;
mod assets;
mod catalogue;
mod charts;
mod clouds;
mod cookie;
mod copy;
mod deliveries;
mod events;
mod form;
mod layout;
mod live;
mod moment;
mod overview;
mod provider;
mod provider_sign_in;
mod recovery;
mod session;
mod sign_in;
mod texts;
mod typed;
mod verification;
mod visitor;
mod webhook_form;
mod webhooks;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::any;
use secrecy::SecretString;
use shopery_client::{Client, Settings};
use shopery_http::fair::Doors;
use shopery_http::{Connections, Proxies};
use shopery_model::Keyring;
use shopery_runtime::service::About;
use shopery_runtime::{Env, Runtime};
use tokio::net::TcpListener;
use url::Url;

use crate::layout::bare;
use crate::provider::Provider;
use crate::texts::Language;

pub const ABOUT: About = About {
    name: "shopery-backoffice",
    what: "serves the pages of Settings -> Webhooks",
    version: env!("CARGO_PKG_VERSION"),
};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Of a call of the API; a Test call takes up to five seconds.
const TIMEOUT: Duration = Duration::from_secs(15);
/// Nothing but our own style and script, and what leads to ourselves.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; \
                                       img-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'";

#[derive(Debug, Clone)]
pub struct Config {
    pub listen: SocketAddr,
    api_url: Url,
    url: Url,
    keys: Keyring,
    proxies: Proxies,
    ca_file: Option<String>,
    provider: Option<provider::Config>,
    takes_tokens: bool,
}

impl Config {
    pub fn read(env: &mut Env) -> Option<Self> {
        let listen = env.or("SHOPERY_LISTEN", "0.0.0.0:8086", "Address of the pages, /livez, /readyz and /metrics");
        let api_url = env.required("SHOPERY_API_URL", "Where the REST API is, such as http://api:8080");
        let url =
            env.required("SHOPERY_BACKOFFICE_URL", "Where people reach the pages: https://…; http:// for development");
        let keys = env.required(
            "SHOPERY_BACKOFFICE_KEYS",
            "Keys that seal the sessions: <id>:<base64 of 32 random bytes>, comma-separated. The first one seals, all open",
        );
        let proxies = Proxies::read(env);
        let ca_file =
            env.optional("SHOPERY_API_CA_FILE", "PEM file of a CA to trust besides the system's, for the API");
        let provider = provider::Config::read(env);
        let takes_tokens = env.optional::<bool>(
            "SHOPERY_BACKOFFICE_TOKEN_SIGN_IN",
            "Whether people may sign in with a token that they have, true or false; unset: only where there is no provider",
        );
        let provider = provider?;
        let takes_tokens = takes_tokens.unwrap_or(provider.is_none());
        if provider.is_none() && !takes_tokens {
            env.refuse("SHOPERY_BACKOFFICE_TOKEN_SIGN_IN: false needs SHOPERY_OIDC_ISSUER: nobody could sign in");
            return None;
        }
        let (listen, api_url, url, keys, proxies) = (listen?, api_url?, url?, keys?, proxies?);
        Some(Self { listen, api_url, url, keys, proxies, ca_file, provider, takes_tokens })
    }
}

/// Signs in whoever knows the code: what the launcher prints.
#[derive(Debug, Clone)]
pub struct Link {
    pub code: SecretString,
    pub tenant: String,
    pub token: SecretString,
}

/// What every page is given.
#[derive(Debug, Clone)]
struct App {
    client: Client,
    api_url: Url,
    /// Where people reach the pages.
    url: Url,
    keys: Keyring,
    link: Option<Link>,
    provider: Option<Arc<Provider>>,
    /// Whether somebody may sign in with a token that they have.
    takes_tokens: bool,
}

/// Runs until the drain is over.
pub async fn run(config: Config, listener: TcpListener, link: Option<Link>, runtime: Runtime) -> anyhow::Result<()> {
    let ca = config
        .ca_file
        .as_ref()
        .map(|path| std::fs::read(path).with_context(|| format!("cannot read SHOPERY_API_CA_FILE {path}")));
    let ca = ca.transpose()?;
    let settings = Settings {
        user_agent: concat!("shopery-backoffice/", env!("CARGO_PKG_VERSION")),
        connect_timeout: CONNECT_TIMEOUT,
        timeout: TIMEOUT,
        ca: ca.as_deref(),
        // Whoever waits for a page rather has an answer.
        tries: 2,
    };
    let client = Client::new(&settings).context("cannot make the client of the API")?;
    let provider = config.provider.map(|provider| Provider::new(provider, &config.url)).transpose()?.map(Arc::new);
    let (api_url, url, keys, takes_tokens) = (config.api_url, config.url, config.keys, config.takes_tokens);
    let app = App { client, api_url, url, keys, link, provider, takes_tokens };
    let routes = Router::new()
        .merge(sign_in::routes())
        .merge(provider_sign_in::routes())
        .merge(webhooks::routes())
        .merge(webhook_form::routes())
        .merge(overview::routes())
        .merge(verification::routes())
        .merge(deliveries::routes())
        .merge(recovery::routes())
        .merge(events::routes())
        // Whatever no other route takes. People are told by a page, not by the problem+json that programs get.
        .route("/{*path}", any(no_page))
        .with_state(app)
        .layer(from_fn_with_state(config.proxies.clone(), originated))
        .layer(from_fn(guarded))
        .merge(assets::routes())
        .merge(shopery_http::operations(&runtime));
    let routes = shopery_http::with_limits(routes, "backoffice", &runtime);
    let connections = Connections::behind(&Doors::new("backoffice", &runtime), &config.proxies);
    shopery_http::serve(listener, routes, connections, &runtime.shutdown).await
}

/// Where a request comes from. The API counts for that address what has no good token, if it trusts ours.
#[derive(Debug, Clone, Copy)]
struct Origin(IpAddr);

async fn originated(State(proxies): State<Proxies>, mut request: Request, next: Next) -> Response {
    let origin = Origin(proxies.origin(&request));
    request.extensions_mut().insert(origin);
    next.run(request).await
}

async fn no_page(headers: HeaderMap) -> Response {
    let texts = Language::of(&headers).texts();
    (StatusCode::NOT_FOUND, Html(bare(texts, texts.not_found, texts.no_page_why))).into_response()
}

/// What every page says of itself to the browser.
async fn guarded(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
        (header::REFERRER_POLICY, "same-origin"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        (HeaderName::from_static("permissions-policy"), "camera=(), geolocation=(), microphone=()"),
        // A page is of one person, and of this moment.
        (header::CACHE_CONTROL, "no-store"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn somebody_can_always_sign_in() {
        let read = |more: &[(&str, &str)]| {
            let key = "k1:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
            let all = [
                ("SHOPERY_API_URL", "http://api:8080"),
                ("SHOPERY_BACKOFFICE_URL", "https://shop.example"),
                ("SHOPERY_BACKOFFICE_KEYS", key),
            ];
            let mut env = Env::of(all.into_iter().chain(more.iter().copied()));
            let config = Config::read(&mut env);
            env.finish(config).map(|config| config.takes_tokens)
        };
        let provider = [("SHOPERY_OIDC_ISSUER", "https://id.example"), ("SHOPERY_OIDC_CLIENT_ID", "us")];
        let [issuer, id] = provider;
        assert_eq!(read(&[]), Ok(true));
        assert_eq!(read(&provider), Ok(false));
        assert_eq!(read(&[issuer, id, ("SHOPERY_BACKOFFICE_TOKEN_SIGN_IN", "true")]), Ok(true));
        assert!(read(&[("SHOPERY_BACKOFFICE_TOKEN_SIGN_IN", "false")]).unwrap_err().contains("nobody could sign in"));
        // With something else wrong, that is said as well.
        assert!(read(&[issuer, ("SHOPERY_BACKOFFICE_TOKEN_SIGN_IN", "perhaps")]).unwrap_err().lines().count() == 2);
    }
}
