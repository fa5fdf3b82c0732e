//! Limits of time and memory for a decoder.

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;
use std::{fs, process, thread};

/// How long a decoder may take for one input. Microseconds are normal; even on a busy machine only
/// an endless loop takes this long.
const DEADLINE: Duration = Duration::from_secs(60);

/// Aborts the process if an input takes too long. There is no other way to report an endless loop.
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
                            "a decoder has not finished within {DEADLINE:?}; the input is \
                             {current:?}"
                        );
                        process::abort();
                    }
                }
            }
        });
        Self(inputs)
    }

    /// Runs `execute` under the deadline.
    pub(crate) fn watch<T>(&self, input: &[u8], execute: impl FnOnce() -> T) -> T {
        // The thread receives for as long as the watchdog exists.
        let _ = self.0.send(input.to_vec());
        execute()
    }
}

/// Peak resident memory of this process in octets (`VmHWM`, proc(5)).
pub(crate) fn peak_memory() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}
