//! `shopery login`, `logout` and `whoami`.

use std::io::{self, IsTerminal, Read};
use std::path::PathBuf;

use clap::Args;
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;
use time::OffsetDateTime;

use crate::client::{Client, Request};
use crate::config::{self, Config, Global, Source, Stored};
use crate::context::output;
use crate::failure::Failure;
use crate::moment;
use crate::output::Output;
use crate::{file, input, terminal};
use shopery_client::Claims;

/// A token is at most 8 KiB.
const MAX_TOKEN: u64 = 16 * 1024;

/// What is not given is asked for, or, where there is no terminal, taken from the SHOPERY_* variables; the token comes
/// from stdin then. Kept in $XDG_CONFIG_HOME/shopery/config.json, which its owner alone can read.
#[derive(Debug, Args)]
pub struct Login {
    /// The token, or @FILE; others on this machine can see options, so better leave it out and be asked
    #[arg(long)]
    token: Option<SecretString>,
}

impl Login {
    pub async fn run(self, global: Global) -> Result<(), Failure> {
        let is_asked = io::stdin().is_terminal();
        let known = Stored::load().unwrap_or_default();
        let env = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let api = global.api_url.clone().or_else(|| env("SHOPERY_API_URL"));
        let ingest = global.ingest_url.clone().or_else(|| env("SHOPERY_INGEST_URL"));
        let api = or_ask(api, is_asked, "API URL", known.api_url).await?;
        let api = api.ok_or_else(|| Failure::usage("which API? --api-url or SHOPERY_API_URL says it"))?;
        config::address(&api)?;
        let ingest = or_ask(ingest, is_asked, "URL for publishing events (Enter: none)", known.ingest_url).await?;
        if let Some(url) = &ingest {
            config::address(url)?;
        }
        let token = match &self.token {
            Some(given) => input::secret("--token", given.expose_secret())?,
            None if is_asked => terminal::ask_secret("Token (it is not shown)").await?,
            None => piped()?,
        };
        if token.expose_secret().is_empty() {
            return Err(Failure::usage("there is no token: give it when asked, on stdin, or with --token"));
        }
        let tenants = Claims::read(token.expose_secret()).unwrap_or_default().tenants;
        let only = if let [only] = tenants.as_slice() { Some(only.clone()) } else { None };
        let tenant = global.tenant.clone().or_else(|| env("SHOPERY_TENANT")).or(only);
        let tenant = or_ask(tenant, is_asked, &format!("Tenant ({})", tenants.join(", ")), known.tenant).await?;
        let tenant = tenant.ok_or_else(|| Failure::usage("which tenant? --tenant or SHOPERY_TENANT says it"))?;
        let ca = global.ca.clone().or_else(|| env("SHOPERY_CA").map(PathBuf::from));
        // It is read from wherever a later command runs.
        let ca = ca.map(|ca| std::path::absolute(&ca).unwrap_or(ca)).or(known.ca);
        let stored = Stored { api_url: Some(api), ingest_url: ingest, tenant: Some(tenant), ca, token: Some(token) };
        stored.check(&global).await?;
        let path = stored.save()?;
        let (tenant, api) = (stored.tenant.unwrap_or_default(), stored.api_url.unwrap_or_default());
        output(&global).note(&format!("logged in to {api} as {tenant}; kept in {}", path.display()));
        if api.starts_with("http://") && !api.contains("//127.0.0.1") && !api.contains("//localhost") {
            output(&global).note("note: over http:// anybody on the way can read the token");
        }
        Ok(())
    }
}

impl Stored {
    /// Nothing is kept that does not work.
    async fn check(&self, global: &Global) -> Result<(), Failure> {
        let config = Config {
            api_url: self.api_url.as_deref().map(config::address).transpose()?,
            ingest_url: None,
            tenant: self.tenant.clone(),
            ca: self.ca.clone(),
            token: self.token.clone().map(|token| (token, Source::Login)),
            timeout: global.timeout,
        };
        match accepted(&Client::new(config)?).await? {
            (true, _) => Ok(()),
            (false, why) => Err(Failure::failed(format!("the API does not accept this: {why}"))),
        }
    }
}

/// Whether the API takes this token for this tenant; one that may publish alone may not read, and is good all the same.
async fn accepted(client: &Client) -> Result<(bool, String), Failure> {
    match client.send(Request::get(&["company", "event-types"])).await {
        Ok(_) => Ok((true, String::new())),
        Err(Failure::Refused(problem)) if problem.status == 403 && problem.detail.contains("webhooks:read") => {
            Ok((true, "for publishing alone".into()))
        }
        Err(Failure::Refused(problem)) => Ok((false, problem.detail)),
        Err(other) => Err(other),
    }
}

