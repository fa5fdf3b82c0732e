//! What `shoutdctl` shows: the answers of the control socket, as JSON.
//!
//! These are for people and their scripts. Fields are added, never renamed.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::events::Event;
use crate::multicast::SourceFilter;
use crate::{ClusterId, EndpointId, Fingerprint, HostId, MacAddress, NetworkId, Vni};

/// How far the daemon has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "state", content = "detail")]
pub enum Membership {
    /// It belongs to no cluster yet; why not.
    Joining(String),
    /// It has no token; an administrator has to approve of it.
    AwaitingApproval {
        /// The fingerprint of its key.
        host: Fingerprint,
        /// The fingerprint of the cluster that is to let it in.
        cluster: Fingerprint,
    },
    /// It belongs to a cluster.
    Member,
}

/// A host that waits for approval.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applicant {
    /// The fingerprint of its key.
    pub fingerprint: Fingerprint,
    /// The name that it gives itself.
    pub name: String,
    /// Where it asks from.
    pub address: IpAddr,
}

/// `shoutdctl token show` and `rotate`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenView {
    /// The token, if this host has it: only the host that made it does.
    pub token: Option<String>,
    /// Seconds that it still lets hosts in; `None` is for ever.
    pub expires_in: Option<u64>,
    /// How many hosts it still lets in; `None` is any number.
    pub uses: Option<u32>,
    /// Where peers reach this host.
    pub peer_address: SocketAddr,
    /// The fingerprint of the cluster, which a host that waits for approval shows too.
    pub cluster: Option<Fingerprint>,
}

/// What `shoutdctl token rotate` asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RotateToken {
    /// Seconds that the new token lets hosts in; `None` is for ever.
    pub lifetime: Option<u64>,
    /// How many hosts it lets in; `None` is any number.
    pub uses: Option<u32>,
}

/// What `shoutdctl approve` asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Approve {
    /// The fingerprint of the host's key.
    pub fingerprint: Fingerprint,
}

/// What `shoutdctl remove` asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoveHost {
    /// A host's name or id.
    pub host: String,
    /// Whether to do it though the host runs and has containers, or is the one that is asked.
    #[serde(default)]
    pub force: bool,
}

/// What `shoutdctl start` asks of a daemon that belongs to a cluster: who is at these addresses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckPeers {
    /// The addresses that were named as peers'.
    pub addresses: Vec<SocketAddr>,
}

/// What `shoutdctl start` tells a daemon that waits to be let in.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OfferToken {
    /// The token.
    pub token: String,
}

impl fmt::Debug for OfferToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OfferToken")
    }
}

/// What was done, for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// One line.
    pub message: String,
}

/// `shoutdctl status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Version of the daemon.
    pub version: String,
    /// Its process id.
    pub pid: u32,
    /// This host.
    pub host: HostId,
    /// This host's name.
    pub name: String,
    /// Where peers reach it.
    pub address: SocketAddr,
    /// MTU of the interface that has this address, in octets.
    pub underlay_mtu: u16,
    /// How old its view of what is agreed can be: milliseconds since it last heard from the leader
    /// or, where it leads, from a majority; `None` if it never did.
    pub agreed_ago: Option<u64>,
    /// How it sends multicast to the hosts that listen: `vxlan-mdb`, `multicast-fdb` or `flood`.
    pub replication: String,
    /// Whether it belongs to a cluster.
    pub membership: Membership,
    /// Which cluster.
    pub cluster: Option<ClusterId>,
    /// `leader`, `follower`, `candidate`, `learner` or `stopped`; `no-quorum` of one that led, and
    /// that no majority answers any more.
    pub role: String,
    /// The leader, if one is known.
    pub leader: Option<HostId>,
    /// The leader's name, if one is known.
    #[serde(default)]
    pub leader_name: Option<String>,
    /// Hosts of the cluster.
    pub hosts: usize,
    /// Networks of the cluster.
    pub networks: usize,
    /// Endpoints of this host.
    pub endpoints: usize,
    /// The Docker engine, or why there is none.
    pub docker: Engine,
    /// Where its API is looked for.
    #[serde(default)]
    pub docker_socket: PathBuf,
    /// Where it keeps what must outlive it.
    #[serde(default)]
    pub data_directory: PathBuf,
    /// Where Docker finds the plugin.
    #[serde(default)]
    pub plugin_socket: PathBuf,
    /// The peers that it was started with, now or before.
    #[serde(default)]
    pub peer_addresses: Vec<SocketAddr>,
    /// What is wrong just now, one line each.
    pub problems: Vec<String>,
    /// The last decisions on a user's behalf, the newest first.
    #[serde(default)]
    pub events: Vec<Event>,
}

