//! What requests look like, and the names that fields can hold. The handlers read requests field by field, so that all
//! that is wrong with one is said at once; these types describe what they read, and the conformance test holds the two
//! together.
#![allow(dead_code, reason = "they are described, not made")]

use std::collections::BTreeMap;

use serde_json::Value;
use time::OffsetDateTime;
use utoipa::{IntoParams, ToSchema};

#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
pub(crate) struct WebhookCreate {
    /// For people.
    #[schema(min_length = 1, max_length = 200, example = "webhook test")]
    name: String,
    /// What it is for.
    #[schema(max_length = 1000, example = "Orders for the warehouse")]
    description: Option<String>,
    /// Labels of your own: at most 16, with names of up to 40 characters and values of up to 500.
    #[schema(example = json!({ "team": "logistics" }))]
    metadata: Option<BTreeMap<String, String>>,
    /// Where to send to: `https://…`, to an address that is public; an event bus of Amazon EventBridge,
    /// `arn:aws:events:<region>:<account>:event-bus/<name>`; or a topic of Google Cloud Pub/Sub, `pubsub://<project>/<topic>`. A bus or
    /// topic of a webhook that is enabled is sent a test first, and refused if it does not let us publish, or is not there.
    #[schema(format = "uri", max_length = 2048, example = "https://test.com/wh")]
    url: String,
    /// Event types, `order-*` for all of a resource, or `*`.
    #[schema(min_items = 1, max_items = 50, example = json!(["order-created"]))]
    events: Vec<String>,
    #[schema(default = true)]
    is_enabled: Option<bool>,
    /// `whsec_` and the base64 of 24 to 64 bytes; one is made if there is none.
    #[schema(example = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", pattern = "^whsec_([A-Za-z0-9+/]{4}){8,21}$")]
    secret: Option<String>,
    /// Sent with every delivery; at most 16. Not to a bus or topic.
    #[schema(example = json!({ "Authorization": "Bearer of-a-gateway" }))]
    headers: Option<BTreeMap<String, String>>,
    /// Your own at the cloud of the bus or topic. Without, the platform publishes as itself: see `GET /company/destinations/setup`.
    #[schema(value_type = Option<Object>)]
    credentials: Option<Value>,
}

/// An access key of Amazon, for an event bus.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
pub(crate) struct AwsCredentials {
    #[schema(example = "AKIAIOSFODNN7EXAMPLE", pattern = "^[A-Za-z0-9_]{16,128}$")]
    access_key_id: String,
    /// `***` keeps that of the same key.
    #[schema(pattern = "^[!-~]{1,256}$")]
    secret_access_key: String,
    /// A role to assume with the key.
    #[schema(
        example = "arn:aws:iam::123456789012:role/shopery",
        pattern = "^arn:aws(-cn|-us-gov)?:iam::[0-9]{12}:role/[A-Za-z0-9+=,.@_/-]{1,576}$"
    )]
    role_arn: Option<String>,
    /// What the role's trust policy asks for.
    #[schema(pattern = "^[A-Za-z0-9+=,.@:/_-]{2,1224}$")]
    external_id: Option<String>,
}

/// The key file of a service account of Google as it is, for a topic. Its other members are left.
#[derive(ToSchema)]
pub(crate) struct GoogleCredentials {
    #[schema(example = "hooks@shop-analytics.iam.gserviceaccount.com", max_length = 320, pattern = "^[!-~]*@[!-~]*$")]
    client_email: String,
    #[schema(pattern = "^[A-Za-z0-9]{1,128}$")]
    private_key_id: String,
    /// `***` keeps that of the same key.
    #[schema(max_length = 8192, pattern = "^(-----BEGIN PRIVATE KEY-----|[*]{3}$)")]
    private_key: String,
}

