//! Writes a [`Snapshot`] as metric families.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeCounterValue, EncodeLabelSet, NoLabelSet,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Unit;
use shoutd_core::traffic::Traffic;
use shoutd_core::tunnel::Carriage;

use super::snapshot::{Network, Peer, ROLES, Snapshot};

type OneLabel<'a> = [(&'static str, &'a str); 1];
type TwoLabels<'a> = [(&'static str, &'a str); 2];

/// A gauge of one host.
type HostGauge = (&'static str, &'static str, fn(&Snapshot) -> Option<f64>);
/// A gauge of each network.
type NetworkGauge = (&'static str, &'static str, fn(&Network) -> f64);
/// A counter of each network.
type NetworkCounter = (&'static str, &'static str, fn(&Traffic) -> u64);
/// A reason why packets were dropped.
type Reason = (&'static str, fn(&Traffic) -> u64);
/// A gauge of each peer.
type PeerGauge = (&'static str, &'static str, fn(&Peer) -> Option<f64>);

/// Counts are below 2^53, so they are exact.
#[expect(clippy::cast_precision_loss, reason = "no count of hosts or entries comes near 2^53")]
fn number(count: usize) -> f64 {
    count as f64
}

#[expect(clippy::cast_precision_loss, reason = "terms and log indexes stay far below 2^53")]
fn index(index: u64) -> f64 {
    index as f64
}

fn truth(is_true: bool) -> f64 {
    f64::from(u8::from(is_true))
}

const HOST_GAUGES: [HostGauge; 14] = [
    ("problems", "Problems that shoutdctl status shows", |all| Some(number(all.problems))),
    ("member", "1 if this host is a member of a cluster, else 0", |all| Some(truth(all.is_member))),
    ("hosts", "Hosts of the cluster", |all| Some(number(all.hosts))),
    ("networks", "Networks of the cluster", |all| Some(number(all.networks_agreed))),
    ("networks_without_series", "Networks on this host beyond the limit of series", |all| {
        Some(number(all.networks_left_out))
    }),
    ("networks_unread", "Networks on this host whose kernel counters were not read", |all| {
        Some(number(all.networks_unread))
    }),
    ("raft_term", "Term of Raft's leader", |all| Some(index(all.raft.term))),
    ("raft_applied_index", "Index of the last Raft log entry that was applied here", |all| {
        all.raft.applied.map(index)
    }),
    ("raft_voters", "Voters of Raft", |all| Some(number(all.raft.voters))),
    ("raft_learners", "Learners of Raft", |all| Some(number(all.raft.learners))),
    (
        "raft_contact_age_seconds",
        "Time since the last contact with the leader or, on the leader, with a majority",
        |all| all.raft.contact_age,
    ),
    ("wireguard_peers", "Other hosts that have published their WireGuard keys", |all| {
        all.wireguard.as_ref().map(|own| number(own.peers))
    }),
    ("wireguard_sessions", "Hosts with which there is a WireGuard session", |all| {
        all.wireguard.as_ref().map(|own| number(own.sessions))
    }),
    ("collection_duration_seconds", "Time that it took to read this state", |all| Some(all.took)),
];

const PEER_GAUGES: [PeerGauge; 4] = [
    ("peer_reachable", "1 if the last exchange with the peer over TCP succeeded, else 0", |peer| {
        peer.is_reachable.map(truth)
    }),
    (
        "advertisement_in_sync",
        "1 if this host has all of the peer's advertisement, else 0: then it sends it every group",
        |peer| peer.in_sync.map(truth),
    ),
    ("advertisement_age_seconds", "Time since the last advertisement of the peer", |peer| {
        peer.advertised_age
    }),
    (
        "wireguard_handshake_age_seconds",
        "Time since the last WireGuard handshake with the peer; from 180 on there is no session",
        |peer| Some(peer.session?.handshake_ago?.as_secs_f64()),
    ),
];

/// A tunnel to each peer: the beginning of its metrics' names, its name in their help, and its
/// state.
type PeerTunnel = ([&'static str; 2], &'static str, fn(&Peer) -> Option<[Carriage; 2]>);

const PEER_TUNNELS: [PeerTunnel; 2] = [
    (["tunnel_up", "tunnel_fault"], "the tunnel", |peer| peer.tunnel),
    (
        ["encrypted_tunnel_up", "encrypted_tunnel_fault"],
        "the tunnel of encrypted networks",
        |peer| peer.encrypted_tunnel,
    ),
];

const NETWORK_GAUGES: [NetworkGauge; 9] = [
    ("network_endpoints", "Containers of this host on the network", |network| {
        number(network.endpoints)
    }),
    ("network_remotes", "Other hosts that have the network", |network| number(network.remotes)),
    ("network_local_groups", "Groups with members on this host", |network| {
        number(network.local_groups)
    }),
    (
        "network_all_groups_wanted",
        "1 if this host gets every group, as for a multicast router, else 0",
        |network| truth(network.takes_everything),
    ),
    ("network_remote_groups", "Groups with members on other hosts", |network| {
        number(network.remote_groups)
    }),
    (
        "network_receivers",
        "Memberships of other hosts: pairs of a group and a host with members of it",
        |network| number(network.receivers),
    ),
    ("network_replication_entries", "Replication entries, (*,G) and (S,G)", |network| {
        number(network.entries)
    }),
    (
        "network_groups_beyond",
        "Groups for which there is no room among the replication entries",
        |network| number(network.groups_beyond),
    ),
    ("network_learned_addresses", "MAC addresses learned from traffic", |network| {
        number(network.learned)
    }),
];

const NETWORK_COUNTERS: [NetworkCounter; 11] = [
    ("network_sent_packets", "Packets sent by containers of this host", |one| one.sent.packets),
    ("network_sent_bytes", "Octets sent by containers of this host", |one| one.sent.octets),
    ("network_received_packets", "Packets delivered to containers of this host", |one| {
        one.received.packets
    }),
    ("network_received_bytes", "Octets delivered to containers of this host", |one| {
        one.received.octets
    }),
    ("network_tunnel_sent_packets", "Packets sent to other hosts, one for each host", |one| {
        one.tunnel_sent.packets
    }),
    ("network_tunnel_sent_bytes", "Octets of packets sent to other hosts", |one| {
        one.tunnel_sent.octets
    }),
    ("network_tunnel_received_packets", "Packets received from other hosts", |one| {
        one.tunnel_received.packets
    }),
    ("network_tunnel_received_bytes", "Octets of packets received from other hosts", |one| {
        one.tunnel_received.octets
    }),
    (
        "network_replicated_packets",
        "Multicast and broadcast packets of containers that reached the VXLAN device",
        |one| one.spread,
    ),
    ("network_copies_sent", "Copies of replicated packets that were sent to hosts", |one| {
        one.copies_sent
    }),
    (
        "network_copies_saved",
        "Copies of replicated packets that flooding would have sent in addition",
        |one| one.copies_saved,
    ),
];

/// Why packets of a network were dropped.
const REASONS: [Reason; 5] = [
    ("no-member", |one| one.without_member),
    ("tunnel", |one| one.failed),
    ("max-rate", |one| one.over_rate),
    ("group-management", |one| one.group_management),
    ("port", |one| one.port_dropped),
];

/// Writes families that share a prefix.
struct Families<'a>(DescriptorEncoder<'a>);

impl Families<'_> {
    /// A gauge without labels, if it has a value.
    fn host_gauge(&mut self, name: &str, help: &str, value: Option<f64>) -> fmt::Result {
        let Some(value) = value else { return Ok(()) };
        let (name, unit) = with_unit(name);
        let mut family = self.0.encode_descriptor(name, help, unit.as_ref(), MetricType::Gauge)?;
        family.encode_gauge(&value)
    }

    /// A counter without labels.
    fn host_counter(
        &mut self,
        name: &str,
        help: &str,
        value: &impl EncodeCounterValue,
    ) -> fmt::Result {
        let (name, unit) = with_unit(name);
        let mut family =
            self.0.encode_descriptor(name, help, unit.as_ref(), MetricType::Counter)?;
        family.encode_counter::<NoLabelSet, _, f64>(value, None)
    }

    fn gauge<L: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        rows: impl IntoIterator<Item = (L, f64)>,
    ) -> fmt::Result {
        let mut rows = rows.into_iter().peekable();
        if rows.peek().is_none() {
            return Ok(());
        }
        let (name, unit) = with_unit(name);
        let mut family = self.0.encode_descriptor(name, help, unit.as_ref(), MetricType::Gauge)?;
        rows.try_for_each(|(labels, value)| family.encode_family(&labels)?.encode_gauge(&value))
    }

    fn counter<L: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        rows: impl IntoIterator<Item = (L, u64)>,
    ) -> fmt::Result {
        let mut rows = rows.into_iter().peekable();
        if rows.peek().is_none() {
            return Ok(());
        }
        let (name, unit) = with_unit(name);
        let mut family =
            self.0.encode_descriptor(name, help, unit.as_ref(), MetricType::Counter)?;
        rows.try_for_each(|(labels, value)| {
            family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, f64>(&value, None)
        })
    }
}

