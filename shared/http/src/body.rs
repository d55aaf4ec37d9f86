//! Reading bodies from clients that may be slow or hostile.

use std::time::Duration;

use axum::body::{Body, HttpBody as _};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use tokio::time::Instant;

use crate::Problem;
use crate::fair::Admitted;

/// A body has to come at this rate in bytes a second, after some time to begin.
const LEAST_RATE: usize = 16 * 1024;
const TIME_TO_BEGIN: Duration = Duration::from_secs(5);
/// What is read of a body that is too large, and for how long.
const FORGOTTEN_BYTES: usize = 32 * 1024 * 1024;
const FORGOTTEN_TIME: Duration = Duration::from_secs(5);

/// The whole body, or 413 beyond `limit` bytes. What is over a limit is read and forgotten, within bounds: a client
/// that is still writing when the connection is closed would not read the answer.
///
/// `memory` counts the bytes that are there, not those that are announced; whoever sends slowly holds little. A body that comes in
/// one piece is not counted: the connection has it in memory anyhow.
pub async fn read_body(mut body: Body, limit: usize, mut memory: Option<&mut Admitted>) -> Result<Bytes, Problem> {
    let broken = |_| Problem::malformed("the body did not arrive whole");
    let began = Instant::now();
    let mut read = BytesMut::new();
    loop {
        let due = began + TIME_TO_BEGIN + Duration::from_secs_f64(read.len() as f64 / LEAST_RATE as f64);
        let frame = tokio::time::timeout_at(due, body.frame()).await.map_err(|_| too_slow())?;
        let Some(frame) = frame else { break };
        let Ok(data) = frame.map_err(broken)?.into_data() else { continue };
        if read.is_empty() && body.is_end_stream() && data.len() <= limit {
            return Ok(data);
        }
        if read.len() + data.len() > limit {
            forget(body).await;
            return Err(Problem::too_large(format!("the body is over the limit of {limit} bytes")));
        }
        if let Some(memory) = &mut memory
            && let Err(problem) = memory.grow(data.len())
        {
            drop(read);
            forget(body).await;
            return Err(problem);
        }
        read.extend_from_slice(&data);
    }
    Ok(read.freeze())
}

fn too_slow() -> Problem {
    let (rate, time) = (LEAST_RATE / 1024, TIME_TO_BEGIN.as_secs());
    Problem::too_slow(format!("the body comes too slowly: send at least {rate} KiB a second, after {time} s at most"))
}

async fn forget(mut body: Body) {
    let mut left = FORGOTTEN_BYTES;
    let read = async {
        while let Some(Ok(frame)) = body.frame().await {
            left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
            if left == 0 {
                return;
            }
        }
    };
    let _ = tokio::time::timeout(FORGOTTEN_TIME, read).await;
}
