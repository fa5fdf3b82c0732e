//! Many checks on one cluster, one after the other.

use std::env;
use std::time::Instant;

use anyhow::Result;

use crate::Cluster;

/// A name and what is expected.
pub type Check = (&'static str, fn(&mut Cluster) -> Result<()>);

/// Only checks with this in their names are run; for whoever works on one.
const ONLY: &str = "SHOUTD_CHECK";

/// How much of each log is shown when a check fails, in lines.
const LOG_LINES: usize = 60;

/// Runs the checks in order. After each the cluster must be as it was before: no network, lease,
/// device or namespace left. A check that fails does not keep the others from being run; with all
/// done, the test fails if one did.
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
