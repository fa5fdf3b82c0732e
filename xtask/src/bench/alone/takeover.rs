//! How long an address that moves between hosts by VRRP does not answer when its owner dies.

use anyhow::{Context, Result};
use shoutd_lab::{Host, Process};

use super::finding;
use crate::bench::NETWORK;
use crate::bench::report::{Finding, plain};
use crate::bench::ways::{End, Ends, HELPER_DEADLINE, findings, number};

/// The address that moves; from the middle of the subnet, where neither Docker nor shoutd has got to.
const VIRTUAL: &str = "10.202.0.100";

const PORT: u16 = 5060;

const BACKUP_PRIORITY: u8 = 100;

/// Seconds between two advertisements.
const INTERVAL: f64 = 1.0;

/// How long the address is watched, in seconds: longer than a takeover may take.
const SECONDS: f64 = 8.0;

/// Kills the owner of the address with its container, again and again, while a container on a third host asks it.
pub(super) fn measure(ends: &Ends, quick: bool) -> Result<Vec<Finding>> {
    // RFC 5798, section 6.1: Master_Down_Interval, after which a backup that heard nothing takes over.
    let allowed = (3.0 + (256.0 - f64::from(BACKUP_PRIORITY)) / 256.0) * INTERVAL;
    let mut silent = Vec::new();
    for _ in 0..if quick { 1 } else { 5 } {
        silent.push(take_over(ends)?);
    }
    let title = "VRRP: address silent while a host takes it over";
    let remark = format!(
        "keepalived's master is killed with its container; a backup waits for {} s from the last advertisement on, of which comes one a second",
        plain(allowed)
    );
    Ok(vec![Finding { most: Some(allowed), remark, ..finding(title, "s", silent) }])
}

fn take_over(ends: &Ends) -> Result<f64> {
    let (first, second, client) = (&ends.on(1)?.host, &ends.on(2)?.host, ends.on(3)?);
    let mut master = Router::start(first, BACKUP_PRIORITY + 100)?;
    master.await_state("MASTER")?;
    let mut backup = Router::start(second, BACKUP_PRIORITY)?;
    backup.await_state("BACKUP")?;
    let mut asking = client.ready_helper(&format!("silence {VIRTUAL}:{PORT} --seconds {SECONDS}"))?;
    master.stop()?;
    backup.await_state("MASTER")?;
    let silent = number(&findings(&mut asking, SECONDS)?, "silent")?;
    backup.stop()?;
    Ok(silent)
}

/// A container with keepalived, and an echo that answers at all its addresses.
struct Router {
    host: Host,
    name: String,
    keepalived: Process,
    _echo: Process,
}

impl Router {
    fn start(host: &Host, priority: u8) -> Result<Self> {
        let name = format!("bench-vrrp-{priority}");
        let run = ["run", "--detach", "--name", &name, "--network", NETWORK, "debian", "sleep", "100000"];
        host.docker(run)?;
        // Of the one before, which was killed: the numbers of its processes are others' now.
        host.sh(&format!("rm -f /run/{name}*.pid"))?;
        let end = End::running(host, &name, NETWORK)?;
        let echo = end.ready_helper(&format!("echo 0.0.0.0:{PORT} --interface {} --seconds 60", end.address))?;
        let config = format!("/run/{name}.conf");
        host.sh(&format!(
            "cat > {config} <<'END'
vrrp_instance one {{
 interface shout0
 state BACKUP
 virtual_router_id 51
 priority {priority}
 advert_int {INTERVAL}
 use_vmac
 virtual_ipaddress {{
  {VIRTUAL}/24
 }}
}}
END"
        ))?;
        let pid = host.docker(["inspect", "--format", "{{.State.Pid}}", &name])?;
        let files = [format!("--pid=/run/{name}.pid"), format!("--vrrp_pid=/run/{name}-vrrp.pid")];
        // It ends with the container, whose processes it is one of, but has the host's files.
        let keepalived = host.spawn([
            "nsenter",
            &format!("--target={}", pid.trim()),
            "--net",
            "--pid",
            "keepalived",
            "--dont-fork",
            "--log-console",
            "--vrrp",
            &format!("--use-file={config}"),
            &files[0],
            &files[1],
        ])?;
        Ok(Self { host: host.clone(), name, keepalived, _echo: echo })
    }

    fn await_state(&self, state: &str) -> Result<()> {
        let told = format!("Entering {state} STATE");
        let waited = self.keepalived.wait_for_line(HELPER_DEADLINE, |line| line.contains(&told));
        waited.map(|_| ()).with_context(|| format!("{} on {}", self.name, self.host.name()))
    }

    /// Kills the container and all that runs in it, and removes it.
    fn stop(&mut self) -> Result<()> {
        self.host.docker(["rm", "--force", &self.name])?;
        _ = self.keepalived.wait(HELPER_DEADLINE)?;
        Ok(())
    }
}
