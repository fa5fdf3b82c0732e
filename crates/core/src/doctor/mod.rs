//! Judges whether a host is ready for shoutd, or serves well: from [`Facts`] to [`Finding`]s.
//! Pure.

mod engine;
mod facts;
mod finding;
mod firewall;
#[cfg(test)]
mod fuzz;
mod host;
mod peers;

pub use facts::{
    Boot, ClockFacts, DaemonFacts, DiskFacts, EngineFacts, Facts, KernelFacts, PeerPort, PortFacts,
    RulesText, Settings, SettingsFacts, UsedSubnet,
};
pub use finding::{Check, Finding, Level, worst};

/// All findings about a host, in the order of [`Check`]. Each check has at least one.
pub fn examine(facts: &Facts) -> Vec<Finding> {
    let mut findings = host::kernel(facts);
    findings.extend(engine::engine(facts));
    findings.extend(host::ports(facts));
    findings.extend(firewall::firewall(facts));
    findings.extend(peers::peers(facts));
    findings.extend(peers::tunnels(facts));
    findings.push(host::wireguard(facts));
    findings.extend(peers::clocks(facts));
    findings.extend(engine::subnets(facts));
    findings.extend(host::disks(facts));
    findings.extend(host::boot(facts));
    findings.extend(host::leftovers(facts));
    findings.extend(host::daemon(facts));
    findings
}

#[cfg(test)]
mod tests;
