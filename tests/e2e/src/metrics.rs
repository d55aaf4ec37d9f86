//! What a service tells Prometheus.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

/// The exposition of a service, where nothing can be awaited.
pub fn read_now(port: u16) -> std::io::Result<Vec<u8>> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(answer)
}

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
