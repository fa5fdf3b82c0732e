//! Sockets for `shoutdctl ping` in one segment.

use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use shoutd_core::explain::TraceProbe;
use shoutd_core::ping::{Echo, Exchange};
use shoutd_core::plane::{TUNNEL, namespace_name};
use shoutd_core::{MacAddress, Vni};
use shoutd_netlink::{
    CountedPlace, Direction, ECHO_HEADER, EchoSocket, GroupPackets, GroupSender, Namespace,
    PacketCounter, ProbeSocket, ProbeUse, Route,
};

use super::counts::{container_interface, container_sender};
use super::facts::Subject;
use crate::kernel_error::KernelError;

/// Octets of an IPv6 header, and of an IPv4 header without options.
const IP_HEADERS: [u16; 2] = [40, 20];

/// Octets of a UDP header.
const UDP_HEADER: u16 = 8;

/// Datagrams of the group that are read at once.
const DATAGRAMS_MAX: usize = 256;

/// Where requests go.
#[derive(Debug, Clone, Copy)]
pub enum PingTo<'a> {
    /// To the VXLAN devices of all hosts that have the network. The address is the source of the
    /// frames: that of a container of this host, which the peers have pinned to this host.
    Hosts(MacAddress),
    /// The same, but requests go to a group. The container sends them, and they go the way of its
    /// own packets.
    Group(MacAddress, IpAddr, &'a Subject),
    /// From the container to an address.
    Address(IpAddr, &'a Subject),
}

/// The sockets of this host for one ping.
#[derive(Debug)]
pub struct PingSockets {
    sockets: Sockets,
    /// MTU of the network in octets.
    mtu: u16,
}

#[derive(Debug)]
enum Sockets {
    Hosts(Hosts),
    Address(Address),
}

/// Between hosts.
#[derive(Debug)]
struct Hosts {
    frames: ProbeSocket,
    source: MacAddress,
    group: Option<Group>,
}

#[derive(Debug)]
struct Group {
    sender: GroupSender,
    received: PacketCounter,
    is_ipv4: bool,
}

/// From a container to an address.
#[derive(Debug)]
struct Address {
    socket: EchoSocket,
    is_ipv4: bool,
}

impl PingSockets {
    /// Opens the sockets. `directory` is that of the segments' namespaces, and `session` the
    /// number of the exchange.
    ///
    /// # Errors
    /// The segment does not exist, or the container has no interface on the network.
    pub fn open(
        directory: &Path,
        vni: Vni,
        session: u64,
        to: PingTo<'_>,
    ) -> Result<Self, KernelError> {
        let name = namespace_name(vni);
        let segment = Namespace::open(&directory.join(&name))?;
        let device = Route::open(&segment)?.link(TUNNEL)?;
        let device = device
            .ok_or_else(|| KernelError::NoDevice { device: TUNNEL.to_owned(), namespace: name })?;
        let sockets = match to {
            PingTo::Hosts(source) => Hosts::open(&segment, device.index, source, None),
            PingTo::Group(source, group, from) => {
                Hosts::open(&segment, device.index, source, Some((group, from)))
            }
            PingTo::Address(address, from) => Address::open(&segment, address, from, session),
        };
        Ok(Self { sockets: sockets?, mtu: u16::try_from(device.mtu).unwrap_or(u16::MAX) })
    }

    /// MTU of the network in octets.
    pub fn mtu(&self) -> u16 {
        self.mtu
    }

    /// Sends and answers requests until `end`. The first request is sent after `lead`.
    pub fn run(&self, exchange: &mut Exchange, lead: Duration, end: Instant) {
        let begin = Instant::now();
        while Instant::now() < end {
            let due = exchange.next().map(|due| begin + lead + due);
            if due.is_some_and(|due| due <= Instant::now()) {
                self.send_next(exchange, begin);
            } else {
                wait(&self.sockets.descriptors(), due.map_or(end, |due| due.min(end)));
            }
            match &self.sockets {
                Sockets::Hosts(hosts) => hosts.receive(exchange, begin.elapsed()),
                Sockets::Address(address) => address.receive(exchange, begin.elapsed()),
            }
        }
    }

    fn send_next(&self, exchange: &mut Exchange, begin: Instant) {
        let Some(echo) = exchange.request(begin.elapsed()) else { return };
        let sent = match &self.sockets {
            Sockets::Hosts(hosts) => hosts.request(&echo),
            Sockets::Address(address) => address.request(&echo),
        };
        if let Err(error) = sent {
            exchange.fail(error.to_string());
        }
    }
}

impl Sockets {
    /// What becomes readable when a request or an answer comes.
    fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        match self {
            Self::Hosts(hosts) => {
                let group = hosts.group.as_ref().map(|group| group.received.as_fd());
                [Some(hosts.frames.as_fd()), group].into_iter().flatten().collect()
            }
            Self::Address(address) => vec![address.socket.as_fd()],
        }
    }
}

