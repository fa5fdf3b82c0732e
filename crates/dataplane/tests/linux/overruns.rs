//! More happens than there is room to tell: what containers listen to is known all the same.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::ops::Range;

use shoutd_core::multicast::Memberships;
use shoutd_core::plane::DeviceName;
use shoutd_dataplane::{Kernel, MembershipChange, MembershipSource};
use shoutd_netlink::{DatabaseMonitor, Listing, Namespace, Route};

use crate::support::{World, connected, eventually, run, udp};

/// Groups that a socket joins at the most: the kernel goes through all that it has for each more.
const PER_SOCKET: usize = 500;

/// One container whose host follows what it listens to, as the listener's thread does, but only when it is told to: its reader is held up for as long as is wanted.
pub struct Followed {
    pub world: World,
    pub container: Namespace,
    pub source: Box<dyn MembershipSource>,
    pub known: Memberships,
}

impl Followed {
    pub fn start() -> Self {
        let (world, mut containers) = connected(1);
        let container = containers.remove(0);
        container.run(|| run("sysctl", &["-qw", "net.ipv4.igmp_max_memberships=10000"])).unwrap();
        let source = world.hosts[0].kernel.memberships();
        let mut followed = Self { world, container, source, known: Memberships::default() };
        followed.follow();
        followed
    }

    pub fn segment(&self) -> Namespace {
        self.world.hosts[0].segment()
    }

    /// Takes in what happened since the last time.
    pub fn follow(&mut self) {
        for change in self.source.update().unwrap() {
            match change {
                MembershipChange::Whole(_, memberships) => self.known = memberships,
                MembershipChange::Gone(_) => self.known = Memberships::default(),
                MembershipChange::Group(_, group, Some(filter)) => _ = self.known.groups.insert(group, filter),
                MembershipChange::Group(_, group, None) => _ = self.known.groups.remove(&group),
                MembershipChange::Router(_, router) => self.known.router = router,
            }
        }
    }

    pub fn known_groups(&self) -> BTreeSet<IpAddr> {
        self.known.groups.keys().copied().collect()
    }

    /// Joins these groups in the container.
    pub fn join(&self, numbers: Range<u32>) -> Vec<UdpSocket> {
        let address = self.world.hosts[0].container_address(1);
        let groups: Vec<Ipv4Addr> = numbers.map(group).collect();
        let join = |groups: &[Ipv4Addr]| {
            let socket = udp(&self.container, (Ipv4Addr::UNSPECIFIED, 0));
            groups.iter().for_each(|group| socket.join_multicast_v4(group, &address).unwrap());
            socket
        };
        groups.chunks(PER_SOCKET).map(join).collect()
    }

    /// The IPv4 groups that the bridge has.
    pub fn bridge_groups(&self) -> BTreeSet<IpAddr> {
        let mut route = Route::open(&self.segment()).unwrap();
        let bridge = route.link("shoutbr0").unwrap().unwrap().index;
        let members = route.bridge_groups(bridge).unwrap().into_iter().filter_map(|listing| match listing {
            Listing::Member(member) => Some(member.group),
            Listing::Router(_) => None,
        });
        members.filter(IpAddr::is_ipv4).collect()
    }

    /// Waits until the bridge has just these groups, while nobody reads what it tells.
    fn await_bridge(&self, what: &str, wanted: &BTreeSet<IpAddr>) {
        eventually(what, || self.bridge_groups() == *wanted);
    }
}

fn group(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(0xef01_0000 + number)
}

fn groups(numbers: Range<u32>) -> BTreeSet<IpAddr> {
    numbers.map(|number| group(number).into()).collect()
}

fn assert_same(found: &BTreeSet<IpAddr>, wanted: &BTreeSet<IpAddr>) {
    let (surplus, missing) = ((found - wanted).len(), (wanted - found).len());
    assert!(surplus + missing == 0, "{surplus} groups too many, {missing} too few");
}

/// The kernel drops events when the socket for them is full, says so once (`ENOBUFS`), and drops further ones until the socket was read empty.
#[test]
fn after_a_storm_of_joins_and_leaves_that_nobody_read_all_is_as_it_is() {
    let mut followed = Followed::start();
    let segment = followed.segment();
    let port = DeviceName::port(&followed.world.hosts[0].endpoint(1));
    // A leave counts at once, without a last question.
    segment.run(|| run("bridge", &["link", "set", "dev", port.as_str(), "fastleave", "on"])).unwrap();
    let before = followed.join(0..100);
    followed.await_bridge("what was there before", &groups(0..100));
    followed.follow();
    assert_eq!(followed.known_groups(), groups(0..100));

    let witness = DatabaseMonitor::open(&segment).unwrap();
    for round in 0..3 {
        let storm = followed.join(1000..7000);
        let all = &groups(0..100) | &groups(1000..7000);
        followed.await_bridge(&format!("the joins of round {round}"), &all);
        drop(storm);
        followed.await_bridge(&format!("the leaves of round {round}"), &groups(0..100));
    }
    // Nobody is told of these: the socket is full.
    drop(before);
    let _staying = followed.join(50..200);
    followed.await_bridge("what is there afterwards", &groups(50..200));
    assert!(witness.changes().is_none(), "a socket with as much room was told everything: this was no storm");

    for _ in 0..3 {
        followed.follow();
        assert_same(&followed.bridge_groups(), &groups(50..200));
        assert_same(&followed.known_groups(), &groups(50..200));
    }
    // And events are heeded again.
    let later = followed.join(300..310);
    eventually("a later join", || {
        followed.follow();
        followed.known_groups() == &groups(50..200) | &groups(300..310)
    });
    drop(later);
    eventually("a later leave", || {
        followed.follow();
        followed.known_groups() == groups(50..200)
    });
}
