//! The fields of a webhook, as options, and the body that they make.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};

use crate::failure::Failure;
use crate::input;

/// Values that are secret can be @FILE, or - for stdin, so that nobody sees them among the processes.
#[derive(Debug, Default, Args)]
pub struct Fields {
    #[arg(long)]
    name: Option<String>,

    /// What it is for
    #[arg(long)]
    description: Option<String>,

    /// A label of your own: name=value; may be repeated, and takes the place of all there were
    #[arg(long = "metadata", value_name = "NAME=VALUE")]
    metadata: Vec<String>,

    /// Where deliveries go: https://…, the ARN of an event bus (arn:aws:events:…), or a topic (pubsub://project/topic)
    #[arg(long)]
    url: Option<String>,

    /// An event type, order-* for all of a resource, or *; may be repeated or have commas
    #[arg(long = "event", value_name = "EVENT", value_delimiter = ',')]
    events: Vec<String>,

    /// whsec_… of your own
    #[arg(long, value_name = "SECRET")]
    secret: Option<SecretString>,

    /// A header that is sent with every delivery: 'Name: value'; may be repeated
    #[arg(long = "header", value_name = "HEADER")]
    headers: Vec<SecretString>,

    /// Of a bus or topic: credentials of your own, in a JSON file, or - for stdin: {"accessKeyId", "secretAccessKey"}, or the key
    /// file of a service account
    #[arg(long, value_name = "FILE")]
    credentials: Option<PathBuf>,

    /// Send these parts of the resource alone; may be repeated or have commas
    #[arg(long = "field", value_name = "PATH", value_delimiter = ',')]
    fields: Vec<String>,

    /// What the resource must look like: a JSON pattern, or @FILE
    #[arg(long, value_name = "JSON")]
    filter: Option<String>,

    /// One of these paths must have changed; may be repeated or have commas
    #[arg(long, value_name = "PATH", value_delimiter = ',')]
    changed: Vec<String>,

    /// What a delivery carries that is not sent at once
    #[arg(long, value_name = "latest|original")]
    payload: Option<String>,

    /// Make one delivery of what happens to a resource within this time, such as 5s
    #[arg(long, value_name = "TIME")]
    debounce: Option<String>,

    /// At most so many deliveries a second
    #[arg(long, value_name = "N")]
    rate_limit: Option<u16>,

    /// How deliveries are signed
    #[arg(long, value_name = "symmetric|asymmetric|both")]
    signature: Option<String>,

    /// What the body of a delivery is: the resource, or a CloudEvent with it
    #[arg(long, value_name = "resource|cloudevent")]
    format: Option<String>,

    /// Whether the deliveries of one resource are made one after the other; not with --debounce
    #[arg(long, value_name = "true|false")]
    ordered: Option<bool>,

    /// Of a webhook with --field: whether a payload that was just sent is dropped
    #[arg(long, value_name = "true|false")]
    drop_duplicates: Option<bool>,
}

/// What can be taken away from a webhook.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Clearable {
    Fields,
    Filter,
    Changed,
    Debounce,
    RateLimit,
    Headers,
    Credentials,
    Description,
    Metadata,
}

impl Clearable {
    fn field(self) -> &'static str {
        match self {
            Self::Fields => "fields",
            Self::Filter => "filter",
            Self::Changed => "changed",
            Self::Debounce => "debounce",
            Self::RateLimit => "rateLimit",
            Self::Headers => "headers",
            Self::Credentials => "credentials",
            Self::Description => "description",
            Self::Metadata => "metadata",
        }
    }
}

