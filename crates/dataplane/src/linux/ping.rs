//! Sockets for `shoutdctl ping` in one segment.

use std::net::IpAddr;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use shoutd_core::explain::TraceProbe;
use shoutd_core::ping::{Echo, Exchange};
use shoutd_core::plane::{TUNNEL, namespace_name};
use shoutd_core::{MacAddress, Vni};
use shoutd_netlink::{
    CountedPlace, Direction, GroupPackets, GroupSender, Namespace, PacketCounter, ProbeSocket,
    ProbeUse, Route,
};

use super::counts::container_sender;
use super::facts::Subject;
use crate::kernel_error::KernelError;

/// Octets of an IPv6 header, and of an IPv4 header without options.
const IP_HEADERS: [u16; 2] = [40, 20];

/// Octets of a UDP header.
const UDP_HEADER: u16 = 8;

/// Datagrams of the group that are read at once.
const DATAGRAMS_MAX: usize = 256;

/// Between the VXLAN devices of all hosts that have a network, and if wished also to a group.
#[derive(Debug)]
pub struct PingSockets {
    frames: ProbeSocket,
    /// The source of frames: a container's address, which the peers have pinned to this host.
    source: MacAddress,
    group: Option<Group>,
    mtu: u16,
}

#[derive(Debug)]
struct Group {
    sender: GroupSender,
    received: PacketCounter,
    is_ipv4: bool,
}

impl PingSockets {
    /// Opens the sockets. `directory` is that of the segments' namespaces. `source` is the address
    /// of a container of this host. Requests to a group are sent by a container, and go the way of
    /// its own packets.
    ///
    /// # Errors
    /// The segment does not exist, or the container has no interface on the network.
    pub fn open(
        directory: &Path,
        vni: Vni,
        source: MacAddress,
        group: Option<(IpAddr, &Subject)>,
    ) -> Result<Self, KernelError> {
        let name = namespace_name(vni);
        let namespace = Namespace::open(&directory.join(&name))?;
        let device = Route::open(&namespace)?.link(TUNNEL)?;
        let device = device
            .ok_or_else(|| KernelError::NoDevice { device: TUNNEL.to_owned(), namespace: name })?;
        let frames = ProbeSocket::open(&namespace, device.index, ProbeUse::Ping)?;
        let open = |(group, from): (IpAddr, &Subject)| {
            let to = (group, TraceProbe::PORT);
            let packets = GroupPackets { group, source: None, port: Some(to.1) };
            let place = CountedPlace::Device(device.index, Direction::Inbound);
            Ok::<_, KernelError>(Group {
                sender: container_sender(&namespace, from, None, to, 1)?,
                received: PacketCounter::open(&namespace, place, &packets, true)?,
                is_ipv4: group.is_ipv4(),
            })
        };
        let group = group.map(open).transpose()?;
        let mtu = u16::try_from(device.mtu).unwrap_or(u16::MAX);
        Ok(Self { frames, source, group, mtu })
    }

    /// MTU of the network in octets.
    pub fn mtu(&self) -> u16 {
        self.mtu
    }

    /// Sends a request of `size` octets: from the IP header on, or, without a group, behind the
    /// Ethernet header.
    fn request(&self, content: &[u8], size: u16) -> Result<(), KernelError> {
        let Some(group) = &self.group else { return self.frame(content, size) };
        let header = IP_HEADERS[usize::from(group.is_ipv4)] + UDP_HEADER;
        let mut content = content.to_vec();
        content.resize(content.len().max(size.saturating_sub(header).into()), 0);
        Ok(group.sender.send(&content)?)
    }

    fn frame(&self, content: &[u8], size: u16) -> Result<(), KernelError> {
        Ok(self.frames.send(self.source.0, content, size.into())?)
    }

    /// Sends and answers requests until `end`. The first request is sent after `lead`.
    pub fn run(&self, exchange: &mut Exchange, lead: Duration, end: Instant) {
        let begin = Instant::now();
        while Instant::now() < end {
            let due = exchange.next().map(|due| begin + lead + due);
            if due.is_some_and(|due| due <= Instant::now()) {
                self.send_next(exchange, begin);
            } else {
                self.wait(due.map_or(end, |due| due.min(end)));
            }
            self.receive(exchange, begin);
        }
    }

    fn send_next(&self, exchange: &mut Exchange, begin: Instant) {
        let Some(echo) = exchange.request(begin.elapsed()) else { return };
        if let Err(error) = self.request(&content(&echo), echo.size) {
            exchange.fail(error.to_string());
        }
    }

    fn receive(&self, exchange: &mut Exchange, begin: Instant) {
        let now = begin.elapsed();
        for received in self.received() {
            let answer = parse(&received).and_then(|echo| exchange.receive(&echo, now));
            let sent = answer.map(|answer| self.frame(&content(&answer), 0));
            if let Some(Err(error)) = sent {
                exchange.fail(error.to_string());
            }
        }
    }

    /// Waits until something came, or until this time.
    fn wait(&self, until: Instant) {
        let timeout = until.saturating_duration_since(Instant::now());
        // Rounded up, so that the caller does not ask again and again in the last millisecond.
        let timeout = i32::try_from(timeout.as_micros().div_ceil(1000)).unwrap_or(i32::MAX);
        let group = self.group.as_ref().map(|group| group.received.as_fd());
        let sources = [Some(self.frames.as_fd()), group];
        let mut sources: Vec<_> =
            sources.into_iter().flatten().map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
        // After an interruption, the caller looks and waits again.
        let _ = poll(&mut sources, PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX));
    }

    /// The contents of the requests and answers that came since the last call.
    fn received(&self) -> Vec<Vec<u8>> {
        let mut contents = self.frames.received();
        if let Some(group) = &self.group {
            let kept = group.received.kept(DATAGRAMS_MAX).into_iter();
            contents.extend(kept.filter_map(|packet| datagram(&packet.octets).map(<[u8]>::to_vec)));
        }
        contents
    }
}

/// The content of a UDP datagram that begins with its IP header. IPv6 requests have no extension
/// headers.
fn datagram(packet: &[u8]) -> Option<&[u8]> {
    let first = packet.first()?;
    let header = if first >> 4 == 4 { usize::from(first & 0xf) * 4 } else { IP_HEADERS[0].into() };
    packet.get(header + usize::from(UDP_HEADER)..)
}

fn content(echo: &Echo) -> Vec<u8> {
    serde_json::to_vec(echo).unwrap_or_default()
}

/// The request or answer at the beginning of a content. Zeros may follow.
fn parse(content: &[u8]) -> Option<Echo> {
    let mut echoes = serde_json::Deserializer::from_slice(content).into_iter();
    echoes.next()?.ok()
}