/// What is known of the host's Docker engine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "state", content = "detail")]
pub enum Engine {
    /// It answers; its version.
    Serving(String),
    /// It does not; why.
    Absent(String),
}

/// One line of `shoutdctl hosts`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostRow {
    /// Its id.
    pub id: HostId,
    /// Its name.
    pub name: String,
    /// Where peers reach it.
    pub address: SocketAddr,
    /// `leader`, `voter` or `learner`.
    pub role: String,
    /// Whether the daemon that was asked can reach it now.
    pub reachable: bool,
    /// Whether it is the host that was asked.
    pub this_host: bool,
    /// Whether the host that was asked knows all that this one announces; `None` if they share no
    /// network. If not, it is sent all multicast.
    #[serde(default)]
    pub in_sync: Option<bool>,
    /// Milliseconds since its last announcement; `None` if there was none.
    #[serde(default)]
    pub heard_ago: Option<u64>,
}

/// One line of `shoutdctl groups`: who listens to a group with this filter, on the networks that
/// the host which was asked has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupRow {
    /// Name of the network.
    pub network: String,
    /// The group; `None` is every group, which multicast routers get.
    pub group: Option<IpAddr>,
    /// From which sources.
    pub sources: SourceFilter,
    /// The hosts that listen.
    pub hosts: Vec<ListeningHost>,
}

/// A host that listens to a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListeningHost {
    /// Its name.
    pub name: String,
    /// Whether that is known for certain; if not, it is sent every group.
    pub in_sync: bool,
    /// Its containers that listen, by their names or the ids of their endpoints, if it tells.
    #[serde(default)]
    pub containers: Vec<String>,
}

/// One line of `shoutdctl networks`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkRow {
    /// Its id.
    pub id: NetworkId,
    /// Its name; `None` while its creation is not finished.
    pub name: Option<String>,
    /// Its VXLAN network identifier.
    pub vni: Vni,
    /// Its subnets.
    pub subnets: Vec<IpNet>,
    /// Its options.
    pub options: BTreeMap<String, String>,
    /// Whether it is `--internal`.
    pub internal: bool,
    /// Whether it is a Docker Swarm's.
    #[serde(default)]
    pub swarm: bool,
    /// Name of the host it was created on.
    pub origin: String,
    /// Names of the hosts that have containers on it.
    pub hosts: Vec<String>,
    /// How many addresses hosts hold: their containers', and their stock.
    pub addresses: usize,
    /// Names of the hosts that a removal waits for; `None` if it is not being removed.
    pub removal_waits_for: Option<Vec<String>>,
}

impl NetworkRow {
    /// Whether this is its name, its id, or the beginning of its id as far as tables show it.
    pub fn is_called(&self, wanted: &str) -> bool {
        self.name.as_deref() == Some(wanted)
            || self.id.as_str() == wanted
            || (wanted.len() >= self.id.short().len() && self.id.as_str().starts_with(wanted))
    }
}

/// Why `shoutdctl groups` has nothing to show on the host `me`, in one line; of one network or
/// host, if one was asked for.
pub fn why_no_groups(
    me: &str,
    networks: &[NetworkRow],
    network: Option<&str>,
    host: Option<&str>,
) -> String {
    let is_wanted =
        |row: &&NetworkRow| network.is_none_or(|wanted| row.name.as_deref() == Some(wanted));
    let wanted: Vec<_> = networks.iter().filter(is_wanted).collect();
    let has = |row: &&&NetworkRow| row.hosts.iter().any(|host| host == me);
    let subject =
        network.map_or_else(|| "any network".to_owned(), |network| format!("network {network}"));
    if wanted.iter().any(|row| has(&row)) {
        let who = host.map_or_else(
            || "no container".to_owned(),
            |host| format!("no container of host {host}"),
        );
        let place = network.map_or_else(
            || "the networks of this host".to_owned(),
            |network| format!("network {network}"),
        );
        return format!("{who} listens to a group on {place}");
    }
    let mut elsewhere: Vec<_> =
        wanted.iter().flat_map(|row| row.hosts.iter().map(String::as_str)).collect();
    elsewhere.sort_unstable();
    elsewhere.dedup();
    if elsewhere.is_empty() {
        return format!("no host has a container on {subject}");
    }
    let elsewhere = elsewhere.join(", ");
    format!(
        "this host has no container on {subject}, and knows groups only of networks that it has: \
         ask on {elsewhere}"
    )
}

