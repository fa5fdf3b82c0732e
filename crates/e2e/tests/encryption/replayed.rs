//! Packets of the encrypted tunnel that are sent again, or back to their sender.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, UdpSocket};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use shoutd_e2e::{
    Capture, Cluster, Frame, GroupSocket, Network, SOON, Sources, await_members, inside_host,
    one_on_each,
};
use shoutd_lab::wait_until;

/// A group, and the UDP port of its datagrams.
const GROUP: Ipv4Addr = Ipv4Addr::new(239, 8, 8, 9);
const PORT: u16 = 6162;

/// The UDP port of WireGuard.
const WIREGUARD: u16 = 7792;

/// Datagrams that are captured.
const DATAGRAMS: u32 = 300;

/// How often each captured packet is sent again to each of the two hosts.
const TIMES: usize = 5;

/// The time between two of these packets, so that no socket's buffer overflows.
const PAUSE: Duration = Duration::from_micros(200);

/// How often each datagram arrived.
struct Arrivals<'a> {
    socket: &'a GroupSocket,
    times: BTreeMap<Vec<u8>, usize>,
}

impl Arrivals<'_> {
    fn receive(&mut self) -> Result<()> {
        for (_, datagram) in self.socket.received()? {
            *self.times.entry(datagram).or_default() += 1;
        }
        Ok(())
    }

    fn await_all(&mut self, number: u32) -> Result<()> {
        wait_until("all datagrams to arrive", SOON, || {
            self.receive()?;
            Ok((self.times.len() == usize::try_from(number)?).then_some(()))
        })
    }
}

pub fn replayed(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.three()?;
    let [first, second, third] = &hosts;
    let network = Network::create(cluster, first, "foo", &["--opt=encrypted"])?;
    let containers = one_on_each(&hosts[..2], "foo", &[])?;
    let [sender, receiver] = containers.as_slice() else { bail!("no containers") };
    let receiving = GroupSocket::open(receiver, true, PORT)?;
    receiving.join(GROUP.into(), Sources::All)?;
    await_members(first, &GROUP.to_string(), &[second])?;
    let sending = GroupSocket::open(sender, true, 0)?;
    let send = |number: u32| {
        thread::sleep(PAUSE);
        sending.send((GROUP, PORT), &number.to_be_bytes())
    };
    let mut arrivals = Arrivals { socket: &receiving, times: BTreeMap::new() };

    let capture = Capture::of_underlay(second)?;
    (0..DATAGRAMS).try_for_each(send)?;
    arrivals.await_all(DATAGRAMS)?;
    let captured = packets(&capture.stop()?);
    ensure!(captured.len() >= usize::try_from(DATAGRAMS)?, "{} were captured", captured.len());

    // A process of a host of the cluster has captured them, which is more than a stranger can.
    let socket = inside_host(third, || UdpSocket::bind("0.0.0.0:0").context("open a socket"))?;
    let port = socket.local_addr()?.port();
    let again = [Capture::of_underlay(first)?, Capture::of_underlay(second)?];
    for packet in captured.iter().flat_map(|packet| std::iter::repeat_n(packet, TIMES)) {
        for host in [first, second] {
            socket.send_to(packet, (host.address(), WIREGUARD))?;
            thread::sleep(PAUSE);
        }
    }
    for capture in again {
        let came = capture.stop()?.iter().filter(|frame| frame.udp_from(port).is_some()).count();
        ensure!(came == captured.len() * TIMES, "{came} packets reached the host");
    }

    // Afterwards everything passes as before, and nothing came twice.
    (DATAGRAMS..2 * DATAGRAMS).try_for_each(send)?;
    arrivals.await_all(2 * DATAGRAMS)?;
    for (from, to) in [(sender, receiver), (receiver, sender)] {
        from.ping(&to.address("foo")?.to_string())?;
    }
    arrivals.receive()?;
    let twice = arrivals.times.values().filter(|times| **times > 1).count();
    ensure!(twice == 0, "{twice} datagrams arrived more than once");
    println!("{} packets were sent again, and {twice} arrived", captured.len() * TIMES * 2);
    drop((receiving, sending, containers));
    network.remove_on(first)
}

/// What came to WireGuard's port.
fn packets(frames: &[Frame]) -> Vec<Vec<u8>> {
    frames.iter().filter_map(|frame| frame.udp_to(WIREGUARD)).map(<[u8]>::to_vec).collect()
}
