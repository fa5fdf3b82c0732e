//! `shoutdctl ping`: what passes between all hosts, and what does not.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use shoutd_e2e::{
    Cluster, Container, EXIT_PROBLEMS, GroupSocket, Network, SOON, Sources, await_members,
    one_on_each,
};
use shoutd_lab::{Host, wait_until};

use super::packets::Drops;

const GROUP: &str = "239.8.8.8";

/// Outer packets above this length are dropped in the second part.
const LENGTH_MAX: u64 = 1000;

/// Octets of the outer IP, UDP and VXLAN headers and the inner Ethernet header.
const AROUND: u64 = 20 + 8 + 8 + 14;

/// What `shoutdctl ping` with these options finds.
pub(crate) fn ping(asked: &Host, options: &[&str]) -> Result<Value> {
    let output = asked.run(["shoutdctl", "ping", "--json"].iter().chain(options))?;
    let found: Value = serde_json::from_str(&output.stdout)
        .with_context(|| format!("shoutdctl ping {}: {output}", options.join(" ")))?;
    let is_well = found["problems"].as_array().context("problems")?.is_empty();
    ensure!(output.code == if is_well { 0 } else { EXIT_PROBLEMS }, "{output}");
    Ok(found)
}

/// The directions between two hosts.
fn pairs(found: &Value) -> Result<&Vec<Value>> {
    found["pairs"].as_array().context("pairs")
}

fn pair<'a>(found: &'a Value, from: &Host, to: &Host) -> Result<&'a Value> {
    let mut pairs = pairs(found)?.iter();
    let wanted = |pair: &&Value| pair["from"] == *from.name() && pair["to"] == *to.name();
    pairs.find(wanted).with_context(|| format!("{} to {}: {found}", from.name(), to.name()))
}

pub(crate) fn all_arrive(found: &Value) -> bool {
    let arrived = |pair: &Value| pair["received"] == pair["sent"] && pair["duplicates"] == 0;
    found["problems"].as_array().is_some_and(Vec::is_empty)
        && found["pairs"].as_array().is_some_and(|pairs| pairs.iter().all(arrived))
}

pub(crate) fn all_hosts(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.three()?;
    let [first, second, third] = &hosts;
    let refused = first.run(["shoutdctl", "ping"])?;
    ensure!(
        refused.code == 1 && refused.stderr.contains("name a network with --network"),
        "{refused}"
    );
    let _foo = Network::create(cluster, first, "foo", &[])?;
    let containers = one_on_each(&hosts, "foo", &[])?;
    // Other containers of the lab may take the processor: then a request may be late.
    let mut found = Value::Null;
    wait_until("all requests to arrive", SOON, || {
        found = ping(third, &["--count", "50"])?;
        Ok(all_arrive(&found).then_some(()))
    })
    .with_context(|| found.to_string())?;
    ensure!(pairs(&found)?.len() == 6, "{found}");
    for pair in pairs(&found)? {
        ensure!(pair["sent"] == 50 && pair["round_trip"]["samples"] == 25, "{pair}");
    }

    // Only the hosts with members get a group.
    let member = GroupSocket::open(&containers[1], true, 5001)?;
    member.join(GROUP.parse()?, Sources::All)?;
    await_members(first, GROUP, &[second])?;
    let to_group = ["--network", "foo", "--count", "50", GROUP];
    wait_until("all requests to the group to arrive", SOON, || {
        found = ping(first, &to_group)?;
        Ok(all_arrive(&found).then_some(()))
    })
    .with_context(|| found.to_string())?;
    ensure!(pairs(&found)?.iter().all(|pair| pair["to"] == *second.name()), "{found}");
    ensure!(pairs(&found)?.len() == 2, "{found}");

    to_an_address(&hosts, &containers[1])?;
    let large = format!("ip saddr {} udp dport 7789 meta length '>' {LENGTH_MAX}", first.address());
    let drops = Drops::on(second, &large.replace('\'', ""))?;
    let found = ping(third, &["--network", "foo", "--sweep"])?;
    let cut = pair(&found, first, second)?;
    ensure!(cut["largest"] == LENGTH_MAX - AROUND, "{cut}");
    let back = pair(&found, second, first)?;
    ensure!(back["largest"] == back["mtu"], "{back}");
    let text = found["problems"].to_string();
    ensure!(text.contains("nothing larger than 950 octets arrived"), "{text}");
    drop(drops);

    let all = format!("ip saddr {} udp dport 7789", first.address());
    let drops = Drops::on(second, &all)?;
    let found = ping(first, &["--network", "foo"])?;
    ensure!(pair(&found, first, second)?["received"] == 0, "{found}");
    ensure!(pair(&found, second, first)?["received"] == 100, "{found}");
    let text = found["problems"].to_string();
    ensure!(
        text.contains(&format!("{} to {}: none of 100", first.name(), second.name())),
        "{text}"
    );
    drop(drops);
    Ok(())
}

