//! What hosts tell each other without agreement: the networks on which they have endpoints, these
//! endpoints, and their memberships.
//!
//! Each host is the only writer of its own advertisement. It goes to the hosts that share a
//! network, as a snapshot followed by deltas. An [`OutboundSession`] keeps what one peer has
//! acknowledged and decides what to send it next. [`InboundSessions`] keep what the peers
//! advertise, and know whether it is in sync. [`ClaimValidation`] checks it against agreed state.
//! All of these are pure: they do no I/O and read no clock, and the daemon carries the messages.

mod audience;
mod content;
mod delta;
#[cfg(test)]
mod fuzz;
mod inbound_session;
mod inbound_sessions;
mod message;
mod outbound_session;
mod outbound_sessions;
mod own_content;
mod rejection;
mod validation;

pub use audience::{audience, expectations};
pub use content::{AdvertisedEndpoint, AdvertisedNetwork, Content, PeerState, PeerStates};
pub use delta::Delta;
pub use inbound_session::InboundSession;
pub use inbound_sessions::InboundSessions;
pub use message::{Incarnation, InvalidAdvertisement, Message, Reply};
pub use outbound_session::OutboundSession;
pub use outbound_sessions::OutboundSessions;
pub use own_content::{OverLimit, own_content};
pub use rejection::{AddressRejection, Rejection, ReportedRejection};
pub use validation::{ClaimValidation, Known};
