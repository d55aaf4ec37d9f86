//! What the HTTP faces of the services share: errors as problem+json, access by token and tenant, limits,
//! a description of itself, and a server that outsiders may connect to.

mod access;
mod body;
mod connection;
pub mod document;
pub mod fair;
mod guard;
mod jwks;
mod keys;
mod limits;
mod peer;
mod problem;
mod serve;

pub use access::{Access, AccessConfig, Caller, Permission};
pub use body::read_body;
pub use guard::{LimitsConfig, Usual, guarded};
pub use peer::Proxies;
pub use problem::Problem;
pub use serve::{Connections, bind, operations, serve, with_limits};
