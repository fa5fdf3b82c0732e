//! The compared paths between hosts ("ways"), each with an end on every host.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use shoutd_lab::{Host, Process, wait_until};

use super::by_hand::{OVER_WIREGUARD, PLAIN};
use super::helper::READY;
use super::{NETWORK, helper_program};

/// How long a helper may take to start, and to end after its time.
pub(super) const HELPER_DEADLINE: Duration = Duration::from_secs(20);

/// How long a network may take to appear on all hosts.
const NETWORK_DEADLINE: Duration = Duration::from_secs(30);

/// A path between hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Way {
    /// The hosts' own network.
    Underlay,
    /// A VXLAN and a bridge on each host, with static entries.
    ByHand,
    /// Docker's overlay network in Swarm mode.
    Overlay,
    /// A shoutd network.
    Shoutd,
    /// As by hand, over WireGuard devices, if the kernel has them.
    EncryptedByHand,
    /// An encrypted shoutd network.
    Encrypted,
}

/// The network of Docker's overlay.
pub(super) const OVERLAY_NETWORK: &str = "swarm";

/// The encrypted network.
const ENCRYPTED_NETWORK: &str = "vault";

/// The options of the networks.
const SUBNETS: [&str; 5] = ["--subnet", "10.202.0.0/24", "--ipv6", "--subnet", "fd00:202::/64"];
const ENCRYPTED: [&str; 7] =
    ["--opt", "encrypted", "--subnet", "10.204.0.0/24", "--ipv6", "--subnet", "fd00:204::/64"];

impl Way {
    pub(super) const ALL: [Self; 6] = [
        Self::Underlay,
        Self::ByHand,
        Self::Overlay,
        Self::Shoutd,
        Self::EncryptedByHand,
        Self::Encrypted,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Underlay => "underlay",
            Self::ByHand => "by hand",
            Self::Overlay => "Docker overlay",
            Self::Shoutd => "shoutd",
            Self::EncryptedByHand => "WireGuard by hand",
            Self::Encrypted => "shoutd, encrypted",
        }
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The end of a way on a host: a network namespace with an address.
#[derive(Debug, Clone)]
pub(super) struct End {
    pub(super) host: Host,
    pub(super) address: Ipv4Addr,
    /// The interface with that address.
    device: &'static str,
    /// The namespace's file on the host; `None` is the host's own.
    namespace: Option<String>,
}

impl End {
    /// An end that was made by hand, in the namespace of this process.
    pub(super) fn by_hand(
        host: &Host,
        address: Ipv4Addr,
        device: &'static str,
        process: u32,
    ) -> Self {
        let namespace = Some(format!("/proc/{process}/ns/net"));
        Self { host: host.clone(), address, device, namespace }
    }

    /// The end of the underlay on a host.
    pub(super) fn of_host(host: &Host) -> Self {
        Self { host: host.clone(), address: host.address(), device: "eth0", namespace: None }
    }

    /// The end of a Docker network on a host: a container that sleeps.
    pub(super) fn of_container(host: &Host, network: &str) -> Result<Self> {
        let name = format!("bench-{network}");
        let option = format!("--network={network}");
        host.docker(["run", "--detach", "--name", &name, &option, "debian", "sleep", "100000"])?;
        Self::running(host, &name, network)
    }

    /// The end of a Docker network in a running container.
    pub(super) fn running(host: &Host, name: &str, network: &str) -> Result<Self> {
        let format = format!(
            "{{{{.State.Pid}}}} {{{{(index .NetworkSettings.Networks \"{network}\").IPAddress}}}}"
        );
        let found = host.docker(["inspect", "--format", &format, name])?;
        let (pid, address) =
            found.trim().split_once(' ').context("no process and address of a container")?;
        let namespace = Some(format!("/proc/{pid}/ns/net"));
        Ok(Self {
            host: host.clone(),
            address: address.parse().context("an address")?,
            device: "eth0",
            namespace,
        })
    }

    /// A helper's arguments for the interface.
    pub(super) fn place(&self) -> String {
        format!("--interface {} --device {}", self.address, self.device)
    }

