//! `GET /company/destinations/setup`: what the owner of an event bus or a topic does there, so that we may publish to it.
//!
//! The platform publishes for all tenants as one principal, so letting that in is not enough: another tenant could name the
//! same address. What is shown ties an address to its tenant: the policy of a bus by the source of the events, a topic by a label.

use axum::Json;
use axum::extract::{RawQuery, State};
use axum::http::HeaderMap;
use serde::Serialize;
use serde_json::{Value, json};
use shopery_control::DestinationKindName;
use shopery_http::{Permission, Problem};
use shopery_model::{Destination, DestinationKind, EventBus, Invalid, TenantId, Topic};
use shopery_sender::{Clouds, bus_source, tenant_label};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::App;
use crate::openapi::schemas;
use crate::query::Query;

pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(of_url))
}

/// How its owner lets us publish to a bus or a topic.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = DestinationSetup)]
pub(crate) struct Setup {
    #[schema(value_type = DestinationKindName)]
    kind: &'static str,
    /// Whom to let in: an ARN of Amazon, or the e-mail address of a service account; `null` where the platform has none there, or
    /// does not know it.
    principal: Option<String>,
    /// Of a bus: the `source` of all that is put there for this tenant.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "shopery/tnt_demo")]
    source: Option<String>,
    /// Of a topic: what its label `shopery-tenant` has to be.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "tnt_demo")]
    label: Option<String>,
    /// What to do, in words.
    instructions: String,
    /// Of a bus: what it says in its resource policy, or, where the platform has no principal, what your own access key needs.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    policy: Option<Value>,
    /// The same for a shell, with the tools of the cloud.
    commands: Vec<String>,
}

/// Whom the platform publishes as, and why it cannot.
struct Platform {
    principal: Option<String>,
    objection: Option<Invalid>,
}

/// Shows how to let us publish to an event bus or a topic.
#[utoipa::path(
    get, path = "/company/destinations/setup",
    tag = "webhooks", operation_id = "getDestinationSetup",
    security(("bearer" = ["webhooks:read"])),
    params(schemas::OfDestination),
    responses((status = 200, description = "What its owner does there", body = Setup)),
)]
async fn of_url(State(app): State<App>, headers: HeaderMap, RawQuery(query): RawQuery) -> Result<Json<Setup>, Problem> {
    let tenant = app.access.tenant(&headers, Permission::WebhooksRead)?;
    let mut query = Query::read(query.as_deref());
    let read = |text: &str| app.egress.destination(text).map_err(|invalid| invalid.detail.into_owned());
    let destination = query.take("url", read);
    let destination = query.require("url", destination);
    query.finish()?;
    let Some(destination) = destination else { return Err(Problem::internal()) };
    let needless = || {
        let detail =
            "is an HTTPS endpoint, which needs no setup: this is for event buses of Amazon and topics of Google";
        Problem::invalid(vec![Invalid::new("url", detail)])
    };
    Setup::of(&app.clouds, &tenant, &destination).map(Json).ok_or_else(needless)
}

impl Setup {
    /// `None` for an HTTPS endpoint.
    pub(crate) fn of(clouds: &Clouds, tenant: &TenantId, destination: &Destination) -> Option<Self> {
        let objection = clouds.objection(destination, None);
        match destination {
            Destination::Https(_) => None,
            Destination::EventBridge(bus) => {
                let principal = clouds.aws_principal().map(str::to_owned);
                Some(Self::of_bus(bus, tenant, Platform { principal, objection }))
            }
            Destination::PubSub(topic) => {
                let principal = clouds.google_principal();
                Some(Self::of_topic(topic, tenant, Platform { principal, objection }))
            }
        }
    }

    fn of_bus(bus: &EventBus, tenant: &TenantId, platform: Platform) -> Self {
        let (kind, source) = (DestinationKind::EventBridge.name(), bus_source(tenant.as_str()));
        let mut statement = json!({
            "Effect": "Allow", "Action": "events:PutEvents", "Resource": bus.to_string(),
            "Condition": { "StringEquals": { "events:source": source } },
        });
        let document = |statement: Value| json!({ "Version": "2012-10-17", "Statement": [statement] });
        let Platform { principal, objection } = platform;
        let Some(principal) = principal.filter(|_| objection.is_none()) else {
            let why = objection.map(|Invalid { field, detail }| format!("`{field}` {detail}. ")).unwrap_or_default();
            let instructions =
                format!("{why}The user of the access key, or the role that it assumes, needs this policy.");
            let (policy, commands) = (Some(document(statement)), Vec::new());
            return Self { kind, principal: None, source: Some(source), label: None, instructions, policy, commands };
        };
        // Letters and digits alone: what else a tenant's id may have, an id of a statement may not.
        let letters: String = tenant_label(tenant.as_str()).chars().filter(char::is_ascii_alphanumeric).collect();
        statement["Sid"] = format!("Shopery{letters}").into();
        statement["Principal"] = json!({ "AWS": principal });
        let policy = document(statement);
        let (region, name) = (&bus.region, &bus.name);
        let command = format!(
            "aws events put-permission --region {region} --event-bus-name {name} --policy {}",
            quoted(&policy.to_string())
        );
        let instructions = format!(
            "Give the event bus this policy: it lets the platform put events there whose source is {source}, as all of yours \
             are, and nobody else's. The command replaces the policy of the bus: if it has one already, add the statement to it."
        );
        let (source, policy, commands) = (Some(source), Some(policy), vec![command]);
        Self { kind, principal: Some(principal), source, label: None, instructions, policy, commands }
    }

