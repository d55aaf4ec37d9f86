//! The harness of the end-to-end suite: everything a test needs to run the real thing and to be its publisher, its
//! merchant and its operator.
//!
//! The cast: a [`Stack`] is one installation of its own (NATS, a database, the services as real processes); a
//! [`Client`] and a [`Publisher`] are the tenant's and the platform's sides of it; a [`Merchant`] receives over HTTPS, a [`Cloud`]
//! on a bus or a topic, and a [`Side`] is whichever of these a test is run with.
//! Nothing is mocked, and nothing outlives the test that started it.
//!
//! What correctness rests on: a test waits for a condition ([`wait`]), never for a time to pass; every [`Stack`] has
//! its own directory, ports and servers, so tests run side by side; a part that is missing fails the test loudly.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::missing_panics_doc,
    reason = "a harness that cannot go on fails its test"
)]

pub mod browser;
pub mod burst;
pub mod certificates;
pub mod client;
pub mod cloud;
pub mod collector;
pub mod distance;
pub mod dns;
pub mod documents;
pub mod event;
pub mod fault_proxy;
mod folder;
pub mod leaks;
pub mod lighthouse;
pub mod merchant;
pub mod metrics;
pub mod nats_cluster;
pub mod nginx;
pub mod openid;
pub mod parts;
pub mod past;
pub mod person;
pub mod ports;
pub mod postgres;
pub mod process;
pub mod provider;
pub mod publisher;
pub mod received;
pub mod reference;
pub mod side;
pub mod silent;
pub mod small_disk;
pub mod stack;
pub mod stored;
pub mod token;
pub mod verify;
pub mod wait;

pub use browser::{Browser, Theme};
pub use burst::Burst;
pub use client::{Client, Reply};
pub use cloud::Cloud;
pub use distance::Distance;
pub use dns::NameServer;
pub use event::Event;
pub use fault_proxy::{Fault, FaultProxy};
pub use folder::Folder;
pub use merchant::{Arrival, Behaviour, Merchant};
pub use metrics::Metrics;
pub use nginx::Nginx;
pub use openid::OpenId;
pub use person::Person;
pub use process::{Process, Signal};
pub use provider::{Provider, SigningKey};
pub use publisher::Publisher;
pub use received::Received;
pub use side::Side;
pub use silent::Silent;
pub use small_disk::SmallDisk;
pub use stack::{Apart, DatabaseKind, Service, Stack};
