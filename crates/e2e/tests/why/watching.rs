//! `shoutdctl watch`: what happens is shown.

use anyhow::{Context, Result};
use serde_json::Value;
use shoutd_e2e::{Cluster, Container, GroupSocket, Network, SOON, Sources};
use shoutd_lab::{Host, Process};

const GROUP: &str = "239.7.7.7";

/// A running `shoutdctl watch --json`.
pub(crate) struct Watch(pub(crate) Process);

impl Watch {
    /// Starts it, and waits for its first line.
    pub(crate) fn begin(host: &Host) -> Result<Self> {
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
    pub(crate) fn await_kind(&self, kind: &str, fields: &[(&str, &str)]) -> Result<()> {
        self.await_line(|line| {
            line["kind"] == kind && fields.iter().all(|(field, value)| line[*field] == *value)
        })
        .with_context(|| format!("{kind} with {fields:?}"))
    }

    /// Waits for a container of this name. A host that is slow learns the name after the container.
    fn await_name(&self, name: &str) -> Result<()> {
        self.await_line(|line| {
            ["container-connected", "container-named"].iter().any(|kind| line["kind"] == **kind)
                && line["names"].as_array().is_some_and(|names| names.contains(&name.into()))
        })
        .with_context(|| format!("a container {name}"))
    }

    /// Waits until it says, with these words, that the daemon does not answer.
    pub(crate) fn await_silence(&self, words: &str) -> Result<()> {
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
    let network = Network::create(cluster, other, "foo", &[])?;
    watch.await_kind("network-created", &[("network", "foo")])?;
    watch.await_line(|line| {
        line["kind"] == "event"
            && line["event"]["kind"] == "network-made"
            && line["event"]["subject"] == "foo"
    })?;
    let here = Container::start(host, "foo", &[])?;
    watch.await_kind("container-connected", &[("network", "foo"), ("host", &host.name())])?;
    let mut there = Container::start(other, "foo", &[])?;
    watch.await_name(&there.name)?;
    let socket = GroupSocket::open(&there, true, 5001)?;
    socket.join(GROUP.parse()?, Sources::All)?;
    watch.await_kind("group-joined", &[("group", GROUP), ("host", &other.name())])?;
    drop(socket);
    watch.await_kind("group-left", &[("group", GROUP), ("host", &other.name())])?;
    third.sh("shoutdctl stop")?;
    watch.await_kind("host-unreachable", &[("host", &third.name())])?;
    third.sh("shoutdctl start")?;
    watch.await_kind("host-reachable", &[("host", &third.name())])?;
    let renamed = format!("{}-renamed", there.name);
    other.docker(["rename", &there.name, &renamed])?;
    there.name = renamed;
    watch.await_name(&there.name)?;
    drop((here, there));
    watch.await_kind("container-disconnected", &[("host", &other.name())])?;
    network.remove_on(other)?;
    watch.await_kind("network-removed", &[("network", "foo")])?;
    Ok(())
}