/// A JSON object that is put together. `Debug` does not show it: it may have secrets.
#[derive(Default, Serialize)]
#[serde(transparent)]
pub struct Body(BTreeMap<&'static str, Box<RawValue>>);

impl Body {
    pub fn set(&mut self, name: &'static str, value: &(impl Serialize + ?Sized)) -> Result<(), Failure> {
        let value = to_raw_value(value).map_err(|_| Failure::failed(format!("{name} cannot be written as JSON")))?;
        self.0.insert(name, value);
        Ok(())
    }

    pub fn set_if<T: Serialize>(&mut self, name: &'static str, value: Option<&T>) -> Result<(), Failure> {
        value.map_or(Ok(()), |value| self.set(name, value))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn json(&self) -> Result<Vec<u8>, Failure> {
        serde_json::to_vec(self).map_err(|_| Failure::failed("the request cannot be written as JSON"))
    }
}

impl Fields {
    pub fn body(&self) -> Result<Body, Failure> {
        let mut body = Body::default();
        body.set_if("name", self.name.as_ref())?;
        body.set_if("description", self.description.as_ref())?;
        set_metadata(&mut body, &self.metadata)?;
        body.set_if("url", self.url.as_ref())?;
        for (name, list) in [("events", &self.events), ("fields", &self.fields), ("changed", &self.changed)] {
            body.set_if(name, Some(list).filter(|list| !list.is_empty()))?;
        }
        set_secret(&mut body, self.secret.as_ref())?;
        set_headers(&mut body, &self.headers)?;
        set_credentials(&mut body, self.credentials.as_deref())?;
        set_json(&mut body, "filter", "--filter", self.filter.as_ref())?;
        body.set_if("payload", self.payload.as_ref())?;
        body.set_if("debounce", self.debounce.as_ref())?;
        body.set_if("rateLimit", self.rate_limit.as_ref())?;
        body.set_if("signature", self.signature.as_ref())?;
        body.set_if("dropDuplicates", self.drop_duplicates.as_ref())?;
        body.set_if("format", self.format.as_ref())?;
        body.set_if("ordered", self.ordered.as_ref())?;
        Ok(body)
    }
}

pub fn clear(body: &mut Body, clear: &[Clearable]) -> Result<(), Failure> {
    for cleared in clear {
        if body.0.contains_key(cleared.field()) {
            return Err(Failure::usage(format!("{} is both given and cleared", cleared.field())));
        }
        body.set(cleared.field(), &())?;
    }
    Ok(())
}

pub fn set_secret(body: &mut Body, secret: Option<&SecretString>) -> Result<(), Failure> {
    let Some(given) = secret else { return Ok(()) };
    body.set("secret", input::secret("--secret", given.expose_secret())?.expose_secret())
}

pub fn set_headers(body: &mut Body, given: &[SecretString]) -> Result<(), Failure> {
    let mut headers = BTreeMap::new();
    for header in given {
        let header = input::secret("--header", header.expose_secret())?;
        let pair = header.expose_secret().split_once(':');
        // The value is a secret, so the error does not have it.
        let (name, value) = pair.ok_or_else(|| Failure::usage("--header must be like 'Name: value'"))?;
        if headers.insert(name.trim().to_owned(), value.trim().to_owned()).is_some() {
            return Err(Failure::usage(format!("--header {} is given twice", name.trim())));
        }
    }
    body.set_if("headers", Some(&headers).filter(|headers| !headers.is_empty()))
}

/// In a file or on stdin alone: as an argument they would be seen among the processes. No error has what is in it.
pub fn set_credentials(body: &mut Body, file: Option<&Path>) -> Result<(), Failure> {
    const OPTION: &str = "--credentials";
    let Some(file) = file else { return Ok(()) };
    let named = file.to_string_lossy();
    if named.trim_start().starts_with('{') {
        return Err(Failure::usage(format!("{OPTION} must be a file, or - for stdin: arguments are seen by others")));
    }
    // As other options name a file.
    let file = named.strip_prefix('@').map_or(file, Path::new);
    let json = input::of_file(OPTION, file)?;
    let json: Box<RawValue> = serde_json::from_slice(&json)
        .map_err(|error| Failure::usage(format!("{OPTION} is not JSON, at line {}", error.line())))?;
    body.set("credentials", &json)
}

/// JSON that is given as it is, or in a file.
pub fn set_json(body: &mut Body, name: &'static str, option: &str, given: Option<&String>) -> Result<(), Failure> {
    let Some(given) = given else { return Ok(()) };
    let text = input::text(option, given)?;
    let json: Box<RawValue> =
        serde_json::from_str(&text).map_err(|error| Failure::usage(format!("{option} is not JSON: {error}")))?;
    body.set(name, &json)
}

fn set_metadata(body: &mut Body, given: &[String]) -> Result<(), Failure> {
    let mut pairs = BTreeMap::new();
    for pair in given {
        let parts = pair.split_once('=').filter(|(name, _)| !name.is_empty());
        let (name, value) = parts.ok_or_else(|| Failure::usage("--metadata must be like name=value"))?;
        if pairs.insert(name, value).is_some() {
            return Err(Failure::usage(format!("--metadata {name} is given twice")));
        }
    }
    body.set_if("metadata", Some(&pairs).filter(|pairs| !pairs.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_body_has_what_was_given_and_no_number_loses_a_digit() {
        let fields = Fields {
            name: Some("a".into()),
            metadata: vec!["team=a=b".into()],
            events: vec!["order-created".into(), "product-*".into()],
            headers: vec!["Authorization: Bearer x:y".to_owned().into()],
            filter: Some(r#"{"total_price":[{"numeric":[">",50.00]}]}"#.into()),
            rate_limit: Some(50),
            drop_duplicates: Some(false),
            format: Some("cloudevent".into()),
            ordered: Some(true),
            ..Fields::default()
        };
        let mut body = fields.body().unwrap();
        clear(&mut body, &[Clearable::Debounce]).unwrap();
        assert_eq!(
            String::from_utf8(body.json().unwrap()).unwrap(),
            r#"{"debounce":null,"dropDuplicates":false,"events":["order-created","product-*"],"filter":{"total_price":[{"numeric":[">",50.00]}]},"format":"cloudevent","headers":{"Authorization":"Bearer x:y"},"metadata":{"team":"a=b"},"name":"a","ordered":true,"rateLimit":50}"#
        );
        assert!(clear(&mut body, &[Clearable::RateLimit]).is_err());
    }

    #[test]
    fn a_bad_header_is_refused_and_not_repeated() {
        let fields = Fields { headers: vec!["hunter2".to_owned().into()], ..Fields::default() };
        let error = fields.body().err().unwrap().to_string();
        assert!(error.contains("--header") && !error.contains("hunter2"));
        assert!(!format!("{fields:?}").contains("hunter2"));
    }

    #[test]
    fn credentials_come_from_a_file_and_are_in_no_error() {
        let path = std::env::temp_dir().join(format!("shopery-credentials-{}", std::process::id()));
        let with = |file: &Path| Fields { credentials: Some(file.to_owned()), ..Fields::default() }.body();
        std::fs::write(&path, r#"{ "accessKeyId": "AKIA", "secretAccessKey": "hunter2" }"#).unwrap();
        let at = PathBuf::from(format!("@{}", path.display()));
        for file in [path.as_path(), at.as_path()] {
            let body = String::from_utf8(with(file).unwrap().json().unwrap()).unwrap();
            assert_eq!(body, r#"{"credentials":{ "accessKeyId": "AKIA", "secretAccessKey": "hunter2" }}"#);
        }
        std::fs::write(&path, "AKIA hunter2").unwrap();
        for file in [path.as_path(), Path::new(r#"{"secretAccessKey":"hunter2"}"#)] {
            let error = with(file).err().unwrap().to_string();
            assert!(error.contains("--credentials") && !error.contains("hunter2"), "{error}");
        }
        std::fs::remove_file(&path).unwrap();
    }
}
