//! Memberships followed step by step.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::ops::Range;

use shoutd_core::multicast::Memberships;
use shoutd_dataplane::{Kernel, MembershipChange, MembershipSource};
use shoutd_netlink::{MdbEntry, Namespace, Route};

use crate::support::{World, connected, eventually, ip, run, udp};

/// Maximum number of groups that one socket joins: each join makes the kernel scan all previous
/// ones.
const PER_SOCKET: usize = 500;

/// Hosts with a container each. The memberships of the first are followed as the follower's thread
/// does it, but only on request, so the test can delay the reading of events.
pub struct Followed {
    pub world: World,
    pub containers: Vec<Namespace>,
    pub source: Box<dyn MembershipSource>,
    pub known: Memberships,
}

impl Followed {
    /// The first host's bridge gets these settings, in the syntax of `ip link`.
    pub fn start(hosts: u8, settings: &[&str]) -> Self {
        let (world, containers) = connected(hosts);
        for container in &containers {
            container
                .run(|| run("sysctl", &["-qw", "net.ipv4.igmp_max_memberships=10000"]))
                .unwrap();
        }
        if !settings.is_empty() {
            let change =
                ["link", "set", "shoutbr0", "type", "bridge"].iter().chain(settings).copied();
            world.hosts[0].segment().run(|| ip(&change.collect::<Vec<_>>())).unwrap();
        }
        let source = world.hosts[0].kernel.memberships();
        let mut followed = Self { world, containers, source, known: Memberships::default() };
        followed.follow();
        followed
    }

    pub fn segment(&self) -> Namespace {
        self.world.hosts[0].segment()
    }

    /// Processes the events since the last call.
    pub fn follow(&mut self) {
        let mut changes = Vec::new();
        self.source.update(&mut changes).unwrap();
        for change in changes {
            match change {
                MembershipChange::Whole(_, memberships) => self.known = memberships,
                MembershipChange::Gone(_) => self.known = Memberships::default(),
                MembershipChange::Group(_, group, Some(filter)) => {
                    _ = self.known.groups.insert(group, filter);
                }
                MembershipChange::Group(_, group, None) => _ = self.known.groups.remove(&group),
                MembershipChange::Router(_, router) => self.known.router = router,
            }
        }
    }

    pub fn known_groups(&self) -> BTreeSet<IpAddr> {
        self.known.groups.keys().copied().collect()
    }

    /// Joins these groups in the first host's container.
    pub fn join(&self, numbers: Range<u32>) -> Vec<UdpSocket> {
        let address = self.world.hosts[0].container_address(1);
        let groups: Vec<Ipv4Addr> = numbers.map(group).collect();
        let mut sockets = Vec::new();
        for groups in groups.chunks(PER_SOCKET) {
            let socket = udp(&self.containers[0], (Ipv4Addr::UNSPECIFIED, 0));
            groups.iter().for_each(|group| socket.join_multicast_v4(group, &address).unwrap());
            sockets.push(socket);
        }
        sockets
    }

    /// The IPv4 groups in the bridge's MDB.
    pub fn bridge_groups(&self) -> BTreeSet<IpAddr> {
        let mut route = Route::open(&self.segment()).unwrap();
        let bridge = route.link("shoutbr0").unwrap().unwrap().index;
        let members =
            route.bridge_groups(bridge).unwrap().into_iter().filter_map(|entry| match entry {
                MdbEntry::Member(member) => Some(member.group),
                MdbEntry::Router(_) => None,
            });
        members.filter(IpAddr::is_ipv4).collect()
    }

    /// Waits until the bridge has exactly these groups, without reading its events.
    pub fn await_bridge(&self, what: &str, wanted: &BTreeSet<IpAddr>) {
        eventually(what, || self.bridge_groups() == *wanted);
    }
}

pub fn group(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(0xef01_0000 + number)
}

pub fn groups(numbers: Range<u32>) -> BTreeSet<IpAddr> {
    numbers.map(|number| group(number).into()).collect()
}
