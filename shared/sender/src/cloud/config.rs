//! What this platform proves itself with at the clouds, from variables that have the clouds' own names where there are such.

use std::fmt;
use std::path::Path;
use std::str::FromStr;
use std::sync::{Arc, OnceLock};

use serde::Deserialize;
use shopery_model::{CloudKey, Destination, DestinationKind, EventBus, GoogleKey, Invalid, Partition, SecretText};
use shopery_runtime::Env;
use url::{Host, Url};

/// Where ECS serves the credentials of a task.
const ECS_HOST: &str = "http://169.254.170.2";
/// Where agents of a container serve its credentials over plain HTTP: ECS and EKS, as Amazon's own libraries have it.
const AGENTS: [&str; 4] = ["169.254.170.2", "169.254.170.23", "[fd00:ec2::23]", "localhost"];

/// The platform's principals, and the emulators that stand for a cloud.
#[derive(Debug, Clone)]
pub struct Clouds {
    pub(crate) aws: Option<AwsPrincipal>,
    /// An emulator's, for EventBridge and STS: the operator's to say, never a tenant's.
    pub(crate) aws_endpoint: Option<Url>,
    pub(crate) google: Option<GooglePrincipal>,
    /// An emulator's; it asks for no token.
    pub(crate) pub_sub_emulator: Option<Url>,
}

/// Whom merchants let in at their buses, and where its keys come from.
#[derive(Debug, Clone)]
pub(crate) struct AwsPrincipal {
    arn: String,
    partition: Partition,
    account: String,
    pub(crate) keys: AwsKeys,
}

/// In the order of Amazon's own libraries: the first that is configured counts.
#[derive(Debug, Clone)]
pub(crate) enum AwsKeys {
    Static {
        id: String,
        secret: SecretText,
        session: Option<SecretText>,
    },
    /// STS gives keys of a role for a token that the cluster writes to a file.
    WebIdentity {
        role: String,
        token_file: String,
        region: String,
        partition: Partition,
    },
    /// An agent on this host gives those of the container.
    Container {
        url: Url,
        authorization: Option<Authorization>,
    },
}

#[derive(Debug, Clone)]
pub(crate) enum Authorization {
    /// Read anew each time: it is replaced before it expires.
    File(String),
    Token(SecretText),
}

/// Whom merchants let in at their topics.
#[derive(Debug, Clone)]
pub(crate) enum GooglePrincipal {
    /// A service account by its key file, which may be replaced while we run.
    KeyFile { path: String, email: String },
    /// That of the machine or pod. Its name is known once the metadata server was asked.
    Metadata { url: Url, email: Arc<OnceLock<String>> },
}

impl Clouds {
    pub(crate) fn read(env: &mut Env) -> Option<Self> {
        let aws = read_aws(env);
        let aws_endpoint = env.optional::<Endpoint>(
            "AWS_ENDPOINT_URL",
            "URL of an emulator of EventBridge and STS, in place of Amazon's hosts",
        );
        let google = read_google(env);
        let emulator = env.optional::<HostAndPort>(
            "PUBSUB_EMULATOR_HOST",
            "host:port of an emulator of Pub/Sub, in place of Google's host; it is asked over http and needs no token",
        );
        let (aws_endpoint, pub_sub_emulator) = (aws_endpoint.map(|it| it.0), emulator.map(|it| it.0));
        Some(Self { aws: aws?, aws_endpoint, google: google?, pub_sub_emulator })
    }

    /// The ARN that merchants let in at their buses; without it buses need credentials of the merchant.
    pub fn aws_principal(&self) -> Option<&str> {
        self.aws.as_ref().map(|principal| principal.arn.as_str())
    }

    /// The e-mail address of the service account that merchants let in at their topics, if there is one and its name is known.
    pub fn google_principal(&self) -> Option<String> {
        match self.google.as_ref()? {
            GooglePrincipal::KeyFile { email, .. } => Some(email.clone()),
            GooglePrincipal::Metadata { email, .. } => email.get().cloned(),
        }
    }

    /// Why an address cannot be sent to with these credentials, as far as that is known before anything is tried.
    pub fn objection(&self, destination: &Destination, own: Option<&CloudKey>) -> Option<Invalid> {
        if let Some(key) = own {
            let is_for = |what: &str| format!("are those of {}, but `url` is {what}", owner_of(key.kind()));
            return match destination {
                _ if key.kind() == destination.kind() => None,
                Destination::Https(_) => Some(is_for("an HTTPS endpoint: leave them out")),
                Destination::EventBridge(_) => Some(is_for("an event bus of Amazon")),
                Destination::PubSub(_) => Some(is_for("a topic of Google Cloud Pub/Sub")),
            }
            .map(|why| Invalid::new("credentials", why));
        }
        match destination {
            Destination::Https(_) => None,
            Destination::EventBridge(bus) => self.objection_to_bus(bus),
            Destination::PubSub(_) if self.google.is_some() || self.pub_sub_emulator.is_some() => None,
            Destination::PubSub(_) => Some(Invalid::new(
                "credentials",
                "are needed for a topic, as this platform has no service account at Google: give the members of the key file of \
                 one of yours",
            )),
        }
    }