/// Splits the unit off a name, which the library appends again.
fn with_unit(name: &str) -> (&str, Option<Unit>) {
    for (suffix, unit) in [("_seconds", Unit::Seconds), ("_bytes", Unit::Bytes)] {
        if let Some(rest) = name.strip_suffix(suffix) {
            return (rest, Some(unit));
        }
    }
    (name, None)
}

impl Collector for Snapshot {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut families = Families(encoder);
        let version = [([("version", env!("CARGO_PKG_VERSION"))], 1.0)];
        families.gauge("build_info", "The version of shoutd, as a label", version)?;
        for (name, help, read) in HOST_GAUGES {
            families.host_gauge(name, help, read(self))?;
        }
        let roles = ROLES.iter().enumerate();
        let roles = roles.map(|(at, role)| ([("role", *role)], truth(at == self.raft.role)));
        families.gauge("raft_role", "1 for the role of this host in Raft, else 0", roles)?;
        let underlay = [
            ("input", self.underlay.input),
            ("forward", self.underlay.forward),
            ("output", self.underlay.output),
        ];
        families.counter(
            "underlay_filter_dropped_packets",
            "Packets that the underlay filter dropped, by its hook",
            underlay.map(|(hook, count)| ([("hook", hook)], count)),
        )?;
        families.host_counter(
            "underlay_filter_restored",
            "How often another program removed the underlay filter, and shoutd restored it",
            &self.filter_losses,
        )?;
        let tier = self.wireguard.as_ref().and_then(|own| own.tier.as_deref());
        let tier = tier.map(|tier| ([("tier", tier)], 1.0));
        families.gauge("wireguard_info", "What runs WireGuard, as a label", tier)?;
        self.encode_peers(&mut families)?;
        self.encode_networks(&mut families)
    }
}