    pub(super) fn device(&self) -> &'static str {
        self.device
    }

    /// Starts a command in the namespace.
    pub(super) fn spawn(&self, command: &[&str]) -> Result<Process> {
        let enter = self.namespace.as_ref().map(|path| format!("--net={path}"));
        let enter = enter.as_ref().map(|option| ["nsenter", option.as_str()]);
        self.host.spawn(enter.iter().flatten().chain(command))
    }

    /// Starts a helper with these arguments.
    pub(super) fn helper(&self, arguments: &str) -> Result<Process> {
        let program = helper_program()?;
        let command: Vec<&str> =
            [program.as_str(), "bench-helper"].into_iter().chain(arguments.split(' ')).collect();
        self.spawn(&command)
    }

    /// As [`End::helper`]; returns when it is ready.
    pub(super) fn ready_helper(&self, arguments: &str) -> Result<Process> {
        let process = self.helper(arguments)?;
        process.wait_for_line(HELPER_DEADLINE, |line| line == READY)?;
        Ok(process)
    }

    /// Runs a helper for at most `seconds`, and returns its findings.
    pub(super) fn run_helper(&self, arguments: &str, seconds: f64) -> Result<Value> {
        findings(&mut self.helper(arguments)?, seconds)
    }
}

/// Waits for the end of a helper, for a little more than `seconds`, and returns its findings.
pub(super) fn findings(process: &mut Process, seconds: f64) -> Result<Value> {
    let output = process.wait(Duration::from_secs_f64(seconds) + HELPER_DEADLINE)?;
    ensure!(output.success(), "{} failed, {output}", process.what());
    let line = output.stdout.lines().next_back().unwrap_or_default();
    serde_json::from_str(line).with_context(|| format!("{} said: {line:?}", process.what()))
}

/// A number in a helper's findings.
pub(super) fn number(findings: &Value, name: &str) -> Result<f64> {
    findings.get(name).and_then(Value::as_f64).with_context(|| format!("no {name} in {findings}"))
}

/// One way, with an end on each host.
#[derive(Debug)]
pub(super) struct Ends {
    pub(super) way: Way,
    ends: Vec<End>,
}

impl Ends {
    /// Makes the way between these hosts.
    pub(super) fn make(way: Way, hosts: &[Host]) -> Result<Self> {
        let ends = match way {
            Way::Underlay => hosts.iter().map(End::of_host).collect(),
            Way::ByHand => PLAIN.ends(hosts)?,
            Way::EncryptedByHand => OVER_WIREGUARD.ends(hosts)?,
            Way::Overlay => overlay(hosts)?,
            Way::Shoutd => shoutd(hosts, NETWORK, &SUBNETS)?,
            Way::Encrypted => shoutd(hosts, ENCRYPTED_NETWORK, &ENCRYPTED)?,
        };
        Ok(Self { way, ends })
    }

    /// The number of hosts with an end.
    pub(super) fn count(&self) -> u8 {
        u8::try_from(self.ends.len()).unwrap_or(u8::MAX)
    }

    /// The hosts, in order.
    pub(super) fn hosts(&self) -> impl Iterator<Item = &Host> {
        self.ends.iter().map(|end| &end.host)
    }

    /// Makes an end on one more host. By hand, only the first host gets entries for it, because it
    /// alone sends.
    pub(super) fn extend(&mut self, host: &Host) -> Result<()> {
        let first = self.on(1)?.host.clone();
        let end = match self.way {
            Way::ByHand => {
                first.sh(&PLAIN.entries_to(host))?;
                PLAIN.end(host, &[first])?
            }
            Way::Shoutd => {
                await_network(host, NETWORK)?;
                End::of_container(host, NETWORK)?
            }
            Way::Underlay | Way::Overlay | Way::EncryptedByHand | Way::Encrypted => {
                bail!("{} has no ends on more hosts", self.way)
            }
        };
        self.ends.push(end);
        Ok(())
    }

