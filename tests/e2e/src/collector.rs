//! A collector of traces: OTLP over HTTP, as `OTEL_EXPORTER_OTLP_ENDPOINT` expects it.

use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, OnceLock};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use prost::Message;
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

use crate::leaks;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    pub service: String,
    pub name: String,
    pub trace: String,
    pub id: String,
    pub parent: String,
    /// All there is of it, attributes and events too.
    pub whole: String,
}

#[derive(Debug)]
pub struct Collector {
    port: u16,
    spans: Arc<Mutex<Vec<Span>>>,
    _server: AbortOnDropHandle<()>,
}

impl Collector {
    pub async fn start() -> Self {
        let port = crate::ports::free();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await.unwrap();
        let spans = Arc::<Mutex<Vec<Span>>>::default();
        let routes = Router::new().route("/v1/traces", post(take)).with_state(spans.clone());
        let server = tokio::spawn(async move { axum::serve(listener, routes).await.unwrap() });
        Self { port, spans, _server: AbortOnDropHandle::new(server) }
    }

    /// For `OTEL_EXPORTER_OTLP_ENDPOINT`.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub fn spans(&self) -> Vec<Span> {
        self.spans.lock().unwrap().clone()
    }
}

async fn take(State(spans): State<Arc<Mutex<Vec<Span>>>>, body: Bytes) -> StatusCode {
    let Ok(request) = ExportTraceServiceRequest::decode(body) else { return StatusCode::BAD_REQUEST };
    for resource_spans in request.resource_spans {
        let attributes = resource_spans.resource.map(|resource| resource.attributes).unwrap_or_default();
        let service = attributes.into_iter().find(|attribute| attribute.key == "service.name");
        let service = match service.and_then(|attribute| attribute.value?.value) {
            Some(Value::StringValue(name)) => name,
            _ => String::new(),
        };
        let found = resource_spans.scope_spans.into_iter().flat_map(|scope| scope.spans).map(|span| Span {
            whole: format!("{span:?}"),
            service: service.clone(),
            name: span.name,
            trace: hex(&span.trace_id),
            id: hex(&span.span_id),
            parent: hex(&span.parent_span_id),
        });
        spans.lock().unwrap().extend(found);
    }
    StatusCode::OK
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Where the traces of a stack go that no test looks at: they are searched for what must not be in them, and forgotten.
#[derive(Debug)]
pub struct Traces {
    port: u16,
    leak: Arc<OnceLock<String>>,
    _server: AbortOnDropHandle<()>,
}

impl Traces {
    pub async fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let leak = Arc::<OnceLock<String>>::default();
        let routes = Router::new().route("/v1/traces", post(search)).with_state(leak.clone());
        let server = tokio::spawn(async move { axum::serve(listener, routes).await.unwrap() });
        Self { port, leak, _server: AbortOnDropHandle::new(server) }
    }

    /// For `OTEL_EXPORTER_OTLP_ENDPOINT`.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// What the traces had that they must not.
    pub fn leak(&self) -> Option<String> {
        self.leak.get().cloned()
    }
}

/// Texts are themselves in protobuf.
async fn search(State(leak): State<Arc<OnceLock<String>>>, body: Bytes) -> StatusCode {
    if let Some(found) = leaks::find(&body) {
        leak.get_or_init(|| found);
    }
    StatusCode::OK
}
