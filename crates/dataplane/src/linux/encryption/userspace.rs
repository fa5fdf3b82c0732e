//! WireGuard in a process of its own, which goes on when the daemon ends.

use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use shoutd_core::plane::ENCRYPTED_DEVICE;
use shoutd_netlink::wireguard::{Change, Device};
use shoutd_tunnel::{Arguments, Client, ClientError};
use tokio::runtime::{Builder, Runtime};
use tracing::warn;

use super::EncryptionSetup;
use crate::kernel_error::KernelError;

/// How long one request may take.
const REQUEST_DEADLINE: Duration = Duration::from_secs(2);

/// How long the process may take to serve its socket.
const START_DEADLINE: Duration = Duration::from_secs(5);

/// How long the process may take to end.
const END_DEADLINE: Duration = Duration::from_secs(2);

/// Pause between two attempts to connect.
const RETRY: Duration = Duration::from_millis(20);

/// The process, and its client.
#[derive(Debug)]
pub(super) struct Userspace {
    program: PathBuf,
    socket: PathBuf,
    /// The process, if this daemon started it. Its end is collected when the next one starts.
    child: Option<Child>,
    /// The client is asynchronous, and the reconciler is a thread.
    runtime: Option<Runtime>,
}

impl Userspace {
    pub(super) fn new(setup: &EncryptionSetup) -> Self {
        let (program, socket) = (setup.program.clone(), setup.socket.clone());
        Self { program, socket, child: None, runtime: None }
    }

    /// The device; `None` if the process does not answer.
    pub(super) fn device(&mut self) -> Option<Device> {
        match self.request(async |client| client.get().await) {
            Ok(device) => Some(device),
            Err(error) => {
                warn!("WireGuard in user space: {error}");
                None
            }
        }
    }

    /// Changes the device.
    pub(super) fn change(&mut self, change: &Change) -> Result<(), KernelError> {
        self.request(async |client| client.set(change).await)
    }

    /// Starts the process if none answers.
    pub(super) fn ensure_runs(&mut self, namespace: &Path, port: u16) -> Result<(), KernelError> {
        if self.request(async |client| client.get().await.map(drop)).is_ok() {
            return Ok(());
        }
        self.collect();
        let arguments = Arguments {
            namespace: namespace.to_owned(),
            device: ENCRYPTED_DEVICE.to_owned(),
            port,
            socket: self.socket.clone(),
        };
        let started = arguments.command(&self.program).spawn();
        let failed = |error| KernelError::Userspace { error: format!("{error}") };
        self.child = Some(started.map_err(failed)?);
        let until = Instant::now() + START_DEADLINE;
        loop {
            match self.request(async |client| client.get().await.map(drop)) {
                Err(error) if Instant::now() > until || self.has_ended() => return Err(error),
                Err(_) => std::thread::sleep(RETRY),
                Ok(()) => return Ok(()),
            }
        }
    }

    /// Ends the process, also one that an earlier daemon started, and waits for its end: the next
    /// one needs its device and its port.
    pub(super) fn end(&mut self) {
        let Ok(process) = self.request(async |client| client.process()) else {
            return self.collect();
        };
        if let Err(error) = kill(process, Signal::SIGTERM) {
            warn!("WireGuard in user space does not end: {error}");
        }
        let until = Instant::now() + END_DEADLINE;
        self.collect();
        while kill(process, None).is_ok() && Instant::now() < until {
            std::thread::sleep(RETRY);
            self.collect();
        }
    }

    /// Ends a process that has another port. It could change it, but has given up the privilege to
    /// have large buffers for another socket.
    pub(super) fn end_at_other_port(&mut self, port: u16) {
        let has = self.request(async |client| client.get().await.map(|device| device.listen_port));
        if has.is_ok_and(|has| has != port) {
            self.end();
        }
    }

    fn has_ended(&mut self) -> bool {
        self.child.as_mut().is_none_or(|child| !matches!(child.try_wait(), Ok(None)))
    }

    /// Collects the end of an earlier process.
    fn collect(&mut self) {
        if self.has_ended() {
            self.child = None;
        }
    }

    fn request<T>(
        &mut self,
        ask: impl AsyncFnOnce(&mut Client) -> Result<T, ClientError>,
    ) -> Result<T, KernelError> {
        let failed =
            |error: &dyn std::fmt::Display| KernelError::Userspace { error: error.to_string() };
        if self.runtime.is_none() {
            let runtime = Builder::new_current_thread().enable_all().build();
            self.runtime = Some(runtime.map_err(|error| failed(&error))?);
        }
        let runtime = self.runtime.as_ref().ok_or_else(|| failed(&"there is no runtime"))?;
        let asked = runtime.block_on(async {
            let mut client = Client::connect(&self.socket, REQUEST_DEADLINE).await?;
            ask(&mut client).await
        });
        asked.map_err(|error| failed(&error))
    }
}