    /// The end on the host with this number, from 1.
    pub(super) fn on(&self, number: usize) -> Result<&End> {
        let index = number.checked_sub(1).context("hosts are counted from 1")?;
        self.ends.get(index).with_context(|| format!("{} has no end on host{number}", self.way))
    }
}

/// A group with known receivers, for static entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Group {
    /// Received on host 2.
    One,
    /// Received on hosts 2 and 3.
    Two,
    /// Received on hosts 2, 3 and 4.
    Three,
    /// Received on all hosts but the first.
    All,
    /// Received on host 1, for answers.
    Back,
    /// Received on host 2 by IPv6.
    OneOfIpv6,
}

impl Group {
    pub(super) const EACH: [Self; 6] =
        [Self::One, Self::Two, Self::Three, Self::All, Self::Back, Self::OneOfIpv6];

    pub(super) fn address(self) -> IpAddr {
        let last = match self {
            Self::One => 1,
            Self::Two => 2,
            Self::Back => 3,
            Self::Three => 4,
            Self::All => 5,
            Self::OneOfIpv6 => return Ipv6Addr::new(0xff15, 0, 0, 0, 0, 0, 0x77, 1).into(),
        };
        Ipv4Addr::new(239, 77, 0, last).into()
    }

    /// Whether the host with this number has receivers.
    pub(super) fn is_received_on(self, host: u8) -> bool {
        match self {
            Self::One | Self::OneOfIpv6 => host == 2,
            Self::Two => (2..=3).contains(&host),
            Self::Three => (2..=4).contains(&host),
            Self::All => host >= 2,
            Self::Back => host == 1,
        }
    }

    /// RFC 1112, section 6.4: the low 23 bits of the group after 01:00:5e. RFC 2464, section 7: the
    /// low 32 after 33:33.
    pub(super) fn mac(self) -> String {
        match self.address() {
            IpAddr::V4(group) => {
                let [_, b, c, d] = group.octets();
                format!("01:00:5e:{:02x}:{c:02x}:{d:02x}", b & 0x7f)
            }
            IpAddr::V6(group) => {
                let [.., a, b, c, d] = group.octets();
                format!("33:33:{a:02x}:{b:02x}:{c:02x}:{d:02x}")
            }
        }
    }
}

/// Docker's overlay: the first host manages a swarm, and the others join it.
fn overlay(hosts: &[Host]) -> Result<Vec<End>> {
    let [first, others @ ..] = hosts else { bail!("no hosts") };
    let address = first.address();
    first.docker(["swarm", "init", "--advertise-addr", &address.to_string()])?;
    let token = first.docker(["swarm", "join-token", "--quiet", "worker"])?;
    for host in others {
        host.docker(["swarm", "join", "--token", token.trim(), &format!("{address}:2377")])?;
    }
    let options = ["--driver", "overlay", "--attachable", "--subnet", "10.201.0.0/24"];
    first.docker(["network", "create"].iter().chain(&options).chain(&[OVERLAY_NETWORK]))?;
    hosts.iter().map(|host| End::of_container(host, OVERLAY_NETWORK)).collect()
}

/// A shoutd network on hosts where shoutd runs.
fn shoutd(hosts: &[Host], name: &str, options: &[&str]) -> Result<Vec<End>> {
    let first = hosts.first().context("no hosts")?;
    first
        .docker(["network", "create", "--driver", "shoutd"].iter().chain(options).chain(&[name]))?;
    hosts.iter().try_for_each(|host| await_network(host, name))?;
    hosts.iter().map(|host| End::of_container(host, name)).collect()
}

/// Waits until a host has the Docker network.
pub(super) fn await_network(host: &Host, network: &str) -> Result<()> {
    wait_until(&format!("network {network} on {}", host.name()), NETWORK_DEADLINE, || {
        Ok(host.run(["docker", "network", "inspect", network])?.success().then_some(()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_groups_to_mac_addresses() {
        assert_eq!(Group::Two.mac(), "01:00:5e:4d:00:02");
        assert_eq!(Group::OneOfIpv6.mac(), "33:33:00:77:00:01");
    }
}
