//! Runs many seeds, and checks that bugs that are put back are found.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use parking_lot::Mutex;

use super::Bug;
use super::host::last_history;
use super::scenario::{Report, simulate};

/// Seeds that are run by default.
const SEEDS: u64 = 2000;

/// Seeds within which a bug must be found.
const SEEDS_FOR_A_BUG: u64 = 500;

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().unwrap())
}

/// The report of a simulation; an error if a check fails or it panics.
fn verdict(seed: u64, bug: Option<Bug>) -> Result<Report, String> {
    let report = catch_unwind(AssertUnwindSafe(|| simulate(seed, bug))).map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text
            .or_else(|| panic.downcast_ref::<&str>().map(|&text| text.to_owned()))
            .unwrap_or_default();
        format!("{}\n\nseed {seed}: panic: {text}", last_history())
    })?;
    match &report.violation {
        Some(violation) => Err(format!("{}\n\nseed {seed}: {violation}", report.history)),
        None => Ok(report),
    }
}

/// Runs `work` on all cores until it returns `false`.
fn in_parallel(work: impl Fn() -> bool + Sync) {
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().unwrap().get() {
            scope.spawn(|| while work() {});
        }
    });
}

#[test]
fn seeds() {
    let (first, count) =
        (number("SHOUTD_SIM_FIRST").unwrap_or(0), number("SHOUTD_SIM_SEEDS").unwrap_or(SEEDS));
    let (next, failed) = (AtomicU64::new(first), Mutex::new(Vec::new()));
    let (commands, slowest) = (AtomicU64::new(0), Mutex::new((std::time::Duration::ZERO, first)));
    let began = Instant::now();
    in_parallel(|| {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        if seed >= first + count {
            return false;
        }
        match verdict(seed, None) {
            Ok(report) => {
                commands.fetch_add(u64::try_from(report.commands).unwrap(), Ordering::Relaxed);
                let mut slowest = slowest.lock();
                *slowest = (*slowest).max((report.convergence, seed));
                if std::env::var_os("SHOUTD_SIM_TELL").is_some() {
                    println!("{}", report.history);
                }
            }
            Err(text) => {
                println!("{text}\nto reproduce: cargo xtask sim --seed {seed}");
                failed.lock().push(seed);
            }
        }
        true
    });
    let (took, slowest) = (began.elapsed(), slowest.into_inner());
    let commands = commands.into_inner();
    println!(
        "{count} simulations from seed {first} in {took:.1?}: {commands} commands agreed on; \
         slowest to recover: {slowest:?}"
    );
    let failed = failed.into_inner();
    assert!(failed.is_empty(), "failing seeds: {failed:?}");
}

#[test]
fn the_same_seed_gives_the_same_simulation() {
    for seed in 0..10 {
        let (first, second) = (simulate(seed, None), simulate(seed, None));
        assert_eq!(first, second, "seed {seed}");
    }
}

fn is_found(bug: Bug, by: &str) {
    let (next, found) = (AtomicU64::new(0), Mutex::new(None));
    in_parallel(|| {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        if seed >= SEEDS_FOR_A_BUG || found.lock().is_some() {
            return false;
        }
        if let Err(text) = verdict(seed, Some(bug)) {
            *found.lock() = Some((seed, text));
        }
        true
    });
    let (seed, text) = found
        .into_inner()
        .unwrap_or_else(|| panic!("{bug:?} is not found within {SEEDS_FOR_A_BUG} seeds"));
    let violation = text.lines().last().unwrap();
    println!("{bug:?} is found by seed {seed}: {violation}");
    assert!(text.contains(by), "{bug:?} is found as something else: {violation}");
}

#[test]
fn a_store_that_acknowledges_before_it_syncs_is_found() {
    is_found(Bug::AcknowledgesBeforeFsync, "");
}

#[test]
fn a_store_that_forgets_votes_is_found() {
    is_found(Bug::ForgetsVote, "");
}

#[test]
fn a_store_that_purges_before_it_has_the_snapshot_is_found() {
    is_found(Bug::PurgesBeforeTheSnapshot, "");
}

#[test]
fn a_host_that_takes_addresses_without_claiming_them_is_found() {
    is_found(Bug::ClaimsFromStaleState, "is in use on");
}

#[test]
fn a_state_machine_that_depends_on_the_clock_is_found() {
    is_found(Bug::AppliesByTheClock, "the state forks");
}
