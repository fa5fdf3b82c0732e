//! Why a command was not carried out, in words for whoever typed it.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::{ClusterId, HostId, NetworkId};

/// The reason a command changed nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// Another cluster was founded here.
    #[error("this host belongs to cluster {has}, not to {wanted}")]
    OtherCluster {
        /// The cluster that is there.
        has: ClusterId,
        /// The one that was to be founded.
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
    /// The cluster has another authority already.
    #[error("the cluster has an authority already, and this is another")]
    OtherAuthority,
    /// No such token was given out, or all were revoked since.
    #[error(
        "the token is not known to the cluster: it was revoked, or belongs to another; get a new \
         one with: shoutdctl token show"
    )]
    UnknownToken,
    /// The token was good for a time that is over.
    #[error("the token has expired; get a new one with: shoutdctl token rotate")]
    TokenExpired,
    /// The token was good for so many hosts.
    #[error(
        "the token has let in as many hosts as it was made for; get a new one with: shoutdctl \
         token rotate"
    )]
    TokenUsedUp,
    /// Nobody has approved of the host, or too long ago.
    #[error("the host is not approved")]
    NotApproved,
    /// The host was sent away.
    #[error(
        "host {name} ({host}) was removed from the cluster; to let it join anew, remove its data \
         directory first"
    )]
    HostRemoved {
        /// Its id.
        host: HostId,
        /// The name it had.
        name: String,
    },
    /// Somebody must keep what the cluster knows.
    #[error(
        "this is the only host of the cluster; to end the cluster, stop shoutd and remove its \
         data directory"
    )]
    LastHost,
    /// Two hosts at one address would steal each other's packets.
    #[error("address {address} is already that of host {name}")]
    HostAddressTaken {
        /// The address.
        address: String,
        /// Who has it.
        name: String,
    },
    /// A VXLAN device sends from one address, and so to hosts of its family only.
    #[error(
        "the advertise address {address} is not of the address family of host {name}, which has \
         {has}: give all hosts of a cluster IPv4 addresses, or all IPv6"
    )]
    OtherAddressFamily {
        /// The address of the host that is refused.
        address: String,
        /// A host of the other family.
        name: String,
        /// Its address.
        has: String,
    },
    /// A table is full.
    #[error("the cluster has {count} {what} already, which is the limit")]
    Full {
        /// What there are too many of.
        what: String,
        /// How many there may be.
        count: usize,
    },
    /// A network without addresses.
    #[error("a shoutd network needs an IPv4 subnet")]
    NoSubnet,
    /// A subnet that cannot be used.
    #[error("subnet {subnet} {why}")]
    UnfitSubnet {
        /// The subnet.
        subnet: IpNet,
        /// What is wrong with it.
        why: String,
    },
    /// A subnet that something else uses.
    #[error("subnet {subnet} overlaps {taken} of {user}{}", suggestion(.free))]
    Overlap {
        /// What was asked for.
        subnet: IpNet,
        /// What it overlaps.
        taken: IpNet,
        /// Who uses that.
        user: String,
        /// One that is free on every host.
        free: Option<IpNet>,
    },
    /// A network of this id is there already and is not the same.
    #[error("network {0} exists already with other settings")]
    NetworkExists(NetworkId),
    /// Another network has the name.
    #[error("the name {name} is taken by another network of the cluster, created on host {origin}")]
    NameTaken {
        /// The name.
        name: String,
        /// Where the other network was created.
        origin: String,
    },
    /// Something the user wrote is too long, or there is too much of it.
    #[error("{0}")]
    TooLarge(String),
    /// An MTU that is none, or too small for IPv6.
    #[error("option com.docker.network.driver.mtu is {0:?}; give a number from 1280 to 65535")]
    UnfitMtu(String),
    /// The network is in use.
    #[error("network {network} is in use on {hosts}")]
    InUse {
        /// Its name.
        network: String,
        /// By whom.
        hosts: String,
    },
    /// A user removed the network.
    #[error("network {0} is being removed")]
    BeingRemoved(String),
    /// The addresses of a Swarm's network are given out by the Swarm.
    #[error("network {0} is a Swarm's, which gives out its addresses itself")]
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
        /// Who holds it.
        host: String,
    },
    /// The address cannot be an endpoint's.
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
    /// The address is none of the network's.
    #[error("address {address} lies in no subnet of network {network}")]
    AddressOutside {
        /// The address.
        address: IpAddr,
        /// The network's name.
        network: String,
    },
    /// No address is left.
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
