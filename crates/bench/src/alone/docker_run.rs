//! How long `docker run` takes.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use shoutd_lab::Host;

use super::finding;
use crate::report::{Finding, Limit, differing};
use crate::statistics::percentile;
use crate::ways::{Ends, OVERLAY_NETWORK, await_network};

/// Milliseconds of each run, by network.
type Times = BTreeMap<&'static str, Vec<f64>>;

/// How long a container may take to run `true`, and a network to be made.
const RUN_DEADLINE: Duration = Duration::from_secs(30);

/// A user's network of Docker's `bridge` driver: its containers have Docker's DNS resolver, as on
/// every network but the one called `bridge`.
const MADE: &str = "bench-run-bridge";
/// A shoutd network with IPv4 only, like the others.
const NETWORK: &str = "bench-run";
/// The same with `--internal`, of both drivers: without a way out.
const MADE_INTERNAL: &str = "bench-run-bridge-internal";
const INTERNAL: &str = "bench-run-internal";

/// The container on each host's shoutd networks that exists before anything is measured.
const FIRST: &str = "bench-run-first";

/// Why the ratio to the default network differs.
const BECAUSE: &str = "only `bridge` has no DNS resolver";

/// Measures `docker run`, in turn on Docker's networks and on shoutd's.
pub(super) fn measure(ends: &Ends, quick: bool) -> Result<Vec<Finding>> {
    let host = &ends.on(2)?.host;
    make_networks(ends, host)?;
    let mut networks = vec!["bridge", MADE, NETWORK, MADE_INTERNAL, INTERNAL];
    // Where Docker's overlay does not work, the benchmark has reported it already.
    if host.run(["docker", "network", "inspect", OVERLAY_NETWORK])?.success() {
        networks.push(OVERLAY_NETWORK);
    }
    let mut times = Times::new();
    for _ in 0..if quick { 5 } else { 15 } {
        for network in &networks {
            times.entry(network).or_default().push(time_to_run(host, network)?);
        }
    }
    let internal = format!("{FIRST}-internal");
    docker(host, &["rm", "--force", &internal])?;
    ends.hosts().try_for_each(|host| docker(host, &["rm", "--force", FIRST]))?;
    [MADE, NETWORK, MADE_INTERNAL, INTERNAL]
        .into_iter()
        .try_for_each(|network| docker(host, &["network", "rm", network]))?;
    Ok(findings(&times))
}

fn findings(times: &Times) -> Vec<Finding> {
    let to_bridge = ratio("the default network `bridge`", times, NETWORK, "bridge");
    let because =
        [BECAUSE, to_bridge.remark.as_str()].into_iter().filter(|remark| !remark.is_empty());
    let because = because.collect::<Vec<_>>().join("; ");
    let to_made = ratio("a network of the `bridge` driver", times, NETWORK, MADE);
    let mut findings = vec![
        Finding { most: Some(Limit::Median(1.1)), remark: because, ..to_bridge },
        Finding { most: Some(Limit::Median(1.0)), ..to_made },
        ratio("`bridge` driver, both `--internal`", times, INTERNAL, MADE_INTERNAL),
    ];
    for (title, network) in [
        ("`docker run` on `bridge`", "bridge"),
        ("`docker run` on a network of the `bridge` driver", MADE),
        ("`docker run` on shoutd", NETWORK),
    ] {
        findings.push(finding(title, "ms", samples(times, network)));
    }
    if times.contains_key(OVERLAY_NETWORK) {
        let overlay = samples(times, OVERLAY_NETWORK);
        findings.push(finding("`docker run` on Docker's overlay", "ms", overlay));
        findings.push(ratio("Docker's overlay", times, NETWORK, OVERLAY_NETWORK));
    }
    findings
}

/// The ratio of shoutd's times to those of another network, which `other_title` names.
fn ratio(other_title: &str, times: &Times, ours: &str, other: &str) -> Finding {
    let (ours, other) = (samples(times, ours), samples(times, other));
    let ratios: Vec<f64> = ours.iter().zip(&other).map(|(ours, other)| ours / other).collect();
    let remark = differing(median(&ratios), median(&ours) / median(&other)).unwrap_or_default();
    let title = format!("`docker run`, shoutd / {other_title}");
    Finding { remark, ..finding(&title, "ratio", ratios) }
}

fn samples(times: &Times, network: &str) -> Vec<f64> {
    times.get(network).cloned().unwrap_or_default()
}

fn median(samples: &[f64]) -> f64 {
    percentile(samples, 50.0).unwrap_or_default()
}

/// All hosts have a container on the shoutd network, as on Docker's overlay, because `Join` waits
/// for them.
fn make_networks(ends: &Ends, host: &Host) -> Result<()> {
    docker(host, &["network", "create", MADE])?;
    docker(host, &["network", "create", "--internal", MADE_INTERNAL])?;
    docker(
        host,
        &[
            "network",
            "create",
            "--driver",
            "shoutd",
            "--ipam-driver",
            "shoutd",
            "--internal",
            INTERNAL,
        ],
    )?;
    docker(&ends.on(1)?.host, &["network", "create", "--driver", "shoutd", NETWORK])?;
    ends.hosts().try_for_each(|host| {
        await_network(host, NETWORK)?;
        start(host, FIRST, NETWORK)
    })?;
    start(host, &format!("{FIRST}-internal"), INTERNAL)
}

fn start(host: &Host, name: &str, network: &str) -> Result<()> {
    docker(
        host,
        &["run", "--detach", "--name", name, "--network", network, "debian", "sleep", "600"],
    )
}

fn docker(host: &Host, arguments: &[&str]) -> Result<()> {
    let output = host.run_for(RUN_DEADLINE, ["docker"].iter().chain(arguments))?;
    ensure!(output.success(), "docker {} failed, {output}", arguments.join(" "));
    Ok(())
}

/// In milliseconds.
fn time_to_run(host: &Host, network: &str) -> Result<f64> {
    let option = format!("--network={network}");
    let begin = Instant::now();
    docker(host, &["run", "--rm", &option, "debian", "true"])?;
    Ok(begin.elapsed().as_secs_f64() * 1e3)
}
