//! The traffic of each network on one host since its daemon started, from counters that the kernel
//! keeps for each device.
//!
//! A device's counters begin again at zero when the device is made again. Here the sums never
//! decrease while the network is on the host.

use std::collections::{BTreeMap, BTreeSet};

use crate::Vni;

/// Packets and their octets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Volume {
    /// Packets.
    pub packets: u64,
    /// Octets.
    pub octets: u64,
}

/// What the kernel has counted at the port of one container.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PortReading {
    /// Sent by the container.
    pub sent: Volume,
    /// Delivered to the container.
    pub received: Volume,
    /// Packets that were lost at the port, in both directions.
    pub dropped: u64,
}

/// What the kernel has counted at a VXLAN device.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TunnelReading {
    /// Sent to other hosts. A packet to several hosts counts once for each.
    pub sent: Volume,
    /// Received from other hosts.
    pub received: Volume,
    /// Packets that were not sent: those of groups without a member on any other host, and those
    /// that count as `routeless`, too.
    pub unsent: u64,
    /// Packets without a route to their host.
    pub routeless: u64,
    /// Packets that were lost at the device otherwise.
    pub dropped: u64,
}

/// What the IGMP/MLD filter of a segment has counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FilterReading {
    /// Multicast and broadcast packets from containers on their way to the VXLAN device.
    pub spread: u64,
    /// Those of them that the filter dropped.
    pub refused: u64,
    /// Unicast packets from containers to the VXLAN device.
    pub unicast: u64,
    /// Packets that exceeded the limit of the network's option.
    pub over_rate: u64,
    /// Messages of IGMP and MLD that were kept off the tunnel.
    pub group_management: u64,
}

/// Everything that the kernel has counted of a segment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SegmentReading {
    /// The ports of containers, by the index of their device.
    pub ports: BTreeMap<u32, PortReading>,
    /// The VXLAN device, with its index, if it exists.
    pub tunnel: Option<(u32, TunnelReading)>,
    /// The IGMP/MLD filter.
    pub filter: FilterReading,
    /// Probes that this daemon has sent to all other hosts of the network.
    pub probes: u64,
}

/// The traffic of a network on this host since the daemon started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Sent by containers.
    pub sent: Volume,
    /// Delivered to containers.
    pub received: Volume,
    /// Sent to other hosts. A packet to several hosts counts once for each.
    pub tunnel_sent: Volume,
    /// Received from other hosts.
    pub tunnel_received: Volume,
    /// Multicast and broadcast packets of containers that were given to the VXLAN device.
    pub spread: u64,
    /// Copies of these that were sent, one for each host.
    pub copies_sent: u64,
    /// Copies of these that were not sent, and would have been if each packet went to every other
    /// host of the network.
    pub copies_saved: u64,
    /// Packets of groups without a member on any other host.
    pub without_member: u64,
    /// Packets that could not be sent through the tunnel.
    pub failed: u64,
    /// Packets that exceeded the limit of the network's option.
    pub over_rate: u64,
    /// Messages of IGMP and MLD that were kept off the tunnel.
    pub group_management: u64,
    /// Packets that were lost at the ports of containers.
    pub port_dropped: u64,
}

/// A network's traffic, and the reading that it includes.
#[derive(Debug, Clone, Default)]
struct Account {
    last: SegmentReading,
    traffic: Traffic,
}

/// The traffic of all networks of a host.
#[derive(Debug, Clone, Default)]
pub struct Accounts {
    networks: BTreeMap<Vni, Account>,
}

/// What was counted since `before`. A lower count began again at zero.
fn grown(now: u64, before: u64) -> u64 {
    if now >= before { now - before } else { now }
}

impl Volume {
    /// Adds what was counted since `before`.
    fn add_since(&mut self, now: Self, before: Self) {
        self.packets += grown(now.packets, before.packets);
        self.octets += grown(now.octets, before.octets);
    }
}

impl Accounts {
    /// Notes a reading of a network that had this traffic before the daemon started: it does not
    /// count.
    pub fn begin(&mut self, vni: Vni, reading: SegmentReading) {
        let account = Account { last: reading, traffic: Traffic::default() };
        self.networks.insert(vni, account);
    }

    /// Adds what was counted since the last reading. `remotes` is the number of other hosts that
    /// have the network now.
    pub fn note(&mut self, vni: Vni, reading: SegmentReading, remotes: u64) {
        let account = self.networks.entry(vni).or_default();
        account.add(&reading, remotes);
        account.last = reading;
    }

    /// Forgets the networks that have left the host.
    pub fn retain(&mut self, here: &BTreeSet<Vni>) {
        self.networks.retain(|vni, _| here.contains(vni));
    }

    /// The traffic of a network.
    pub fn traffic(&self, vni: Vni) -> Option<&Traffic> {
        self.networks.get(&vni).map(|account| &account.traffic)
    }
}

