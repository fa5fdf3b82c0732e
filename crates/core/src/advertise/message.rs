//! What goes from a speaker to a listener and back.

use serde::{Deserialize, Serialize};

use super::{Delta, ReportedRejection};

/// One row of messages to one peer, from a start of the daemon on: random. Two of them differ, and
/// that is all that can be said of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Incarnation(pub u64);

/// What a host has, or how it differs from what the peer acknowledged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Which row it belongs to.
    pub incarnation: Incarnation,
    /// Number of what the peer has when it has applied this. It grows with every change that is
    /// sent to anybody, and names this content to this peer alone.
    pub sequence: u64,
    /// What `delta` is a change to: to what had this number, or to nothing, which makes it a
    /// snapshot. Equal to `sequence` if nothing has changed: a beat.
    pub base: Option<u64>,
    /// The change.
    pub delta: Delta,
    /// Whether this is all that the host has now; if not, the rest follows.
    pub complete: bool,
}

/// What a listener answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// It has what has this number.
    Has {
        /// The number.
        sequence: u64,
        /// What of it is not believed. Earlier versions believe everything, and read over it.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        doubts: Vec<ReportedRejection>,
    },
    /// It does not have what the change is a change to.
    WantSnapshot,
    /// It has heard another incarnation since: a snapshot of a new one is wanted.
    Over,
    /// It takes no more announcements from this host just now.
    TooOften {
        /// When it does again, in milliseconds from now.
        wait: u32,
    },
}

impl Reply {
    /// It has what has this number, and believes all of it.
    pub fn has(sequence: u64) -> Self {
        Self::Has { sequence, doubts: Vec::new() }
    }
}

/// Why a listener does not take a message that no `shoutd` would send.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidAdvertisement {
    /// What it announces in all exceeds the limit.
    #[error("it announces {items} endpoints, groups, addresses and sources; {most} is the limit")]
    TooMuch {
        /// How much it is.
        items: usize,
        /// See [`crate::limits::ANNOUNCED_ITEMS_MAX`]; twice that while a change comes in parts.
        most: usize,
    },
    /// Something in it is not what it should be.
    #[error("it announces {what}, which cannot be")]
    Invalid {
        /// What.
        what: String,
    },
}
