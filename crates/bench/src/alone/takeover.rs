//! How long an address that moves between hosts by VRRP or CARP is silent when its owner dies.

use anyhow::{Context, Result};
use shoutd_lab::{Host, Process};

use super::finding;
use crate::NETWORK;
use crate::report::{Finding, Limit, plain};
use crate::ways::{End, Ends, HELPER_DEADLINE, findings, number};

/// The address that moves. It is in the middle of the subnet, where neither Docker nor shoutd gives
/// out addresses.
const VIRTUAL: &str = "10.202.0.100";

const PORT: u16 = 5060;

/// The backup's priority; the master's is greater.
const PRIORITY: u8 = 100;
/// The backup's skew in CARP, in 256ths of a second.
const SKEW: u8 = 1;

/// Seconds between two advertisements.
const INTERVAL: f64 = 1.0;

/// How long the address is watched, in seconds: longer than a takeover may take.
const SECONDS: f64 = 7.0;

/// The protocol for the address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Protocol {
    /// VRRP with a virtual MAC address.
    VrrpWithMac,
    /// VRRP with the interfaces' own MAC addresses, announced by gratuitous ARP.
    Vrrp,
    /// CARP, by ucarp, announced by gratuitous ARP.
    Carp,
}

/// The rank of a router.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rank {
    Master,
    Backup,
}

impl Protocol {
    const ALL: [Self; 3] = [Self::VrrpWithMac, Self::Vrrp, Self::Carp];

    fn name(self) -> &'static str {
        match self {
            Self::VrrpWithMac => "VRRP (keepalived, `use_vmac`)",
            Self::Vrrp => "VRRP (keepalived, own MAC addresses)",
            Self::Carp => "CARP (ucarp)",
        }
    }

    /// How long a backup waits without advertisements, in seconds. VRRP: RFC 5798, section 6.1,
    /// Master_Down_Interval. CARP: three intervals and the skew; ucarp checks its clock once in
    /// each interval with the skew.
    fn wait(self) -> f64 {
        match self {
            Self::VrrpWithMac | Self::Vrrp => {
                (3.0 + (256.0 - f64::from(PRIORITY)) / 256.0) * INTERVAL
            }
            Self::Carp => 3.0 * (INTERVAL + f64::from(SKEW) / 256.0),
        }
    }

    /// The log line of a router that has reached this rank.
    fn told(self, rank: Rank) -> &'static str {
        match (self, rank) {
            (Self::Carp, Rank::Master) => "Switching to state: MASTER",
            (Self::Carp, Rank::Backup) => "Switching to state: BACKUP",
            (_, Rank::Master) => "Entering MASTER STATE",
            (_, Rank::Backup) => "Entering BACKUP STATE",
        }
    }
}

/// Kills the owner of the address with its container, again and again, while a container on a third
/// host queries it.
pub(super) fn measure(ends: &Ends, quick: bool) -> Result<Vec<Finding>> {
    Protocol::ALL
        .into_iter()
        .map(|protocol| measure_one(ends, protocol, if quick { 1 } else { 3 }))
        .collect()
}

fn measure_one(ends: &Ends, protocol: Protocol, times: u32) -> Result<Finding> {
    let silent = (0..times).map(|_| take_over(ends, protocol)).collect::<Result<Vec<_>>>();
    let silent = silent.with_context(|| protocol.name())?;
    let wait = protocol.wait();
    let title = format!("{}: address silent while a host takes it over", protocol.name());
    let remark = format!(
        "the master, which advertises once per second, is killed with its container; a backup \
         waits for {} s after the last advertisement",
        plain(wait)
    );
    Ok(Finding { most: Some(Limit::Each(wait)), remark, ..finding(&title, "s", silent) })
}

fn take_over(ends: &Ends, protocol: Protocol) -> Result<f64> {
    let (first, second, client) = (&ends.on(1)?.host, &ends.on(2)?.host, ends.on(3)?);
    let mut master = Router::start(first, protocol, Rank::Master)?;
    master.await_rank(Rank::Master)?;
    let mut backup = Router::start(second, protocol, Rank::Backup)?;
    backup.await_rank(Rank::Backup)?;
    let mut asking =
        client.ready_helper(&format!("silence {VIRTUAL}:{PORT} --seconds {SECONDS}"))?;
    master.stop()?;
    backup.await_rank(Rank::Master)?;
    let silent = number(&findings(&mut asking, SECONDS)?, "silent")?;
    backup.stop()?;
    Ok(silent)
}

