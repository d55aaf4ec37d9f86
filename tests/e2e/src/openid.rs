//! An OpenID provider where people sign in: npm's `oidc-provider`, a certified one, run by Node.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::process::Command;

use crate::{Folder, Process, parts, ports, token, wait};

const START: Duration = Duration::from_secs(60);
const CLIENT_ID: &str = "backoffice";
const CLIENT_SECRET: &str = "the-secret-of-the-backoffice-at-its-provider";
/// The API, as the provider names it.
const API: &str = "https://api.shopery.example";

#[derive(Debug)]
pub struct OpenId {
    port: u16,
    pages: String,
    accounts: Value,
    folder: Folder,
    process: Option<Process>,
}

impl OpenId {
    /// For a backoffice at this address; not yet started. An account has `tenants`, and `seconds` if its access tokens
    /// end early: a list, of which the last goes for all that follow.
    pub fn new(pages: &str, accounts: Value) -> Self {
        Self { port: ports::free(), pages: pages.to_owned(), accounts, folder: Folder::create(), process: None }
    }

    /// Starts it; ready when it returns.
    pub async fn start(&mut self) {
        let pages = &self.pages;
        let settings = json!({
            "issuer": self.url(), "port": self.port, "api": API, "scope": token::ALL, "accounts": self.accounts,
            "client": {
                "client_id": CLIENT_ID, "client_secret": CLIENT_SECRET,
                "redirect_uris": [format!("{pages}/sign-in/callback")],
                "post_logout_redirect_uris": [format!("{pages}/sign-in")],
            },
        });
        let mut node = Command::new("node");
        node.args(["--input-type=module", "-e", include_str!("openid.mjs")]).current_dir(parts::openid());
        node.env("SETTINGS", settings.to_string());
        let process = Process::start("oidc-provider", node, &self.folder.join("oidc-provider.log"));
        let process = self.process.insert(process);
        let url = format!("http://127.0.0.1:{}/.well-known/openid-configuration", self.port);
        wait::until("the OpenID provider", START, async || {
            let answer = reqwest::get(&url).await;
            answer.map(drop).map_err(|error| format!("{error}: {}", process.output()))
        })
        .await;
    }

    /// SIGKILL.
    pub async fn kill(&mut self) {
        self.process.take().expect("a running provider").kill().await;
    }

    /// The issuer.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// For `SHOPERY_JWKS_URL`.
    pub fn jwks_url(&self) -> String {
        format!("{}/jwks", self.url())
    }

    /// What the backoffice is told of it.
    pub fn variables(&self) -> [(&'static str, String); 4] {
        [
            ("SHOPERY_OIDC_ISSUER", self.url()),
            ("SHOPERY_OIDC_CLIENT_ID", CLIENT_ID.to_owned()),
            ("SHOPERY_OIDC_CLIENT_SECRET", CLIENT_SECRET.to_owned()),
            ("SHOPERY_OIDC_AUDIENCE", API.to_owned()),
        ]
    }
}
