//! The commands that change agreed state.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{Authority, Description, Pass, ReportedSubnet, Settings, Token, TunnelEnd};
use crate::{ClusterId, Fingerprint, HostId, NetworkId, TokenHash};

/// A change to agreed state. Commands are idempotent: after a timeout, a command can be proposed
/// again, and finds what the first one did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Found the cluster. It is the first command of every log.
    Found {
        /// The cluster's id.
        cluster: ClusterId,
    },
    /// Publish the certificate authority. Only the first one counts.
    SetAuthority {
        /// The authority.
        authority: Authority,
    },
    /// Replace the certificate authority. All tokens are revoked: they name the former one.
    ReplaceAuthority {
        /// The certificate of the authority to replace. If it is not the current one, another
        /// command was first.
        former: String,
        /// The new authority.
        authority: Authority,
    },
    /// Let hosts enroll with this token.
    AddToken {
        /// The hash of the token's secret.
        hash: TokenHash,
        /// Expiry and number of uses.
        token: Token,
        /// The time since 1970.
        now: Duration,
    },
    /// Revoke all tokens.
    RevokeTokens,
    /// Let the host with this key enroll without a token.
    Approve {
        /// The fingerprint of the host's public key.
        key: Fingerprint,
        /// Expiry of the approval, as the time since 1970.
        until: Duration,
        /// The time since 1970.
        now: Duration,
    },
    /// Enroll a host. The cluster issues its certificate after this.
    Enroll {
        /// The host.
        host: HostId,
        /// By what right it is enrolled.
        pass: Pass,
        /// The time since 1970.
        now: Duration,
    },
    /// Remove a host and all its leases.
    RemoveHost {
        /// The host.
        host: HostId,
        /// The time since 1970.
        now: Duration,
    },
    /// Admit a host, or update its name and address.
    AdmitHost {
        /// The host.
        host: HostId,
        /// Its host name.
        name: String,
        /// The address at which peers reach it.
        address: SocketAddr,
    },
    /// Record the new addresses of hosts that have taken each other's: none of them alone could
    /// take an address that another host still has.
    MoveHosts {
        /// Their new addresses.
        hosts: BTreeMap<HostId, SocketAddr>,
    },
    /// Replace the subnets that a host reports to be in use.
    ReportSubnets {
        /// The host.
        host: HostId,
        /// All subnets in use on the host.
        subnets: Vec<ReportedSubnet>,
    },
    /// Set whether new networks are encrypted even if their creator does not ask for it.
    SetEncryption {
        /// Whether they are.
        always: bool,
    },
    /// Record a host's end of the encrypted underlay.
    PublishTunnelEnd {
        /// The host.
        host: HostId,
        /// Its end.
        end: TunnelEnd,
    },
    /// Let each pair of hosts replace its preshared key. After a timeout it can be proposed again:
    /// it changes nothing if the cluster is already there.
    RotateTunnelKeys {
        /// The rotation to reach: one more than [`Encryption::rotation`](super::Encryption).
        to: u64,
    },
    /// Create a network.
    CreateNetwork {
        /// Its id, as given by the engine of the origin.
        id: NetworkId,
        /// The host on which it was created.
        origin: HostId,
        /// The settings with which it was created.
        settings: Settings,
    },
    /// Add what only Docker's API tells about a network. After that, other hosts make mirrors.
    DescribeNetwork {
        /// The network.
        id: NetworkId,
        /// Its name and labels.
        description: Description,
    },
    /// Note that a host has endpoints on a network.
    Attach {
        /// The network.
        network: NetworkId,
        /// The host.
        host: HostId,
    },
    /// Note that a host no longer has endpoints on a network.
    Detach {
        /// The network.
        network: NetworkId,
        /// The host.
        host: HostId,
    },
    /// Remove a network that no host uses. It is deleted once all hosts have released its
    /// addresses.
    RemoveNetwork {
        /// The network.
        id: NetworkId,
    },
    /// Lease addresses to a host.
    ClaimAddress {
        /// The network.
        network: NetworkId,
        /// The host that wants the lease.
        host: HostId,
        /// The addresses.
        address: WantedAddress,
    },
    /// Yield an address to another host that asked for it. This changes nothing if `from` does not
    /// hold the address, or may have claimed it again since.
    YieldAddress {
        /// The network.
        network: NetworkId,
        /// The address.
        address: IpAddr,
        /// The host that holds it.
        from: HostId,
        /// The claim count of `from` when it decided to yield the address; see
        /// [`Network::claims`](super::Network::claims).
        claims: u64,
        /// The host that asked for it.
        to: HostId,
    },
    /// Release leases. Leases that the host does not hold are skipped. If the host has claimed
    /// addresses since, nothing is released.
    ReleaseAddresses {
        /// The network.
        network: NetworkId,
        /// The host that held them.
        host: HostId,
        /// The claim count of the host when it decided to release them; see
        /// [`Network::claims`](super::Network::claims).
        claims: u64,
        /// The addresses.
        addresses: Vec<IpAddr>,
    },
}

/// Which address a host wants to lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum WantedAddress {
    /// This address only.
    Exactly(IpAddr),
    /// The highest free addresses of this subnet of the network.
    Highest {
        /// The subnet.
        subnet: IpNet,
        /// The maximum number of addresses.
        count: u16,
    },
    /// The lowest free addresses of this subnet of the network.
    Lowest {
        /// The subnet.
        subnet: IpNet,
        /// The maximum number of addresses.
        count: u16,
    },
}

/// The result of a command that was applied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// The command is done.
    Done,
    /// The leased addresses, with the prefix length of their subnet; at least one.
    Leased(Vec<IpNet>),
    /// The network is deleted once no host holds an address of it.
    Removing,
}