/// Any of the fields; `null` takes a rule away, all headers, and the credentials of a cloud.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
pub(crate) struct WebhookUpdate {
    #[schema(min_length = 1, max_length = 200)]
    name: Option<String>,
    /// `null` takes it away.
    #[schema(max_length = 1000)]
    description: Option<String>,
    /// All of it; `null` takes it away.
    metadata: Option<BTreeMap<String, String>>,
    #[schema(format = "uri", max_length = 2048)]
    url: Option<String>,
    #[schema(min_items = 1, max_items = 50)]
    events: Option<Vec<String>>,
    #[schema(example = false)]
    is_enabled: Option<bool>,
    /// Ends all former secrets at once.
    #[schema(pattern = "^whsec_([A-Za-z0-9+/]{4}){8,21}$")]
    secret: Option<String>,
    /// All of them; a value that is `***` stays as it is.
    headers: Option<BTreeMap<String, String>>,
    /// All of them; a secret that is `***` is that of the same key. Those of a `url` of another kind have to be replaced or taken away.
    #[schema(value_type = Option<Object>)]
    credentials: Option<Value>,
    /// With `isEnabled: true`: what becomes of what has waited.
    waiting: Option<Wish>,
}

/// What a webhook asks for beyond its events.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
pub(crate) struct Rules {
    /// The payload has these parts of the resource alone.
    #[schema(min_items = 1, max_items = 50, example = json!(["id", "customer.email"]))]
    fields: Option<Vec<String>>,
    /// The resource must match; the syntax is that of Amazon EventBridge's event patterns.
    #[schema(value_type = Option<Object>, example = json!({ "total_price": [{ "numeric": [">", 50] }] }))]
    filter: Option<Value>,
    /// One of these paths must differ from the resource's previous state.
    #[schema(min_items = 1, max_items = 50, example = json!(["total_price"]))]
    changed: Option<Vec<String>>,
    /// What a delivery carries that is not sent at once.
    payload: Option<PayloadMode>,
    /// The events of one type for one resource within this time (1s to 1h) become one delivery of the last of them; not with
    /// `payload: "original"` or `ordered`.
    #[schema(example = "5s", pattern = "^([1-9]|[1-5][0-9])(s|m)$|^1h$")]
    debounce: Option<String>,
    /// Deliveries a second, at most; the others wait.
    #[schema(minimum = 1, maximum = 1000, example = 50)]
    rate_limit: Option<u16>,
    /// With `fields`: whether a payload is dropped that is the same as the previous one for this resource and event type.
    #[schema(default = true)]
    drop_duplicates: Option<bool>,
    signature: Option<SignatureKind>,
    /// What the body is: the resource, or a CloudEvent with the resource as its `data`.
    format: Option<PayloadFormat>,
    /// The deliveries of one resource are made one after the other; not with `debounce`.
    #[schema(default = false)]
    ordered: Option<bool>,
}

#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
pub(crate) enum PayloadMode {
    Latest,
    Original,
}

#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
pub(crate) enum PayloadFormat {
    Resource,
    CloudEvent,
}

#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
pub(crate) enum SignatureKind {
    Symmetric,
    Asymmetric,
    Both,
}

#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
pub(crate) enum Wish {
    Send,
    Discard,
}

#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
pub(crate) enum DeliveryState {
    Pending,
    Delivered,
    Failed,
    Filtered,
    Duplicate,
    Superseded,
    Parked,
    Expired,
    /// It waited when the webhook was enabled with `waiting: "discard"`.
    Discarded,
}

#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
pub(crate) enum RecoveryState {
    Running,
    Completed,
    Cancelled,
    Failed,
}

#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
pub(crate) enum ChangeAction {
    Created,
    Updated,
    Deleted,
    Disabled,
}

/// Why an attempt failed, or a delivery ended without one.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
pub(crate) enum FaultName {
    DnsFailed,
    AddressForbidden,
    ConnectionRefused,
    ConnectTimeout,
    CertificateInvalid,
    TlsFailed,
    ConnectionFailed,
    Timeout,
    Redirected,
    HttpStatus,
    ResponseTooLarge,
    Gone,
    WebhookDeleted,
    Discarded,
    ParkingFull,
    /// The state that would be sent does not match the webhook's filter.
    FilterNotMatched,
    /// The delivery that was to tell the endpoint this, or newer, was not delivered.
    CarrierFailed,
    /// A cloud takes no more from this account or project for now.
    Throttled,
    /// A bus or topic does not let us publish.
    AccessDenied,
    /// There is no such bus or topic.
    DestinationNotFound,
    /// A cloud will never take this message.
    MessageRejected,
    /// A cloud failed in a way that passes.
    ProviderError,
}

