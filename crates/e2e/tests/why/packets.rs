//! `shoutdctl trace`: packets are counted, and where they stop is named first.

use std::net::Ipv4Addr;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use shoutd_e2e::{
    Cluster, Container, EXIT_PROBLEMS, GroupSocket, Network, SOON, Sources, one_on_each,
};
use shoutd_lab::{Host, wait_until};

use super::GROUP;

const ADDRESS: Ipv4Addr = Ipv4Addr::new(224, 1, 1, 1);

/// What `shoutdctl trace` found.
pub(crate) struct Traced {
    /// What is broken first, as text.
    pub(crate) cause: Option<String>,
    /// The places, and the packets that passed them.
    pub(crate) counts: Vec<(String, u64)>,
}

pub(crate) fn trace(asked: &Host, options: &[&str]) -> Result<Traced> {
    let command = ["shoutdctl", "trace", "--json", "--network", "foo"];
    let output = asked.run(command.iter().chain(options))?;
    let found: Value = serde_json::from_str(&output.stdout)
        .with_context(|| format!("shoutdctl trace {} {output}", options.join(" ")))?;
    let findings = found["explanation"]["findings"].as_array().context("findings")?;
    let first = findings.iter().find(|finding| finding["verdict"] == "broken");
    let cause = first.map(|finding| finding["text"].as_str().unwrap_or_default().to_owned());
    let code = if cause.is_some() { EXIT_PROBLEMS } else { 0 };
    ensure!(output.code == code, "exit code {} for {cause:?}", output.code);
    let counts = found["counts"].as_array().context("counts")?.iter().map(|count| {
        let place = count["place"].as_str().unwrap_or_default().to_owned();
        (place, count["packets"].as_u64().unwrap_or_default())
    });
    Ok(Traced { cause, counts: counts.collect() })
}

/// The way from a container to another one on another host.
pub(crate) struct Way<'a> {
    pub(crate) hosts: &'a [Host],
    pub(crate) sender: &'a Container,
    pub(crate) receiver: &'a Container,
}

impl Way<'_> {
    fn trace(&self, more: &[&str]) -> Result<Traced> {
        let ends = ["--from", &self.sender.name, "--to", &self.receiver.name, GROUP];
        // The host that is asked has neither.
        trace(&self.hosts[2], &[&ends, more].concat())
    }

    pub(crate) fn ensure_stops(&self, more: &[&str], expected: &str) -> Result<()> {
        let found = self.trace(more)?;
        let cause = found.cause.as_deref().unwrap_or("nothing");
        ensure!(cause.contains(expected), "{cause:?}, not {expected:?}: {:?}", found.counts);
        Ok(())
    }

    /// Every place counts all datagrams of a probe.
    pub(crate) fn ensure_passes(&self) -> Result<()> {
        let found = self.trace(&["--probe", "--count", "50", "--size", "1000"])?;
        ensure!(found.cause.is_none(), "{:?}: {:?}", found.cause, found.counts);
        ensure!(found.counts.len() == 8, "{:?}", found.counts);
        ensure!(found.counts.iter().all(|(_, packets)| *packets == 50), "{:?}", found.counts);
        Ok(())
    }
}

/// An nf_tables table that drops packets until it is dropped.
pub(crate) struct Drops<'a> {
    container: Option<&'a Container>,
    host: &'a Host,
}

impl<'a> Drops<'a> {
    pub(crate) fn on(host: &'a Host, rule: &str) -> Result<Self> {
        let drops = Self { container: None, host };
        drops.plant(rule)?;
        Ok(drops)
    }

    fn inside(container: &'a Container, rule: &str) -> Result<Self> {
        let drops = Self { container: Some(container), host: &container.host };
        drops.plant(rule)?;
        Ok(drops)
    }

    fn plant(&self, rule: &str) -> Result<()> {
        self.nft("add table inet planted")?;
        self.nft("add chain inet planted in { type filter hook input priority 0; }")?;
        self.nft(&format!("add rule inet planted in {rule} drop"))
    }

    fn nft(&self, command: &str) -> Result<()> {
        match self.container {
            Some(container) => {
                let output = container.inside(|| {
                    std::process::Command::new("nft").arg(command).output().context("run nft")
                })?;
                ensure!(output.status.success(), "nft {command}: {output:?}");
                Ok(())
            }
            None => {
                let output = self.host.run(["nft", command])?;
                ensure!(output.code == 0, "nft {command}: {output}");
                Ok(())
            }
        }
    }
}

impl Drop for Drops<'_> {
    fn drop(&mut self) {
        let _ = self.nft("delete table inet planted");
    }
}