    fn of_topic(topic: &Topic, tenant: &TenantId, platform: Platform) -> Self {
        let kind = DestinationKind::PubSub.name();
        let Platform { principal, objection } = platform;
        if let Some(Invalid { field, detail }) = objection {
            let instructions =
                format!("`{field}` {detail}. That service account needs the role roles/pubsub.publisher on the topic.");
            let (source, label, policy, commands) = (None, None, None, Vec::new());
            return Self { kind, principal: None, source, label, instructions, policy, commands };
        }
        let label = tenant_label(tenant.as_str());
        let Topic { project, name } = topic;
        let gcloud = |what: &str, more: &str| format!("gcloud pubsub topics {what} {name} --project={project} {more}");
        let mut commands = vec![gcloud("update", &format!("--update-labels=shopery-tenant={label}"))];
        // The viewer reads the label.
        let roles = ["roles/pubsub.publisher", "roles/pubsub.viewer"];
        commands.extend(principal.iter().flat_map(|email| {
            roles
                .map(|role| gcloud("add-iam-policy-binding", &format!("--member=serviceAccount:{email} --role={role}")))
        }));
        let who = match &principal {
            Some(email) => format!("the service account {email}"),
            None => "the platform's service account, whose name its operator can tell you,".to_owned(),
        };
        let instructions = format!(
            "Put the label shopery-tenant={label} on the topic, which shows that it is yours, and let {who} publish to it \
             (roles/pubsub.publisher) and read the label (roles/pubsub.viewer)."
        );
        Self { kind, principal, source: None, label: Some(label), instructions, policy: None, commands }
    }
}

/// A word of a shell, whatever is in it.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(principal: &str) -> Platform {
        Platform { principal: Some(principal.to_owned()), objection: None }
    }

    fn none() -> Platform {
        Platform { principal: None, objection: Some(Invalid::new("credentials", "are needed here")) }
    }

    #[test]
    fn a_bus_lets_the_platform_in_for_its_tenant_alone() {
        let bus: EventBus = "arn:aws:events:eu-west-1:123456789012:event-bus/orders".parse().unwrap();
        let arn = "arn:aws:iam::210987654321:role/shopery";
        let tenant: TenantId = "tnt_8w2k".parse().unwrap();
        let shown = Setup::of_bus(&bus, &tenant, platform(arn));
        let policy = shown.policy.unwrap();
        let [statement] = policy["Statement"].as_array().unwrap().as_slice() else { panic!("{policy}") };
        assert_eq!(statement["Principal"], json!({ "AWS": arn }));
        assert_eq!(statement["Resource"], bus.to_string());
        assert_eq!(statement["Condition"], json!({ "StringEquals": { "events:source": "shopery/tnt_8w2k" } }));
        assert_eq!(statement["Sid"], "Shoperytnt8w2k");
        let [command] = shown.commands.as_slice() else { panic!("{:?}", shown.commands) };
        let start = "aws events put-permission --region eu-west-1 --event-bus-name orders --policy '{";
        assert!(command.starts_with(start) && command.ends_with("}'"), "{command}");

        // Without a principal there is nobody to let in: an access key of the owner needs the policy.
        let shown = Setup::of_bus(&bus, &tenant, none());
        let policy = shown.policy.unwrap().to_string();
        assert!(!policy.contains("Principal") && policy.contains("events:PutEvents"), "{policy}");
        assert!(shown.instructions.starts_with("`credentials` are needed here. ") && shown.commands.is_empty());
    }

    #[test]
    fn a_topic_shows_whose_it_is_and_lets_the_platform_in() {
        let topic: Topic = "pubsub://shop-analytics/orders".parse().unwrap();
        let tenant: TenantId = "tnt_8w2k".parse().unwrap();
        let email = "hooks@platform.iam.gserviceaccount.com";
        let shown = Setup::of_topic(&topic, &tenant, platform(email));
        let binding = "gcloud pubsub topics add-iam-policy-binding orders --project=shop-analytics \
                       --member=serviceAccount:hooks@platform.iam.gserviceaccount.com --role=roles/pubsub";
        let label = "shopery-tenant=tnt_8w2k";
        assert_eq!(
            shown.commands,
            [
                format!("gcloud pubsub topics update orders --project=shop-analytics --update-labels={label}"),
                format!("{binding}.publisher"),
                format!("{binding}.viewer"),
            ]
        );
        assert!(shown.instructions.contains(label) && shown.instructions.contains(email), "{}", shown.instructions);
        let unknown = Setup::of_topic(&topic, &tenant, Platform { principal: None, objection: None });
        assert!(unknown.commands.len() == 1 && unknown.label.is_some());
        let nobody = Setup::of_topic(&topic, &tenant, none());
        assert_eq!(quoted("it's"), "'it'\\''s'");
        assert!(
            nobody.commands.is_empty() && nobody.instructions.contains("pubsub.publisher"),
            "{}",
            nobody.instructions
        );
    }
}
