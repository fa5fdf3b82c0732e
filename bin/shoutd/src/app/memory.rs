//! Returns freed memory to the kernel.
//!
//! glibc keeps freed memory between blocks that are still in use. After a flood of groups that is
//! far more than the daemon ever needs again. Only malloc_trim(3) returns free pages.

use std::fs;
use std::time::Duration;

use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tracing::debug;

/// Interval between checks.
const PERIOD: Duration = Duration::from_secs(30);
/// Below this resident size, in KiB, trimming is not worth it: a daemon that was never flooded has
/// less.
const RESIDENT_MIN: u64 = 32 << 10;
/// We trim only if memory has grown by at most this much since the last check, in KiB: while it
/// grows, free memory is about to be used.
const GROWTH_MAX: u64 = 1 << 10;

/// Trims memory when there is much of it and it does not grow, until `stop`.
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
        if should_trim(before, resident) {
            // It takes milliseconds, in which other threads may wait for the allocator.
            let _ = tokio::task::spawn_blocking(trim).await;
            debug!(before = resident, after = self::resident(), "trimmed memory (KiB)");
        }
        before = resident;
    }
}

/// Whether to trim, by the resident sizes at the last check and now, in KiB.
fn should_trim(before: u64, now: u64) -> bool {
    now >= RESIDENT_MIN && now <= before.saturating_add(GROWTH_MAX)
}

/// Resident anonymous memory in KiB; `None` if the kernel does not report it.
fn resident() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse().ok()
}

#[cfg(target_env = "gnu")]
fn trim() {
    // SAFETY: malloc_trim takes the locks of the allocator, and does not touch allocated memory.
    unsafe { nix::libc::malloc_trim(0) };
}

/// Other C libraries return memory by themselves.
#[cfg(not(target_env = "gnu"))]
fn trim() {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_trimmed_when_there_is_much_and_it_does_not_grow() {
        assert!(should_trim(u64::MAX, RESIDENT_MIN));
        assert!(should_trim(RESIDENT_MIN, RESIDENT_MIN + GROWTH_MAX));
        assert!(!should_trim(RESIDENT_MIN, RESIDENT_MIN + GROWTH_MAX + 1));
        assert!(!should_trim(RESIDENT_MIN, RESIDENT_MIN - 1));
    }

    #[test]
    #[cfg(target_env = "gnu")]
    fn free_pages_between_used_blocks_are_returned() {
        let mut pieces: Vec<Option<Box<[u8; 256]>>> =
            (0..400_000).map(|_| Some(Box::new([1; 256]))).collect();
        let full = resident().unwrap();
        for (position, piece) in pieces.iter_mut().enumerate() {
            if position % 1000 != 0 {
                *piece = None;
            }
        }
        trim();
        let left = resident().unwrap();
        assert!(left + (80 << 10) < full, "{left} KiB of {full}");
        assert_eq!(pieces.iter().flatten().count(), 400);
    }
}