impl Hosts {
    fn open(
        segment: &Namespace,
        device: u32,
        source: MacAddress,
        group: Option<(IpAddr, &Subject)>,
    ) -> Result<Sockets, KernelError> {
        let open = |(group, from): (IpAddr, &Subject)| {
            let to = (group, TraceProbe::PORT);
            let packets = GroupPackets { group, source: None, port: Some(to.1) };
            let place = CountedPlace::Device(device, Direction::Inbound);
            Ok::<_, KernelError>(Group {
                sender: container_sender(segment, from, None, to, 1)?,
                received: PacketCounter::open(segment, place, &packets, true)?,
                is_ipv4: group.is_ipv4(),
            })
        };
        let frames = ProbeSocket::open(segment, device, ProbeUse::Ping)?;
        Ok(Sockets::Hosts(Self { frames, source, group: group.map(open).transpose()? }))
    }

    /// Sends a request of `size` octets: from the IP header on, or, without a group, behind the
    /// Ethernet header.
    fn request(&self, echo: &Echo) -> Result<(), KernelError> {
        let Some(group) = &self.group else { return self.frame(echo, echo.size) };
        let headers = ip_header(group.is_ipv4) + UDP_HEADER;
        let mut content = content(echo);
        content.resize(content.len().max(echo.size.saturating_sub(headers).into()), 0);
        Ok(group.sender.send(&content)?)
    }

    fn frame(&self, echo: &Echo, size: u16) -> Result<(), KernelError> {
        Ok(self.frames.send(self.source.0, &content(echo), size.into())?)
    }

    fn receive(&self, exchange: &mut Exchange, now: Duration) {
        for received in self.received() {
            let answer = parse(&received).and_then(|echo| exchange.receive(&echo, now));
            let sent = answer.map(|answer| self.frame(&answer, 0));
            if let Some(Err(error)) = sent {
                exchange.fail(error.to_string());
            }
        }
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

impl Address {
    fn open(
        segment: &Namespace,
        address: IpAddr,
        from: &Subject,
        session: u64,
    ) -> Result<Sockets, KernelError> {
        let (namespace, own) = container_interface(segment, from)?;
        let [.., a, b] = session.to_be_bytes();
        let identifier = u16::from_be_bytes([a, b]);
        let socket = EchoSocket::open(&namespace, &own.name, address, identifier)?;
        Ok(Sockets::Address(Self { socket, is_ipv4: address.is_ipv4() }))
    }

    /// Sends a request of `size` octets from the IP header on.
    fn request(&self, echo: &Echo) -> Result<(), KernelError> {
        let size = usize::from(echo.size.saturating_sub(ip_header(self.is_ipv4)));
        let mut content = echo.session.to_be_bytes().to_vec();
        content.resize(content.len().max(size.saturating_sub(ECHO_HEADER)), 0);
        Ok(self.socket.send(echo.number, &content)?)
    }

    fn receive(&self, exchange: &mut Exchange, now: Duration) {
        let session = exchange.session().to_be_bytes();
        let answers = self.socket.answers().into_iter();
        for answer in answers.filter(|answer| answer.content.starts_with(&session)) {
            exchange.answered(answer.number, now);
        }
    }
}

/// Waits until something came, or until this time.
fn wait(descriptors: &[BorrowedFd<'_>], until: Instant) {
    let timeout = until.saturating_duration_since(Instant::now());
    // Rounded up, so that the caller does not ask again and again in the last millisecond.
    let timeout = i32::try_from(timeout.as_micros().div_ceil(1000)).unwrap_or(i32::MAX);
    let mut sources: Vec<_> =
        descriptors.iter().map(|fd| PollFd::new(*fd, PollFlags::POLLIN)).collect();
    // After an interruption, the caller looks and waits again.
    let _ = poll(&mut sources, PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX));
}

/// Octets of an IP header without options.
fn ip_header(is_ipv4: bool) -> u16 {
    IP_HEADERS[usize::from(is_ipv4)]
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
