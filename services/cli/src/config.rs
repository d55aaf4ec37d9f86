//! Where the API is and who asks: from options, else `SHOPERY_*` variables, else the file that `shopery login` wrote.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::json;
use url::Url;

use crate::failure::Failure;
use crate::file;

/// What every command takes.
#[derive(Debug, Args)]
#[command(next_help_heading = "Everywhere")]
pub struct Global {
    /// The REST API [SHOPERY_API_URL]
    #[arg(long, global = true, value_name = "URL")]
    pub api_url: Option<String>,

    /// Where events are published [SHOPERY_INGEST_URL]
    #[arg(long, global = true, value_name = "URL")]
    pub ingest_url: Option<String>,

    /// The tenant [SHOPERY_TENANT]
    #[arg(long, global = true, value_name = "ID")]
    pub tenant: Option<String>,

    /// A CA to trust besides the system's, as PEM [SHOPERY_CA]
    #[arg(long, global = true, value_name = "FILE")]
    pub ca: Option<PathBuf>,

    /// How long a request may take
    #[arg(long, global = true, value_name = "TIME", default_value = "30s", value_parser = timeout)]
    pub timeout: Duration,

    /// Print the API's JSON; a list as one array
    #[arg(long, global = true, conflicts_with = "jsonl")]
    pub json: bool,

    /// Print the API's JSON; a list as one object a line
    #[arg(long, global = true)]
    pub jsonl: bool,
}

fn timeout(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|_| "must be a time such as 30s or 2m".to_owned())?;
    let is_sane = (Duration::from_millis(100)..=Duration::from_secs(3600)).contains(&time);
    if is_sane { Ok(time) } else { Err("must be from 100ms to 1h".into()) }
}

/// What `shopery login` keeps.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Stored {
    pub api_url: Option<String>,
    pub ingest_url: Option<String>,
    pub tenant: Option<String>,
    pub ca: Option<PathBuf>,
    pub token: Option<SecretString>,
}

impl Stored {
    /// `$XDG_CONFIG_HOME/shopery/config.json`, or the same in `~/.config`.
    pub fn path() -> Result<PathBuf, Failure> {
        let folder = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let config = folder("XDG_CONFIG_HOME").or_else(|| Some(folder("HOME")?.join(".config")));
        let config =
            config.ok_or_else(|| Failure::usage("set HOME or XDG_CONFIG_HOME: that is where the login is kept"))?;
        Ok(config.join("shopery/config.json"))
    }

    pub fn load() -> Result<Self, Failure> {
        // Whoever has no home has no login.
        let Ok(path) = Self::path() else { return Ok(Self::default()) };
        let unreadable = |why: String| Failure::usage(format!("cannot use {}: {why}", path.display()));
        let Some(text) = file::read(&path).map_err(|error| unreadable(error.to_string()))? else {
            return Ok(Self::default());
        };
        // The parser's own words might quote what it has read.
        serde_json::from_str(&text).map_err(|_| unreadable("it is damaged; `shopery login` writes it anew".into()))
    }

    pub fn save(&self) -> Result<PathBuf, Failure> {
        let path = Self::path()?;
        let token = self.token.as_ref().map(ExposeSecret::expose_secret);
        let Self { api_url, ingest_url, tenant, ca, .. } = self;
        let text = json!({ "apiUrl": api_url, "ingestUrl": ingest_url, "tenant": tenant, "ca": ca, "token": token });
        let text = format!("{text:#}\n");
        file::write(&path, &text)
            .map_err(|error| Failure::failed(format!("cannot write {}: {error}", path.display())))?;
        Ok(path)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    Environment,
    Login,
}

impl Source {
    pub fn name(self) -> &'static str {
        match self {
            Self::Environment => "SHOPERY_TOKEN",
            Self::Login => "login",
        }
    }
}

/// What holds for this run.
#[derive(Debug, Clone)]
pub struct Config {
    pub api_url: Option<Url>,
    pub ingest_url: Option<Url>,
    pub tenant: Option<String>,
    pub ca: Option<PathBuf>,
    pub token: Option<(SecretString, Source)>,
    pub timeout: Duration,
}

impl Config {
    pub fn read(global: &Global) -> Result<Self, Failure> {
        Self::of(global, &|name| std::env::var(name).ok(), Stored::load()?)
    }

