use tokio_util::sync::CancellationToken;

/// How a process stops: softly at first (take no new work, finish what is in flight), hard when the drain takes too
/// long or the operator asks a second time. Hard is safe at any moment; it only makes work repeat.
#[derive(Debug, Clone, Default)]
pub struct Shutdown(CancellationToken);

impl Shutdown {
    /// Stop softly.
    pub fn begin(&self) {
        self.0.cancel();
    }

    /// One that begins with this one, and can begin alone.
    pub fn child(&self) -> Self {
        Self(self.0.child_token())
    }

    pub fn is_draining(&self) -> bool {
        self.0.is_cancelled()
    }

    /// Completes when the drain begins.
    pub async fn draining(&self) {
        self.0.cancelled().await;
    }
}
