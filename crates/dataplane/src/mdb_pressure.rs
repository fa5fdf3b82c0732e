//! Too many groups: where, by whom, and what still holds.

use shoutd_core::Vni;
use shoutd_core::limits::GROUPS_PER_PORT_MAX;
use shoutd_core::multicast::MdbUsage;
use shoutd_core::plane::{DeviceName, Observed, OwnerTag};

/// Too many groups, or almost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MdbPressure {
    /// A port has as many entries as a port may.
    Port(Vni, DeviceName),
    /// A bridge has almost as many as it has room for, or none can be known.
    Bridge {
        /// The segment.
        vni: Vni,
        /// What there is room for, and what is taken.
        room: MdbUsage,
        /// The ports with the most entries, each with its number of them; the one with the most
        /// first.
        most: Vec<(DeviceName, usize)>,
    },
}

impl MdbPressure {
    /// It in a line, with what people call the network.
    pub(crate) fn describe(&self, observed: &Observed, network: &dyn Fn(Vni) -> String) -> String {
        let (vni, said) = match self {
            Self::Port(vni, port) => {
                let culprit = owner(observed, *vni, port);
                let said = format!(
                    "{culprit} listens to {GROUPS_PER_PORT_MAX} groups, as many as one container \
                     may; it gets no others"
                );
                (vni, said)
            }
            Self::Bridge { vni, room, most } => {
                let name = |(port, count): &(DeviceName, usize)| {
                    format!("{} ({count})", owner(observed, *vni, port))
                };
                let most: Vec<String> = most.iter().map(name).collect();
                (vni, describe_bridge(*room, &most))
            }
        };
        format!("network {}: {said}", network(*vni))
    }
}

fn describe_bridge(room: MdbUsage, most: &[String]) -> String {
    let MdbUsage { size, taken, snoops } = room;
    if !snoops && !room.is_full(true) {
        return "the bridge on this host does not snoop, or has only just begun to: somebody \
                switched that off (mcast_snooping), or it had too many groups. Nothing is lost, \
                but all of the network's multicast is sent to this host and to each of its \
                containers until shoutd has it snoop again and its containers have answered its \
                queries"
            .to_owned();
    }
    let containers = if snoops { "" } else { " and to each of its containers" };
    let most = if most.is_empty() { "no endpoint".to_owned() } else { most.join(", ") };
    format!(
        "the bridge on this host has {taken} groups and sources, and room for {size}; most are \
         those of {most}. Nothing is lost, but all of the network's multicast is sent to this \
         host{containers} until there are fewer"
    )
}

/// Whose a port is, in words.
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
    fn a_bridge_that_somebody_told_not_to_snoop_is_not_said_to_be_full() {
        let room = MdbUsage { size: 65536, taken: 0, snoops: false };
        let mdb_pressure =
            MdbPressure::Bridge { vni: Vni::new(0x10_0001).unwrap(), room, most: Vec::new() };
        let line = mdb_pressure.describe(&Observed::default(), &|_| "foo".to_owned());
        assert!(line.contains("network foo: ") && line.contains("mcast_snooping"), "{line}");
        assert!(!line.contains("room for") && !line.contains("fewer"), "{line}");
    }

    #[test]
    fn the_line_names_network_and_culprits_and_says_what_holds() {
        let vni = Vni::new(0x10_0001).unwrap();
        let port = |name: &str| name.parse::<DeviceName>().unwrap();
        let room = MdbUsage { size: 512, taken: 500, snoops: false };
        let mdb_pressure =
            MdbPressure::Bridge { vni, room, most: vec![(port("shpb"), 400), (port("shpa"), 90)] };
        let line = mdb_pressure.describe(&Observed::default(), &|_| "foo".to_owned());
        assert_eq!(
            line,
            "network foo: the bridge on this host has 500 groups and sources, and room for 512; \
             most are those of port shpb (400), port shpa (90). Nothing is lost, but all of the \
             network's multicast is sent to this host and to each of its containers until there \
             are fewer"
        );
    }
}
