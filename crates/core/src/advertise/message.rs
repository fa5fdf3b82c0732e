//! The messages of advertisement sessions.

use serde::{Deserialize, Serialize};

use super::{Delta, ReportedRejection};

/// One run of a daemon, as seen by one peer: a random number. Incarnations can be compared for
/// equality only, they have no order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Incarnation(pub u64);

/// The sender's advertisement, or its difference from what the peer acknowledged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// The incarnation of the sender.
    pub incarnation: Incarnation,
    /// The number of the content that the peer has once it has applied this message. The sender
    /// counts over all its peers, so the number identifies this content for this peer only.
    pub sequence: u64,
    /// The number of the content to which `delta` applies. `None` makes the message a snapshot. If
    /// it equals `sequence`, nothing has changed and the message is a keepalive.
    pub base: Option<u64>,
    /// The change.
    pub delta: Delta,
    /// Whether this completes the content. If not, the rest follows.
    pub complete: bool,
}

/// A peer's answer to a message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// The peer has the content with this number.
    Has {
        /// The number.
        sequence: u64,
        /// What the peer does not accept of it. Earlier versions accept everything and ignore this
        /// field.
        #[serde(rename = "doubts", default, skip_serializing_if = "Vec::is_empty")]
        rejections: Vec<ReportedRejection>,
    },
    /// The peer does not have the content to which the delta applies.
    WantSnapshot,
    /// The peer has received another incarnation since. A snapshot of a new incarnation is needed.
    Over,
    /// The sender exceeds its rate limit.
    TooOften {
        /// For how long the peer takes no more messages, in milliseconds.
        wait: u32,
    },
}

impl Reply {
    /// The peer has the content with this number, and accepts all of it.
    pub fn has(sequence: u64) -> Self {
        Self::Has { sequence, rejections: Vec::new() }
    }
}

/// Why a peer refuses a message that no `shoutd` would send.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidAdvertisement {
    /// The content exceeds the limit.
    #[error("it advertises {items} endpoints, addresses, groups and sources; the limit is {most}")]
    TooMuch {
        /// The number of items.
        items: usize,
        /// [`crate::limits::ADVERTISED_ITEMS_MAX`], or twice that while a change comes in parts.
        most: usize,
    },
    /// An item is not valid.
    #[error("it advertises {what}, which is not valid")]
    Invalid {
        /// The item.
        what: String,
    },
}
