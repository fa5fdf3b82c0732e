//! Figures of shoutd by itself.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use shoutd_lab::{Host, Output};

use super::report::Finding;
use super::ways::{End, Ends, Way};
use super::{Found, NETWORK};

/// How long a container may take to run `true`.
const RUN_DEADLINE: Duration = Duration::from_secs(30);

/// Measures one figure after the other, while there is time. What fails is noted.
pub(super) fn measure(ways: &[Ends], quick: bool, deadline: Instant, found: &mut Found) -> Result<()> {
    let ends = ways.iter().find(|ends| ends.way == Way::Shoutd).context("no way of shoutd's")?;
    type Part = (&'static str, fn(&Ends, bool) -> Result<Vec<Finding>>);
    let parts: [Part; 1] = [("docker run", docker_run)];
    for (name, part) in parts {
        crate::interrupt::await_exit_if_interrupted();
        if Instant::now() > deadline {
            found.note(&format!("{name}: no time was left"));
            continue;
        }
        crate::terminal::show_progress(&format!("measuring: {name}"));
        match part(ends, quick) {
            Ok(findings) => found.findings.extend(findings),
            Err(error) => found.note(&format!("{name}: {error:#}")),
        }
    }
    Ok(())
}

/// The time of `docker run`, in turn on the `bridge` network and on shoutd's.
fn docker_run(ends: &Ends, quick: bool) -> Result<Vec<Finding>> {
    let End { host, .. } = ends.on(2)?;
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
    let output: Output = host.run_for(RUN_DEADLINE, ["docker", "run", "--rm", &option, "debian", "true"])?;
    let time = begin.elapsed();
    ensure!(output.success(), "docker run on {network} failed, {output}");
    Ok(time.as_secs_f64() * 1e3)
}

fn finding(title: &str, unit: &'static str, samples: Vec<f64>) -> Finding {
    Finding { title: title.to_owned(), unit, samples, most: None, remark: String::new() }
}
