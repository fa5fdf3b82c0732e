//! What a decoder must not do besides panicking.

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;
use std::{fs, process, thread};

/// How long the decoder may take for one input. It takes microseconds: only one that never ends
/// takes so long, however busy the machine.
const DEADLINE: Duration = Duration::from_secs(60);

/// Ends the process when an input takes too long. An input that never ends can be reported in no
/// other way.
#[derive(Debug)]
pub(crate) struct Watchdog(Sender<Vec<u8>>);

impl Watchdog {
    pub(crate) fn start() -> Self {
        let (inputs, received) = channel::<Vec<u8>>();
        thread::spawn(move || {
            let mut current = Vec::new();
            loop {
                match received.recv_timeout(DEADLINE) {
                    Ok(input) => current = input,
                    Err(RecvTimeoutError::Disconnected) => return,
                    Err(RecvTimeoutError::Timeout) => {
                        eprintln!(
                            "a decoder has not come to an end within {DEADLINE:?} with the input \
                             {current:?}"
                        );
                        process::abort();
                    }
                }
            }
        });
        Self(inputs)
    }

    /// Runs `execute` with this input.
    pub(crate) fn watch<T>(&self, input: &[u8], execute: impl FnOnce() -> T) -> T {
        // It listens as long as this exists.
        let _ = self.0.send(input.to_vec());
        execute()
    }
}

/// The most octets that this process has had in memory (`VmHWM`, see proc(5)).
pub(crate) fn peak_memory() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}