/// A field before and after; what was or is not set is absent.
#[derive(ToSchema)]
pub(crate) struct FieldChange {
    from: Option<Value>,
    to: Option<Value>,
}

#[derive(ToSchema)]
pub(crate) struct RotateSecret {
    /// The new secret; one is made if there is none.
    #[schema(pattern = "^whsec_([A-Za-z0-9+/]{4}){8,21}$")]
    secret: Option<String>,
    /// How long the former one stays valid: 0s to 7d.
    #[schema(
        example = "24h",
        default = "24h",
        pattern = "^[0-9]{1,5}s$|^([0-9]|[1-9][0-9]|1[0-5][0-9]|16[0-8])h$|^[0-7]d$"
    )]
    overlap: Option<String>,
}

/// A URL that is not saved yet.
#[derive(ToSchema)]
pub(crate) struct TestRequest {
    #[schema(format = "uri", max_length = 2048, example = "https://test.com/wh")]
    url: String,
    #[schema(pattern = "^whsec_([A-Za-z0-9+/]{4}){8,21}$")]
    secret: Option<String>,
    headers: Option<BTreeMap<String, String>>,
    /// Your own at the cloud of the bus or topic.
    #[schema(value_type = Option<Object>)]
    credentials: Option<Value>,
    /// Send the example of this event type; a plain sample, if absent.
    #[schema(rename = "eventType", example = "order-created")]
    event_type: Option<String>,
}

/// A test of a webhook.
#[derive(ToSchema)]
pub(crate) struct TestOfWebhook {
    /// Send the example of this event type, through the webhook's own rules; a plain sample, if absent.
    #[schema(rename = "eventType", example = "order-created")]
    event_type: Option<String>,
}

/// Rules, as a webhook has them, and an event to try them on.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
pub(crate) struct MatchRequest {
    /// The event's type.
    #[schema(example = "order-created")]
    event_type: String,
    /// The resource; the example of the event type, if absent.
    #[schema(value_type = Option<Object>)]
    data: Option<Value>,
    /// The state of the resource before, for `changed`; absent: there was none.
    #[schema(value_type = Option<Object>)]
    previous: Option<Value>,
    /// What the webhook subscribes to; the event type, if absent.
    #[schema(min_items = 1, max_items = 50, example = json!(["order-*"]))]
    events: Option<Vec<String>>,
}

#[derive(ToSchema)]
pub(crate) struct RecoverRequest {
    /// Events that were stored from then on. This or `sinceDelivery` is needed.
    #[schema(example = "2026-11-24T10:00:00Z")]
    since: Option<OffsetDateTime>,
    /// From this delivery of the webhook on, in place of `since`.
    #[schema(rename = "sinceDelivery", pattern = "^dlv_[0-7][0-9A-HJKMNP-TV-Z]{25}$")]
    since_delivery: Option<String>,
    /// Until then; until now, if it is absent or later.
    until: Option<OffsetDateTime>,
    /// Of their deliveries, those that have ended so; `failed` and `expired` if absent, so `discarded` has to be named. Not `pending` and `parked`.
    #[schema(min_items = 1, example = json!(["failed"]))]
    statuses: Option<Vec<DeliveryState>>,
    /// One message for each resource, or every delivery with the state of its event; `latest` if absent.
    mode: Option<PayloadMode>,
    /// Say what it would be about, and send nothing.
    #[schema(rename = "dryRun", default = false)]
    dry_run: Option<bool>,
}

#[derive(ToSchema)]
pub(crate) struct ResendRequest {
    /// Deliveries, each once.
    #[schema(min_items = 1, max_items = 100, example = json!(["dlv_01HA4XCG60CT4G3EWF4CKYM1MF"]))]
    ids: Vec<String>,
}

/// What was made.
#[derive(ToSchema)]
pub(crate) struct Made {
    #[schema(example = "wbh_01HA4XCG60CT4G3EWF4CKYM1MF")]
    id: String,
}