/// What a host tells of one of its containers that listens to a group.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ListenerRow {
    /// The network.
    pub network: NetworkId,
    /// The group; `None` for a multicast router, which gets all.
    pub group: Option<IpAddr>,
    /// The container's name, or the beginning of the id of its endpoint.
    pub container: String,
}

/// One line of `shoutdctl endpoints`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointRow {
    /// Name of the network.
    pub network: String,
    /// Name of the host.
    pub host: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Its id.
    pub id: EndpointId,
    /// Its MAC address.
    pub mac: MacAddress,
    /// Name of its container, if its engine tells.
    pub container: Option<String>,
}

/// `shoutdctl endpoints`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoints {
    /// Those of the hosts that answered.
    pub endpoints: Vec<EndpointRow>,
    /// Names of the hosts that did not answer, whose endpoints are missing.
    pub unanswered: Vec<String>,
}

/// What `shoutdctl network wait` asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AwaitNetwork {
    /// The network's name or id.
    pub network: String,
    /// Whether it should be gone from all hosts, rather than on all of them.
    pub gone: bool,
    /// Milliseconds to wait for it; the answer may come before.
    pub patience: u64,
}

/// What `shoutdctl network rm` asks for where no engine knows the network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForgetNetwork {
    /// The network.
    pub network: NetworkId,
}

/// How a network stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkStanding {
    /// Its id, if it is known.
    pub id: Option<NetworkId>,
    /// How it stands in the cluster.
    pub phase: NetworkPhase,
    /// Its copies on all hosts, if they were looked at.
    pub hosts: Vec<HostCopy>,
}

/// How a network stands in the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "phase", content = "hosts")]
pub enum NetworkPhase {
    /// There is none of this name or id.
    Unknown,
    /// Agreed, but the engine where it is being created has not told its name yet.
    Nameless,
    /// It is a network of the cluster; names of the hosts that have containers on it.
    There(Vec<String>),
    /// A user of this host removed it, and the cluster could not be asked yet.
    Asking,
    /// It is being removed; names of the hosts that have not let go of it yet.
    Leaving(Vec<String>),
}

/// A host's copy of a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostCopy {
    /// The host's name.
    pub host: String,
    /// Whether it has one.
    pub state: CopyState,
    /// What is in the way, if that is known.
    pub problem: Option<String>,
}

/// Whether a host's engine has a copy of a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CopyState {
    /// It has one, ready for containers.
    Present,
    /// It has none.
    Absent,
    /// The host does not answer.
    Unreachable,
}

/// What the control socket answers instead when it cannot do what was asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// One line for people.
    pub error: String,
}

/// Where the control socket is, unless another directory is chosen.
pub const RUN_DIRECTORY: &str = "/run/shoutd";
/// Where state is kept, unless another directory is chosen.
pub const DATA_DIRECTORY: &str = "/var/lib/shoutd";
/// Name of the control socket in the run directory.
pub const CONTROL_SOCKET: &str = "control.sock";
/// Name of the file in the data directory that says how the daemon was last started.
pub const START_FILE: &str = "start.json";

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_empty_list_of_groups_says_why() {
        let row = |name: &str, hosts: &[&str]| -> NetworkRow {
            serde_json::from_value(json!({
                "id": "0123456789abcdef0123456789abcdef", "name": name, "vni": 0x10_0001, "subnets": [], "options": {}, "internal": false,
                "origin": "h1", "hosts": hosts, "addresses": 0, "removal_waits_for": null,
            }))
            .unwrap()
        };
        let networks = [row("foo", &["h1", "h2"]), row("bar", &["h2", "h3"]), row("idle", &[])];
        let why = |me: &str, network: Option<&str>, host: Option<&str>| {
            why_no_groups(me, &networks, network, host)
        };
        assert_eq!(
            why("h1", None, None),
            "no container listens to a group on the networks of this host"
        );
        assert_eq!(
            why("h1", Some("foo"), Some("h2")),
            "no container of host h2 listens to a group on network foo"
        );
        assert!(why("h1", Some("bar"), None).ends_with("ask on h2, h3"));
        assert!(why("h4", None, None).ends_with("ask on h1, h2, h3"));
        assert_eq!(why("h4", Some("idle"), None), "no host has a container on network idle");
        assert!(
            networks[0].is_called("foo")
                && networks[0].is_called("0123456789ab")
                && !networks[0].is_called("0123")
        );
    }
}