/// A container that runs the protocol, with an echo server on all its addresses.
struct Router {
    host: Host,
    name: String,
    protocol: Protocol,
    program: Process,
    _echo: Process,
}

impl Router {
    fn start(host: &Host, protocol: Protocol, rank: Rank) -> Result<Self> {
        let name = format!("bench-{rank:?}").to_lowercase();
        let run =
            ["run", "--detach", "--name", &name, "--network", NETWORK, "debian", "sleep", "100000"];
        host.docker(run)?;
        let end = End::running(host, &name, NETWORK)?;
        let echo =
            end.ready_helper(&format!("echo 0.0.0.0:{PORT} {} --seconds 60", end.place()))?;
        let command = match protocol {
            Protocol::Carp => ucarp(&end, rank)?,
            Protocol::Vrrp => keepalived(host, &name, rank, "")?,
            Protocol::VrrpWithMac => keepalived(host, &name, rank, "use_vmac")?,
        };
        let pid = host.docker(["inspect", "--format", "{{.State.Pid}}", &name])?;
        // It is a process of the container and ends with it, but has the host's files.
        let target = format!("--target={}", pid.trim());
        let enter = ["nsenter", &target, "--net", "--pid"];
        let program = host.spawn(enter.into_iter().chain(command.iter().map(String::as_str)))?;
        Ok(Self { host: host.clone(), name, protocol, program, _echo: echo })
    }

    fn await_rank(&self, rank: Rank) -> Result<()> {
        let told = self.protocol.told(rank);
        let waited = self.program.wait_for_line(HELPER_DEADLINE, |line| line.contains(told));
        waited.map(|_| ()).with_context(|| format!("{} on {}", self.name, self.host.name()))
    }

    /// Kills the container with all its processes, and removes it.
    fn stop(&mut self) -> Result<()> {
        self.host.docker(["rm", "--force", &self.name])?;
        _ = self.program.wait(HELPER_DEADLINE)?;
        Ok(())
    }
}

fn keepalived(host: &Host, name: &str, rank: Rank, option: &str) -> Result<Vec<String>> {
    let priority = if rank == Rank::Master { PRIORITY + 100 } else { PRIORITY };
    // Left by the killed one before: its process ids belong to other processes now.
    host.sh(&format!("rm -f /run/{name}*.pid"))?;
    host.sh(&format!(
        "cat > /run/{name}.conf <<'END'
vrrp_instance one {{
 interface eth0
 state BACKUP
 virtual_router_id 51
 priority {priority}
 advert_int {INTERVAL}
 {option}
 virtual_ipaddress {{
  {VIRTUAL}/24
 }}
}}
END"
    ))?;
    let command = format!(
        "keepalived --dont-fork --log-console --vrrp --use-file=/run/{name}.conf \
         --pid=/run/{name}.pid --vrrp_pid=/run/{name}-vrrp.pid"
    );
    Ok(command.split(' ').map(str::to_owned).collect())
}

fn ucarp(end: &End, rank: Rank) -> Result<Vec<String>> {
    let skew = if rank == Rank::Master { 0 } else { SKEW };
    end.host.sh(&format!(
        "for script in up:add down:delete; do
            printf '#!/bin/sh\nip address %s {VIRTUAL}/24 dev $1\n' ${{script#*:}} > \
         /run/bench-${{script%:*}}
            chmod +x /run/bench-${{script%:*}}
        done"
    ))?;
    let command = format!(
        "ucarp --interface=eth0 --srcip={} --vhid=7 --pass=secret --addr={VIRTUAL} \
         --advskew={skew} --advbase={INTERVAL} --preempt --upscript=/run/bench-up \
         --downscript=/run/bench-down",
        end.address
    );
    Ok(command.split_whitespace().map(str::to_owned).collect())
}
