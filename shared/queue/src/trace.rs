//! W3C trace context across the queue: one trace from publish to POST. The `traceparent` header of a message is that
//! of the span which published it; without tracing, the publisher's own context is passed on as it came.

use async_nats::HeaderMap;
use opentelemetry::propagation::{Extractor, Injector};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

pub const TRACEPARENT: &str = "traceparent";

/// Headers of a message to be published.
type Headers = Vec<(&'static str, String)>;

struct Traceparent<'a>(&'a mut Headers);

impl Injector for Traceparent<'_> {
    fn set(&mut self, key: &str, value: String) {
        if key == TRACEPARENT && !value.is_empty() {
            self.0.push((TRACEPARENT, value));
        }
    }
}

struct Parent<'a>(&'a str);

impl Extractor for Parent<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        (key == TRACEPARENT).then_some(self.0)
    }

    fn keys(&self) -> Vec<&str> {
        vec![TRACEPARENT]
    }
}

/// Makes `span` a child of the context that a message carries.
pub fn adopt(span: &Span, traceparent: Option<&str>) {
    if let Some(traceparent) = traceparent.filter(|_| !span.is_disabled()) {
        let context =
            opentelemetry::global::get_text_map_propagator(|propagator| propagator.extract(&Parent(traceparent)));
        let _ = span.set_parent(context);
    }
}

/// Writes the context of `span` into a message; `incoming` where there is no tracing.
pub fn inject(span: &Span, incoming: Option<&str>, headers: &mut Headers) {
    if span.is_disabled() {
        if let Some(traceparent) = incoming {
            headers.push((TRACEPARENT, traceparent.to_owned()));
        }
        return;
    }
    let context = span.context();
    opentelemetry::global::get_text_map_propagator(|propagator| {
        propagator.inject_context(&context, &mut Traceparent(headers))
    });
}

/// The context that a message carries.
pub fn incoming(headers: Option<&HeaderMap>) -> Option<&str> {
    headers?.get(TRACEPARENT).map(|value| value.as_str())
}
