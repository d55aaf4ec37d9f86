//! The subjects. Ids are escaped (see [`escape`]), so each is one token whatever it contains.

use shopery_model::{DeliveryId, EventType, Lane, Resource, TenantId, WebhookId, escape, unescape};

use crate::Partition;

/// `in.<tenant>.<event>`: where platform services publish.
pub fn inbound(tenant: &TenantId, event_type: &str) -> String {
    format!("in.{}.{}", escape(tenant.as_str()), escape(event_type))
}

/// `events.<partition>.<tenant>.<resource>.<resource-id>`: the last message on it is the current state of the resource.
pub fn event(tenant: &TenantId, resource: &Resource) -> String {
    format!("{}.{}.{}", events_of(tenant), resource.kind, escape(&resource.id))
}

/// `events.<partition>.<tenant>`
fn events_of(tenant: &TenantId) -> String {
    format!("events.{}.{}", Partition::of(tenant), escape(tenant.as_str()))
}

/// `deferred.<partition>.<tenant>.<resource>.<resource-id>`: an event beyond its tenant's rate, to be routed when there is time.
pub fn deferred(event: &str) -> String {
    format!("deferred.{}", event.strip_prefix("events.").unwrap_or(event))
}

/// The subject that a deferred event has in EVENTS.
pub fn parse_deferred(subject: &str) -> Option<String> {
    subject.strip_prefix("deferred.").map(|rest| format!("events.{rest}"))
}

/// The same subject for a resource by its name, `order/ord_123`.
pub fn states(tenant: &TenantId, resource: &str) -> Option<String> {
    let (kind, id) = resource.split_once('/')?;
    Some(format!("{}.{}.{}", events_of(tenant), escape(kind), escape(id)))
}

/// `events.<partition>.<tenant>.>`, or `events.<partition>.<tenant>.<resource>.>`: all of a tenant's events, or those of one
/// kind of resource.
pub fn events(tenant: &TenantId, kind: Option<&str>) -> String {
    let kind = kind.map(|kind| format!("{kind}.")).unwrap_or_default();
    format!("{}.{kind}>", events_of(tenant))
}

/// `<tenant>:<source>:<event id>`, by which EVENTS knows a repeat. Tenant and source are escaped: an id may contain a
/// colon, and neither a tenant nor a source may choose an id that is another's.
pub fn event_id(tenant: &TenantId, source: &str, id: &str) -> String {
    format!("{}:{}:{id}", escape(tenant.as_str()), escape(source))
}

/// `jobs.<lane>.<tenant>.<webhook>`
pub fn job(lane: Lane, tenant: &TenantId, webhook: WebhookId) -> String {
    format!("jobs.{lane}.{}.{webhook}", escape(tenant.as_str()))
}

/// `retry.<tenant>.<webhook>.<delivery>`: holds the one scheduled retry of a delivery.
pub fn retry(tenant: &TenantId, webhook: WebhookId, delivery: DeliveryId) -> String {
    format!("retry.{}.{webhook}.{delivery}", escape(tenant.as_str()))
}

/// `retry.<tenant>.<webhook>.debounce-<event type>-<resource>`: holds the one delivery that the events of one type of a
/// resource become. Of one type: a delivery has one name, and a deletion must not become another event.
pub fn debounce(tenant: &TenantId, webhook: WebhookId, event_type: EventType, resource: &str) -> String {
    format!("retry.{}.{webhook}.debounce-{event_type}-{}", escape(tenant.as_str()), escape(resource))
}

/// `due.<tenant>.<webhook>`: where a retry appears when it is due.
pub fn due(tenant: &TenantId, webhook: WebhookId) -> String {
    format!("due.{}.{webhook}", escape(tenant.as_str()))
}

/// Whether a message has been scheduled and is due.
pub fn is_due(subject: &str) -> bool {
    subject.starts_with("due.")
}

/// `retry.<tenant>.<webhook>.>`: all that is scheduled for a webhook.
pub fn scheduled(tenant: &TenantId, webhook: WebhookId) -> String {
    format!("retry.{}.{webhook}.>", escape(tenant.as_str()))
}

/// `parked.<tenant>.<webhook>`: jobs that wait, in their order, until the endpoint works again.
pub fn parked(tenant: &TenantId, webhook: WebhookId) -> String {
    format!("parked.{}.{webhook}", escape(tenant.as_str()))
}

/// `retry.<tenant>.<webhook>.drain`: the one timer of an endpoint whose jobs are parked.
pub fn drain_timer(tenant: &TenantId, webhook: WebhookId) -> String {
    format!("retry.{}.{webhook}.drain", escape(tenant.as_str()))
}

/// `due.<tenant>.<webhook>.drain`: it is time to send what is parked.
pub fn drain(tenant: &TenantId, webhook: WebhookId) -> String {
    format!("due.{}.{webhook}.drain", escape(tenant.as_str()))
}

/// The webhook of a [`drain`] subject.
pub fn parse_drain(subject: &str) -> Option<(TenantId, WebhookId)> {
    parse_config_key(subject.strip_prefix("due.")?.strip_suffix(".drain")?)
}

