//! Gives freed memory back to the system.
//!
//! glibc keeps what is freed for later, in pieces between what is still used, for as long as a
//! process runs: after a flood of groups that is more than the daemon ever needs again. Only when
//! asked (malloc_trim(3)) does it return whole pages of it.

use std::fs;
use std::time::Duration;

use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tracing::debug;

/// How often it is looked at how much memory there is.
const PERIOD: Duration = Duration::from_secs(30);
/// KiB that are not worth it: what a daemon has that was never flooded.
const ENOUGH: u64 = 32 << 10;
/// KiB that memory may have grown by since the last look at a calm moment. While something is going
/// on, what is free is about to be used.
const CALM: u64 = 1 << 10;

/// Gives back what is free, whenever there is much and nothing is going on, until it is told to
/// stop.
pub async fn run(stop: CancellationToken) {
    let mut tick = tokio::time::interval(PERIOD);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut before = u64::MAX;
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = stop.cancelled() => return,
        }
        let Some(resident) = resident() else { return };
        if is_worth_it(before, resident) {
            // It takes milliseconds, in which other threads may have to wait for memory.
            let _ = tokio::task::spawn_blocking(give_back).await;
            debug!(before = resident, after = self::resident(), "gave memory back, in KiB");
        }
        before = resident;
    }
}

/// Whether to give back what is free, by what was resident at the last look, and is now, in KiB.
fn is_worth_it(before: u64, now: u64) -> bool {
    now >= ENOUGH && now <= before.saturating_add(CALM)
}

/// KiB of memory that are not of files; `None` where the kernel does not tell.
fn resident() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse().ok()
}

#[cfg(target_env = "gnu")]
fn give_back() {
    // SAFETY: it takes the locks of the allocator that it needs, and touches nothing that is
    // allocated.
    unsafe { nix::libc::malloc_trim(0) };
}

/// Other C libraries give back by themselves.
#[cfg(not(target_env = "gnu"))]
fn give_back() {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_given_back_when_there_is_much_and_nothing_goes_on() {
        assert!(is_worth_it(u64::MAX, ENOUGH));
        assert!(is_worth_it(ENOUGH, ENOUGH + CALM));
        assert!(!is_worth_it(ENOUGH, ENOUGH + CALM + 1));
        assert!(!is_worth_it(ENOUGH, ENOUGH - 1));
    }

    #[test]
    #[cfg(target_env = "gnu")]
    fn what_is_freed_between_what_is_used_goes_back() {
        let mut pieces: Vec<Option<Box<[u8; 256]>>> =
            (0..400_000).map(|_| Some(Box::new([1; 256]))).collect();
        let full = resident().unwrap();
        for (position, piece) in pieces.iter_mut().enumerate() {
            if position % 1000 != 0 {
                *piece = None;
            }
        }
        give_back();
        let left = resident().unwrap();
        assert!(left + (80 << 10) < full, "{left} KiB of {full}");
        assert_eq!(pieces.iter().flatten().count(), 400);
    }
}
