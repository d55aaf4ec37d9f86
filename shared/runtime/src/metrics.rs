use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::{Metric, Registry};

/// Counts by one label.
pub type Counts = Family<[(&'static str, String); 1], Counter>;

/// The metrics of this process, in one registry under the prefix `shopery_`.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Arc<Mutex<Registry>>,
    shared: Arc<Mutex<HashMap<&'static str, Counts>>>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self { registry: Arc::new(Mutex::new(Registry::with_prefix("shopery"))), shared: Arc::default() }
    }
}

impl Metrics {
    /// Registers a metric and hands it back. `help` is a sentence without its full stop.
    pub fn register<M: Metric + Clone>(&self, name: &str, help: &str, metric: M) -> M {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner).register(name, help, metric.clone());
        metric
    }

    /// Counts that every service keeps: registered by whoever asks first, since services may share a process.
    pub fn shared(&self, name: &'static str, help: &str) -> Counts {
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        shared.entry(name).or_insert_with(|| self.register(name, help, Counts::default())).clone()
    }

    /// The exposition in OpenMetrics text.
    pub fn encode(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = prometheus_client::encoding::text::encode(&mut text, &registry);
        drop(registry);
        text
    }
}

/// Buckets for latencies in seconds: from 1 ms, about three to a decade, to two minutes.
pub fn latency_buckets() -> impl Iterator<Item = f64> {
    [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 120.0].into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_counts_are_one_metric() {
        let metrics = Metrics::default();
        for _ in 0..2 {
            metrics.shared("dead_messages", "Messages put on DEAD").get_or_create(&[("reason", "a".to_owned())]).inc();
        }
        let text = metrics.encode();
        assert_eq!(text.matches("shopery_dead_messages_total{reason=\"a\"} 2").count(), 1, "{text}");
        assert_eq!(text.matches("# TYPE").count(), 1, "{text}");
    }
}
