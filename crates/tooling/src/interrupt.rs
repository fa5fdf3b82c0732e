//! Takes the lab down on Ctrl-C and similar signals, before the command ends.

use std::process;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use shoutd_lab::Lab;

use crate::terminal::complain;

/// Set by the first signal.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Longer than a lab takes to come down.
const LONGER_THAN_ANY_END: Duration = Duration::from_secs(120);

/// From now on, a signal to end this process takes the lab of this name down and then ends the
/// process. Must be called while there is only one thread, so that all others inherit the blocked
/// signals.
///
/// # Errors
///
/// Fails when the system does.
pub fn take_down_on_interrupt(lab: &str) -> Result<()> {
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        signals.add(signal);
    }
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&signals), None).context("block signals")?;
    let lab = lab.to_owned();
    thread::spawn(move || {
        let Ok(signal) = signals.wait() else { return };
        INTERRUPTED.store(true, Ordering::SeqCst);
        complain("\ninterrupted: taking down what is up");
        if let Ok(lab) = Lab::attach(&lab)
            && let Err(error) = lab.down()
        {
            complain(&format!("{error:#}"));
        }
        // As a shell reports a command that a signal ended.
        process::exit(128 + signal as i32);
    });
    Ok(())
}

/// After an interruption, leaves the end of the process to the thread that takes the lab down.
pub fn await_exit_if_interrupted() {
    if INTERRUPTED.load(Ordering::SeqCst) {
        thread::sleep(LONGER_THAN_ANY_END);
    }
}
