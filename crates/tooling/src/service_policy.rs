//! Prevents packages from starting services while they are installed: the lab needs Docker's
//! programs, not an engine on the machine itself.

use std::fs::{self, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;

use anyhow::{Context, Result};
use nix::sys::signal::{SigSet, Signal};

use crate::terminal::complain;

/// The script that Debian's packages ask whether they may start a service (policy-rc.d, in the
/// documentation of invoke-rc.d).
const POLICY: &str = "/usr/sbin/policy-rc.d";

/// Where the machine's own policy, if it has one, is kept for that time.
const KEPT: &str = "/usr/sbin/policy-rc.d.before-shoutd";

/// A policy that refuses.
const NO_SERVICES: &str = "#!/bin/sh\n# Exists only while shoutd's cargo xtask installs packages; \
                           remove it if that has ended.\nexit 101\n";

/// While it exists, no package starts services, and signals do not end this process: they end the
/// installation, which we wait for, and then everything is restored.
#[derive(Debug)]
pub struct NoServices {
    before: SigSet,
}

impl NoServices {
    /// # Errors
    ///
    /// Fails when the policy cannot be written.
    pub fn begin() -> Result<Self> {
        let mut signals = SigSet::empty();
        for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
            signals.add(signal);
        }
        let before = signals
            .thread_swap_mask(nix::sys::signal::SigmaskHow::SIG_BLOCK)
            .context("block signals")?;
        let policy = Self { before };
        // A policy that a killed run left behind is not the machine's own.
        if fs::read_to_string(POLICY).is_ok_and(|content| content != NO_SERVICES) {
            fs::rename(POLICY, KEPT).with_context(|| format!("move {POLICY} away"))?;
        }
        fs::write(POLICY, NO_SERVICES)
            .and_then(|()| fs::set_permissions(POLICY, Permissions::from_mode(0o755)))
            .with_context(|| format!("write {POLICY}"))?;
        Ok(policy)
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        let restored = match fs::rename(KEPT, POLICY) {
            Err(error) if error.kind() == ErrorKind::NotFound => fs::remove_file(POLICY),
            renamed => renamed,
        };
        if let Err(error) = restored {
            complain(&format!("cannot restore {POLICY}: {error}"));
        }
        _ = self.before.thread_set_mask();
    }
}
