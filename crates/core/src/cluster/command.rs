//! What can be asked of the cluster.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{Authority, Description, Pass, ReportedSubnet, Settings, Token};
use crate::{ClusterId, Fingerprint, HostId, NetworkId, TokenHash};

/// A change to agreed state. Each may be proposed again after a time-out without doing harm: the
/// second time it finds what the first made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Found the cluster. The first command of every log.
    Found {
        /// The cluster's id.
        cluster: ClusterId,
    },
    /// Make known what certifies hosts; once.
    SetAuthority {
        /// The authority.
        authority: Authority,
    },
    /// Let hosts in that have this token.
    AddToken {
        /// The hash of its secret.
        hash: TokenHash,
        /// How long and how often it is good for.
        token: Token,
        /// The time since 1970.
        now: Duration,
    },
    /// Let nobody in by any token that was given out before.
    RevokeTokens,
    /// Let in the host with this key, without a token.
    Approve {
        /// The fingerprint of the host's public key.
        key: Fingerprint,
        /// Until when, as the time since 1970.
        until: Duration,
        /// The time since 1970.
        now: Duration,
    },
    /// Let a host in: the cluster is about to certify it.
    Enroll {
        /// The host.
        host: HostId,
        /// What lets it in.
        pass: Pass,
        /// The time since 1970.
        now: Duration,
    },
    /// Remove a host, with all its leases.
    RemoveHost {
        /// The host.
        host: HostId,
        /// The time since 1970.
        now: Duration,
    },
    /// Admit a host, or take note of its new name or address.
    AdmitHost {
        /// The host.
        host: HostId,
        /// Its host name.
        name: String,
        /// Where peers reach it.
        address: SocketAddr,
    },
    /// Replace what a host last reported of subnets in use.
    ReportSubnets {
        /// The host.
        host: HostId,
        /// All of them.
        subnets: Vec<ReportedSubnet>,
    },
    /// Make a network.
    CreateNetwork {
        /// Its id: what the origin's engine calls it.
        id: NetworkId,
        /// Where it was created.
        origin: HostId,
        /// What was asked for.
        settings: Settings,
    },
    /// Add what only Docker's API tells. From then on other hosts have mirrors.
    DescribeNetwork {
        /// The network.
        id: NetworkId,
        /// Its name and labels.
        description: Description,
    },
    /// A host has endpoints on a network.
    Attach {
        /// The network.
        network: NetworkId,
        /// The host.
        host: HostId,
    },
    /// A host has no endpoints on a network any more.
    Detach {
        /// The network.
        network: NetworkId,
        /// The host.
        host: HostId,
    },
    /// Remove a network that no host uses, once all have given its addresses back.
    RemoveNetwork {
        /// The network.
        id: NetworkId,
    },
    /// Lease addresses to a host.
    ClaimAddress {
        /// The network.
        network: NetworkId,
        /// Who wants it.
        host: HostId,
        /// Which ones.
        address: WantedAddress,
    },
    /// Leave an address to another host that asked for it. One that the host does not hold, or may
    /// have claimed anew since, is no error.
    YieldAddress {
        /// The network.
        network: NetworkId,
        /// The address.
        address: IpAddr,
        /// Who holds it.
        from: HostId,
        /// How often that host had claimed addresses of the network when it began to give this one
        /// up: see [`Network::claims`](super::Network::claims).
        claims: u64,
        /// Who asked for it.
        to: HostId,
    },
    /// Give leases back. Those that the host does not hold are passed over; if it has claimed
    /// addresses since, all are.
    ReleaseAddresses {
        /// The network.
        network: NetworkId,
        /// Who held them.
        host: HostId,
        /// How often that host had claimed addresses of the network when it began to give these
        /// back: see [`Network::claims`](super::Network::claims).
        claims: u64,
        /// Which ones.
        addresses: Vec<IpAddr>,
    },
}

/// Which address a host wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum WantedAddress {
    /// This one and no other.
    Exactly(IpAddr),
    /// The highest that are free in this subnet of the network.
    Highest {
        /// The subnet.
        subnet: IpNet,
        /// How many, at the most.
        count: u16,
    },
    /// The lowest that are free in this subnet of the network.
    Lowest {
        /// The subnet.
        subnet: IpNet,
        /// How many, at the most.
        count: u16,
    },
}

/// What came of a command that was carried out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// It is done.
    Done,
    /// The addresses that were leased, with the length of their subnet's prefix; at least one.
    Leased(Vec<IpNet>),
    /// The network goes when no host holds an address of it any more.
    Removing,
}
