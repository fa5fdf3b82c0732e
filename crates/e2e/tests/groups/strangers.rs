//! Only hosts of the cluster can put frames into its networks.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::thread;

use anyhow::{Context, Result, anyhow, ensure};
use nix::sched::{CloneFlags, setns};
use shoutd_lab::{Host, wait_until};

use shoutd_e2e::{Cluster, Container, GroupSocket, Network, SOON, Sources, await_members, view};

const GROUP: Ipv4Addr = Ipv4Addr::new(239, 9, 9, 9);
const PORT: u16 = 6173;
const VXLAN_PORT: u16 = 7789;

/// Containers on Docker's default bridge and processes of the hosts send VXLAN with the network's
/// VNI.
pub fn frames(cluster: &mut Cluster) -> Result<()> {
    let [first, second, third] = cluster.three()?;
    let network = Network::create(cluster, &first, "foo", &["--internal"])?;
    let receiver = Container::start(&first, "foo", &[])?;
    let honest = Container::start(&second, "foo", &[])?;
    let receiving = GroupSocket::open(&receiver, true, PORT)?;
    receiving.join(GROUP.into(), Sources::All)?;
    let sending = GroupSocket::open(&honest, true, 0)?;
    await_members(&second, "239.9.9.9", &[&first])?;
    let frame = frame(&network)?;
    let outside = [&first, &second, &third]
        .map(|host| Container::start(host, "bridge", &["--cap-add=NET_ADMIN"]))
        .into_iter()
        .collect::<Result<Vec<_>>>()?;
    let gateway: IpAddr =
        outside[0].sh("ip route show default")?.split(' ').nth(2).context("a gateway")?.parse()?;
    let forged = second.address();
    outside[0].sh(&format!("ip address add {forged}/32 dev lo"))?;
    let to_first = first.address().into();
    let attempts = || -> Result<()> {
        for container in &outside {
            container.inside(|| send(None, to_first, &frame))?;
        }
        outside[0].inside(|| send(None, gateway, &frame))?;
        outside[0].inside(|| send(Some(forged), to_first, &frame))?;
        for host in [&first, &second, &third] {
            inside(host, || send(None, to_first, &frame))?;
        }
        inside(&first, || send(None, Ipv4Addr::LOCALHOST.into(), &frame))
    };
    let only_honest = |when: &str| -> Result<()> {
        attempts()?;
        sending.send((GROUP, PORT), b"honest")?;
        let mut received = Vec::new();
        wait_until("the honest datagram", SOON, || {
            received.extend(receiving.received()?.into_iter().map(|(_, text)| text));
            Ok(received.iter().any(|text| text == b"honest").then_some(()))
        })?;
        ensure!(received == [b"honest"], "frames of strangers were received {when}: {received:?}");
        Ok(())
    };
    only_honest("while all daemons run")?;
    for host in [&first, &second] {
        wait_until("an event that tells of them", SOON, || {
            Ok(view(host, "events")?.to_string().contains("filter-dropped").then_some(()))
        })?;
    }

    first.kill_shoutd()?;
    only_honest("after a daemon was killed")?;
    first.start_shoutd(&[])?;

    // Without the filter the frames do arrive: the test sends the right ones.
    let daemon = first.pids_of("shoutd")?;
    first.signal("STOP", &daemon)?;
    first.sh("nft delete table inet shoutd")?;
    outside[0].inside(|| send(None, gateway, &frame))?;
    wait_until("a frame of a stranger, without the filter", SOON, || {
        Ok(receiving.received()?.iter().any(|(_, text)| text == b"stranger").then_some(()))
    })?;
    first.signal("CONT", &daemon)?;
    wait_until("the filter to be put back", SOON, || {
        let listed = first.run(["nft", "list", "table", "inet", "shoutd"])?;
        let told = view(&first, "events")?.to_string().contains("filter-restored");
        Ok((listed.success() && told).then_some(()))
    })?;
    only_honest("after the filter was put back")
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

/// Runs `work` in the host's own network namespace.
fn inside<T: Send>(host: &Host, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let path = host.file("/proc/1/ns/net")?;
    let namespace = File::open(&path).with_context(|| format!("open {}", path.display()))?;
    let enter = move || {
        setns(&namespace, CloneFlags::CLONE_NEWNET)
            .context("enter the host's network namespace")?;
        work()
    };
    thread::scope(|scope| scope.spawn(enter).join().map_err(|_| anyhow!("a thread panicked"))?)
}
