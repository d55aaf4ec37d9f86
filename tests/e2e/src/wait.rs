//! Waiting for a condition, with a deadline.

use std::time::{Duration, Instant};

/// Looks again and again until it sees what it looks for. `look` says in its error what it saw instead, and that is
/// in the failure when `deadline` has passed.
pub async fn until<T>(what: &str, deadline: Duration, look: impl AsyncFnMut() -> Result<T, String>) -> T {
    attempt(what, deadline, look).await.unwrap_or_else(|failure| panic!("{failure}"))
}

/// As [`until`], for a test that goes on without it.
pub async fn attempt<T>(
    what: &str,
    deadline: Duration,
    mut look: impl AsyncFnMut() -> Result<T, String>,
) -> Result<T, String> {
    let started = Instant::now();
    let mut pause = Duration::from_millis(5);
    loop {
        match look().await {
            Ok(found) => return Ok(found),
            Err(seen) if started.elapsed() >= deadline => {
                return Err(format!("waited {:.1?} for {what}; last seen: {seen}", started.elapsed()));
            }
            Err(_) => tokio::time::sleep(pause).await,
        }
        pause = (pause * 2).min(Duration::from_millis(200));
    }
}

/// As [`until`], for a condition without more to say.
pub async fn until_true(what: &str, deadline: Duration, mut look: impl AsyncFnMut() -> bool) {
    until(what, deadline, async || if look().await { Ok(()) } else { Err("not yet".to_owned()) }).await;
}

/// A future that must complete in time.
pub async fn within<T>(what: &str, deadline: Duration, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(deadline, future).await {
        Ok(done) => done,
        Err(_) => panic!("waited {deadline:?} for {what}"),
    }
}
