//! The network between the hosts: a bridge in the keeper's network namespace.

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::layout::{self, GATEWAY, MAX_HOSTS, address, address_v6};

/// The longest packet that the underlay carries, in octets; each host's own MTU may be smaller.
const JUMBO: u16 = 9000;

/// Makes the bridge, which is also the hosts' default gateway. Nothing is behind it: it answers
/// packets to the outside world with ICMP "network unreachable", without a rate limit.
pub(super) fn make() -> Result<()> {
    for (name, value) in [("ip_forward", "1"), ("icmp_ratelimit", "0")] {
        let path = format!("/proc/sys/net/ipv4/{name}");
        fs::write(&path, value).with_context(|| format!("write {path}"))?;
    }
    ip(
        None,
        &format!(
            "link set lo up
         link add underlay mtu 1500 type bridge mcast_snooping 0
         address add {GATEWAY}/24 dev underlay
         link set underlay up"
        ),
    )
}

/// Connects the host whose first process is `init`: its `eth0` gets the addresses of host `number`.
///
/// As in a cloud, there is no multicast between hosts. IPv6 neighbour discovery needs multicast, so
/// the hosts have static neighbour entries.
pub(super) fn connect(number: u8, init: u32) -> Result<()> {
    let mac = layout::mac(number);
    let outside = format!(
        "link add host{number} mtu {JUMBO} type veth peer name eth0 address {mac} netns {init}
         link set host{number} master underlay up
         link set host{number} type bridge_slave mcast_flood off"
    );
    ip(None, &outside)?;
    let (v4, v6) = (address(number), address_v6(number));
    let mut inside = format!(
        "link set lo up
         address add {v4}/24 dev eth0
         address add {v6}/64 dev eth0 nodad
         link set eth0 up
         route add default via {GATEWAY}\n"
    );
    for other in (1..=MAX_HOSTS).filter(|other| *other != number) {
        let (address, mac) = (address_v6(other), layout::mac(other));
        inside.push_str(&format!("neighbour add {address} lladdr {mac} dev eth0 nud permanent\n"));
    }
    ip(Some(init), &inside)
}

/// Removes the link to a host that has ended. The kernel would do it later, when the host may be on
/// again. It does not matter if the link is gone already.
pub(super) fn disconnect(number: u8) {
    _ = ip(None, &format!("link delete host{number}"));
}

/// Plugs the cable of host `number` in or out.
pub(super) fn set_link(number: u8, up: bool) -> Result<()> {
    ip(None, &format!("link set host{number} {}", if up { "up" } else { "down" }))
}

/// Runs lines of `ip` commands, in the network namespace of process `inside` or in this one.
fn ip(inside: Option<u32>, lines: &str) -> Result<()> {
    let mut command = match inside {
        None => Command::new("ip"),
        Some(pid) => {
            let mut enter = Command::new("nsenter");
            enter.arg(format!("--net=/proc/{pid}/ns/net")).arg("ip");
            enter
        }
    };
    let mut child = command
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("run ip")?;
    if let Some(mut input) = child.stdin.take() {
        input.write_all(lines.as_bytes()).context("write to ip")?;
    }
    let output = child.wait_with_output().context("wait for ip")?;
    if !output.status.success() {
        bail!("ip failed: {} in:\n{lines}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
