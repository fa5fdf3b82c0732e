//! Faults of hosts, and wrong questions.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use shoutd_e2e::{
    Cluster, Container, GroupSocket, Network, SOON, Sources, one_on_each, status, view,
};
use shoutd_lab::{Host, wait_until};

use super::{GROUP, cause, ensure_named};

/// How soon a tunnel that does not carry must be known, and how much longer a busy machine may
/// take.
const KNOWN_WITHIN: Duration = Duration::from_secs(15);

/// The daemon of a receiver's host does not run, then that of a sender's.
pub(crate) fn a_daemon_that_does_not_run(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.three()?;
    let _foo = Network::create(cluster, &hosts[0], "foo", &[])?;
    let containers: Vec<Container> = one_on_each(&hosts, "foo", &[])?;
    let others = [hosts[0].clone(), hosts[2].clone()];
    hosts[1].sh("shoutdctl stop")?;
    let named = format!("shoutd on {} does not answer", hosts[1].name());
    ensure_named(&others, &["--from", &containers[0].name, GROUP], &named)?;
    ensure_named(&others, &["--to", &containers[0].name, GROUP], &named)?;
    // A host of another tier sends and receives as before.
    hosts[1].sh("shoutdctl start --replication=multicast-fdb")?;
    let member = GroupSocket::open(&containers[1], true, 5001)?;
    member.join("224.1.1.1".parse()?, Sources::All)?;
    for (from, to) in [(0, 1), (1, 2), (2, 1)] {
        let options = ["--from", &containers[from].name, "--to", &containers[to].name, GROUP];
        let expected = (to == 2).then_some("has not joined 224.1.1.1");
        wait_until("hosts of two tiers to understand each other", SOON, || {
            let found = cause(&hosts[0], &options)?;
            let is_right = match (&found, expected) {
                (None, None) => true,
                (Some(found), Some(expected)) => found.contains(expected),
                _ => false,
            };
            Ok(is_right.then_some(()))
        })?;
    }
    hosts[1].sh("shoutdctl stop; shoutdctl start --replication=vxlan-mdb").map(drop)
}

pub(crate) fn what_does_not_exist(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.three()?;
    let _foo = Network::create(cluster, &hosts[0], "foo", &[])?;
    for (arguments, code, expected) in [
        ("--network bar 224.1.1.1", 1, "there is no network bar in the cluster"),
        ("--network foo 10.0.0.1", 1, "10.0.0.1 is not a multicast address"),
        ("--network foo --to web 224.1.1.1", 1, "network foo has no container web; it has none"),
        ("--network foo group", 2, "not a group"),
    ] {
        let output = hosts[0].run(["sh", "-c", &format!("shoutdctl why {arguments}")])?;
        ensure!(
            output.code == code
                && output.stderr.contains(expected)
                && output.stderr.trim().lines().count() == 1,
            "shoutdctl why {arguments}: {output}"
        );
    }
    Ok(())
}

