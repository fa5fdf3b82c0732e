//! The ways to send multicast.

use std::fmt;
use std::str::FromStr;

/// How multicast is sent to the hosts that listen: the best that a kernel can do. Each host's tier
/// is its own affair, for replication is the sender's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tier {
    /// To every host that has the network.
    Flood,
    /// By the groups' MAC addresses in the VXLAN device's forwarding table, 32 IPv4 groups to an
    /// address, whatever the source; those that share an address with link-local ones that anybody
    /// may listen to go to every host. Groups that nobody listens to are kept back by a filter.
    MulticastFdb,
    /// By source and group in the VXLAN device's multicast database (kernel 6.4). Groups that
    /// nobody listens to go to no host but multicast routers.
    VxlanMdb,
}

impl Tier {
    /// All, from the least to the best.
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

/// A name that no tier has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("give {}", Tier::ALL.map(Tier::name).join(", "))]
pub struct UnknownTier;

impl FromStr for Tier {
    type Err = UnknownTier;

    fn from_str(text: &str) -> Result<Self, UnknownTier> {
        Self::ALL.into_iter().find(|tier| tier.name() == text).ok_or(UnknownTier)
    }
}
