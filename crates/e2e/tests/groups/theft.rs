//! A container cannot take over another's traffic.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context, Result};
use shoutd_e2e::{Cluster, Container, Network, Numbered, NumberedReceiver};
use shoutd_lab::Host;

/// UDP ports of the streams from another host and from the victim's own.
const PORTS: [u16; 2] = [6171, 6172];

fn start(host: &Host) -> Result<Container> {
    Container::start(host, "foo", &[])
}

/// Two others take a container's MAC and IPv4 address, one on its own host and one on another, and
/// announce them by gratuitous ARP: the container loses nothing.
pub fn mac_address(cluster: &mut Cluster) -> Result<()> {
    let [first, second, third] = cluster.three()?;
    let _network = Network::create(cluster, &first, "foo", &["--subnet=10.126.0.0/24"])?;
    let (victim, senders, thieves) =
        (start(&second)?, [start(&first)?, start(&second)?], [start(&second)?, start(&third)?]);
    let address = victim.address("foo")?;
    let mac = victim.sh("cat /sys/class/net/eth0/address")?;
    let mut streams = Vec::new();
    for (sender, port) in senders.iter().zip(PORTS) {
        let to = SocketAddr::new(address.into(), port);
        let mut incoming = NumberedReceiver::start(&victim, to)?;
        let numbered = Numbered::begin(sender, &[to])?;
        let begun = incoming.await_number(0)?;
        streams.push((numbered, incoming, begun));
    }
    for thief in &thieves {
        steal(thief, mac.trim(), address)?;
    }
    for (numbered, ..) in &streams {
        numbered.await_more(200)?;
    }
    for ((numbered, mut incoming, begun), sender) in streams.into_iter().zip(&senders) {
        let last = numbered.end()?;
        incoming.ensure_all(begun, last).with_context(|| format!("from {}", sender.host.name()))?;
    }
    Ok(())
}

/// Makes a container send with this MAC address and announce the IPv4 address by ARP. shoutd
/// restores the MAC address of its interface; we wait for that, since no second interface can be up
/// with the same one. Then a macvlan takes it, as programs do for virtual addresses. Only the
/// macvlan may answer for the address: otherwise the neighbours would learn the interface's own MAC
/// address.
fn steal(thief: &Container, mac: &str, address: Ipv4Addr) -> Result<()> {
    let inside = format!("nsenter --net=/proc/{}/ns/net", thief.inspect("{{.State.Pid}}")?);
    thief.host.sh(&format!(
        "{inside} sh -c 'echo 1 > /proc/sys/net/ipv4/conf/all/arp_ignore && ip link set eth0 \
         address {mac} && for n in $(seq 200); do ip link show eth0 | grep -q {mac} || break; \
         sleep 0.05; done && ip link add link eth0 name stolen address {mac} type macvlan mode \
         bridge && ip link set stolen up && ip address add {address}/32 dev stolen'"
    ))?;
    for kind in ["-U", "-A"] {
        thief.sh(&format!("arping {kind} -c 1 -I stolen {address}"))?;
    }
    Ok(())
}
