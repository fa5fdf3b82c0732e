//! Only hosts of the cluster can put frames into its networks.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};

use anyhow::{Context, Result, ensure};
use shoutd_e2e::{
    Cluster, Container, GroupSocket, Network, SOON, Sources, await_members, inside_host, view,
};
use shoutd_lab::{Host, wait_until};

const GROUP: Ipv4Addr = Ipv4Addr::new(239, 9, 9, 9);
const PORT: u16 = 6173;
const VXLAN_PORT: u16 = 7789;

/// Containers on Docker's default bridge and processes of the hosts send VXLAN with the network's
/// VNI.
pub fn frames(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.three()?;
    let [first, second, _] = &hosts;
    let network = Network::create(cluster, first, "foo", &["--internal"])?;
    let receiver = Container::start(first, "foo", &[])?;
    let honest = Container::start(second, "foo", &[])?;
    let receiving = GroupSocket::open(&receiver, true, PORT)?;
    receiving.join(GROUP.into(), Sources::All)?;
    let sending = GroupSocket::open(&honest, true, 0)?;
    await_members(second, "239.9.9.9", &[first])?;
    let strangers = Strangers::start(&hosts, frame(&network)?)?;
    let members = Members { sending, receiving };
    members.ensure_only_honest(&strangers).context("while all daemons run")?;
    for host in [first, second] {
        wait_until("an event that tells of them", SOON, || {
            Ok(view(host, "events")?.to_string().contains("filter-dropped").then_some(()))
        })?;
    }

    first.kill_shoutd()?;
    members.ensure_only_honest(&strangers).context("after a daemon was killed")?;
    first.start_shoutd(&[])?;

    // Without the filter the frames do arrive: the test sends the right ones.
    let daemon = first.pids_of("shoutd")?;
    first.signal("STOP", &daemon)?;
    first.sh("nft delete table inet shoutd")?;
    strangers.send_to_gateway()?;
    wait_until("a frame of a stranger, without the filter", SOON, || {
        let received = members.receiving.received()?;
        Ok(received.iter().any(|(_, text)| text == b"stranger").then_some(()))
    })?;
    first.signal("CONT", &daemon)?;
    await_restored(first, 0)?;
    members.ensure_only_honest(&strangers).context("after the filter was put back")?;

    // As firewalls do when they are loaded anew. Docker's own rules go with them, which others
    // mend.
    first.sh("iptables-save > /run/before.iptables")?;
    for wipe in FLUSHES {
        let told = restored(first)?;
        first.sh(wipe)?;
        await_restored(first, told).context(wipe)?;
        members.ensure_only_honest(&strangers).context(wipe)?;
    }
    for change in LEAVE_IT {
        first.sh(change)?;
        first.sh("nft list table inet shoutd").context(change)?;
        members.ensure_only_honest(&strangers).context(change)?;
    }
    Ok(())
}

/// Sockets of two containers on the network.
struct Members {
    sending: GroupSocket,
    receiving: GroupSocket,
}

impl Members {
    /// Checks that a member receives what another sends, and nothing that strangers send.
    fn ensure_only_honest(&self, strangers: &Strangers<'_>) -> Result<()> {
        strangers.send_all()?;
        self.sending.send((GROUP, PORT), b"honest")?;
        let mut received = Vec::new();
        wait_until("the honest datagram", SOON, || {
            received.extend(self.receiving.received()?.into_iter().map(|(_, text)| text));
            Ok(received.iter().any(|text| text == b"honest").then_some(()))
        })?;
        ensure!(received == [b"honest"], "frames of strangers were received: {received:?}");
        Ok(())
    }
}

/// Hosts of the cluster, and a container on Docker's default bridge of each, which send a frame for
/// the network to the first host.
struct Strangers<'a> {
    hosts: &'a [Host; 3],
    containers: Vec<Container>,
    /// The first host's address on its bridge.
    gateway: IpAddr,
    frame: Vec<u8>,
}