impl Snapshot {
    fn encode_peers(&self, families: &mut Families<'_>) -> fmt::Result {
        for (name, help, read) in PEER_GAUGES {
            let rows = self.peers.iter().filter_map(|peer| Some((of_peer(peer), read(peer)?)));
            families.gauge(name, help, rows)?;
        }
        for tunnel in PEER_TUNNELS {
            self.encode_tunnels(families, tunnel)?;
        }
        families.counter(
            "tunnel_probes_received",
            "Probes that came from the peer through the tunnel",
            self.peers.iter().map(|peer| (of_peer(peer), peer.probes_received)),
        )
    }

    fn encode_tunnels(
        &self,
        families: &mut Families<'_>,
        ([up, down], tunnel, read): PeerTunnel,
    ) -> fmt::Result {
        let directions = || {
            self.peers.iter().flat_map(|peer| {
                let both =
                    read(peer).into_iter().flat_map(|both| ["in", "out"].into_iter().zip(both));
                both.map(move |(direction, carriage)| (peer, direction, carriage))
            })
        };
        let known = directions().filter(|(.., carriage)| *carriage != Carriage::Unknown);
        families.gauge(
            up,
            &format!(
                "1 if probes of both sizes arrive through {tunnel}, else 0; nothing if not known"
            ),
            known.map(|(peer, direction, carriage)| {
                let labels: TwoLabels<'_> = [("peer", &peer.title), ("direction", direction)];
                (labels, truth(carriage == Carriage::Carries))
            }),
        )?;
        let faults = directions().filter_map(|(peer, direction, carriage)| {
            let labels =
                [("peer", &*peer.title), ("direction", direction), ("fault", fault(carriage)?)];
            Some((labels, 1.0))
        });
        families.gauge(down, &format!("1 for the present fault of {tunnel}"), faults)
    }

    fn encode_networks(&self, families: &mut Families<'_>) -> fmt::Result {
        for (name, help, read) in NETWORK_GAUGES {
            let rows = self.networks.iter().map(|one| (of_network(one), read(one)));
            families.gauge(name, help, rows)?;
        }
        let counted = || self.networks.iter().filter_map(|one| Some((one, one.traffic.as_ref()?)));
        for (name, help, read) in NETWORK_COUNTERS {
            families.counter(
                name,
                help,
                counted().map(|(one, counts)| (of_network(one), read(counts))),
            )?;
        }
        let dropped = counted().flat_map(|(one, counts)| {
            REASONS.iter().map(move |(reason, read)| {
                let labels: TwoLabels<'_> = [("network", &one.title), ("reason", reason)];
                (labels, read(counts))
            })
        });
        families.counter(
            "network_dropped_packets",
            "Packets that were not delivered or not sent, by reason",
            dropped,
        )
    }
}

fn of_peer(peer: &Peer) -> OneLabel<'_> {
    [("peer", &peer.title)]
}

fn of_network(network: &Network) -> OneLabel<'_> {
    [("network", &network.title)]
}

/// The value of the label `fault`.
fn fault(carriage: Carriage) -> Option<&'static str> {
    match carriage {
        Carriage::Unknown | Carriage::Carries => None,
        Carriage::Silent => Some("silent"),
        Carriage::SmallOnly => Some("large-packets"),
        Carriage::Loses(_) => Some("loss"),
    }
}

/// The metrics of the process. They have no prefix.
#[derive(Debug)]
pub struct ProcessFamilies(pub super::process::Process);

impl Collector for ProcessFamilies {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut families = Families(encoder);
        let process = self.0;
        families.host_counter(
            "process_cpu_seconds",
            "User and system processor time of shoutd",
            &process.processor,
        )?;
        for (name, help, value) in [
            ("process_resident_memory_bytes", "Resident memory of shoutd", process.resident),
            ("process_virtual_memory_bytes", "Virtual memory of shoutd", process.virtual_memory),
            ("process_open_fds", "Open file descriptors of shoutd", process.descriptors),
            ("process_max_fds", "Limit of open file descriptors", process.descriptors_max),
            ("process_threads", "Threads of shoutd", process.threads),
            (
                "process_start_time_seconds",
                "When shoutd started, in seconds since 1970",
                process.started,
            ),
        ] {
            families.host_gauge(name, help, Some(value))?;
        }
        Ok(())
    }
}
