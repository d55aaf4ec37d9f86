//! Everything on one machine: what `cargo run` starts, and what the tests and the benchmark borrow from it.

pub mod nats_server;
mod private_file;
#[cfg(test)]
mod testing;
pub mod tls;