async fn or_ask(
    given: Option<String>,
    is_asked: bool,
    question: &str,
    known: Option<String>,
) -> Result<Option<String>, Failure> {
    if given.is_some() || !is_asked {
        return Ok(given);
    }
    let question = known.as_ref().map_or(question.to_owned(), |known| format!("{question} [{known}]"));
    let answer = terminal::ask(&question).await?;
    Ok(if answer.is_empty() { known } else { Some(answer) })
}

fn piped() -> Result<SecretString, Failure> {
    let mut text = String::new();
    let read = io::stdin().lock().take(MAX_TOKEN).read_to_string(&mut text);
    read.map_err(|_| Failure::usage("the token on stdin cannot be read"))?;
    let text = text.trim().to_owned();
    // Scripts that have the variable need not pipe it.
    let from_env = || std::env::var("SHOPERY_TOKEN").unwrap_or_default();
    Ok(if text.is_empty() { from_env().into() } else { text.into() })
}

pub fn logout() -> Result<(), Failure> {
    let path = Stored::path()?;
    let removed = file::remove(&path);
    let removed = removed.map_err(|error| Failure::failed(format!("cannot remove {}: {error}", path.display())))?;
    eprintln!(
        "{}",
        if removed { "logged out: the token is no longer on this machine" } else { "you were not logged in" }
    );
    Ok(())
}

pub async fn whoami(global: &Global) -> Result<(), Failure> {
    let config = Config::read(global)?;
    let output = output(global);
    let (token, source) =
        config.token.clone().ok_or_else(|| Failure::usage("nobody: `shopery login`, or SHOPERY_TOKEN"))?;
    let claims = Claims::read(token.expose_secret()).unwrap_or_default();
    let expires = claims.exp.and_then(|exp| OffsetDateTime::from_unix_timestamp(exp).ok());
    let url = |url: &Option<url::Url>| url.as_ref().map(ToString::to_string);
    let (api, ingest, tenant) = (url(&config.api_url), url(&config.ingest_url), config.tenant.clone());
    let (is_accepted, why) = accepted(&Client::new(config)?).await?;
    let told = json!({
        "apiUrl": api, "ingestUrl": ingest, "tenant": tenant, "tokenFrom": source.name(), "subject": claims.sub,
        "tenants": claims.tenants, "scopes": claims.scopes(), "expiresAt": expires.and_then(moment::show),
        "accepted": is_accepted, "reason": if is_accepted { None } else { Some(&why) },
    });
    if output.is_human() {
        let or_none = |text: Option<String>| text.unwrap_or_else(|| "none".into());
        let accepted = if is_accepted { "yes" } else { "no" };
        let why = if why.is_empty() { String::new() } else { format!(", {why}") };
        let lines = [
            ("API", or_none(api)),
            ("ingest", or_none(ingest)),
            ("tenant", or_none(tenant)),
            ("token", format!("from {}, of {}", source.name(), or_none(claims.sub.clone()))),
            ("tenants", claims.tenants.join(", ")),
            ("scopes", claims.scopes().join(", ")),
            ("expires", expires.map_or("not known".into(), |at| expiry(at, OffsetDateTime::now_utc()))),
            ("accepted", format!("{accepted}{why}")),
        ];
        tell(output, &lines)?;
    } else {
        output.json(&told.to_string())?;
    }
    if is_accepted { Ok(()) } else { Err(Failure::failed("the API does not accept this token")) }
}

fn tell(output: Output, lines: &[(&str, String)]) -> Result<(), Failure> {
    let lines: Vec<_> = lines.iter().map(|(name, text)| format!("{name:<9} {}", terminal::plain(text))).collect();
    output.line(&lines.join("\n"))
}

fn expiry(at: OffsetDateTime, now: OffsetDateTime) -> String {
    let (distance, is_over) = ((at - now).abs(), at <= now);
    let whole = std::time::Duration::from_secs(distance.whole_seconds().unsigned_abs());
    // Two units are as much as anybody reads.
    let told: Vec<_> = humantime::format_duration(whole).to_string().split(' ').take(2).map(str::to_owned).collect();
    let shown = moment::show(at).unwrap_or_default();
    if is_over { format!("{shown}, {} ago", told.join(" ")) } else { format!("{shown}, in {}", told.join(" ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_said_when_a_token_expires() {
        let now = moment::read("2026-11-24T10:00:00Z").unwrap();
        let later = now + time::Duration::seconds(3 * 86_400 + 7_205);
        assert_eq!(expiry(later, now), "2026-11-27T12:00:05Z, in 3days 2h");
        assert_eq!(expiry(now - time::Duration::MINUTE, now), "2026-11-24T09:59:00Z, 1m ago");
    }
}
