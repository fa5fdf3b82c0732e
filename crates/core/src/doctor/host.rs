//! What a host itself has: kernel, ports, disks, boot, leftovers, daemon.

use super::peers::tunnel_problems;
use super::{Boot, Check, Facts, Finding, Level};
use crate::limits::{FREE_SPACE_MIN, PORT};
use crate::plane::Tier;

/// The oldest kernel that shoutd supports.
const KERNEL_MIN: (u32, u32) = (4, 18);

/// The first kernel on which shoutd drops VXLAN from containers that forge a host's address.
const KERNEL_FORGERY: (u32, u32) = (5, 19);

/// The first kernel with an MDB in VXLAN devices.
const KERNEL_MDB: (u32, u32) = (6, 4);

/// The kernel: its version, its features, and the tier that they give.
pub fn kernel(facts: &Facts) -> Vec<Finding> {
    let kernel = &facts.kernel;
    let release = &kernel.release;
    let is_older = |version| parse_release(release).is_some_and(|found| found < version);
    let tier = match &kernel.tier {
        Err(error) => {
            let (text, remedy) = error.rsplit_once(": ").unwrap_or((error, "use another kernel"));
            return vec![Finding::new(Check::Kernel, Level::Error, text, remedy)];
        }
        Ok(tier) => tier,
    };
    let mut findings = Vec::new();
    if is_older(KERNEL_MIN) {
        let text = format!("Linux {release} is older than 4.18, the oldest that shoutd supports");
        findings.push(Finding::new(Check::Kernel, Level::Error, text, "install a newer kernel"));
    }
    if is_older(KERNEL_FORGERY) {
        let text = format!(
            "on Linux {release}, containers with CAP_NET_RAW can forge VXLAN of another host"
        );
        let remedy = "install Linux 5.19 or newer, or run untrusted containers with --cap-drop \
                      NET_RAW";
        findings.push(Finding::new(Check::Kernel, Level::Warning, text, remedy));
    }
    if *tier == Tier::VxlanMdb {
        let text = format!(
            "Linux {release} has what shoutd needs, and replicates multicast by {tier}, which is \
             the best way"
        );
        findings.push(Finding::ok(Check::Kernel, text));
    } else {
        let version = if is_older(KERNEL_MDB) {
            "install Linux 6.4 or newer, to replicate by VXLAN MDB"
        } else {
            "use a kernel whose VXLAN devices have an MDB (6.4 or newer with \
             CONFIG_BRIDGE_IGMP_SNOOPING)"
        };
        let text = format!(
            "Linux {release} has what shoutd needs, but replicates multicast by {tier} only: hosts \
             get groups that they have no members of"
        );
        findings.push(Finding::new(Check::Kernel, Level::Warning, text, version));
    }
    findings
}

/// Whether this host can encrypt networks. That matters once the cluster has one.
pub fn wireguard(facts: &Facts) -> Finding {
    let status = facts.daemon.as_ref().ok().map(|daemon| &daemon.status);
    let is_used = status.is_some_and(|status| status.wireguard.is_some());
    let running = status.and_then(|status| status.wireguard.as_ref()?.tier.as_deref());
    let kernel = "use a kernel with WireGuard (Linux 5.6 or newer with CONFIG_WIREGUARD; modprobe \
                  wireguard)";
    let slow = "WireGuard runs in user space on this host, at a sixth of the underlay's throughput";
    match (&facts.kernel.userspace, facts.kernel.wireguard) {
        (_, true) if running == Some("userspace") => {
            let text = format!("{slow}, although the kernel has WireGuard");
            Finding::new(
                Check::Wireguard,
                Level::Warning,
                text,
                "restart this host, unless its settings want it so",
            )
        }
        (_, true) => {
            let text = "the kernel has WireGuard: this host can encrypt networks";
            Finding::ok(Check::Wireguard, text)
        }
        (Ok(()), false) if is_used => {
            let text = format!("{slow}: the kernel has none");
            Finding::new(Check::Wireguard, Level::Warning, text, kernel)
        }
        (Ok(()), false) => Finding::ok(
            Check::Wireguard,
            "this host can encrypt networks by WireGuard in user space: the kernel has none",
        ),
        (Err(why), false) if is_used => Finding::new(
            Check::Wireguard,
            Level::Error,
            format!(
                "this host cannot encrypt, so no container starts on encrypted networks: the \
                 kernel has no WireGuard, and {why}"
            ),
            format!("{kernel}, or make /dev/net/tun available (modprobe tun)"),
        ),
        (Err(why), false) => Finding::ok(
            Check::Wireguard,
            format!(
                "no network is encrypted, which this host cannot do: the kernel has no WireGuard, \
                 and {why}"
            ),
        ),
    }
}

