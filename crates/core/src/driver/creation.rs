//! `CreateNetwork`: whether a Docker network may be a mirror, and whether it becomes a copy of its
//! network.

use ipnet::IpNet;

use crate::cluster::Cluster;
use crate::in_flight::Operations;
use crate::local::Local;
use crate::mirror::NETWORK_OPTION;
use crate::{DockerNetworkId, NetworkId};

/// Why a Docker network with the option [`NETWORK_OPTION`] is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MirrorRefusal {
    /// The option does not name a network of the cluster.
    #[error(
        "option {NETWORK_OPTION} is reserved for shoutd, and the cluster has no network {0}; \
         leave it out"
    )]
    Unknown(String),
    /// shoutd is not creating a mirror of the network.
    #[error(
        "option {NETWORK_OPTION} is reserved for shoutd, which creates the copies of a network on \
         each host; leave it out"
    )]
    Reserved,
    /// The subnets are not those of the network.
    #[error("in the cluster, network {title} has the subnets {agreed:?}, not {given:?}")]
    OtherSubnets {
        /// The network's title.
        title: String,
        /// Its subnets.
        agreed: Vec<IpNet>,
        /// The subnets in the call.
        given: Vec<IpNet>,
    },
}

/// The network that a Docker network with this value of the option [`NETWORK_OPTION`] and these
/// subnets mirrors.
///
/// # Errors
/// It cannot be a mirror that shoutd is creating.
pub fn check_mirror(
    cluster: &Cluster,
    operations: &Operations,
    option: &str,
    given: Vec<IpNet>,
) -> Result<NetworkId, MirrorRefusal> {
    let id: Option<NetworkId> = option.parse().ok();
    let Some((network, known)) = id.and_then(|id| cluster.networks.get_key_value(&id)) else {
        return Err(MirrorRefusal::Unknown(option.to_owned()));
    };
    if !operations.is_mirroring(network) {
        return Err(MirrorRefusal::Reserved);
    }
    let agreed: Vec<_> = known.settings.pools.iter().map(|pool| pool.subnet).collect();
    if given != agreed {
        let title = known.title(network).to_owned();
        return Err(MirrorRefusal::OtherSubnets { title, agreed, given });
    }
    Ok(network.clone())
}

/// Records that a Docker network is a copy of a network. Returns whether it is: a mirror is not if
/// this host has another copy.
///
/// shoutd forgets all copies before it creates one. But an earlier daemon, which was killed, may
/// have sent a create: the engine continues with it and calls this daemon.
pub fn bind(local: &mut Local, docker: DockerNetworkId, network: NetworkId) -> bool {
    let is_mirror = network != NetworkId::from(&docker);
    let is_second = local.bindings.iter().any(|(copy, other)| *other == network && *copy != docker);
    if is_mirror && is_second {
        return false;
    }
    local.removals.remove(&network);
    local.bindings.insert(docker, network);
    true
}
