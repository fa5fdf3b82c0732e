//! Receivers in VLANs (IEEE 802.1Q) of a container. Their program makes the frames itself, as the
//! machine's kernel may have no VLAN interfaces.

use std::net::Ipv4Addr;

use anyhow::{Context, Result};
use shoutd_e2e::{Capture, Cluster, Container, Network, SOON, await_members};
use shoutd_lab::{Host, wait_until};

const GROUP: Ipv4Addr = Ipv4Addr::new(239, 7, 7, 7);
/// IGMPv2 messages (RFC 2236, section 2.1), and the destination of the last one.
const QUERY: u8 = 0x11;
const REPORT: u8 = 0x16;
const LEAVE: u8 = 0x17;
const ALL_ROUTERS: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 2);

/// A bridge keeps memberships by port: when one VLAN's ends, that of another VLAN behind the same
/// port ends with it. shoutd then queries in that VLAN, and its members report again.
pub fn joined_in_vlans(cluster: &mut Cluster) -> Result<()> {
    let [first, second, _] = cluster.three()?;
    let network = Network::create(cluster, &first, "foo", &["--subnet=10.125.0.0/24"])?;
    let sender = Container::start(&first, "foo", &[])?;
    let receiver = Container::start(&second, "foo", &[])?;
    say(&receiver, REPORT, 7)?;
    await_members(&first, &GROUP.to_string(), &[&second])?;

    let port = Capture::start(&network.segment(&second)?, &port_of(&second, &network)?)?;
    say(&receiver, REPORT, 8)?;
    say(&receiver, LEAVE, 8)?;
    wait_until("a query in VLAN 7", SOON, || {
        Ok(port.frames().iter().any(|frame| frame.igmp_in_vlan(7) == Some(QUERY)).then_some(()))
    })?;
    say(&receiver, REPORT, 7)?;
    await_members(&first, &GROUP.to_string(), &[&second])?;

    let datagram = [&[0x17, 0x70, 0x17, 0x70, 0, 14, 0, 0][..], b"tagged"].concat();
    send(&sender, &frame(7, GROUP, 17, 4, &datagram))?;
    // The kernel may keep the tag beside the frame, where a capture does not see it.
    wait_until("what is sent in VLAN 7", SOON, || {
        Ok(port.frames().iter().any(|frame| frame.ends_with(b"tagged")).then_some(()))
    })
}

/// Sends an IGMP message of this type for the group.
fn say(receiver: &Container, kind: u8, vlan: u8) -> Result<()> {
    let to = if kind == LEAVE { ALL_ROUTERS } else { GROUP };
    let igmp = with_checksum([&[kind, 0, 0, 0][..], &GROUP.octets()].concat(), 2);
    send(receiver, &frame(vlan, to, 2, 1, &igmp))
}

/// Sends a frame out of the container as its own program would, by a packet socket.
fn send(container: &Container, frame: &[u8]) -> Result<()> {
    let own = container.sh("cat /sys/class/net/eth0/address")?;
    let own: String = own.trim().split(':').map(|octet| format!("\\x{octet}")).collect();
    let (to, rest) = frame.split_at(6);
    let text = escaped(to) + &own + &escaped(rest);
    container.sh(&format!("printf '{text}' | socat -u - INTERFACE:eth0")).map(drop)
}

/// Octets as an argument of `printf`.
fn escaped(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("\\x{octet:02x}")).collect()
}

/// The frame without its source address: a tag, and IPv4 with the router alert option of IGMP.
fn frame(vlan: u8, to: Ipv4Addr, protocol: u8, ttl: u8, payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(24 + payload.len()).unwrap();
    let header =
        [&[0x46, 0, 0, length, 0, 0, 0, 0, ttl, protocol, 0, 0, 10, 125, 7, 7][..], &to.octets()]
            .concat();
    let header = with_checksum([&header[..], &[0x94, 4, 0, 0]].concat(), 10);
    let [_, b, c, d] = to.octets();
    [&[1, 0, 0x5e, b & 0x7f, c, d][..], &[0x81, 0, 0, vlan, 8, 0], &header, payload].concat()
}

/// Puts the Internet checksum (RFC 1071) of an even number of octets at this place.
fn with_checksum(mut octets: Vec<u8>, at: usize) -> Vec<u8> {
    let words = octets.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let sum: u32 = words.sum();
    let folded = u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap();
    octets[at..at + 2].copy_from_slice(&(!folded).to_be_bytes());
    octets
}

/// The segment's port of the only container on the host.
fn port_of(host: &Host, network: &Network) -> Result<String> {
    let shown = host.run(["ip", "-n", &network.segment_name()?, "-o", "link"])?.stdout;
    let name = shown.split([' ', '@']).find(|word| word.starts_with("shp"));
    name.map(str::to_owned).with_context(|| format!("a port in {shown}"))
}
