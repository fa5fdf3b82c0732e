//! How long `docker run` takes.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use shoutd_lab::Host;

use super::finding;
use crate::bench::NETWORK;
use crate::bench::report::Finding;
use crate::bench::ways::Ends;

/// How long a container may take to run `true`.
const RUN_DEADLINE: Duration = Duration::from_secs(30);

/// The time of `docker run`, in turn on the `bridge` network and on shoutd's.
pub(super) fn measure(ends: &Ends, quick: bool) -> Result<Vec<Finding>> {
    let host = &ends.on(2)?.host;
    let (mut bridge, mut ours) = (Vec::new(), Vec::new());
    for _ in 0..if quick { 5 } else { 15 } {
        bridge.push(time_to_run(host, "bridge")?);
        ours.push(time_to_run(host, NETWORK)?);
    }
    let ratios = ours.iter().zip(&bridge).map(|(ours, bridge)| ours / bridge).collect();
    Ok(vec![
        finding("`docker run` on `bridge`", "ms", bridge),
        finding("`docker run` on shoutd", "ms", ours),
        Finding { most: Some(1.1), ..finding("`docker run`, shoutd / `bridge`", "ratio", ratios) },
    ])
}

/// In milliseconds.
fn time_to_run(host: &Host, network: &str) -> Result<f64> {
    let option = format!("--network={network}");
    let begin = Instant::now();
    let output = host.run_for(RUN_DEADLINE, ["docker", "run", "--rm", &option, "debian", "true"])?;
    let time = begin.elapsed();
    ensure!(output.success(), "docker run on {network} failed, {output}");
    Ok(time.as_secs_f64() * 1e3)
}
