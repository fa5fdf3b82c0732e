//! What hosts tell each other without agreement: which networks they have endpoints on, these
//! endpoints, and what they listen to.
//!
//! Each host is the only writer of its own announcements. They go to the hosts that share a
//! network, as a snapshot followed by deltas. A [`OutboundSession`] keeps what one peer has
//! acknowledged and says what to send it next; [`InboundSessions`] keep what the peers announced,
//! and know whether it can be relied upon. [`ClaimValidation`] hold it against what is agreed. None
//! of them does I/O or reads a clock: the daemon carries the messages.

mod audience;
mod content;
mod delta;
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