impl Account {
    fn add(&mut self, now: &SegmentReading, remotes: u64) {
        let Self { last, traffic } = self;
        for (index, port) in &now.ports {
            let before = last.ports.get(index).copied().unwrap_or_default();
            traffic.sent.add_since(port.sent, before.sent);
            traffic.received.add_since(port.received, before.received);
            traffic.port_dropped += grown(port.dropped, before.dropped);
        }
        // The kernel does not read its counters at one instant. So each is compared with its own
        // last value, before they are combined.
        let spread = grown(now.filter.spread, last.filter.spread)
            .saturating_sub(grown(now.filter.refused, last.filter.refused));
        traffic.spread += spread;
        traffic.over_rate += grown(now.filter.over_rate, last.filter.over_rate);
        traffic.group_management +=
            grown(now.filter.group_management, last.filter.group_management);
        let Some((index, tunnel)) = now.tunnel else { return };
        let before = last.tunnel.filter(|(known, _)| *known == index);
        let before = before.map(|(_, reading)| reading).unwrap_or_default();
        traffic.tunnel_sent.add_since(tunnel.sent, before.sent);
        traffic.tunnel_received.add_since(tunnel.received, before.received);
        let routeless = grown(tunnel.routeless, before.routeless);
        traffic.without_member += grown(tunnel.unsent, before.unsent).saturating_sub(routeless);
        traffic.failed += routeless + grown(tunnel.dropped, before.dropped);
        // The device counts copies of all packets. A unicast packet has one.
        let probes = grown(now.probes, last.probes).saturating_mul(remotes);
        let unicast = grown(now.filter.unicast, last.filter.unicast);
        let copies =
            grown(tunnel.sent.packets, before.sent.packets).saturating_sub(unicast + probes);
        let flooded = spread.saturating_mul(remotes);
        traffic.copies_sent += copies.min(flooded);
        traffic.copies_saved += flooded.saturating_sub(copies);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vni() -> Vni {
        Vni::new(0x10_0001).unwrap()
    }

    fn volume(packets: u64) -> Volume {
        Volume { packets, octets: packets * 100 }
    }

    fn reading(port: u32, sent: u64, tunnel: u64, filter: (u64, u64)) -> SegmentReading {
        let port_reading = PortReading { sent: volume(sent), ..PortReading::default() };
        let tunnel = TunnelReading { sent: volume(tunnel), ..TunnelReading::default() };
        let (spread, unicast) = filter;
        SegmentReading {
            ports: [(port, port_reading)].into(),
            tunnel: Some((2, tunnel)),
            filter: FilterReading { spread, unicast, ..FilterReading::default() },
            probes: 0,
        }
    }

    #[test]
    fn what_was_counted_before_the_daemon_started_does_not_count() {
        let mut accounts = Accounts::default();
        accounts.begin(vni(), reading(7, 1000, 500, (400, 100)));
        assert_eq!(accounts.traffic(vni()), Some(&Traffic::default()));
        accounts.note(vni(), reading(7, 1010, 510, (408, 102)), 2);
        let traffic = accounts.traffic(vni()).unwrap();
        assert_eq!(traffic.sent, volume(10));
        assert_eq!(traffic.tunnel_sent, volume(10));
        // 8 packets would have made 16 copies; 10 - 2 were made.
        assert_eq!((traffic.spread, traffic.copies_sent, traffic.copies_saved), (8, 8, 8));
    }

    #[test]
    fn sums_never_decrease_when_devices_are_made_again() {
        let mut accounts = Accounts::default();
        accounts.note(vni(), reading(7, 10, 5, (5, 0)), 1);
        // Another container, and the VXLAN device and the filter were made again.
        let mut again = reading(8, 3, 2, (2, 0));
        again.tunnel = again.tunnel.map(|(_, counted)| (9, counted));
        accounts.note(vni(), again.clone(), 1);
        let traffic = *accounts.traffic(vni()).unwrap();
        assert_eq!((traffic.sent, traffic.tunnel_sent), (volume(13), volume(7)));
        assert_eq!((traffic.spread, traffic.copies_sent), (7, 7));
        accounts.note(vni(), again, 1);
        assert_eq!(accounts.traffic(vni()), Some(&traffic), "nothing new");
        accounts.retain(&BTreeSet::new());
        assert_eq!(accounts.traffic(vni()), None);
    }

    #[test]
    fn counters_that_are_read_at_different_instants_add_nothing() {
        let mut accounts = Accounts::default();
        let mut first = reading(7, 0, 0, (100, 0));
        first.filter.refused = 10;
        let tunnel = TunnelReading { unsent: 50, routeless: 5, ..TunnelReading::default() };
        first.tunnel = Some((2, tunnel));
        accounts.note(vni(), first.clone(), 1);
        let before = *accounts.traffic(vni()).unwrap();
        assert_eq!((before.spread, before.without_member, before.failed), (90, 45, 5));
        // One more packet was dropped, and its other counter was read before.
        first.filter.refused += 1;
        first.tunnel = Some((2, TunnelReading { routeless: 6, ..tunnel }));
        accounts.note(vni(), first, 1);
        let traffic = accounts.traffic(vni()).unwrap();
        assert_eq!((traffic.spread, traffic.without_member, traffic.failed), (90, 45, 6));
    }

    #[test]
    fn probes_and_flooded_unicast_are_not_taken_for_copies_of_multicast() {
        let mut accounts = Accounts::default();
        let mut probed = reading(7, 0, 30, (0, 0));
        probed.probes = 10;
        accounts.note(vni(), probed, 3);
        let traffic = accounts.traffic(vni()).unwrap();
        assert_eq!((traffic.copies_sent, traffic.copies_saved), (0, 0));
        // Two multicast packets to one host of three, and a unicast packet that was flooded.
        accounts.note(vni(), SegmentReading { probes: 10, ..reading(7, 3, 35, (2, 1)) }, 3);
        let traffic = accounts.traffic(vni()).unwrap();
        assert_eq!((traffic.copies_sent, traffic.copies_saved), (4, 2));
    }
}
