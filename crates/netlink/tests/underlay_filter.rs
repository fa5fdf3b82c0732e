//! The underlay filter against the real kernel: which packets reach which port, in the test's own
//! namespaces.
//!
//! There is a host with an underlay interface and, as Docker makes it, a bridge with a container.
//! At the other end of the underlay are a member's address and a non-member's.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test says what it expects by failing"
)]

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::time::{Duration, Instant};

use shoutd_netlink::{
    DroppedPackets, InstalledUnderlayFilter as Installed, Namespace, UnderlayAccess, UnderlayFilter,
};

const PORT: u16 = 7789;
const OTHER_PORT: u16 = 7790;
const PATIENCE: Duration = Duration::from_secs(20);

/// The addresses of one family.
struct Addresses {
    host: IpAddr,
    member: IpAddr,
    stranger: IpAddr,
    bridge: IpAddr,
    container: IpAddr,
    prefix: u8,
}

fn ipv4() -> Addresses {
    Addresses {
        host: [192, 0, 2, 1].into(),
        member: [192, 0, 2, 2].into(),
        stranger: [192, 0, 2, 3].into(),
        bridge: [198, 51, 100, 1].into(),
        container: [198, 51, 100, 2].into(),
        prefix: 24,
    }
}

fn ipv6() -> Addresses {
    Addresses {
        host: [0x2001, 0xdb8, 1, 0, 0, 0, 0, 1].into(),
        member: [0x2001, 0xdb8, 1, 0, 0, 0, 0, 2].into(),
        stranger: [0x2001, 0xdb8, 1, 0, 0, 0, 0, 3].into(),
        bridge: [0x2001, 0xdb8, 2, 0, 0, 0, 0, 1].into(),
        container: [0x2001, 0xdb8, 2, 0, 0, 0, 0, 2].into(),
        prefix: 64,
    }
}

struct World {
    at: Addresses,
    host: Namespace,
    /// The other end of the underlay.
    far: Namespace,
    container: Namespace,
    filter: UnderlayFilter,
}

fn run(namespace: &Namespace, command: &str) {
    let command = format!("set -e\n{command}");
    let status = namespace.run(|| Command::new("sh").args(["-c", &command]).status()).unwrap();
    assert!(status.expect("sh runs").success(), "{command}");
}

