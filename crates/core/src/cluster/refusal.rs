//! Why a command is refused, as text for users.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::{ClusterId, HostId, NetworkId};

/// Why a command changed nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// This host belongs to another cluster.
    #[error("this host belongs to cluster {has}, not to {wanted}")]
    OtherCluster {
        /// The cluster to which it belongs.
        has: ClusterId,
        /// The cluster that was to be founded.
        wanted: ClusterId,
    },
    /// The cluster has not been founded.
    #[error("this host belongs to no cluster yet")]
    NoCluster,
    /// The host was never admitted, or was removed.
    #[error("host {0} does not belong to the cluster")]
    UnknownHost(HostId),
    /// There is no such network.
    #[error("network {0} is not known to the cluster")]
    UnknownNetwork(NetworkId),
    /// The user asks for a plain network, and all new networks are encrypted.
    #[error(
        "all new networks of this cluster are encrypted, so option {0} cannot be false: leave it \
         out, or first type shoutdctl start --encrypt=on-request on any host"
    )]
    MustBeEncrypted(String),
    /// The cluster has another certificate authority.
    #[error("the cluster has another certificate authority")]
    OtherAuthority,
    /// The token does not exist, or was revoked.
    #[error(
        "the token is not known to the cluster: it was revoked, or is a token of another cluster; \
         get a new one with: shoutdctl token show"
    )]
    UnknownToken,
    /// The token has expired.
    #[error("the token has expired; get a new one with: shoutdctl token rotate")]
    TokenExpired,
    /// All uses of the token are used up.
    #[error(
        "the token has admitted as many hosts as it allows; get a new one with: shoutdctl token \
         rotate"
    )]
    TokenUsedUp,
    /// The host has no approval, or its approval has expired.
    #[error("the host is not approved")]
    NotApproved,
    /// The host was removed.
    #[error(
        "host {name} ({host}) was removed from the cluster; to let it join again, remove its data \
         directory first"
    )]
    HostRemoved {
        /// Its id.
        host: HostId,
        /// The name it had.
        name: String,
    },
    /// At least one host must keep the agreed state.
    #[error(
        "this is the only host of the cluster; to dissolve the cluster, stop shoutd and remove \
         its data directory"
    )]
    LastHost,
    /// Two hosts with one VTEP address would receive each other's packets.
    #[error("address {address} is already that of host {name}")]
    HostAddressTaken {
        /// The address.
        address: String,
        /// The host that has it.
        name: String,
    },
    /// Two hosts with one key would receive each other's packets.
    #[error(
        "the WireGuard key of this host is already that of host {name}: the data directory was \
         copied; remove identity/tunnel.key in it"
    )]
    TunnelKeyTaken {
        /// The host that has it.
        name: String,
    },
    /// There are no preshared keys.
    #[error(
        "no network of the cluster was ever encrypted, so there are no keys to replace; create \
         one with: docker network create --driver shoutd --opt encrypted <name>"
    )]
    NothingEncrypted,
    /// The proposer counts from another state.
    #[error("the keys are at rotation {rotation}, so the next one is not {to}; try again")]
    RotationAhead {
        /// The rotation that was asked for.
        to: u64,
        /// The cluster's.
        rotation: u64,
    },
    /// A VXLAN device sends from one address, and so only to hosts of the same address family.
    #[error(
        "the advertise address {address} and that of host {name}, {has}, have different address \
         families: all hosts of a cluster need IPv4 addresses, or all IPv6"
    )]
    OtherAddressFamily {
        /// The advertise address of the host that is refused.
        address: String,
        /// A host with the other address family.
        name: String,
        /// Its advertise address.
        has: String,
    },
    /// A limit is reached.
    #[error("the limit of {count} {what} is reached")]
    Full {
        /// Which items.
        what: String,
        /// The limit.
        count: usize,
    },
    /// The network has no IPv4 subnet.
    #[error("a shoutd network needs an IPv4 subnet")]
    NoSubnet,
    /// The subnet cannot be used.
    #[error("subnet {subnet} {why}")]
    UnfitSubnet {
        /// The subnet.
        subnet: IpNet,
        /// Why not.
        why: String,
    },
    /// The subnet overlaps one that is in use.
    #[error("subnet {subnet} overlaps {taken} of {user}{}", suggestion(.free))]
    Overlap {
        /// The subnet that was asked for.
        subnet: IpNet,
        /// The subnet that it overlaps.
        taken: IpNet,
        /// The user of that subnet.
        user: String,
        /// A subnet that is free on every host.
        free: Option<IpNet>,
    },
    /// A network with this id exists, with other settings.
    #[error("network {0} already exists with other settings")]
    NetworkExists(NetworkId),
    /// Another network has this name.
    #[error("the name {name} is taken by another network of the cluster, created on host {origin}")]
    NameTaken {
        /// The name.
        name: String,
        /// The host on which the other network was created.
        origin: String,
    },
    /// A text or list of the user's is too long.
    #[error("{0}")]
    TooLarge(String),
    /// The MTU is not a number, or too small for IPv6.
    #[error("option com.docker.network.driver.mtu is {0:?}; give a number from 1280 to 65535")]
    UnfitMtu(String),
    /// The network is in use.
    #[error("network {network} is in use on {hosts}")]
    InUse {
        /// Its name.
        network: String,
        /// The hosts that use it.
        hosts: String,
    },
    /// A user removed the network.
    #[error("network {0} is being removed")]
    BeingRemoved(String),
    /// The Swarm manages the addresses of its networks.
    #[error("network {0} is a Swarm network: the Swarm manages its addresses")]
    SwarmsAddresses(String),
    /// The address is held by another host.
    #[error(
        "address {address} of network {network} is in use on host {host}; choose another one with \
         --ip"
    )]
    AddressTaken {
        /// The address.
        address: IpAddr,
        /// The network's name.
        network: String,
        /// The host that holds it.
        host: String,
    },
    /// No endpoint may have the address.
    #[error(
        "address {address} of network {network} is reserved (gateway, auxiliary, network or \
         broadcast address)"
    )]
    AddressReserved {
        /// The address.
        address: IpAddr,
        /// The network's name.
        network: String,
    },
    /// The address is not in a subnet of the network.
    #[error("address {address} is not in a subnet of network {network}")]
    AddressOutside {
        /// The address.
        address: IpAddr,
        /// The network's name.
        network: String,
    },
    /// All addresses are leased.
    #[error("subnet {subnet} of network {network} has no free address left")]
    Exhausted {
        /// The subnet.
        subnet: IpNet,
        /// The network's name.
        network: String,
    },
}

fn suggestion(free: &Option<IpNet>) -> String {
    free.map_or_else(String::new, |free| {
        format!(
            "; this one is free on every host: docker network create --driver shoutd --subnet \
             {free} <name>"
        )
    })
}
