//! The `shoutd` of a host.

use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::{Result, bail};

use crate::host::Host;
use crate::wait::wait_until;

/// How long `shoutd` may take to serve Docker's socket.
const BOOT_DEADLINE: Duration = Duration::from_secs(60);

/// How long `shoutd` may take to stop cleanly.
const STOP_DEADLINE: Duration = Duration::from_secs(20);

impl Host {
    /// Starts `shoutdctl start` with these arguments and waits until it returns.
    ///
    /// # Errors
    ///
    /// Fails when its exit code is not 0, with what it printed, and after a minute.
    pub fn start_shoutd(&self, arguments: &[&str]) -> Result<String> {
        let arguments: Vec<&str> =
            ["shoutdctl", "start"].iter().chain(arguments).copied().collect();
        let output = self.run(&arguments)?;
        if !output.success() {
            bail!("{} failed on {}, {output}", arguments.join(" "), self.name());
        }
        Ok(output.stdout)
    }

    /// Starts `shoutd` as a service manager does when the host boots, with or without an engine;
    /// returns when Docker could call it.
    ///
    /// # Errors
    ///
    /// Fails when it does not serve Docker's socket in a minute.
    pub fn boot_shoutd(&self) -> Result<()> {
        self.start_daemon("shoutd", "shoutd")?;
        let socket = self.file("/run/docker/plugins/shoutd.sock")?;
        wait_until(&format!("shoutd on {}", self.name()), BOOT_DEADLINE, || {
            Ok(UnixStream::connect(&socket).is_ok().then_some(()))
        })
    }

    /// Stops `shoutd` with `SIGTERM` and waits for its end.
    ///
    /// # Errors
    ///
    /// Fails when it does not run or does not end in 20 s.
    pub fn stop_shoutd(&self) -> Result<()> {
        let pids = self.pids_of("shoutd")?;
        if pids.is_empty() {
            bail!("shoutd does not run on {}", self.name());
        }
        self.signal("TERM", &pids)?;
        self.wait_gone("shoutd", &pids, STOP_DEADLINE)
    }

    /// Kills `shoutd` with `SIGKILL` and waits until it is gone.
    ///
    /// # Errors
    ///
    /// Fails when it does not run.
    pub fn kill_shoutd(&self) -> Result<()> {
        self.kill_all("shoutd")
    }

    /// The contents of `/var/log/shoutd.log` since the host was made.
    ///
    /// # Errors
    ///
    /// Fails when there is no log.
    pub fn shoutd_log(&self) -> Result<String> {
        self.log("shoutd")
    }
}
