//! The time from a join to the first datagram.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::membership::Place;
use super::wire::Reports;
use super::{READY, address_after, group_after, monotonic_nanoseconds};

/// The port of the groups.
const PORT: u16 = 5010;

/// The interval between two datagrams to the requested group, which bounds the precision.
const INTERVAL: Duration = Duration::from_micros(200);

/// How long a group is sent to before the join, so that transient copies of a new group are over.
const SETTLE: Duration = Duration::from_millis(20);

/// How long after the first datagram a report may come: more than the kernel takes for it.
const REPORT_PATIENCE: Duration = Duration::from_millis(30);
/// How long the first datagram of a joined group may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// The most groups that a socket can be in: the kernel's `igmp_max_memberships`.
const GROUPS_OF_SOCKET: u32 = 20;

/// The groups that a churn holds at a time.
const CHURNED: usize = 100;

/// Sends to the group that was requested last, until `time` has passed.
pub(super) fn serve(at: SocketAddrV4, place: &Place, time: Duration) -> Result<()> {
    let asked = UdpSocket::bind(at).with_context(|| format!("bind to {at}"))?;
    asked.set_nonblocking(true).context("set the socket's mode")?;
    let (v4, v6) =
        (place.sender(Ipv4Addr::UNSPECIFIED.into())?, place.sender(Ipv6Addr::UNSPECIFIED.into())?);
    println!("{READY}");
    let deadline = Instant::now() + time;
    let mut group = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    let mut buffer = [0; 16];
    while Instant::now() < deadline {
        if let Ok(length) = asked.recv(&mut buffer) {
            let octets = buffer.get(..length).and_then(|octets| octets.try_into().ok());
            group = octets.map_or(IpAddr::from(buffer), |octets: [u8; 4]| octets.into());
        }
        if group.is_multicast() {
            let socket = if group.is_ipv4() { &v4 } else { &v6 };
            socket.send_to(&[0; 64], (group, PORT)).context("send a datagram")?;
        }
        thread::sleep(INTERVAL);
    }
    Ok(())
}

/// Joins `count` groups one after the other, from the first, for one source if one is given, and
/// measures each. Prints when it left the last one, and goes on requesting it for `linger`.
pub(super) fn join(
    server: SocketAddrV4,
    place: &Place,
    (first, count): (IpAddr, u32),
    source: Option<Ipv4Addr>,
    linger: Duration,
) -> Result<()> {
    let asking = UdpSocket::bind("0.0.0.0:0").context("open a socket")?;
    let reports = Reports::watch()?;
    let (mut milliseconds, mut reported) = (Vec::new(), Vec::new());
    let mut left = 0;
    let mut unheard = 0;
    for index in 0..count {
        let group = address_after(first, index);
        asking.send_to(&octets(group), server).context("ask for a group")?;
        thread::sleep(SETTLE);
        let begin = Instant::now();
        let socket = place.listen(SocketAddr::new(group, PORT), source, PATIENCE)?;
        match socket.recv(&mut [0; 64]) {
            Ok(_) => {
                milliseconds.push(to_milliseconds(begin.elapsed()));
                // Where the network does not wait for the report, it comes after the datagram.
                let report = reports.of(group).or_else(|| {
                    thread::sleep(REPORT_PATIENCE);
                    reports.of(group)
                });
                reported.extend(
                    report.map(|report| to_milliseconds(report.saturating_duration_since(begin))),
                );
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => unheard += 1,
            Err(error) => return Err(error).context("receive a datagram"),
        }
        left = monotonic_nanoseconds()?;
        drop(socket);
    }
    thread::sleep(linger);
    asking.send_to(&[0; 4], server).context("ask for no group")?;
    println!(
        "{}",
        json!({ "milliseconds": milliseconds, "reported": reported,
            "unheard": unheard, "left": left })
    );
    Ok(())
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

fn to_milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// Joins groups until `time` has passed, and leaves each when [`CHURNED`] more are joined: the
/// kernel does not report a group that is left at once.
pub(super) fn churn(interface: Ipv4Addr, first: Ipv4Addr, rate: u32, time: Duration) -> Result<()> {
    ensure!((1..=100_000).contains(&rate), "{rate} joins per second are not between 1 and 100000");
    let begin = Instant::now();
    let mut joined: u32 = 0;
    let mut sockets = VecDeque::new();
    while begin.elapsed() < time {
        let due = Duration::from_secs_f64(f64::from(joined) / f64::from(rate));
        thread::sleep(due.saturating_sub(begin.elapsed()));
        let group = group_after(first, joined % 1000);
        let socket = UdpSocket::bind("0.0.0.0:0").context("open a socket")?;
        socket.join_multicast_v4(&group, &interface).with_context(|| format!("join {group}"))?;
        sockets.push_back(socket);
        if sockets.len() > CHURNED {
            sockets.pop_front();
        }
        joined += 1;
    }
    println!("{}", json!({ "joined": joined, "seconds": begin.elapsed().as_secs_f64() }));
    Ok(())
}

/// Joins groups on all of these interfaces, and stays in them until `time` has passed.
pub(super) fn hold(
    interfaces: &[Ipv4Addr],
    first: Ipv4Addr,
    count: u32,
    time: Duration,
) -> Result<()> {
    let mut sockets = Vec::new();
    for interface in interfaces {
        for index in 0..count {
            if index % GROUPS_OF_SOCKET == 0 {
                sockets.push(UdpSocket::bind("0.0.0.0:0").context("open a socket")?);
            }
            let group = group_after(first, index);
            let socket = sockets.last().context("a socket")?;
            socket
                .join_multicast_v4(&group, interface)
                .with_context(|| format!("join {group} on {interface}"))?;
        }
    }
    println!("{READY}");
    thread::sleep(time);
    Ok(())
}
