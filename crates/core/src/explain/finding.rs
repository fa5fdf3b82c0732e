//! Findings about the way of a group's packets.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What is known about one station.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Packets pass.
    Good,
    /// Packets do not pass, or not all.
    Broken,
    /// It cannot be told.
    Unknown,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Good => "good",
            Self::Broken => "BROKEN",
            Self::Unknown => "unknown",
        })
    }
}

/// The stations of a packet's way, in its order.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum Station {
    /// The container that sends.
    Sender,
    /// The host of the sender: its bridge and its VXLAN device.
    SenderHost,
    /// The tunnel between the two hosts.
    Tunnel,
    /// The host of a receiver: its VXLAN device and its bridge.
    ReceiverHost,
    /// The container that receives.
    Receiver,
}

impl fmt::Display for Station {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sender => "sender",
            Self::SenderHost => "sender's host",
            Self::Tunnel => "tunnel",
            Self::ReceiverHost => "receiver's host",
            Self::Receiver => "receiver",
        })
    }
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Finding {
    /// Where.
    pub station: Station,
    /// The host's name.
    pub host: String,
    /// The container's name, if the finding is about one.
    pub container: Option<String>,
    /// Whether packets pass.
    pub verdict: Verdict,
    /// What was found, in one sentence.
    pub text: String,
    /// What to do, if it is broken.
    pub remedy: Option<String>,
}

/// All findings about a group on a network, in the order of a packet's way.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Explanation {
    /// The findings.
    pub findings: Vec<Finding>,
}

impl Explanation {
    /// Without what is broken here and was not broken `before`, at the same place: while members
    /// come and go, hosts tell of different moments.
    pub fn lasting(mut self, before: &Self) -> Self {
        self.findings.retain(|now| {
            now.verdict != Verdict::Broken
                || before.findings.iter().any(|then| {
                    then.verdict == Verdict::Broken
                        && (then.station, &then.host, &then.container)
                            == (now.station, &now.host, &now.container)
                })
        });
        self
    }

    /// The first broken station.
    pub fn cause(&self) -> Option<&Finding> {
        self.findings.iter().find(|finding| finding.verdict == Verdict::Broken)
    }
}
