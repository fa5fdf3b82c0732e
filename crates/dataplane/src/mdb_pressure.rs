//! MDB pressure: bridges and ports at their limit of MDB entries.

use shoutd_core::Vni;
use shoutd_core::limits::GROUPS_PER_PORT_MAX;
use shoutd_core::multicast::MdbUsage;
use shoutd_core::plane::{DeviceName, Observed, OwnerTag};

/// A limit of MDB entries that is reached or nearly reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MdbPressure {
    /// A port has reached its limit.
    Port(Vni, DeviceName),
    /// A bridge has nearly reached its limit, or does not snoop, so that its entries are unknown.
    Bridge {
        /// The segment.
        vni: Vni,
        /// The limit and the number of entries.
        room: MdbUsage,
        /// The ports with the most entries and their numbers, in descending order.
        most: Vec<(DeviceName, usize)>,
    },
}

impl MdbPressure {
    /// Whether the bridge of this segment does not snoop, or has only just started to.
    pub(crate) fn is_without_snooping(&self, segment: Vni) -> bool {
        matches!(self, Self::Bridge { vni, room, .. } if *vni == segment && !room.snoops)
    }

    /// A line for users. `network` names a network.
    pub(crate) fn describe(&self, observed: &Observed, network: &dyn Fn(Vni) -> String) -> String {
        let (vni, text) = match self {
            Self::Port(vni, port) => {
                let owner = owner(observed, *vni, port);
                let text = format!(
                    "{owner} is a member of {GROUPS_PER_PORT_MAX} groups, the limit for one \
                     container; it gets no others"
                );
                (vni, text)
            }
            Self::Bridge { vni, room, most } => {
                let most: Vec<String> = most
                    .iter()
                    .map(|(port, count)| format!("{} ({count})", owner(observed, *vni, port)))
                    .collect();
                (vni, describe_bridge(*room, &most))
            }
        };
        format!("network {}: {text}", network(*vni))
    }
}

fn describe_bridge(room: MdbUsage, most: &[String]) -> String {
    let MdbUsage { size, taken, snoops } = room;
    if !snoops && !room.is_full(true) {
        return "the bridge on this host does not snoop, or has only just started to: multicast \
                snooping was switched off (mcast_snooping), or there were too many groups. \
                Nothing is lost, but all of the network's multicast is sent to this host and to \
                each of its containers until shoutd has restarted snooping and the containers \
                have answered its queries"
            .to_owned();
    }
    let containers = if snoops { "" } else { " and to each of its containers" };
    let most = if most.is_empty() { "no endpoint".to_owned() } else { most.join(", ") };
    format!(
        "the bridge on this host has {taken} MDB entries, and room for {size}; most are those of \
         {most}. Nothing is lost, but all of the network's multicast is sent to this \
         host{containers} until there are fewer"
    )
}

/// The owner of a port, for messages.
fn owner(observed: &Observed, vni: Vni, port: &DeviceName) -> String {
    let mark =
        observed.segments.get(&vni).and_then(|segment| segment.ports.get(port)?.mark.as_ref());
    match mark {
        Some(OwnerTag::Endpoint(endpoint)) => format!("endpoint {}", endpoint.short()),
        _ => format!("port {port}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bridge_whose_snooping_was_switched_off_is_not_reported_as_full() {
        let room = MdbUsage { size: 65536, taken: 0, snoops: false };
        let mdb_pressure =
            MdbPressure::Bridge { vni: Vni::new(0x10_0001).unwrap(), room, most: Vec::new() };
        let line = mdb_pressure.describe(&Observed::default(), &|_| "foo".to_owned());
        assert!(line.contains("network foo: ") && line.contains("mcast_snooping"), "{line}");
        assert!(!line.contains("room for") && !line.contains("fewer"), "{line}");
    }

    #[test]
    fn the_line_names_the_network_and_the_ports_and_states_the_effect() {
        let vni = Vni::new(0x10_0001).unwrap();
        let most = vec![("shpb".parse().unwrap(), 400), ("shpa".parse().unwrap(), 90)];
        let room = MdbUsage { size: 512, taken: 500, snoops: false };
        let mdb_pressure = MdbPressure::Bridge { vni, room, most };
        let line = mdb_pressure.describe(&Observed::default(), &|_| "foo".to_owned());
        assert_eq!(
            line,
            "network foo: the bridge on this host has 500 MDB entries, and room for 512; most are \
             those of port shpb (400), port shpa (90). Nothing is lost, but all of the network's \
             multicast is sent to this host and to each of its containers until there are fewer"
        );
    }
}
