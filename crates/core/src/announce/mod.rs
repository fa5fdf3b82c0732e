//! What hosts tell each other without agreement: which networks they have endpoints on, these endpoints, and what they listen to.
//!
//! Each host is the only writer of its own announcements. They go to the hosts that share a network, as a snapshot followed by deltas.

mod content;

pub use content::{AnnouncedEndpoint, AnnouncedNetwork, Heard, HeardHost};
