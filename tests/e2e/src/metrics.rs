//! What a service tells Prometheus.

/// An exposition in OpenMetrics text.
#[derive(Debug, Clone)]
pub struct Metrics(String);

impl Metrics {
    pub async fn of(url: &str) -> Result<Self, String> {
        let answer = reqwest::get(format!("{url}/metrics")).await.map_err(|error| error.to_string())?;
        Ok(Self(answer.text().await.map_err(|error| error.to_string())?))
    }

    pub fn text(&self) -> &str {
        &self.0
    }

    /// One series, by its name with its labels as they are written: `shopery_x_total{a="b"}`.
    pub fn value(&self, series: &str) -> Option<f64> {
        self.0.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
    }

    /// All series of a metric together; 0 if there is none yet.
    pub fn sum(&self, name: &str) -> f64 {
        let series = self.0.lines().filter_map(|line| line.strip_prefix(name));
        let values = series.filter(|rest| rest.starts_with([' ', '{'])).filter_map(|rest| rest.rsplit_once(' '));
        values.filter_map(|(_, value)| value.parse::<f64>().ok()).sum()
    }
}
