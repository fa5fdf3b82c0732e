//! What the daemon may do that an ordinary process may not (capabilities(7)). It is a process of
//! root, and drops all capabilities that it does not need.

use anyhow::{Context, Result};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, capability_is_in_bounding_set,
    remove_capability_from_bounding_set, set_capabilities,
};

/// What the daemon keeps:
///
/// * `CAP_NET_ADMIN`: links, bridges, forwarding databases and nf_tables, here and in containers.
/// * `CAP_NET_BROADCAST`: events of all network namespaces on one socket (netlink(7),
///   `NETLINK_LISTEN_ALL_NSID`), for the memberships of containers.
/// * `CAP_NET_RAW`: packet sockets, for probes, pings and traces.
/// * `CAP_NET_BIND_SERVICE`: the resolver of names serves port 53 in containers.
/// * `CAP_SYS_ADMIN`: network namespaces are created, mounted and entered (setns(2)).
/// * `CAP_SYS_PTRACE`: `/proc/<pid>/ns` and `/proc/<pid>/root` of containers that have more
///   capabilities, or another user (ptrace(2), "Ptrace access mode checking").
/// * `CAP_DAC_OVERRIDE`: hosts files and processes of containers belong to other users if the
///   engine maps users (`userns-remap`).
const KEPT: CapabilitySet = CapabilitySet::NET_ADMIN
    .union(CapabilitySet::NET_BROADCAST)
    .union(CapabilitySet::NET_RAW)
    .union(CapabilitySet::NET_BIND_SERVICE)
    .union(CapabilitySet::SYS_ADMIN)
    .union(CapabilitySet::SYS_PTRACE)
    .union(CapabilitySet::DAC_OVERRIDE);

/// Drops all capabilities but those in `KEPT`, also for programs that this process becomes
/// (execve(2)). Call it before any thread starts: capabilities are a thread's.
///
/// # Errors
/// The kernel refuses it.
pub fn drop_capabilities() -> Result<()> {
    // The kernel may know fewer capabilities, and a container may have fewer.
    for capability in CapabilitySet::all().difference(KEPT).iter() {
        // To drop one takes CAP_SETPCAP, which a container or an earlier program of this process
        // may have dropped already, with the rest.
        match capability_is_in_bounding_set(capability) {
            Ok(true) => remove_capability_from_bounding_set(capability)
                .context("cannot drop capabilities")?,
            Ok(false) | Err(rustix::io::Errno::INVAL) => {}
            Err(error) => return Err(error).context("cannot read the capabilities"),
        }
    }
    let held = capabilities(None).context("cannot read the capabilities")?;
    let kept = held.permitted & KEPT;
    let sets =
        CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    set_capabilities(None, sets).context("cannot drop capabilities")
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn other_capabilities_are_gone_and_do_not_come_back() {
        // Capabilities belong to a thread: the other tests keep theirs.
        let sets = thread::spawn(|| {
            drop_capabilities().unwrap();
            // As after execve(2), when the host has another address.
            drop_capabilities().unwrap();
            capabilities(None).unwrap()
        });
        let sets = sets.join().unwrap();
        assert!(KEPT.contains(sets.permitted), "{:?}", sets.permitted);
        assert_eq!(sets.effective, sets.permitted);
        assert!(sets.inheritable.is_empty());
    }
}