/// The webhook of a [`parked`] subject.
pub fn parse_parked(subject: &str) -> Option<(TenantId, WebhookId)> {
    parse_config_key(subject.strip_prefix("parked.")?)
}

/// `outcomes.<service>`: a batch of outcomes, of any tenants.
pub fn outcomes(service: &str) -> String {
    format!("outcomes.{service}")
}

/// `dead.<reason>.<tenant>`; `-` stands for a tenant that is not known.
pub fn dead(reason: &str, tenant: Option<&TenantId>) -> String {
    format!("dead.{reason}.{}", tenant.map_or_else(|| "-".to_owned(), |tenant| escape(tenant.as_str())))
}

/// The key of a webhook in CONFIG: `<tenant>.<webhook>`.
pub fn config_key(tenant: &TenantId, webhook: WebhookId) -> String {
    format!("{}.{webhook}", escape(tenant.as_str()))
}

/// The key of a webhook and a resource in PROGRESS: `<tenant>.<webhook>.<resource>`.
pub fn progress_key(tenant: &TenantId, webhook: WebhookId, resource: &str) -> String {
    format!("{}.{webhook}.{}", escape(tenant.as_str()), escape(resource))
}

/// Where deliverers say which deliveries have ended without their endpoint having been told.
pub const UNDELIVERED: &str = "undelivered";

/// The tenant and the event type of an `in.` subject.
pub fn parse_inbound(subject: &str) -> Option<(TenantId, String)> {
    let (tenant, event_type) = subject.strip_prefix("in.")?.split_once('.')?;
    Some((tenant_of(tenant)?, unescape(event_type)?))
}

/// The tenant of an `events.` subject. One of a version of before has no partition.
pub fn parse_event(subject: &str) -> Option<TenantId> {
    let tokens: Vec<_> = subject.strip_prefix("events.")?.split('.').collect();
    match tokens[..] {
        [tenant, _, _] | [_, tenant, _, _] => tenant_of(tenant),
        _ => None,
    }
}

/// The tenant of a `jobs.` or `due.` subject.
pub fn parse_work(subject: &str) -> Option<TenantId> {
    let rest = match subject.strip_prefix("jobs.") {
        Some(rest) => rest.split_once('.')?.1,
        None => subject.strip_prefix("due.")?,
    };
    tenant_of(rest.split('.').next()?)
}

pub fn parse_config_key(key: &str) -> Option<(TenantId, WebhookId)> {
    let (tenant, webhook) = key.split_once('.')?;
    Some((tenant_of(tenant)?, webhook.parse().ok()?))
}

fn tenant_of(token: &str) -> Option<TenantId> {
    unescape(token)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_tenant_is_one_token() {
        let tenant: TenantId = "Zoë. > *".parse().unwrap();
        let webhook = WebhookId::generate();
        assert_eq!(parse_inbound(&inbound(&tenant, "order-paid")), Some((tenant.clone(), "order-paid".into())));
        assert_eq!(parse_config_key(&config_key(&tenant, webhook)), Some((tenant.clone(), webhook)));
        assert_eq!(parse_drain(&drain(&tenant, webhook)), Some((tenant.clone(), webhook)));
        assert_eq!(parse_drain(&due(&tenant, webhook)), None);
        assert_eq!(parse_parked(&parked(&tenant, webhook)), Some((tenant.clone(), webhook)));
        assert_eq!(parse_work(&job(Lane::Bulk, &tenant, webhook)), Some(tenant.clone()));
        assert_eq!(parse_work(&due(&tenant, webhook)), Some(tenant.clone()));
        let resource = Resource { kind: "order", id: "a.b".into() };
        let subject = event(&tenant, &resource);
        assert_eq!(subject.split('.').count(), 5);
        assert_eq!(states(&tenant, &resource.to_string()), Some(subject.clone()));
        assert_eq!(parse_event(&subject), Some(tenant.clone()));
        assert_eq!(parse_event(&format!("events.{}.order.1", escape(tenant.as_str()))), Some(tenant.clone()));
        assert_eq!(parse_deferred(&deferred(&subject)), Some(subject.clone()));
        let all = events(&tenant, Some("order"));
        assert!(subject.starts_with(all.strip_suffix('>').unwrap()), "{all}");
    }

    #[test]
    fn no_event_id_reaches_into_another_tenant_or_source() {
        let id = |tenant: &str, source, id| event_id(&tenant.parse().unwrap(), source, id);
        assert_ne!(id("a", "s", "b:c"), id("a:s", "b", "c"));
        assert_ne!(id("a", "b", "c:d"), id("a", "b:c", "d"));
        assert_ne!(id("a", "orders", "1"), id("a", "products", "1"));
    }

    #[test]
    fn a_subject_of_another_form_is_not_ours() {
        for subject in ["in", "in.", "in.t", "in.t.", "in..x", "in.t.a.b", "in.=zz.x", "x.t.order-paid"] {
            assert_eq!(parse_inbound(subject), None, "{subject}");
        }
    }
}