    fn objection_to_bus(&self, bus: &EventBus) -> Option<Invalid> {
        let Some(principal) = &self.aws else {
            return Some(Invalid::new(
                "credentials",
                "are needed for an event bus, as this platform has no principal at Amazon: give accessKeyId and secretAccessKey",
            ));
        };
        if bus.partition != principal.partition {
            let why = format!(
                "are needed for an event bus of {}, as the principal of this platform is one of {}: give accessKeyId and \
                 secretAccessKey",
                bus.partition.name(),
                principal.partition.name()
            );
            return Some(Invalid::new("credentials", why));
        }
        // Within its account a principal needs no policy of the bus, so nobody would be asked whether this tenant may.
        (bus.account == principal.account)
            .then(|| Invalid::new("url", "is an event bus of the platform's own account, which is not for tenants"))
    }
}

/// For sentences.
fn owner_of(kind: DestinationKind) -> &'static str {
    match kind {
        DestinationKind::Https => "an HTTPS endpoint",
        DestinationKind::EventBridge => "Amazon",
        DestinationKind::PubSub => "Google",
    }
}

/// `Some(None)` if there is no principal. Then the keys that this host may have for other purposes are not looked at.
fn read_aws(env: &mut Env) -> Option<Option<AwsPrincipal>> {
    let arn = env.optional::<PrincipalArn>(
        "SHOPERY_AWS_PRINCIPAL",
        "ARN of the role or user that merchants let in at their event buses; without it they give credentials of their own",
    );
    let id = env.optional::<String>("AWS_ACCESS_KEY_ID", "Of the principal: its access key");
    let secret = env.optional::<String>("AWS_SECRET_ACCESS_KEY", "Of the principal: the secret of its access key");
    let session = env.optional::<String>("AWS_SESSION_TOKEN", "Of the principal: the token of temporary keys");
    let role = env.optional::<String>("AWS_ROLE_ARN", "Of the principal: its role, which STS gives keys of");
    let token_file = env.optional::<String>(
        "AWS_WEB_IDENTITY_TOKEN_FILE",
        "Of the principal: the file with the token that STS gives keys of the role for",
    );
    let region = env.optional::<Region>("AWS_REGION", "Of the principal: the region whose STS is asked");
    let full = env.optional::<AgentUrl>(
        "AWS_CONTAINER_CREDENTIALS_FULL_URI",
        "Of the principal: where the agent of EKS or ECS gives its keys",
    );
    let relative = env.optional::<AgentPath>(
        "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
        "Of the principal: the path at which the agent of ECS gives its keys",
    );
    let authorization_file = env.optional::<String>(
        "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
        "Of the principal: the file with what the agent asks for",
    );
    let authorization = match authorization_file {
        // Read as a variable it would be read once, and it expires.
        Some(path) => Some(Authorization::File(path)),
        None => env
            .optional::<String>("AWS_CONTAINER_AUTHORIZATION_TOKEN", "Of the principal: what the agent asks for")
            .map(|token| Authorization::Token(token.into())),
    };
    let Some(PrincipalArn { text: arn, partition, account }) = arn else { return Some(None) };
    let keys = match (id, secret, role, token_file, full.map(|url| url.0).or(relative.map(|path| path.0))) {
        (Some(id), Some(secret), ..) => {
            AwsKeys::Static { id, secret: secret.into(), session: session.map(SecretText::from) }
        }
        (_, _, Some(role), Some(token_file), _) => {
            let region = region.map_or_else(|| home(partition).to_owned(), |region| region.0);
            AwsKeys::WebIdentity { role, token_file, region, partition }
        }
        (.., Some(url)) => AwsKeys::Container { url, authorization },
        _ => {
            env.refuse(
                "SHOPERY_AWS_PRINCIPAL: there are no keys of it: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or \
                 AWS_ROLE_ARN and AWS_WEB_IDENTITY_TOKEN_FILE, or AWS_CONTAINER_CREDENTIALS_FULL_URI",
            );
            return None;
        }
    };
    Some(Some(AwsPrincipal { arn, partition, account, keys }))
}

/// The region in which a partition has everything.
fn home(partition: Partition) -> &'static str {
    match partition {
        Partition::Standard => "us-east-1",
        Partition::China => "cn-north-1",
        Partition::GovCloud => "us-gov-west-1",
    }
}