/// An event as it was published: CloudEvents 1.0, its `data` byte for byte.
#[derive(ToSchema)]
pub(crate) struct CloudEvent {
    #[schema(example = "1.0")]
    specversion: String,
    #[schema(example = "evt_1")]
    id: String,
    #[schema(example = "orders")]
    source: String,
    #[schema(example = "order-created")]
    r#type: String,
    #[schema(example = "order/ord_123")]
    subject: String,
    time: OffsetDateTime,
    datacontenttype: String,
    /// The resource; of a deletion, its id and when it was deleted.
    #[schema(value_type = Object, example = json!({
        "id": "ord_123", "number": 1042, "status": "open", "currency": "EUR", "total_price": 59.80,
        "customer": { "id": "cus_7", "email": "zoe@example.com" },
        "line_items": [{ "sku": "MUG-BLUE", "title": "Blue mug", "quantity": 2, "price": 29.90 }],
        "created_at": "2026-11-24T10:00:00Z", "updated_at": "2026-11-24T10:00:00Z"
    }))]
    data: Value,
}

/// Which part of a list.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct Part {
    /// So many at a time.
    #[param(minimum = 1, maximum = 200, default = 50)]
    limit: Option<u16>,
    /// The `nextCursor` of an earlier page.
    #[param(pattern = "^[a-z]{3}_[0-9A-Z]{26}$")]
    cursor: Option<String>,
}

