//! The tiers of selective replication.

use std::fmt;
use std::str::FromStr;

/// How a kernel replicates multicast to the hosts with receivers. Each host uses the best tier of
/// its own kernel, because the sender replicates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tier {
    /// To every host that has the network.
    Flood,
    /// By group MAC address, in the VXLAN device's FDB. 32 IPv4 groups share an address, and source
    /// filters do not apply. Groups that share a MAC address with link-local groups go to every
    /// host. A filter drops groups without receivers.
    MulticastFdb,
    /// By (S,G) and (\*,G), in the VXLAN device's MDB (Linux 6.4). Groups without receivers go only
    /// to hosts with multicast routers.
    VxlanMdb,
}

impl Tier {
    /// All tiers, from the least to the most selective.
    pub const ALL: [Self; 3] = [Self::Flood, Self::MulticastFdb, Self::VxlanMdb];

    /// Its name on a command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Flood => "flood",
            Self::MulticastFdb => "multicast-fdb",
            Self::VxlanMdb => "vxlan-mdb",
        }
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Flood => "flood",
            Self::MulticastFdb => "multicast FDB",
            Self::VxlanMdb => "VXLAN MDB",
        })
    }
}

/// The name of no tier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("give {}", Tier::ALL.map(Tier::name).join(", "))]
pub struct UnknownTier;

impl FromStr for Tier {
    type Err = UnknownTier;

    fn from_str(text: &str) -> Result<Self, UnknownTier> {
        Self::ALL.into_iter().find(|tier| tier.name() == text).ok_or(UnknownTier)
    }
}