pub(crate) fn stop_at_each_place(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.three()?;
    let _foo = Network::create(cluster, &hosts[0], "foo", &[])?;
    let containers = one_on_each(&hosts, "foo", &[])?;
    let [sender, receiver, _] = &containers[..] else { anyhow::bail!("three containers") };
    let way = Way { hosts: &hosts, sender, receiver };
    let socket = GroupSocket::open(receiver, true, 5001)?;
    socket.join(ADDRESS.into(), Sources::All)?;
    wait_until("the probe to pass", SOON, || Ok(way.ensure_passes().is_ok().then_some(())))?;

    let file = "/run/probe.pcapng";
    let ends = format!("--network foo --from {} --to {}", sender.name, receiver.name);
    let line = format!("shoutdctl capture {ends} --probe --count 7 -w {file} {GROUP}");
    let output = hosts[2].sh(&line)?;
    ensure!(output.contains("56 packets of 8 places"), "{output}");
    let again = hosts[2].run(line.split(' '))?;
    ensure!(again.code == 1 && again.stderr.contains("File exists"), "{again}");
    hosts[2].sh(&format!("rm {file}"))?;
    let captured: Value = serde_json::from_str(&hosts[2].sh(&format!("{line} --json"))?)?;
    hosts[2].sh(&format!("rm {file}"))?;
    let places = captured["counts"].as_array().map(Vec::len);
    ensure!(captured["packets"] == 56 && captured["places"] == 8, "{captured}");
    ensure!(captured["file"] == file && places == Some(8), "{captured}");

    way.ensure_stops(&["--for", "1s"], "sent no packet to 224.1.1.1 (UDP port 5001)")?;

    {
        let _drops = Drops::inside(receiver, "udp dport 5001 counter")?;
        way.ensure_stops(&["--probe"], "packets that passed the interface eth0 of")?;
        // The rule's counter is read, too.
        let mut stream = sender.spawn("iperf -u -c 224.1.1.1 -T 4 -t 5 -b 1M")?;
        let text = format!("netfilter of {} dropped", receiver.name);
        wait_until(&format!("{text:?} to be told"), SOON, || {
            let output = hosts[2].run(["shoutdctl", "why", "--network", "foo", GROUP])?;
            Ok(output.stdout.contains(&text).then_some(()))
        })?;
        stream.wait(SOON)?;
    }
    {
        let _drops = Drops::on(&receiver.host, "udp dport 7789")?;
        way.ensure_stops(&["--probe"], "packets that passed the underlay of")?;
    }
    way.ensure_passes()
}

/// Another container, and another program of the sender, send to the same group.
pub(crate) fn probes_are_exact(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.three()?;
    let _foo = Network::create(cluster, &hosts[0], "foo", &[])?;
    let containers = one_on_each(&hosts, "foo", &[])?;
    let [sender, receiver, other] = &containers[..] else { anyhow::bail!("three containers") };
    let way = Way { hosts: &hosts, sender, receiver };
    let socket = GroupSocket::open(receiver, true, 5001)?;
    socket.join(ADDRESS.into(), Sources::All)?;
    wait_until("the probe to pass", SOON, || Ok(way.ensure_passes().is_ok().then_some(())))?;
    let noise = other.spawn("iperf -u -c 224.1.1.1 -T 4 -t 60 -b 2M -l 1000")?;
    let own = sender.spawn("iperf -u -c 224.1.1.1 -T 4 -t 60 -b 2M -l 1000 -p 5002")?;
    for _ in 0..3 {
        way.ensure_passes()?;
    }
    rates(&hosts, &way, other)?;
    // The other container's packets are the group's, too.
    let live = trace(&hosts[0], &["--for", "2s", GROUP])?;
    ensure!(live.cause.is_none(), "{:?}: {:?}", live.cause, live.counts);
    drop((noise, own));
    Ok(())
}

/// The rates are those of iperf, and copies go to the receiver's host only.
fn rates(hosts: &[Host], way: &Way<'_>, other: &Container) -> Result<()> {
    let asked = ["shoutdctl", "top", "--json", "--network", "foo"];
    let output = hosts[1].run(asked)?;
    let top: Value =
        serde_json::from_str(&output.stdout).with_context(|| format!("shoutdctl top {output}"))?;
    let rows = top["rows"].as_array().context("rows")?;
    for sender in [way.sender, other] {
        let row = rows.iter().find(|row| row["sender"] == sender.name.as_str());
        let row = row.with_context(|| format!("no row of {}: {top}", sender.name))?;
        let number = |name: &str| row[name].as_f64().unwrap_or_default();
        // iperf counts 2 Mbit/s of content, in datagrams of 1,000 octets.
        ensure!((120.0..600.0).contains(&number("packets")), "{row}");
        ensure!((number("bits") / number("packets") - 8.0 * 1028.0).abs() < 1.0, "{row}");
        ensure!((number("copies") - number("packets")).abs() < 1e-6, "{row}");
        ensure!((number("flooded") - 2.0 * number("packets")).abs() < 1e-6, "{row}");
        ensure!(row["host"] == sender.host.name() && row["receivers"] == 1, "{row}");
    }
    let table = hosts[2].run(["shoutdctl", "top", "--once"])?;
    ensure!(table.code == 0 && table.stdout.contains("224.1.1.1"), "{table}");
    let groups = hosts[2].run(["shoutdctl", "groups", "--rates", "--json"])?;
    let groups: Value = serde_json::from_str(&groups.stdout).context("shoutdctl groups --rates")?;
    let mut all = groups.as_array().context("groups")?.iter();
    let row = all.find(|row| row["group"] == "224.1.1.1").context("no row of the group")?;
    let senders = row["senders"].as_array().context("senders")?;
    for sender in [way.sender, other] {
        ensure!(senders.iter().any(|name| name == sender.name.as_str()), "{row}");
    }
    ensure!(row["packets"].as_f64().is_some_and(|packets| packets > 240.0), "{row}");
    let unknown = hosts[2].run(["shoutdctl", "top", "--network", "bar"])?;
    ensure!(unknown.code == 1 && unknown.stderr.contains("no network bar"), "{unknown}");
    Ok(())
}