/// The second host's only container is pinged from the other hosts.
fn to_an_address(hosts: &[Host; 3], container: &Container) -> Result<()> {
    let [first, second, third] = hosts;
    let address = container.address("foo")?.to_string();
    let mut found = Value::Null;
    wait_until("all requests to the address to be answered", SOON, || {
        found = ping(third, &["--network", "foo", "--count", "20", &address])?;
        Ok(all_arrive(&found).then_some(()))
    })
    .with_context(|| found.to_string())?;
    let from: Vec<_> = pairs(&found)?.iter().map(|pair| pair["from"].clone()).collect();
    ensure!(from == [first.name(), third.name()], "{found}");
    let sweep = ping(second, &["--network", "foo", "--sweep", &address])?;
    ensure!(pairs(&sweep)?.iter().all(|pair| pair["largest"] == pair["mtu"]), "{sweep}");
    container.inside(|| {
        let down = std::process::Command::new("ip").args(["link", "set", "eth0", "down"]).status();
        down.context("run ip").map(drop)
    })?;
    let found = ping(third, &["--network", "foo", "--count", "20", &address])?;
    let text = format!("{} to {address}: 20 of 20 requests were not answered", first.name());
    ensure!(found["problems"].to_string().contains(&text), "{found}");
    container.inside(|| {
        let up = std::process::Command::new("ip").args(["link", "set", "eth0", "up"]).status();
        up.context("run ip").map(drop)
    })?;
    let refused = third.run(["shoutdctl", "ping", "--network", "foo", "192.0.2.99"])?;
    ensure!(
        refused.code == 1 && refused.stderr.contains("neither a group nor an address of network"),
        "{refused}"
    );
    Ok(())
}

/// `--host`: what another host shows.
pub(crate) fn of_another_host(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.three()?;
    let [first, second, third] = &hosts;
    let _foo = Network::create(cluster, first, "foo", &[])?;
    let container = Container::start(second, "foo", &[])?;
    let member = GroupSocket::open(&container, true, 5001)?;
    member.join(GROUP.parse()?, Sources::All)?;
    await_members(second, GROUP, &[second])?;
    let show = |command: &str| -> Result<Value> {
        let output = third.run(["shoutdctl", command, "--json", "--host", &second.name()])?;
        // The tunnel that the check before blocked may still be a problem.
        ensure!([0, EXIT_PROBLEMS].contains(&output.code), "{output}");
        serde_json::from_str(&output.stdout).with_context(|| output.to_string())
    };
    ensure!(show("status")?["name"] == *second.name(), "another host's status");
    let rows = show("hosts")?;
    let this = rows.as_array().context("hosts")?.iter().find(|row| row["this_host"] == true);
    ensure!(this.context("this host")?["name"] == *second.name(), "{rows}");
    ensure!(show("groups")?.to_string().contains(GROUP), "groups of a network that is not here");
    ensure!(show("events")?.is_array(), "events");
    // This host does not have the network, and so does not know its groups either.
    let other = Container::start(first, "foo", &[])?;
    let mut found = Value::Null;
    wait_until("the group to be pinged from a host without the network", SOON, || {
        found = ping(third, &["--network", "foo", "--count", "20", GROUP])?;
        Ok(all_arrive(&found).then_some(()))
    })
    .with_context(|| found.to_string())?;
    ensure!(pairs(&found)?.len() == 1 && pairs(&found)?[0]["to"] == *second.name(), "{found}");
    drop(other);
    let refused = third.run(["shoutdctl", "status", "--host", "nobody"])?;
    ensure!(
        refused.code == 1 && refused.stderr.contains("there is no host nobody in the cluster"),
        "{refused}"
    );
    second.sh("shoutdctl stop")?;
    let refused = third.run(["shoutdctl", "status", "--host", &second.name()])?;
    let text = format!("host {} does not answer", second.name());
    ensure!(refused.code == 1 && refused.stderr.contains(&text), "{refused}");
    second.sh("shoutdctl start").map(drop)
}
