//! `shoutdctl doctor`: healthy hosts are well, and each planted fault is found.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use shoutd_e2e::{Cluster, Container, Network, SOON, inside_host, one_on_each};
use shoutd_lab::{Host, wait_until};

/// Exit code if there are errors.
const EXIT_ERRORS: i32 = 2;

/// A small disk, without the state of a host.
const SMALL: &str = "/run/small";

/// The findings of `shoutdctl doctor` with these options.
fn doctor(host: &Host, options: &[&str]) -> Result<Vec<Value>> {
    let command = ["shoutdctl", "doctor", "--json"];
    let output = host.run(command.iter().chain(options))?;
    let report: Value = serde_json::from_str(&output.stdout)
        .with_context(|| format!("shoutdctl doctor on {}: {output}", host.name()))?;
    let code = match report["worst"].as_str() {
        Some("ok") => 0,
        Some("warning") => 1,
        _ => EXIT_ERRORS,
    };
    ensure!(output.code == code, "exit code {} for {}", output.code, report["worst"]);
    let findings = report["findings"].as_array().context("findings")?;
    Ok(findings.clone())
}

/// Whether there is such a finding. Each but good ones and the daemon's own has a remedy.
fn has(findings: &[Value], check: &str, level: &str, words: &str) -> Result<bool> {
    let found = findings.iter().find(|finding| {
        finding["check"] == check
            && finding["level"] == level
            && finding["text"].as_str().is_some_and(|text| text.contains(words))
    });
    let Some(found) = found else { return Ok(false) };
    ensure!(
        level == "ok" || check == "daemon" || found["remedy"].is_string(),
        "no remedy: {found}"
    );
    Ok(true)
}

fn await_finding(
    host: &Host,
    options: &[&str],
    (check, level, words): (&str, &str, &str),
) -> Result<()> {
    let mut last = Vec::new();
    let found = wait_until(&format!("{check} {level} {words:?} on {}", host.name()), SOON, || {
        last = doctor(host, options)?;
        Ok(has(&last, check, level, words)?.then_some(()))
    });
    found.with_context(|| format!("the last findings: {last:#?}"))
}

/// Waits until all is well. A lab has no systemd, so that the order at boot is not checked, and the
/// machine's kernel may lack the best tier.
fn await_well(host: &Host) -> Result<()> {
    let mut bad = Vec::new();
    let well = wait_until(&format!("{} to be well", host.name()), SOON, || {
        bad = doctor(host, &[])?;
        let is_apart = |finding: &Value| {
            ["boot", "kernel", "wireguard"].iter().any(|check| finding["check"] == *check)
        };
        bad.retain(|finding| {
            finding["level"] == "error" || (finding["level"] != "ok" && !is_apart(finding))
        });
        Ok(bad.is_empty().then_some(()))
    });
    well.with_context(|| format!("{bad:#?}"))
}

pub(crate) fn planted_faults(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.three()?;
    let [first, second, third] = &hosts;
    let _foo = Network::create(cluster, first, "foo", &["--subnet", "10.66.0.0/16"])?;
    let _containers: Vec<Container> = one_on_each(&hosts, "foo", &[])?;
    for host in &hosts {
        await_well(host)?;
    }

    second.sh(
        "nft add table ip planted && nft add chain ip planted input '{ type filter hook input \
         priority 0; }' && nft add rule ip planted input udp dport 7789 drop",
    )?;
    first.sh("ip route add 10.66.1.0/24 dev eth0")?;
    first
        .sh("cp /etc/docker/daemon.json /run/daemon.json && echo '{' > /etc/docker/daemon.json")?;
    let found = faults_of_members(first, second);
    first.sh("cp /run/daemon.json /etc/docker/daemon.json; ip route del 10.66.1.0/24 dev eth0")?;
    second.sh("nft delete table ip planted")?;
    found?;

    third.sh("shoutdctl stop")?;
    let found = faults_of_a_stopped_host(first, third);
    third.sh(&format!("umount --lazy {SMALL}; shoutdctl start"))?;
    found?;
    await_finding(third, &[], ("peers", "ok", "2 other hosts"))
}

fn faults_of_members(first: &Host, second: &Host) -> Result<()> {
    let findings = doctor(second, &[])?;
    ensure!(has(&findings, "firewall", "error", "udp dport 7789 drop")?, "{findings:#?}");
    let findings = doctor(first, &["--peer-addresses=10.77.0.200,10.77.0.2"])?;
    for (check, level, words) in [
        ("peers", "error", "10.77.0.200:7789"),
        ("peers", "ok", "3 other hosts"),
        ("subnets", "warning", "10.66.0.0/16 of network foo overlaps 10.66.1.0/24"),
        ("docker", "error", "daemon.json is not valid JSON"),
    ] {
        ensure!(has(&findings, check, level, words)?, "{words}: {findings:#?}");
    }
    let text = format!("nothing that {} sends", first.name());
    await_finding(first, &[], ("tunnels", "error", &text))?;
    await_finding(second, &[], ("tunnels", "error", &text))
}

fn faults_of_a_stopped_host(first: &Host, third: &Host) -> Result<()> {
    let text = format!("host {} does not answer", third.name());
    await_finding(first, &[], ("peers", "error", &text))?;
    let findings = doctor(third, &[])?;
    ensure!(has(&findings, "daemon", "error", "shoutd does not run")?, "{findings:#?}");
    ensure!(has(&findings, "ports", "ok", "are free")?, "{findings:#?}");
    third.sh(&format!("mkdir -p {SMALL} && mount -t tmpfs -o size=8m tmpfs {SMALL}"))?;
    let findings = doctor(third, &["--data-dir", SMALL])?;
    ensure!(has(&findings, "disk", "error", "and shoutd needs 16 MiB")?, "{findings:#?}");
    ensure!(has(&findings, "leftovers", "warning", "shout-")?, "{findings:#?}");
    // The other hosts connect to it again and again.
    let other = inside_host(third, || {
        std::net::TcpListener::bind("0.0.0.0:7789").context("listen at shoutd's port")
    })?;
    let found = await_finding(third, &[], ("ports", "error", "7789/tcp cannot be used"));
    drop(other);
    found
}
