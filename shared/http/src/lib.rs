//! What the HTTP faces of the services share: errors as problem+json, access by token and tenant, and a server that
//! outsiders may connect to.

mod access;
mod problem;
mod serve;

pub use access::{Access, Permission};
pub use problem::Problem;
pub use serve::{bind, operations, read_body, serve, with_limits};
