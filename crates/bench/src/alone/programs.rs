//! The size of the programs, and how long the daemon takes to start.

use std::fs;
use std::time::Instant;

use anyhow::{Context, Result};

use super::finding;
use crate::report::Finding;
use crate::ways::Ends;

/// Starts that are measured.
const STARTS: u32 = 10;
const STARTS_QUICK: u32 = 3;

/// The size of the optimized programs without debug information, and a start on a host that was in
/// the cluster before, with one network and one container.
pub(super) fn measure(ends: &Ends, quick: bool) -> Result<Vec<Finding>> {
    let host = &ends.on(2)?.host;
    let mut findings = Vec::new();
    for program in ["shoutd", "shoutdctl"] {
        let path = host.sh(&format!("command -v {program}"))?;
        let path = host.file(path.trim())?;
        let size = fs::metadata(&path).with_context(|| format!("find {}", path.display()))?.len();
        #[expect(clippy::cast_precision_loss, reason = "it is less than 2^52")]
        let mebibytes = size as f64 / f64::from(1 << 20);
        findings.push(finding(&format!("size of the program {program}"), "MiB", vec![mebibytes]));
    }
    let mut milliseconds = Vec::new();
    for _ in 0..if quick { STARTS_QUICK } else { STARTS } {
        host.sh("shoutdctl stop")?;
        let begin = Instant::now();
        host.start_shoutd(&[])?;
        milliseconds.push(begin.elapsed().as_secs_f64() * 1e3);
    }
    let remark = "until it serves Docker and is a member; nothing is lost meanwhile".to_owned();
    findings.push(Finding { remark, ..finding("shoutdctl start", "ms", milliseconds) });
    Ok(findings)
}
