//! Logs and traces. Logs go to standard error: readable on a terminal, JSON otherwise. Traces go to an OTLP collector
//! when `OTEL_EXPORTER_OTLP_ENDPOINT` names one; the other variables of the OpenTelemetry specification hold too.

use std::io::IsTerminal;
use std::str::FromStr;

use opentelemetry::trace::TracerProvider;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing_subscriber::filter::{EnvFilter, LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, fmt};

use crate::Env;
use crate::repeats::{Counted, Repeats};

/// The target of spans that exist for tracing alone. Without a collector they are disabled at their call site and
/// cost nothing; the logs never carry them.
pub const TRACE: &str = "shopery_trace";

#[derive(Debug)]
pub struct Config {
    filter: Filter,
    format: Format,
    collector: Option<String>,
}

impl Config {
    pub fn read(env: &mut Env) -> Option<Self> {
        let filter = env.or("SHOPERY_LOG", "info,async_nats=warn,sqlx=warn", "Log filter: level, or target=level,…");
        let format = env.or("SHOPERY_LOG_FORMAT", "auto", "pretty, json, or auto: pretty on a terminal");
        let collector = env.optional(
            "OTEL_EXPORTER_OTLP_ENDPOINT",
            "OTLP collector (HTTP) to send traces to, such as http://localhost:4318",
        );
        Some(Self { filter: filter?, format: format?, collector })
    }
}

/// A level that is not of a target holds for us. Libraries say no more than `info` unless they are named: at `debug` they write
/// what they send, payloads included.
#[derive(Debug)]
struct Filter(String);

impl FromStr for Filter {
    type Err = tracing_subscriber::filter::ParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        EnvFilter::try_new(text)?;
        let part = |part: &str| match part.trim().parse::<LevelFilter>() {
            Ok(level) if level > LevelFilter::INFO => format!("info,shopery={level}"),
            _ => part.to_owned(),
        };
        Ok(Self(text.split(',').map(part).collect::<Vec<_>>().join(",")))
    }
}

#[derive(Debug, Clone, Copy)]
enum Format {
    Pretty,
    Json,
}

impl FromStr for Format {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" if std::io::stderr().is_terminal() => Ok(Self::Pretty),
            "auto" | "json" => Ok(Self::Json),
            "pretty" => Ok(Self::Pretty),
            _ => Err("must be auto, pretty or json"),
        }
    }
}

/// Flushes what is left of the traces when it is dropped.
#[derive(Debug)]
pub struct Telemetry {
    repeats: Repeats,
    provider: Option<SdkTracerProvider>,
}

/// Starts logging, and tracing if there is a collector. Once per process.
pub fn start(service: &'static str, config: &Config) -> anyhow::Result<Telemetry> {
    let logs = match config.format {
        Format::Pretty => fmt::layer().compact().with_writer(std::io::stderr).boxed(),
        Format::Json => fmt::layer().json().flatten_event(true).with_writer(std::io::stderr).boxed(),
    };
    let repeats = Repeats::default();
    let filter = EnvFilter::try_new(&config.filter.0)?.add_directive(format!("{TRACE}=off").parse()?);
    let logs = Counted { lines: logs, repeats: repeats.clone() };
    let registry = tracing_subscriber::registry().with(logs.with_filter(filter));
    if config.collector.is_none() {
        registry.try_init()?;
        return Ok(Telemetry { repeats, provider: None });
    }

    let exporter = opentelemetry_otlp::SpanExporter::builder().with_http().build()?;
    let resource = opentelemetry_sdk::Resource::builder().with_service_name(service).build();
    let provider = SdkTracerProvider::builder().with_resource(resource).with_batch_exporter(exporter).build();
    opentelemetry::global::set_text_map_propagator(TraceContextPropagator::new());
    let spans = tracing_opentelemetry::layer()
        .with_tracer(provider.tracer(service))
        .with_filter(Targets::new().with_target(TRACE, tracing::Level::INFO));
    registry.with(spans).try_init()?;
    Ok(Telemetry { repeats, provider: Some(provider) })
}

impl Telemetry {
    /// Tells of log lines that were left out because they repeat. It never ends.
    pub fn tell_of_repeats(&self) -> impl Future<Output = ()> + Send + 'static {
        self.repeats.clone().tell()
    }
}

impl Drop for Telemetry {
    fn drop(&mut self) {
        if let Some(provider) = self.provider.take()
            && let Err(error) = provider.shutdown()
        {
            tracing::warn!(%error, "the last traces could not be sent");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_is_for_us_and_libraries_are_named() {
        for (text, filter) in [
            ("info,async_nats=warn,sqlx=warn", "info,async_nats=warn,sqlx=warn"),
            ("debug", "info,shopery=debug"),
            ("trace,hyper=debug", "info,shopery=trace,hyper=debug"),
            ("DEBUG,async_nats=trace", "info,shopery=debug,async_nats=trace"),
            ("error", "error"),
            ("shopery_queue=trace", "shopery_queue=trace"),
        ] {
            assert_eq!(text.parse::<Filter>().unwrap().0, filter, "{text}");
        }
        assert!("loud=very".parse::<Filter>().is_err());
    }
}