/// RFC 3339; both ends belong to it.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct Times {
    created_at_min: Option<OffsetDateTime>,
    created_at_max: Option<OffsetDateTime>,
    updated_at_min: Option<OffsetDateTime>,
    updated_at_max: Option<OffsetDateTime>,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct OfDeliveries {
    /// Deliveries that are in one of these states: several with commas, or as several parameters.
    #[param(inline, value_type = Option<Vec<DeliveryState>>, style = Form, explode = false, min_items = 1)]
    status: Option<Vec<String>>,
    /// Of this event type.
    #[param(example = "order-created")]
    event: Option<String>,
    /// About this resource.
    #[param(
        pattern = "^[^/\\x00-\\x1f\\x7f-\\x9f]{1,100}/[^\\x00-\\x1f\\x7f-\\x9f]{1,255}$",
        example = "order/ord_123"
    )]
    resource: Option<String>,
    /// Those whose last attempt failed for this reason, or that ended without one for it.
    #[param(inline)]
    reason: Option<FaultName>,
    /// Those whose last attempt an HTTPS endpoint answered so.
    #[param(minimum = 100, maximum = 599, example = 503)]
    response_status: Option<u16>,
    /// Which come first, by when they were made: `newest` if absent.
    #[param(inline)]
    order: Option<ListOrder>,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct OfDestination {
    /// The ARN of an event bus, or `pubsub://<project>/<topic>`.
    #[param(
        example = "arn:aws:events:eu-west-1:123456789012:event-bus/orders",
        pattern = "^(arn:aws(-cn|-us-gov)?:events:[a-z0-9-]{1,32}:[0-9]{12}:event-bus/|pubsub://)[A-Za-z0-9/._~+%:-]{1,300}$"
    )]
    url: String,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct OfWebhook {
    /// Of this webhook, also one that was deleted.
    #[param(pattern = "^wbh_[0-7][0-9A-HJKMNP-TV-Z]{25}$", example = "wbh_01HA4XCG60CT4G3EWF4CKYM1MF")]
    webhook: Option<String>,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct OfWebhooks {
    /// Of these webhooks, at most 100: several with commas, or as several parameters.
    #[param(style = Form, explode = false, min_items = 1, max_items = 100, example = json!(["wbh_01HA4XCG60CT4G3EWF4CKYM1MF"]))]
    webhook: Option<Vec<String>>,
}

#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
pub(crate) enum ListOrder {
    Newest,
    Oldest,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct OfEvents {
    /// Of this event type.
    #[param(example = "order-created")]
    event: Option<String>,
    /// Which come first, by when they were taken in: `oldest` if absent.
    #[param(inline)]
    order: Option<ListOrder>,
    /// So many at a time.
    #[param(minimum = 1, maximum = 200, default = 50)]
    limit: Option<u16>,
    /// The `nextCursor` of an earlier page in the same order, or, oldest first, a `position`.
    #[param(pattern = "^evp_[A-Za-z0-9_-]{1,200}$")]
    cursor: Option<String>,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct OfEvent {
    /// Of this publisher: two may have given the same id.
    #[param(example = "orders")]
    source: Option<String>,
    /// The resource that the event is about; with it the event is found at once.
    #[param(
        pattern = "^[^/\\x00-\\x1f\\x7f-\\x9f]{1,100}/[^\\x00-\\x1f\\x7f-\\x9f]{1,255}$",
        example = "order/ord_123"
    )]
    resource: Option<String>,
    /// Where the resource is not said: look through what came from then on, in place of what came last. RFC 3339.
    created_at_min: Option<OffsetDateTime>,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct Windows {
    /// The beginning of the first window.
    #[param(example = "2026-11-24T10:00:00Z")]
    created_at_min: OffsetDateTime,
    /// The end of the last one; now, if absent.
    created_at_max: Option<OffsetDateTime>,
    /// How long a window is: 1s or more, at most 1,000 windows.
    #[param(example = "1h", default = "1h", pattern = "^[1-9][0-9]?(s|m|h|d)$")]
    step: Option<String>,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct MetricsWindows {
    /// The beginning of the first window; a day before the end, if absent.
    created_at_min: Option<OffsetDateTime>,
    /// The end of the last one; now, if absent or later.
    created_at_max: Option<OffsetDateTime>,
    /// How long a window is: whole minutes, at most 1,000 windows. What is older than two days is counted by the hour.
    #[param(example = "1h", default = "1h", pattern = "^[1-9][0-9]?(m|h|d)$")]
    step: Option<String>,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
pub(crate) struct IfMatch {
    /// The `ETag` of what was read: change it only if nobody else has since then.
    #[param(rename = "If-Match", example = "\"1\"", pattern = r#"^(\*|(W/)?"[!#-+.-~]*")$"#)]
    if_match: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use shopery_control::{DestinationKindName, DisabledReasonName, WebhookStateName};
    use utoipa::PartialSchema;

    fn names<T: PartialSchema>() -> Vec<String> {
        let schema = serde_json::to_value(T::schema()).unwrap();
        let names: Option<Vec<_>> =
            schema["enum"].as_array().map(|names| names.iter().filter_map(Value::as_str).map(str::to_owned).collect());
        names.unwrap_or_else(|| {
            schema["oneOf"]
                .as_array()
                .unwrap()
                .iter()
                .map(|one| one["const"].as_str().or(one["enum"][0].as_str()).unwrap().to_owned())
                .collect()
        })
    }

    #[test]
    fn names_are_those_of_the_model() {
        let states: Vec<_> = shopery_model::DeliveryState::ALL.iter().map(|state| state.name().to_owned()).collect();
        let mut told = names::<DeliveryState>();
        let mut known = states.clone();
        told.sort();
        known.sort();
        assert_eq!(told, known);
        let mut told = names::<FaultName>();
        let mut known: Vec<_> = shopery_model::Fault::ALL.iter().map(|fault| fault.name().to_owned()).collect();
        told.sort();
        known.sort();
        assert_eq!(told, known);
        let kinds = shopery_model::DestinationKind::ALL.map(|kind| kind.name().to_owned());
        assert_eq!(names::<DestinationKindName>(), kinds);
        let formats = [shopery_model::PayloadFormat::Resource, shopery_model::PayloadFormat::CloudEvent];
        assert_eq!(names::<PayloadFormat>(), formats.map(|format| format.name().to_owned()));
        let modes = [shopery_model::PayloadMode::Latest, shopery_model::PayloadMode::Original];
        assert_eq!(names::<PayloadMode>(), modes.map(|mode| mode.name().to_owned()));
        use shopery_store::{DisabledReason, RecoveryState as Recovery, WebhookState};
        let webhook = [WebhookState::Active, WebhookState::Paused, WebhookState::Disabled];
        assert_eq!(names::<WebhookStateName>(), webhook.map(|state| state.name().to_owned()));
        let reasons = [DisabledReason::Failing, DisabledReason::Gone];
        assert_eq!(names::<DisabledReasonName>(), reasons.map(|reason| reason.name().to_owned()));
        let recovery = [Recovery::Running, Recovery::Completed, Recovery::Cancelled, Recovery::Failed];
        assert_eq!(names::<RecoveryState>(), recovery.map(|state| state.name().to_owned()));
    }
}