impl World {
    fn new(at: Addresses) -> Self {
        let [host, far, container] = [(); 3].map(|()| {
            Namespace::anonymous().expect("this test needs root: it makes network namespaces")
        });
        let Addresses { host: own, member, stranger, bridge, container: inside, prefix } = at;
        // Each namespace is identified by the process that holds it while devices are moved there.
        let mut holders = [&far, &container].map(|namespace| {
            namespace.run(|| Command::new("sleep").arg("60").spawn()).unwrap().unwrap()
        });
        let [far_pid, container_pid] = [holders[0].id(), holders[1].id()];
        run(
            &host,
            &format!(
                "ip link add eth0 type veth peer name eth0 netns {far_pid}
                 ip link add br0 type bridge
                 ip link add port master br0 type veth peer name eth0 netns {container_pid}
                 ip addr add {own}/{prefix} dev eth0 $(test {prefix} = 64 && echo nodad)
                 ip addr add {bridge}/{prefix} dev br0 $(test {prefix} = 64 && echo nodad)
                 for link in lo eth0 br0 port; do ip link set $link up; done
                 echo 1 > /proc/sys/net/ipv4/ip_forward
                 echo 1 > /proc/sys/net/ipv6/conf/all/forwarding
                 for file in /proc/sys/net/ipv4/conf/*/rp_filter; do echo 0 > $file; done"
            ),
        );
        let nodad = if prefix == 64 { "nodad" } else { "" };
        run(
            &far,
            &format!(
                "ip addr add {member}/{prefix} dev eth0 {nodad}
                 ip addr add {stranger}/{prefix} dev eth0 {nodad}
                 ip link set lo up
                 ip link set eth0 up
                 ip route add default via {own}"
            ),
        );
        run(
            &container,
            &format!(
                "ip addr add {inside}/{prefix} dev eth0 {nodad}
                 ip link set lo up
                 ip link set eth0 up
                 ip route add default via {bridge}"
            ),
        );
        for holder in &mut holders {
            holder.kill().unwrap();
            holder.wait().unwrap();
        }
        let filter = UnderlayFilter::open(&host).unwrap();
        Self { at, host, far, container, filter }
    }

    fn access(&self) -> UnderlayAccess {
        UnderlayAccess {
            vxlan_port: PORT,
            address: self.at.host,
            interface: "eth0".to_owned(),
            agreement_ports: [PORT].into(),
            members: [self.at.member].into(),
        }
    }

    fn read(&mut self) -> Installed {
        self.filter.read().unwrap()
    }
}

fn bound(namespace: &Namespace, address: SocketAddr) -> UdpSocket {
    // On a busy machine an IPv6 address is there a moment after its device is up, and a program
    // that another test starts has a copy of a closed socket until it runs.
    let deadline = Instant::now() + PATIENCE;
    let socket = loop {
        match namespace.run(|| UdpSocket::bind(address)).unwrap() {
            Err(error)
                if matches!(error.kind(), ErrorKind::AddrNotAvailable | ErrorKind::AddrInUse)
                    && Instant::now() < deadline =>
            {
                std::thread::yield_now();
            }
            bound => break bound.unwrap(),
        }
    };
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// Whether a datagram from `from` gets to `receiver` at this address. A datagram from `sure`, which
/// always arrives, marks the end.
fn arrives(receiver: &UdpSocket, to: SocketAddr, from: &UdpSocket, sure: &UdpSocket) -> bool {
    // A datagram that the filter drops in output is an error to its sender.
    let sent = from.send_to(b"tried", to);
    assert!(sent.is_ok() || sent.is_err_and(|error| error.kind() == ErrorKind::PermissionDenied));
    sure.send_to(b"sure", to).unwrap();
    let arrived = next_datagram(receiver) == b"tried";
    if arrived {
        assert_eq!(next_datagram(receiver), b"sure");
    }
    arrived
}

fn next_datagram(receiver: &UdpSocket) -> Vec<u8> {
    let mut buffer = [0; 16];
    let length = receiver.recv(&mut buffer).expect("the one that arrives for sure");
    buffer[..length].to_vec()
}

/// Whether a connection is established. A dropped SYN has no answer, so the time does not matter.
fn connects(from: &Namespace, to: SocketAddr, patience: Duration) -> bool {
    from.run(|| TcpStream::connect_timeout(&to, patience)).unwrap().is_ok()
}

/// What gets through, in this order: from the member, from a non-member, from the container to its
/// gateway and to the underlay address, the same with the member's address as forged source, and by
/// loopback.
fn to_host(world: &World) -> [bool; 6] {
    let Addresses { host, member, stranger, bridge, container, .. } = world.at;
    let receiver = bound(&world.host, (unspecified(host), PORT).into());
    let sure = bound(&world.far, (member, 0).into());
    let check = |from: &UdpSocket, to: IpAddr| arrives(&receiver, (to, PORT).into(), from, &sure);
    let inside = bound(&world.container, (container, 0).into());
    run(&world.container, &format!("ip addr add {member}/{} dev lo", host_prefix(host)));
    let forged = bound(&world.container, (member, 0).into());
    let found = [
        check(&sure, host),
        check(&bound(&world.far, (stranger, 0).into()), host),
        check(&inside, bridge),
        check(&inside, host),
        check(&forged, host),
        check(&bound(&world.host, (host, 0).into()), host),
    ];
    run(&world.container, &format!("ip addr del {member}/{} dev lo", host_prefix(host)));
    found
}

/// What gets to the member: from a process of the host, and from the container.
fn to_member(world: &World, port: u16) -> [bool; 2] {
    let Addresses { host, member, container, .. } = world.at;
    let receiver = bound(&world.far, (member, port).into());
    let sure = bound(&world.far, (member, 0).into());
    let to = SocketAddr::new(member, port);
    [(&world.host, host), (&world.container, container)].map(|(namespace, source)| {
        arrives(&receiver, to, &bound(namespace, (source, 0).into()), &sure)
    })
}

fn unspecified(like: IpAddr) -> IpAddr {
    if like.is_ipv4() { [0; 4].into() } else { [0_u16; 8].into() }
}

fn host_prefix(like: IpAddr) -> u8 {
    if like.is_ipv4() { 32 } else { 128 }
}

fn only_members_reach_the_port(at: Addresses) {
    let mut world = World::new(at);
    assert_eq!(world.read(), Installed::Absent);
    // Without the filter everything arrives, otherwise the test would prove nothing.
    assert_eq!(to_host(&world), [true; 6]);
    assert_eq!(to_member(&world, PORT), [true; 2]);

    let access = world.access();
    world.filter.install(&access).unwrap();
    assert_eq!(
        world.read(),
        Installed::Whole { access, complete: true, dropped: DroppedPackets::default() }
    );
    assert_eq!(to_host(&world), [true, false, false, false, false, false]);
    assert_eq!(to_member(&world, PORT), [false; 2]);
    assert_eq!(to_member(&world, OTHER_PORT), [true; 2], "other ports are not filtered");
    let Installed::Whole { dropped, .. } = world.read() else { panic!("it is whole") };
    assert_eq!(dropped, DroppedPackets { input: 5, forward: 1, output: 1 });

    // The agreement port is for members and hosts that want to join, not for containers.
    let Addresses { host, member, .. } = world.at;
    let _open = [(&world.host, host), (&world.far, member)].map(|(namespace, address)| {
        [PORT, OTHER_PORT]
            .map(|port| namespace.run(|| TcpListener::bind((address, port))).unwrap().unwrap())
    });
    assert!(connects(&world.far, (host, PORT).into(), PATIENCE));
    assert!(connects(&world.host, (member, PORT).into(), PATIENCE));
    for to in [host, member] {
        assert!(!connects(&world.container, (to, PORT).into(), Duration::from_millis(300)));
        assert!(connects(&world.container, (to, OTHER_PORT).into(), PATIENCE));
    }
}

#[test]
fn only_members_reach_the_port_by_ipv4() {
    only_members_reach_the_port(ipv4());
}

#[test]
fn only_members_reach_the_port_by_ipv6() {
    only_members_reach_the_port(ipv6());
}

#[test]
fn the_filter_is_replaced_as_a_whole_and_foreign_changes_are_detected() {
    let mut world = World::new(ipv4());
    run(&world.host, "nft add table inet firewall; nft add chain inet firewall mine");
    let mut access = world.access();
    world.filter.install(&access).unwrap();
    access.members = (1..=250).map(|last| IpAddr::from([203, 0, 113, last])).collect();
    access.agreement_ports = [7789, 7790, 7791].into();
    world.filter.install(&access).unwrap();
    let whole = Installed::Whole {
        access: access.clone(),
        complete: true,
        dropped: DroppedPackets::default(),
    };
    assert_eq!(world.read(), whole);

    let more = "nft insert rule inet shoutd input accept";
    let fewer = "nft flush chain inet shoutd output";
    for change in [more, fewer, "nft add chain inet shoutd own", "nft delete table inet shoutd"] {
        run(&world.host, change);
        assert_ne!(world.read(), whole, "{change}");
        world.filter.install(&access).unwrap();
        assert_eq!(world.read(), whole);
    }
    run(&world.host, "nft delete element inet shoutd members4 '{ 203.0.113.7 }'");
    assert!(matches!(world.read(), Installed::Whole { access: found, .. } if found != access));

    world.filter.remove().unwrap();
    world.filter.remove().unwrap();
    assert_eq!(world.read(), Installed::Absent);
    run(&world.host, "nft list chain inet firewall mine");
}