/// `Some(None)` if there is no principal.
fn read_google(env: &mut Env) -> Option<Option<GooglePrincipal>> {
    let path = env.optional::<String>(
        "GOOGLE_APPLICATION_CREDENTIALS",
        "Key file of the service account that merchants let in at their topics; without any they give credentials of their own",
    );
    let metadata = env.or(
        "SHOPERY_GOOGLE_METADATA",
        "false",
        "true: the service account is that of this machine or pod, by its metadata server",
    );
    let host = env.or::<HostAndPort>("GCE_METADATA_HOST", "metadata.google.internal", "Where the metadata server is");
    match (path, metadata?, host?) {
        (Some(path), ..) => match read_key_file(&path) {
            Ok(key) => Some(Some(GooglePrincipal::KeyFile { path, email: key.client_email })),
            Err(why) => {
                env.refuse(format!("GOOGLE_APPLICATION_CREDENTIALS: {why}"));
                None
            }
        },
        (None, true, HostAndPort(url)) => Some(Some(GooglePrincipal::Metadata { url, email: Arc::default() })),
        (None, false, _) => Some(None),
    }
}

/// The key of a service account. What is wrong does not repeat what the file holds.
pub(crate) fn read_key_file(path: &str) -> Result<GoogleKey, String> {
    #[derive(Deserialize)]
    struct KeyFile {
        #[serde(rename = "type")]
        kind: String,
        #[serde(default)]
        client_email: String,
        #[serde(default)]
        private_key_id: String,
        #[serde(default)]
        private_key: String,
    }
    let text = std::fs::read(Path::new(path)).map_err(|error| format!("cannot read {path}: {error}"))?;
    let file: KeyFile = serde_json::from_slice(&text).map_err(|_| format!("{path} is no key file of Google"))?;
    if file.kind != "service_account" {
        return Err(format!("{path} is not the key file of a service account"));
    }
    GoogleKey::parse(&file.client_email, &file.private_key_id, &file.private_key, None)
        .map_err(|invalid| format!("{path}: {}: {}", invalid.field.trim_start_matches("credentials."), invalid.detail))
}

struct PrincipalArn {
    text: String,
    partition: Partition,
    account: String,
}

impl FromStr for PrincipalArn {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let form = "must be the ARN of a role or user: arn:aws:iam::<account>:role/<name>";
        let parts: Vec<_> = text.splitn(6, ':').collect();
        let &["arn", partition, "iam", "", account, resource] = parts.as_slice() else { return Err(form) };
        let partition = match partition {
            "aws" => Partition::Standard,
            "aws-cn" => Partition::China,
            "aws-us-gov" => Partition::GovCloud,
            _ => return Err(form),
        };
        let is_account = account.len() == 12 && account.bytes().all(|byte| byte.is_ascii_digit());
        let name = resource.strip_prefix("role/").or_else(|| resource.strip_prefix("user/"));
        // It is shown within JSON and commands.
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"+=,.@-_/".contains(&byte);
        if !is_account || !name.is_some_and(|name| !name.is_empty() && name.bytes().all(is_plain)) {
            return Err(form);
        }
        Ok(Self { text: text.to_owned(), partition, account: account.to_owned() })
    }
}

/// It becomes a part of a host name.
struct Region(String);

impl FromStr for Region {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        let is_region = (1..=32).contains(&text.len()) && text.bytes().all(is_plain);
        if is_region { Ok(Self(text.to_owned())) } else { Err("must be a region, such as eu-west-1") }
    }
}

/// The root of an emulator.
struct Endpoint(Url);

impl FromStr for Endpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let url = Url::parse(text).map_err(|error| error.to_string())?;
        let is_root = matches!(url.scheme(), "http" | "https") && url.has_host() && url.path() == "/";
        if is_root && url.query().is_none() && url.username().is_empty() {
            return Ok(Self(url));
        }
        Err("must be http://host:port, without a path".to_owned())
    }
}

/// `host:port`, of plain HTTP.
struct HostAndPort(Url);

impl FromStr for HostAndPort {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Ok(Endpoint(url)) = format!("http://{text}").parse() else { return Err("must be host:port".to_owned()) };
        Ok(Self(url))
    }
}

/// Whoever is asked there gets the keys' authorization: over plain HTTP an agent of this host alone.
struct AgentUrl(Url);

impl FromStr for AgentUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let url = Url::parse(text).map_err(|error| error.to_string())?;
        let is_loopback = match url.host() {
            Some(Host::Ipv4(v4)) => v4.is_loopback(),
            Some(Host::Ipv6(v6)) => v6.is_loopback(),
            _ => false,
        };
        let is_agent = is_loopback || url.host_str().is_some_and(|host| AGENTS.contains(&host));
        match url.scheme() {
            "https" => Ok(Self(url)),
            "http" if is_agent => Ok(Self(url)),
            _ => Err("must be https://, or http:// of this host or of an agent of EKS or ECS".to_owned()),
        }
    }
}

struct AgentPath(Url);

impl FromStr for AgentPath {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // Without the slash the text could go on with the host name.
        if !text.starts_with('/') {
            return Err("must be a path, such as /v2/credentials/…".to_owned());
        }
        Url::parse(&format!("{ECS_HOST}{text}")).map(Self).map_err(|error| error.to_string())
    }
}

impl fmt::Display for AwsPrincipal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.arn)
    }
}

#[cfg(test)]
mod tests;