/// The first two numbers of a release.
fn parse_release(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// Whether this host's ports are free, or shoutd has them.
pub fn ports(facts: &Facts) -> Vec<Finding> {
    if facts.daemon_runs {
        let text = format!("shoutd has ports {PORT}/tcp and {PORT}/udp");
        return vec![Finding::ok(Check::Ports, text)];
    }
    let taken = |protocol: &str, why: &Option<String>, option: &str| {
        why.as_ref().map(|why| {
            Finding::new(
                Check::Ports,
                Level::Error,
                format!("{PORT}/{protocol} cannot be used: {why}"),
                format!("stop the program that has it: `ss -{option}lnp sport = :{PORT}` names it"),
            )
        })
    };
    // VXLAN devices of a daemon that was stopped have the port.
    let udp = facts.ports.udp.clone().filter(|_| facts.namespaces.is_empty());
    let findings: Vec<_> = [taken("tcp", &facts.ports.tcp, "t"), taken("udp", &udp, "u")]
        .into_iter()
        .flatten()
        .collect();
    if findings.is_empty() {
        let text = format!("{PORT}/tcp and {PORT}/udp are free for shoutd");
        return vec![Finding::ok(Check::Ports, text)];
    }
    findings
}

/// Free disk space.
pub fn disks(facts: &Facts) -> Vec<Finding> {
    let findings = facts.disks.iter().map(|disk| {
        let directory = disk.directory.display();
        let wanted = FREE_SPACE_MIN >> 20;
        match &disk.free {
            Err(why) => Finding::new(
                Check::Disk,
                Level::NotChecked,
                format!("the free space of {directory} cannot be read: {why}"),
                format!("df {directory}"),
            ),
            Ok(free) if *free >= FREE_SPACE_MIN => Finding::ok(
                Check::Disk,
                format!("the disk of {directory} has {} free", size(*free)),
            ),
            Ok(free) => Finding::new(
                Check::Disk,
                // A host that has its data goes on; a new one is refused.
                if disk.holds_state { Level::Warning } else { Level::Error },
                format!(
                    "the disk of {directory} has only {} left, and shoutd needs {wanted} MiB",
                    size(*free)
                ),
                format!("free some space there (du -xh {directory} shows what takes it)"),
            ),
        }
    });
    findings.collect()
}

fn size(octets: u64) -> String {
    match octets {
        0..0x10_0000 => format!("{} KiB", octets >> 10),
        0x10_0000..0x4000_0000 => format!("{} MiB", octets >> 20),
        _ => format!("{} GiB", octets >> 30),
    }
}

/// Whether shoutd starts before Docker.
pub fn boot(facts: &Facts) -> Vec<Finding> {
    let finding = match &facts.boot {
        Boot::NoSystemd => Finding::new(
            Check::Boot,
            Level::NotChecked,
            "this host does not run systemd",
            "have your init system start shoutd before Docker",
        ),
        Boot::Unknown(why) => Finding::new(
            Check::Boot,
            Level::NotChecked,
            format!("systemd does not tell: {why}"),
            "systemctl show --property=Before shoutd.service",
        ),
        Boot::Unit { exists: false, .. } if !facts.has_state && !facts.daemon_runs => {
            Finding::ok(Check::Boot, "`shoutdctl start` will install shoutd.service")
        }
        Boot::Unit { exists: false, .. } => Finding::new(
            Check::Boot,
            Level::Warning,
            "there is no shoutd.service: shoutd does not start at boot",
            "shoutdctl stop, shoutdctl start",
        ),
        Boot::Unit { enabled: false, .. } => Finding::new(
            Check::Boot,
            Level::Warning,
            "shoutd.service is not enabled: shoutd does not start at boot",
            "systemctl enable shoutd.service",
        ),
        Boot::Unit { before_docker: false, .. } => Finding::new(
            Check::Boot,
            Level::Warning,
            "shoutd.service is not ordered before docker.service: at boot, containers may start \
             without their networks",
            "systemctl edit shoutd.service, and add: [Unit] Before=docker.service",
        ),
        Boot::Unit { .. } => Finding::ok(Check::Boot, "shoutd starts at boot, before Docker"),
    };
    vec![finding]
}

/// What is left of an earlier installation.
pub fn leftovers(facts: &Facts) -> Vec<Finding> {
    if facts.has_state || facts.daemon_runs || facts.namespaces.is_empty() {
        return vec![Finding::ok(Check::Leftovers, "nothing is left of an earlier installation")];
    }
    let names = facts.namespaces.join(" ");
    vec![Finding::new(
        Check::Leftovers,
        Level::Warning,
        format!("network namespaces of an earlier installation are left: {names}"),
        format!("for n in {names}; do ip netns delete $n; done"),
    )]
}

/// The daemon's own problems.
pub fn daemon(facts: &Facts) -> Vec<Finding> {
    match &facts.daemon {
        Err(why) if facts.daemon_runs => {
            let (text, remedy) = why.rsplit_once(": ").unwrap_or((why, "shoutdctl stop"));
            vec![Finding::new(Check::Daemon, Level::Error, text, remedy)]
        }
        Err(_) if facts.has_state => vec![Finding::new(
            Check::Daemon,
            Level::Error,
            "this host belongs to a cluster, but shoutd does not run",
            "shoutdctl start",
        )],
        Err(_) => vec![Finding::new(
            Check::Daemon,
            Level::NotChecked,
            "shoutd does not run on this host yet",
            "shoutdctl start <advertise_address>, then shoutdctl doctor again",
        )],
        Ok(daemon) => {
            let status = &daemon.status;
            // What the check of the tunnels says already.
            let said: Vec<String> =
                tunnel_problems(daemon).iter().map(ToString::to_string).collect();
            let faults = status.faults().into_iter().filter(|fault| !said.contains(fault));
            let findings: Vec<Finding> = faults
                .map(|text| {
                    // Membership and Docker: without them the host does not serve.
                    let is_problem = status.problems.contains(&text);
                    let level = if is_problem { Level::Warning } else { Level::Error };
                    Finding { check: Check::Daemon, level, text, remedy: None }
                })
                .collect();
            if findings.is_empty() {
                let text = format!("shoutd {} runs and has no problems of its own", status.version);
                return vec![Finding::ok(Check::Daemon, text)];
            }
            findings
        }
    }
}
