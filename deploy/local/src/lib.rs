//! Everything on one machine: what `cargo run` starts, and what the tests and the benchmark borrow from it.
//!
//! The launcher's cast, in the order in which it needs them: [`Arguments`] and [`Settings`] say what is wanted,
//! [`DataDir`] is where everything is kept, [`nats`] provides the queue, [`Endpoint`] and, if they are asked for, the
//! [`emulators`] play the merchant, [`Services`] are ours, [`env_file`] tells other programs where it all is, and [`demo`] and
//! [`cloud_demo`] show a delivery.

mod arguments;
pub mod cloud_demo;
mod data_dir;
pub mod demo;
pub mod emulators;
mod endpoint;
pub mod env_file;
mod kept;
pub mod nats;
pub mod nats_server;
mod private_file;
pub mod screen;
mod services;
mod settings;
#[cfg(test)]
mod testing;
pub mod tls;
mod token;

pub use arguments::Arguments;
pub use data_dir::{DataDir, random_hex};
pub use endpoint::{Delivery, Endpoint};
pub use services::{Listeners, Services};
pub use settings::Settings;
pub use token::{TENANT, token};
