//! What the process gives up once its devices and sockets are open.

use std::io;

use nix::sys::prctl;
use rustix::thread::{
    CapabilitySet, CapabilitySets, capability_is_in_bounding_set,
    remove_capability_from_bounding_set, set_capabilities,
};

/// No program that this process becomes gets more privileges (`PR_SET_NO_NEW_PRIVS`), and its
/// memory, which holds keys, is never dumped to a file (`PR_SET_DUMPABLE`). Both are the whole
/// process' if no other thread has started.
pub(crate) fn harden() -> io::Result<()> {
    prctl::set_no_new_privs()?;
    prctl::set_dumpable(false)?;
    Ok(())
}

/// Drops all capabilities of the calling thread (capabilities(7)): it only reads and writes what
/// is open. The bounding set is emptied if the kernel permits it.
pub(crate) fn drop_capabilities() -> io::Result<()> {
    for capability in CapabilitySet::all().iter() {
        match capability_is_in_bounding_set(capability) {
            Ok(true) => {
                // It takes CAP_SETPCAP, which the caller may have dropped before.
                match remove_capability_from_bounding_set(capability) {
                    Ok(()) | Err(rustix::io::Errno::PERM) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            // The kernel may know fewer capabilities.
            Ok(false) | Err(rustix::io::Errno::INVAL) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let none = CapabilitySet::empty();
    set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::thread;

    use rustix::thread::capabilities;

    use super::*;

    #[test]
    fn no_capability_is_left() {
        // Capabilities belong to a thread: the other tests keep theirs.
        let sets = thread::spawn(|| {
            drop_capabilities().unwrap();
            drop_capabilities().unwrap();
            capabilities(None).unwrap()
        });
        let sets = sets.join().unwrap();
        assert!(sets.permitted.is_empty() && sets.effective.is_empty());
    }
}