impl<'a> Strangers<'a> {
    /// Starts the containers. The first gets the second host's address, too.
    fn start(hosts: &'a [Host; 3], frame: Vec<u8>) -> Result<Self> {
        let containers = hosts
            .iter()
            .map(|host| Container::start(host, "bridge", &["--cap-add=NET_ADMIN"]))
            .collect::<Result<Vec<_>>>()?;
        let shown = containers[0].sh("ip route show default")?;
        let gateway = shown.split(' ').nth(2).context("a gateway")?.parse()?;
        containers[0].sh(&format!("ip address add {}/32 dev lo", hosts[1].address()))?;
        Ok(Self { hosts, containers, gateway, frame })
    }

    /// Sends the frame in all ways.
    fn send_all(&self) -> Result<()> {
        let to_first = self.hosts[0].address().into();
        for container in &self.containers {
            container.inside(|| send(None, to_first, &self.frame))?;
        }
        self.send_to_gateway()?;
        let forged = self.hosts[1].address();
        self.containers[0].inside(|| send(Some(forged), to_first, &self.frame))?;
        for host in self.hosts {
            inside_host(host, || send(None, to_first, &self.frame))?;
        }
        inside_host(&self.hosts[0], || send(None, Ipv4Addr::LOCALHOST.into(), &self.frame))
    }

    fn send_to_gateway(&self) -> Result<()> {
        self.containers[0].inside(|| send(None, self.gateway, &self.frame))
    }
}

/// What takes the filter away: by hand, and as `nftables.service` does.
const FLUSHES: [&str; 2] = [
    "nft flush ruleset",
    "echo 'flush ruleset; table inet filter { chain input { type filter hook input priority 0; }; \
     }' | nft -f -",
];

/// What takes others' rules away and leaves the filter in its place. The last brings those of
/// Docker back.
const LEAVE_IT: [&str; 3] = [
    "nft delete table inet filter",
    "iptables -F && iptables -t nat -F && iptables -X",
    "iptables-restore < /run/before.iptables",
];

/// How often the events say that the filter was put back.
fn restored(host: &Host) -> Result<u64> {
    let events = view(host, "events")?;
    let restored = events
        .as_array()
        .context("events")?
        .iter()
        .filter(|event| event["kind"] == "filter-restored");
    Ok(restored.filter_map(|event| event["count"].as_u64()).sum())
}

/// Waits until the filter is there and the events say so once more than before.
fn await_restored(host: &Host, before: u64) -> Result<()> {
    wait_until("the filter to be put back, and an event", SOON, || {
        let listed = host.run(["nft", "list", "table", "inet", "shoutd"])?;
        Ok((listed.success() && restored(host)? > before).then_some(()))
    })
}

/// A VXLAN packet with a datagram to the group, as a container of the network would send it (RFC
/// 7348, section 5).
fn frame(network: &Network) -> Result<Vec<u8>> {
    let name = network.segment_name()?;
    let vni: u32 =
        name.trim_start_matches("shout-").parse().with_context(|| format!("a VNI in {name}"))?;
    let payload = b"stranger";
    let mut frame = vec![8, 0, 0, 0];
    frame.extend((vni << 8).to_be_bytes());
    frame.extend([1, 0, 0x5e, 9, 9, 9, 2, 0x73, 1, 2, 3, 4, 8, 0]);
    let length = u16::try_from(28 + payload.len())?;
    let mut header = vec![0x45, 0];
    header.extend(length.to_be_bytes());
    header.extend([0, 0, 0, 0, 4, 17, 0, 0, 198, 51, 100, 7]);
    header.extend(GROUP.octets());
    let sum: u32 = header.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
    let sum = !u16::try_from((sum & 0xffff) + (sum >> 16))?;
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    frame.extend(header);
    frame.extend(PORT.to_be_bytes());
    frame.extend(PORT.to_be_bytes());
    frame.extend((length - 20).to_be_bytes());
    frame.extend([0, 0]);
    frame.extend(payload);
    Ok(frame)
}

/// Sends a datagram to the VXLAN port by a plain socket. A refusal is not an error.
fn send(source: Option<Ipv4Addr>, to: IpAddr, datagram: &[u8]) -> Result<()> {
    let source = source.unwrap_or(Ipv4Addr::UNSPECIFIED);
    let socket =
        UdpSocket::bind((source, 0)).with_context(|| format!("open a socket at {source}"))?;
    _ = socket.send_to(datagram, SocketAddr::new(to, VXLAN_PORT));
    Ok(())
}