    pub fn of(global: &Global, env: &dyn Fn(&str) -> Option<String>, stored: Stored) -> Result<Self, Failure> {
        let env = |name: &str| env(name).filter(|value| !value.is_empty());
        let pick = |option: &Option<String>, variable: &str| option.clone().or_else(|| env(variable));
        let api = pick(&global.api_url, "SHOPERY_API_URL");
        let ingest = pick(&global.ingest_url, "SHOPERY_INGEST_URL");
        let token = env("SHOPERY_TOKEN").map(|token| (token.into(), Source::Environment));
        let token = match (token, &stored.token) {
            (Some(token), _) => Some(token),
            (None, Some(token)) => {
                // A token goes nowhere but where its owner has logged in.
                belongs("--api-url or SHOPERY_API_URL", &api, &stored.api_url)?;
                belongs("--ingest-url or SHOPERY_INGEST_URL", &ingest, &stored.ingest_url)?;
                Some((token.clone(), Source::Login))
            }
            (None, None) => None,
        };
        Ok(Self {
            api_url: api.or(stored.api_url).map(|url| address(&url)).transpose()?,
            ingest_url: ingest.or(stored.ingest_url).map(|url| address(&url)).transpose()?,
            tenant: pick(&global.tenant, "SHOPERY_TENANT").or(stored.tenant),
            ca: global.ca.clone().or_else(|| env("SHOPERY_CA").map(PathBuf::from)).or(stored.ca),
            token,
            timeout: global.timeout,
        })
    }
}

fn belongs(what: &str, wanted: &Option<String>, stored: &Option<String>) -> Result<(), Failure> {
    let Some(wanted) = wanted else { return Ok(()) };
    let is_same = match stored {
        Some(stored) => address(wanted)?.origin() == address(stored)?.origin(),
        None => false,
    };
    if is_same {
        return Ok(());
    }
    Err(Failure::usage(format!(
        "{what} is not where you have logged in, so the token of that login is not sent there: \
         set SHOPERY_TOKEN too, or `shopery login`"
    )))
}

/// A base URL. What is wrong with it is said without it: it may have a password.
pub fn address(text: &str) -> Result<Url, Failure> {
    let wrong = |why: &str| Failure::usage(format!("a URL of the API or of ingest {why}"));
    let url = Url::parse(text).map_err(|_| wrong("must be like https://api.example.com"))?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err(wrong("must begin with https:// or http://"));
    }
    if !url.username().is_empty() || url.password().is_some() || url.query().is_some() || url.fragment().is_some() {
        return Err(wrong("must have no user name, password, query or fragment"));
    }
    Ok(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn global(api: Option<&str>) -> Global {
        Global {
            api_url: api.map(str::to_owned),
            ingest_url: None,
            tenant: None,
            ca: None,
            timeout: Duration::from_secs(30),
            json: false,
            jsonl: false,
        }
    }

    fn stored() -> Stored {
        Stored {
            api_url: Some("https://api.example.com".into()),
            ingest_url: None,
            tenant: Some("tnt_stored".into()),
            ca: None,
            token: Some("stored-token".to_owned().into()),
        }
    }

    fn env(pairs: &'static [(&'static str, &'static str)]) -> impl Fn(&str) -> Option<String> {
        move |name| pairs.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
    }

    #[test]
    fn an_option_goes_before_a_variable_and_a_variable_before_the_login() {
        let variables = env(&[
            ("SHOPERY_API_URL", "https://b.example.com"),
            ("SHOPERY_TENANT", "tnt_env"),
            ("SHOPERY_TOKEN", "env-token"),
            ("SHOPERY_INGEST_URL", ""),
        ]);
        let config = Config::of(&global(Some("https://c.example.com")), &variables, stored()).unwrap();
        assert_eq!(config.api_url.unwrap().host_str(), Some("c.example.com"));
        assert_eq!((config.tenant.as_deref(), config.ingest_url), (Some("tnt_env"), None));
        let (token, source) = config.token.unwrap();
        assert_eq!((token.expose_secret(), source), ("env-token", Source::Environment));

        let config = Config::of(&global(None), &env(&[]), stored()).unwrap();
        assert_eq!(config.api_url.unwrap().host_str(), Some("api.example.com"));
        assert_eq!(config.tenant.as_deref(), Some("tnt_stored"));
        assert_eq!(config.token.unwrap().1, Source::Login);
    }

    #[test]
    fn the_token_of_a_login_goes_nowhere_else() {
        for elsewhere in ["https://evil.example.com", "http://api.example.com", "https://api.example.com:8443"] {
            let refused = Config::of(&global(Some(elsewhere)), &env(&[]), stored()).unwrap_err();
            assert_eq!(refused.code(), crate::failure::USAGE, "{elsewhere}");
            assert!(!refused.to_string().contains("stored-token"));
        }
        let ingest = env(&[("SHOPERY_INGEST_URL", "https://evil.example.com")]);
        assert!(Config::of(&global(None), &ingest, stored()).is_err());
        assert!(Config::of(&global(Some("https://api.example.com/")), &env(&[]), stored()).is_ok());
    }

    #[test]
    fn a_bad_url_is_refused_and_not_repeated() {
        for bad in
            ["api.example.com", "ftp://a", "https://user:pa55word@a", "https://a/?pa55word", "https://a#pa55word"]
        {
            let refused = address(bad).unwrap_err().to_string();
            assert!(!refused.contains("pa55word"), "{refused}");
        }
    }

    #[test]
    fn debug_shows_no_token() {
        let config = Config::of(&global(None), &env(&[]), stored()).unwrap();
        assert!(!format!("{config:?} {:?}", stored()).contains("stored-token"));
    }
}
