//! The ways that are made by hand: what somebody would type who knows where all receivers are.

use std::net::Ipv4Addr;

use anyhow::{Context, Result};
use shoutd_lab::Host;

use super::ways::{End, Group};

/// Its interface in the container.
const DEVICE: &str = "hand0";

/// The UDP port of WireGuard made by hand.
const WIREGUARD_PORT: u16 = 7793;

/// The file of its private key.
const KEY: &str = "/run/hand.key";

/// A bridge and a VXLAN device on each host, in their own namespace, as in shoutd: in the host's
/// namespace, netfilter would drop bridged packets. All entries are static: groups go to the hosts
/// of [`Group::is_received_on`], and there only to the container's port. A bridge uses its entries
/// only where there is a querier.
#[derive(Debug, Clone, Copy)]
pub(super) struct ByHand {
    /// The name of the namespace, of the container and of its own network.
    name: &'static str,
    /// Its part of the subnets, and its VNI.
    number: u8,
    /// The UDP port of VXLAN, neither shoutd's nor that of Docker's overlay.
    port: u16,
    /// The MTU in the container.
    mtu: u16,
    /// Whether VXLAN is over WireGuard.
    over_wireguard: bool,
}

/// VXLAN over the underlay.
pub(super) const PLAIN: ByHand =
    ByHand { name: "hand", number: 203, port: 4790, mtu: 1450, over_wireguard: false };

/// VXLAN over WireGuard, with IPv6 addresses in it, as in shoutd.
pub(super) const OVER_WIREGUARD: ByHand =
    ByHand { name: "wghand", number: 205, port: 4791, mtu: 1370, over_wireguard: true };

impl ByHand {
    /// The UDP port of VXLAN.
    pub(super) const fn port(self) -> u16 {
        self.port
    }

    /// The ends on these hosts.
    pub(super) fn ends(self, hosts: &[Host]) -> Result<Vec<End>> {
        hosts.iter().map(|host| self.end(host, hosts)).collect()
    }

    /// The end on a host that knows the others.
    pub(super) fn end(self, host: &Host, hosts: &[Host]) -> Result<End> {
        let Self { name, number, port, mtu, .. } = self;
        let (own, process, address) =
            (host.number(), self.container(host)?, self.address(host.number()));
        let others = || hosts.iter().filter(|other| other.number() != own);
        let mut script = format!("set -e\nip netns add {name}\n");
        let below = if self.over_wireguard {
            script.push_str(&wireguard(name, host, others())?);
            format!("local {} dev wg0", inside(own))
        } else {
            format!("local {} dev eth0", host.address())
        };
        let made_in = if self.over_wireguard { format!("-n {name}") } else { String::new() };
        script.push_str(&format!(
            "ip {made_in} link add {name}v type vxlan id {number} dstport {port} {below} nolearning
            {moved}
            ip -n {name} link add bridge0 type bridge mcast_snooping 1 mcast_querier 1
            ip -n {name} link add port0 mtu {mtu} type veth peer name {DEVICE} mtu {mtu} address \
             {mac}
            ip -n {name} link set {name}v mtu {mtu} master bridge0 up
            ip -n {name} link set port0 master bridge0 up
            ip -n {name} link set bridge0 up
            bridge -n {name} link set dev {name}v mcast_router 2
            ip -n {name} link set {DEVICE} netns {process}
            in_container() {{ nsenter --net=/proc/{process}/ns/net ip \"$@\"; }}
            in_container address add {address}/24 dev {DEVICE}
            in_container link set {DEVICE} up
            in_container address add fd00:{number}::{own}/64 dev {DEVICE} nodad
            in_container route add 224.0.0.0/4 dev {DEVICE}\n",
            mac = self.mac(own),
            moved = if self.over_wireguard {
                String::new()
            } else {
                format!("ip link set {name}v netns {name}")
            },
        ));
        for group in Group::EACH.into_iter().filter(|group| group.is_received_on(own)) {
            let group = group.address();
            script.push_str(&format!(
                "bridge -n {name} mdb add dev bridge0 port port0 grp {group} permanent\n"
            ));
        }
        script.extend(others().map(|other| self.entries_to(other)));
        host.sh(&script)?;
        Ok(End::by_hand(host, address, DEVICE, process))
    }

    /// The container, on a network of its host only; returns its process. Everything the engine
    /// sets up in a container, such as netfilter rules for its DNS resolver, costs each packet, on
    /// any way.
    fn container(self, host: &Host) -> Result<u32> {
        let name = self.name;
        host.docker(["network", "create", "--internal", name])?;
        let ipv6 = "net.ipv6.conf.default.disable_ipv6=0";
        let options = ["--name", name, "--network", name, "--sysctl", ipv6];
        let command = ["debian", "sleep", "100000"];
        host.docker(["run", "--detach"].iter().chain(&options).chain(&command))?;
        let process = host.docker(["inspect", "--format", "{{.State.Pid}}", name])?;
        process.trim().parse().with_context(|| format!("the process of {name}, from {process:?}"))
    }

    /// The commands that add a host's static entries for another.
    pub(super) fn entries_to(self, other: &Host) -> String {
        let name = self.name;
        let to =
            if self.over_wireguard { inside(other.number()) } else { other.address().to_string() };
        let groups = Group::EACH
            .into_iter()
            .filter(|group| group.is_received_on(other.number()))
            .map(Group::mac);
        ["00:00:00:00:00:00".to_owned(), self.mac(other.number())]
            .into_iter()
            .chain(groups)
            .map(|mac| {
                format!("bridge -n {name} fdb append {mac} dev {name}v dst {to} self permanent\n")
            })
            .collect()
    }

    fn address(self, host: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, self.number, 0, host)
    }

    fn mac(self, host: u8) -> String {
        format!("02:00:0a:{:02x}:00:{host:02x}", self.number)
    }
}

/// A host's address in the tunnels of WireGuard.
fn inside(host: u8) -> String {
    format!("fd00:ec::{host}")
}

/// The commands that make the WireGuard device of a host with these peers, in a namespace. Its UDP
/// socket is in the host's own.
fn wireguard<'a>(
    namespace: &str,
    host: &Host,
    peers: impl Iterator<Item = &'a Host>,
) -> Result<String> {
    public_key(host)?;
    let mut script = format!(
        "ip link add wg0 type wireguard
        wg set wg0 private-key {KEY} listen-port {WIREGUARD_PORT}
        ip link set wg0 netns {namespace}
        ip -n {namespace} address add {address}/64 dev wg0 nodad
        ip -n {namespace} link set wg0 mtu 1440 up\n",
        address = inside(host.number()),
    );
    for peer in peers {
        script.push_str(&format!(
            "ip netns exec {namespace} wg set wg0 peer {key} endpoint {endpoint}:{WIREGUARD_PORT} \
             allowed-ips {inside}/128 persistent-keepalive 25\n",
            key = public_key(peer)?,
            endpoint = peer.address(),
            inside = inside(peer.number()),
        ));
    }
    Ok(script)
}

/// The public key of a host, which gets a private one if it has none.
fn public_key(host: &Host) -> Result<String> {
    let script = format!("umask 077; test -e {KEY} || wg genkey > {KEY}; wg pubkey < {KEY}");
    Ok(host.sh(&script)?.trim().to_owned())
}