/// What is dropped from the first host to the second, and what is said then of the tunnel.
struct Blocked {
    /// The network that is asked about.
    network: &'static str,
    /// The UDP port.
    port: u16,
    /// What the rule selects of it.
    condition: &'static str,
    /// The beginning of what is said.
    said: &'static str,
    /// The tunnel in it.
    tunnel: &'static str,
    /// The tunnel in a row of `shoutdctl hosts`, and the other one, which carries.
    fields: [&'static str; 2],
}

/// The network `foo` is plain, and `secret` is encrypted.
const BLOCKED: [Blocked; 4] = [
    Blocked {
        network: "foo",
        port: 7789,
        condition: "",
        said: "nothing that",
        tunnel: "the tunnel",
        fields: ["tunnel", "encrypted_tunnel"],
    },
    Blocked {
        network: "foo",
        port: 7789,
        condition: "meta length '>' 1000",
        said: "large packets that",
        tunnel: "the tunnel",
        fields: ["tunnel", "encrypted_tunnel"],
    },
    Blocked {
        network: "secret",
        port: 7792,
        condition: "",
        said: "nothing that",
        tunnel: "the encrypted tunnel",
        fields: ["encrypted_tunnel", "tunnel"],
    },
    Blocked {
        network: "secret",
        port: 7792,
        condition: "meta length '>' 1000",
        said: "large packets that",
        tunnel: "the encrypted tunnel",
        fields: ["encrypted_tunnel", "tunnel"],
    },
];

/// VXLAN or WireGuard from the first host to the second is blocked, TCP is not.
pub(crate) fn a_tunnel_that_does_not_carry(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.three()?;
    let _foo = Network::create(cluster, &hosts[0], "foo", &[])?;
    let _secret = Network::create(cluster, &hosts[0], "secret", &["--opt", "encrypted"])?;
    let mut ends = BTreeMap::new();
    for name in ["foo", "secret"] {
        let containers: Vec<Container> = one_on_each(&hosts, name, &[])?;
        let member = GroupSocket::open(&containers[1], true, 5001)?;
        member.join("224.1.1.1".parse()?, Sources::All)?;
        ends.insert(name, (containers, member));
    }
    await_carrying(&hosts)?;
    for blocked in &BLOCKED {
        let (containers, _) = ends.get(blocked.network).context("containers")?;
        let [from, to] = [&containers[0].name, &containers[1].name];
        let options = ["--network", blocked.network, "--from", from, "--to", to, GROUP];
        wait_until("nothing to be broken", SOON, || {
            Ok(cause(&hosts[2], &options)?.is_none().then_some(()))
        })?;
        let Blocked { port, condition, said, tunnel, .. } = blocked;
        hosts[1].sh(&format!(
            "nft add table ip blocked && nft add chain ip blocked input '{{ type filter hook \
             input priority 0; }}' && nft add rule ip blocked input ip saddr {} udp dport {port} \
             {condition} drop",
            hosts[0].address()
        ))?;
        let begin = Instant::now();
        let text = format!("{said} {} sends through {tunnel} ", hosts[0].name());
        for host in &hosts[..2] {
            wait_until(&format!("{} to know it", host.name()), SOON, || {
                let status = status(host)?;
                let mut problems = status["problems"].as_array().into_iter().flatten();
                let is_said =
                    problems.any(|one| one.as_str().is_some_and(|one| one.contains(&text)));
                Ok(is_said.then_some(()))
            })?;
        }
        println!("{said} {tunnel}: known after {:?} of {KNOWN_WITHIN:?}", begin.elapsed());
        is_told_everywhere(&hosts, blocked, &text)?;
        ensure_named(&hosts, &options, &text).context("why")?;
        ensure!(
            status(&hosts[2])?["problems"].as_array().is_some_and(Vec::is_empty),
            "the third host has problems: {}",
            status(&hosts[2])?["problems"]
        );
        // The other direction carries.
        let back = ["--network", blocked.network, "--from", to, "--to", from];
        let found = cause(&hosts[2], &back)?;
        ensure!(found.is_none(), "the other direction: {found:?}");
        hosts[1].sh("nft delete table ip blocked")?;
        await_carrying(&hosts)?;
    }
    Ok(())
}

/// `hosts`, `doctor` and the metrics tell the blocked tunnel from the other one, and its port.
fn is_told_everywhere(hosts: &[Host; 3], blocked: &Blocked, text: &str) -> Result<()> {
    let [first, second, _] = hosts;
    let rows = view(second, "hosts")?;
    let mut rows = rows.as_array().context("a list")?.iter();
    let row = rows.find(|row| row["name"] == *first.name()).context("a row")?;
    let [broken, other] = blocked.fields;
    ensure!(row[broken]["inbound"] != "carries" && row[broken]["outbound"] == "carries", "{row}");
    ensure!(row[other]["inbound"] == "carries" && row[other]["outbound"] == "carries", "{row}");
    let metrics = second.sh("busybox wget -q -O - http://127.0.0.1:7790/metrics")?;
    for (field, up) in [(broken, 0), (other, 1)] {
        let series =
            format!("shoutd_{field}_up{{peer=\"{}\",direction=\"in\"}} {up}", first.name());
        ensure!(metrics.lines().any(|line| line.starts_with(&series)), "{series}: {metrics}");
    }
    let doctor = second.run(["shoutdctl", "doctor"])?;
    ensure!(doctor.stdout.contains(text), "{doctor}");
    if blocked.condition.is_empty() {
        let port = format!("UDP port {}", blocked.port);
        let told = status(second)?["problems"].to_string();
        ensure!(told.contains(&port), "{told}");
    }
    Ok(())
}

/// Waits until each host sees that its tunnels to the others carry in both directions.
fn await_carrying(hosts: &[Host]) -> Result<()> {
    for host in hosts {
        wait_until(&format!("the tunnels of {} to carry", host.name()), SOON, || {
            let rows = view(host, "hosts")?;
            let others = rows.as_array().context("a list")?.iter();
            let mut others = others.filter(|row| row["this_host"] == false);
            let carries = others.all(|row| {
                ["tunnel", "encrypted_tunnel"].into_iter().all(|tunnel| {
                    row[tunnel]["inbound"] == "carries" && row[tunnel]["outbound"] == "carries"
                })
            });
            Ok(carries.then_some(()))
        })?;
    }
    Ok(())
}
