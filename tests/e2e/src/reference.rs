//! What services/guarantees.md promises, written down a second time and as simply as possible: a reference to hold the
//! real thing against. Nothing here knows how the services work, and nothing here does I/O.
//!
//! The cast: a [`Scenario`] follows from a seed and says what one tenant does; [`Seen`] is what came of it, as the
//! history, the list of events and the endpoints have it; [`check`] finds where that breaks a promise. Invariant: every
//! check looks at what was *seen*; none foretells which of several legal courses the services take.

mod carriers;
mod checks;
mod order;
mod rules;
mod scenario;
mod seen;

pub use checks::check;
pub use order::{State, States};
pub use rules::Rules;
pub use scenario::{Change, Clock, Planned, Resource, Scenario, Step};
pub use seen::{Arrival, Patched, Row, Seen, Webhook};
