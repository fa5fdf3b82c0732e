//! What hosts tell each other without agreement: which networks they have endpoints on, these endpoints, and what they listen to.
//!
//! Each host is the only writer of its own announcements. They go to the hosts that share a network, as a snapshot followed by deltas. A
//! [`Speaker`] keeps what one peer has acknowledged and says what to send it next; [`Listeners`] keep what the peers announced, and know whether it
//! can be relied upon. [`Beliefs`] hold it against what is agreed. None of them does I/O or reads a clock: the daemon carries the messages.

mod audience;
mod belief;
mod content;
mod delta;
mod doubt;
mod listener;
mod listeners;
mod message;
mod own;
mod speaker;
mod speakers;

pub use audience::{audience, expectations};
pub use belief::{Beliefs, Known};
pub use content::{AnnouncedEndpoint, AnnouncedNetwork, Content, Heard, HeardHost};
pub use delta::Delta;
pub use doubt::{AddressDoubt, Doubt, ToldDoubt};
pub use listener::Listener;
pub use listeners::Listeners;
pub use message::{Incarnation, Message, Reply, Unsound};
pub use own::{Excess, own_content};
pub use speaker::Speaker;
pub use speakers::Speakers;
