//! Programs that request transmit time stamps, as PTP daemons do.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{MsgFlags, recv};
use shoutd_dataplane::Kernel;

use crate::queriers::{hasten, is_member};
use crate::support::{PATIENCE, connected, eventually, run, udp};

/// Requests a time stamp for each datagram (Documentation/networking/timestamping.rst).
fn ask(socket: &UdpSocket) {
    let wanted = libc::SOF_TIMESTAMPING_TX_SOFTWARE
        | libc::SOF_TIMESTAMPING_SOFTWARE
        | libc::SOF_TIMESTAMPING_OPT_TSONLY;
    let length = libc::socklen_t::try_from(size_of_val(&wanted)).unwrap();
    // SAFETY: the pointer is to a value of that length, which outlives the call.
    let result = unsafe {
        let value = (&raw const wanted).cast();
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_TIMESTAMPING, value, length)
    };
    assert_eq!(result, 0, "{}", Errno::last());
}

/// The number of time stamps received.
fn stamps(socket: &UdpSocket) -> usize {
    let next =
        || recv(socket.as_raw_fd(), &mut [0; 64], MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT);
    std::iter::from_fn(|| next().ok()).count()
}

/// All time stamps that come. They come before the call to send returns, or by a softirq
/// shortly after.
fn all_stamps(socket: &UdpSocket) -> usize {
    let begin = Instant::now();
    let mut count = 0;
    while begin.elapsed() < Duration::from_millis(300) {
        count += stamps(socket);
        std::thread::sleep(Duration::from_millis(5));
    }
    count
}

/// Each device on the path can report to the socket that owns a datagram. The sender must see only
/// the time stamp of the container's own interface.
#[test]
fn a_multicast_datagram_to_another_host_has_one_time_stamp() {
    let (world, containers) = connected(2);
    let group_v6 = Ipv6Addr::new(0xff1e, 0, 0, 0, 0, 0, 0, 0x181);
    let segment = world.hosts[0].segment();
    hasten(&segment);
    // PTP masters are members, too.
    let member = udp(&containers[0], (Ipv4Addr::UNSPECIFIED, 319));
    let member_v6 = udp(&containers[0], (Ipv6Addr::UNSPECIFIED, 320));
    let interface = containers[0].run(|| nix::net::if_::if_nametoindex("eth0")).unwrap().unwrap();
    let joined = Ipv4Addr::new(224, 0, 1, 129);
    member.join_multicast_v4(&joined, &world.hosts[0].container_address(1)).unwrap();
    member_v6.join_multicast_v6(&group_v6, interface).unwrap();
    eventually("the memberships", || {
        [joined.into(), group_v6.into()].iter().all(|group| is_member(&segment, *group))
    });
    // The bridge floods until all ports have had time to answer its queries of IGMP and of MLD.
    for (socket, group) in [(&member, joined.into()), (&member_v6, IpAddr::V6(group_v6))] {
        ask(socket);
        eventually("the bridge to know the members", || {
            // By IPv6 nothing is sent until duplicate address detection has ended.
            socket.send_to(&[0; 64], (group, 5000)).is_ok() && all_stamps(socket) == 1
        });
    }

    let link_local = Ipv4Addr::new(224, 0, 0, 107);
    let groups: [IpAddr; 4] =
        [joined.into(), group_v6.into(), link_local.into(), [239, 9, 9, 9].into()];
    for group in groups {
        let socket = if group.is_ipv4() { &member } else { &member_v6 };
        socket.send_to(&[0; 64], (group, 5000)).unwrap();
        assert_eq!(all_stamps(socket), 1, "{group}");
    }
}

/// PTP daemons join PTP's group in their unicast modes, too. Without a member there is no rule.
#[test]
fn a_unicast_event_message_of_ptp_has_one_time_stamp_where_there_are_members() {
    let (mut world, containers) = connected(2);
    let to = world.hosts[1].container_address(1);
    let host = &mut world.hosts[0];
    let (segment, own) = (host.segment(), host.container_address(1));
    let is_copied =
        || segment.run(|| run("nft", &["list", "tables"])).unwrap().contains("shoutd-events");
    let mut listener = host.kernel.memberships();
    let [sender, receiver] =
        [&containers[0], &containers[1]].map(|at| udp(at, (Ipv4Addr::UNSPECIFIED, 319)));
    receiver.set_read_timeout(Some(PATIENCE)).unwrap();
    ask(&sender);
    listener.update(&mut Vec::new()).unwrap();
    assert!(!is_copied());

    sender.join_multicast_v4(&Ipv4Addr::new(224, 0, 1, 129), &own).unwrap();
    eventually("event messages to be copied", || {
        listener.update(&mut Vec::new()).unwrap();
        is_copied()
    });
    for number in 0..5 {
        sender.send_to(&[number; 64], (to, 319)).unwrap();
        assert_eq!(all_stamps(&sender), 1, "{number}");
        let mut received = [0; 65];
        assert_eq!(receiver.recv(&mut received).unwrap(), 64);
        assert_eq!(received[0], number);
    }
    receiver.set_nonblocking(true).unwrap();
    assert!(receiver.recv(&mut [0; 64]).is_err(), "a message came twice");

    sender.leave_multicast_v4(&Ipv4Addr::new(224, 0, 1, 129), &own).unwrap();
    eventually("event messages not to be copied any more", || {
        listener.update(&mut Vec::new()).unwrap();
        !is_copied()
    });
}
