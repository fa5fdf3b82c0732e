//! A daemon that is frozen, or does not run: `watch`, `support` and `doctor` say so.

use anyhow::{Result, ensure};
use serde_json::Value;
use shoutd_e2e::{Cluster, SOON};
use shoutd_lab::{Host, wait_until};

use super::support;
use super::watching::Watch;

/// What is said of a frozen daemon, and of one that does not run.
const FROZEN: &str = "kill -CONT";
const STOPPED: &str = "start it: shoutdctl start";

pub(crate) fn a_daemon_that_does_not_answer(cluster: &mut Cluster) -> Result<()> {
    let host = cluster.host(1)?;
    let mut watch = Watch::begin(&host)?;
    let pids = host.pids_of("shoutd")?;
    host.signal("STOP", &pids)?;
    let said = are_said(&host, &watch, FROZEN);
    host.signal("CONT", &pids)?;
    said?;
    watch.await_kind("answers", &[])?;
    host.sh("shoutdctl stop")?;
    let said = are_said(&host, &watch, STOPPED);
    host.sh("shoutdctl start")?;
    said?;
    wait_until("watch to begin again", SOON, || {
        let printed = watch.0.printed().0;
        let lines = printed.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        Ok((lines.filter(|line| line["kind"] == "watching").count() == 2).then_some(()))
    })?;
    host.signal("INT", &host.pids_of("shoutdctl")?)?;
    let output = watch.0.wait(SOON)?;
    ensure!(output.success(), "after SIGINT: {output}");
    // Nobody reads it.
    let output = host.run(["sh", "-c", "shoutdctl watch | head -n 1"])?;
    ensure!(output.stdout.contains("watching host1"), "{output}");
    // An existing file is not replaced.
    host.sh("echo mine > /run/own")?;
    let output = host.run(["shoutdctl", "support", "-o", "/run/own"])?;
    ensure!(output.code == 1 && output.stderr.contains("with -o FILE"), "{output}");
    ensure!(host.sh("cat /run/own && rm /run/own")? == "mine\n", "it was replaced");
    Ok(())
}

/// All three at once: each waits some seconds for a frozen daemon.
fn are_said(host: &Host, watch: &Watch, words: &str) -> Result<()> {
    let mut writing = support::begin(host)?;
    let mut checking = host.spawn(["shoutdctl", "doctor", "--json"])?;
    watch.await_silence(words)?;
    let output = writing.wait(SOON)?;
    ensure!(output.success(), "{output}");
    support::ensure_says(&support::unpack(host)?, words)?;
    let output = checking.wait(SOON)?;
    let report: Value = serde_json::from_str(&output.stdout)?;
    let mut findings = report["findings"].as_array().into_iter().flatten();
    let daemon = findings.find(|finding| finding["check"] == "daemon");
    let remedy = daemon.map(|finding| finding["remedy"].to_string()).unwrap_or_default();
    let expected = words.rsplit(": ").next().unwrap_or(words);
    ensure!(output.code == 2 && remedy.contains(expected), "{words}: {output}");
    Ok(())
}
