//! What a body is compressed with: nothing, or gzip.
//!
//! Invariant: no more is unpacked than the limit of what is unpacked, however small the body is: a few kilobytes of gzip
//! can hold gigabytes (a "zip bomb"). The limits of events and batches count unpacked bytes.

use std::io::{self, Read};

use bytes::Bytes;
use flate2::bufread::MultiGzDecoder;
use shopery_http::Problem;
use shopery_http::fair::Admitted;
use shopery_model::Invalid;

/// gzip makes what cannot be compressed a little larger; a body of more than its limit and this is over the limit anyhow.
pub(crate) const OVERHEAD: usize = 4 * 1024;

/// Unpacked before other requests get their turn.
const CHUNK: usize = 256 * 1024;

/// What every gzip begins with (RFC 1952, 2.3.1).
const MAGIC: [u8; 2] = [0x1f, 0x8b];

const SHOWN_CHARS: usize = 60;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encoding {
    Identity,
    Gzip,
}

impl Encoding {
    /// Of a `Content-Encoding`; none is an empty one.
    pub(crate) fn read(header: &str) -> Result<Self, Problem> {
        match header.trim().to_ascii_lowercase().as_str() {
            "" | "identity" => Ok(Self::Identity),
            // RFC 9110, 8.4.1.3: these two are the same.
            "gzip" | "x-gzip" => Ok(Self::Gzip),
            other => {
                let shown: String = other.chars().take(SHOWN_CHARS).collect();
                let detail = format!("content-encoding {shown:?} is not supported: send gzip, or the body as it is");
                Err(Problem::unsupported_encoding(detail, "gzip"))
            }
        }
    }

    /// How many bytes a body may have that has `limit` bytes once it is unpacked.
    pub(crate) fn limit(self, limit: usize) -> usize {
        match self {
            Self::Identity => limit,
            Self::Gzip => limit + OVERHEAD,
        }
    }

    /// The body as it was before it was compressed; 413 as soon as it has more than `limit` bytes.
    pub(crate) async fn decode(
        self,
        body: Bytes,
        limit: usize,
        mut memory: Option<&mut Admitted>,
    ) -> Result<Bytes, Problem> {
        if self == Self::Identity {
            return Ok(body);
        }
        // Without it, a short text that is no gzip would be said to end too early.
        if body.iter().zip(MAGIC).any(|(byte, magic)| *byte != magic) {
            return Err(broken(io::ErrorKind::InvalidInput));
        }
        let mut unpacked = Vec::new();
        let mut decoder = MultiGzDecoder::new(&*body);
        loop {
            // One byte more than is allowed tells what is over the limit.
            let room = CHUNK.min(limit + 1 - unpacked.len()) as u64;
            let read = decoder.by_ref().take(room).read_to_end(&mut unpacked).map_err(|error| broken(error.kind()))?;
            if unpacked.len() > limit {
                return Err(Problem::too_large(format!(
                    "the body is over the limit of {limit} bytes once it is unpacked"
                )));
            }
            if read == 0 {
                return Ok(unpacked.into());
            }
            if let Some(memory) = &mut memory {
                memory.grow(read)?;
            }
            tokio::task::yield_now().await;
        }
    }
}

fn broken(error: io::ErrorKind) -> Problem {
    let detail = match error {
        io::ErrorKind::UnexpectedEof => "ends too early: it is not all of what was compressed with gzip",
        _ => "is not gzip, as its content-encoding says",
    };
    Problem::invalid(vec![Invalid::new("body", detail)])
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::Compression;
    use flate2::write::GzEncoder;
    use std::io::Write;

    fn gzip(text: &[u8]) -> Bytes {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap().into()
    }

    #[test]
    fn an_encoding_is_one_of_those_we_take() {
        for (header, read) in [
            ("", Encoding::Identity),
            ("identity", Encoding::Identity),
            (" GZip ", Encoding::Gzip),
            ("x-gzip", Encoding::Gzip),
        ] {
            assert_eq!(Encoding::read(header).unwrap(), read, "{header}");
        }
        for header in ["br", "deflate", "zstd", "gzip, gzip", "compress"] {
            let problem = Encoding::read(header).unwrap_err();
            assert!(problem.status == 415 && problem.detail.contains(header), "{header}: {problem:?}");
        }
    }

    #[tokio::test]
    async fn what_was_compressed_is_unpacked_up_to_its_limit() {
        let text = vec![b'x'; CHUNK * 3 + 7];
        assert_eq!(Encoding::Gzip.decode(gzip(&text), text.len(), None).await.unwrap(), text);
        assert_eq!(Encoding::Gzip.decode(gzip(&text), text.len() - 1, None).await.unwrap_err().status, 413);
        assert_eq!(Encoding::Gzip.decode(gzip(b""), 0, None).await.unwrap(), "");
        // Two streams, one behind the other, are one body.
        let two = [gzip(b"a"), gzip(b"b")].concat();
        assert_eq!(Encoding::Gzip.decode(two.into(), 2, None).await.unwrap(), "ab");
        let bomb = gzip(&vec![0; 16 * 1024 * 1024]);
        assert!(bomb.len() < 100 * 1024);
        assert_eq!(Encoding::Gzip.decode(bomb, 256 * 1024, None).await.unwrap_err().status, 413);
        assert_eq!(Encoding::Identity.decode("a".into(), 1, None).await.unwrap(), "a");
    }

    #[tokio::test]
    async fn what_is_no_gzip_is_named() {
        let whole = gzip(b"a body");
        let mut changed = whole.to_vec();
        changed[12] ^= 0xff;
        for (body, named) in [
            (Bytes::from("{}"), "not gzip"),
            ("plain text that is long enough".into(), "not gzip"),
            (whole.slice(..whole.len() - 5), "too early"),
            (changed.into(), "not gzip"),
            (Bytes::new(), "too early"),
        ] {
            let problem = Encoding::Gzip.decode(body, 1000, None).await.unwrap_err();
            assert!(problem.status == 400 && problem.detail.contains(named), "{named}: {problem:?}");
        }
    }
}
