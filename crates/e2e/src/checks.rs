//! Runs many checks on one cluster, one after the other.

use std::env;
use std::time::Instant;

use anyhow::Result;

use crate::Cluster;

/// A check: what must hold, and the function that checks it.
pub type Check = (&'static str, fn(&mut Cluster) -> Result<()>);

/// Runs only the checks with this text in their names, for work on one of them.
const ONLY: &str = "SHOUTD_CHECK";

/// Lines of each log that are shown when a check fails.
const LOG_LINES: usize = 60;

/// Runs the checks in order. After each, the cluster must be as it was before: no network, lease,
/// device or namespace is left. The others run even if one fails; the test fails at the end.
pub fn run_checks(cluster: &mut Cluster, checks: &[Check]) {
    let only = env::var(ONLY).unwrap_or_default();
    let mut failed = Vec::new();
    for (name, check) in checks.iter().filter(|(name, _)| name.contains(&only)) {
        let (begin, logs) = (Instant::now(), cluster.logs());
        let result = check(cluster).and_then(|()| cluster.await_clean());
        let seconds = begin.elapsed().as_secs_f32();
        match result {
            Ok(()) => println!("ok      {name} ({seconds:.1} s)"),
            Err(error) => {
                println!("FAILED  {name} ({seconds:.1} s): {error:#}");
                cluster.show_logs_since(&logs, LOG_LINES);
                failed.push(*name);
                cluster.force_clean();
            }
        }
    }
    assert!(failed.is_empty(), "{} failed: {}", failed.len(), failed.join("; "));
}
