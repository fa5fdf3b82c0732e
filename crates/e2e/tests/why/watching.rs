//! `shoutdctl watch`: what happens is shown, also that the daemon is frozen, ends and is back.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use shoutd_e2e::{Cluster, Container, GroupSocket, Network, SOON, Sources};
use shoutd_lab::{Host, Process};

const GROUP: &str = "239.7.7.7";

/// A running `shoutdctl watch --json`.
struct Watch(Process);

impl Watch {
    /// Starts it, and waits for its first line.
    fn begin(host: &Host) -> Result<Self> {
        let watch = Self(host.spawn(["shoutdctl", "watch", "--json"])?);
        watch.await_line(|line| line["kind"] == "watching")?;
        Ok(watch)
    }

    fn await_line(&self, wanted: impl Fn(&Value) -> bool) -> Result<()> {
        let is_wanted =
            |line: &str| serde_json::from_str::<Value>(line).is_ok_and(|line| wanted(&line));
        self.0.wait_for_line(SOON, is_wanted).map(|_| ())
    }

    /// Waits for a line of this kind whose fields have these values.
    fn await_kind(&self, kind: &str, fields: &[(&str, &str)]) -> Result<()> {
        self.await_line(|line| {
            line["kind"] == kind && fields.iter().all(|(field, value)| line[*field] == *value)
        })
        .with_context(|| format!("{kind} with {fields:?}"))
    }

    fn await_silence(&self, words: &str) -> Result<()> {
        self.await_line(|line| {
            line["kind"] == "silent"
                && line["reason"].as_str().is_some_and(|reason| reason.contains(words))
        })
        .with_context(|| format!("silence with {words:?}"))
    }
}

pub(crate) fn what_happens_is_shown(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.three()?;
    let [host, other, third] = &hosts;
    let watch = Watch::begin(host)?;
    let foo = Network::create(cluster, other, "foo", &[])?;
    watch.await_kind("network-created", &[("network", "foo")])?;
    watch.await_line(|line| {
        line["kind"] == "event"
            && line["event"]["kind"] == "network-made"
            && line["event"]["subject"] == "foo"
    })?;
    let here = Container::start(host, "foo", &[])?;
    watch.await_kind("container-connected", &[("network", "foo"), ("host", &host.name())])?;
    let there = Container::start(other, "foo", &[])?;
    watch.await_line(|line| {
        line["kind"] == "container-connected"
            && line["names"]
                .as_array()
                .is_some_and(|names| names.contains(&there.name.as_str().into()))
    })?;
    let socket = GroupSocket::open(&there, true, 5001)?;
    socket.join(GROUP.parse()?, Sources::All)?;
    watch.await_kind("group-joined", &[("group", GROUP), ("host", &other.name())])?;
    drop(socket);
    watch.await_kind("group-left", &[("group", GROUP), ("host", &other.name())])?;
    third.sh("shoutdctl stop")?;
    watch.await_kind("host-unreachable", &[("host", &third.name())])?;
    third.sh("shoutdctl start")?;
    watch.await_kind("host-reachable", &[("host", &third.name())])?;
    drop((here, there));
    watch.await_kind("container-disconnected", &[("host", &other.name())])?;
    foo.remove_on(other)?;
    watch.await_kind("network-removed", &[("network", "foo")])?;
    Ok(())
}

pub(crate) fn a_daemon_that_does_not_answer(cluster: &mut Cluster) -> Result<()> {
    let host = cluster.host(1)?;
    let mut watch = Watch::begin(&host)?;
    let pids = host.pids_of("shoutd")?;
    host.signal("STOP", &pids)?;
    watch.await_silence("kill -CONT")?;
    host.signal("CONT", &pids)?;
    watch.await_kind("answers", &[])?;
    host.sh("shoutdctl stop")?;
    watch.await_silence("start it: shoutdctl start")?;
    host.sh("shoutdctl start")?;
    let is_back = |line: &Value| line["kind"] == "watching";
    let count = |text: &str| {
        text.lines()
            .filter(|line| serde_json::from_str(line).is_ok_and(|line| is_back(&line)))
            .count()
    };
    shoutd_lab::wait_until("watch to begin again", SOON, || {
        Ok((count(&watch.0.printed().0) == 2).then_some(()))
    })?;
    host.signal("INT", &host.pids_of("shoutdctl")?)?;
    let output = watch.0.wait(SOON)?;
    ensure!(output.success(), "after SIGINT: {output}");
    // Nobody reads it.
    let output = host.run(["sh", "-c", "shoutdctl watch | head -n 1"])?;
    ensure!(output.stdout.contains("watching host1"), "{output}");
    Ok(())
}
