//! Hosts that were told an interface or a network, not an address, and whose address changes while
//! they run, as DHCP may do.

use anyhow::{Context, Result, ensure};
use shoutd_e2e::{Cluster, Network, SOON, Stream, one_on_each, status, view};
use shoutd_lab::{Host, wait_until};

/// A host's second address.
fn other_address(host: &Host) -> String {
    format!("10.77.0.{}", 100 + host.number())
}

/// Waits until every host knows and reaches each of these hosts at this address.
fn await_address(hosts: &[Host], moved: &Host, address: &str) -> Result<()> {
    for host in hosts {
        let what = format!("{} at {address} on {}", moved.name(), host.name());
        wait_until(&what, SOON, || {
            let rows = view(host, "hosts")?;
            let rows = rows.as_array().context("a list of hosts")?;
            let expected = format!("{address}:7789");
            let is_reached = rows.iter().any(|row| {
                row["name"] == moved.name().as_str()
                    && row["address"] == expected.as_str()
                    && row["reachable"] == true
            });
            Ok(is_reached.then_some(()))
        })?;
    }
    Ok(())
}

pub fn goes_on_at_another_address(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.three()?;
    let [_, second, third] = &hosts;
    let network = Network::create(cluster, &hosts[0], "foo", &[])?;
    let containers = one_on_each(&hosts, "foo", &[])?;
    let receivers: Vec<_> = containers[1..].iter().collect();
    // One is told its interface, the other its network.
    let rules = [
        (second, "--advertise-interface=eth0", "interface eth0"),
        (third, "10.77.0.0/24", "network 10.77.0.0/24"),
    ];
    for (host, argument, rule) in rules {
        host.sh("shoutdctl stop")?;
        host.start_shoutd(&[argument])?;
        let status = status(host)?;
        ensure!(status["address"] == format!("{}:7789", host.address()).as_str(), "{status}");
        ensure!(status["address_rule"] == rule, "it does not say the rule: {status}");
    }
    refuses_the_other_ways(second)?;
    let daemons: Vec<_> =
        rules.iter().map(|(host, ..)| host.pids_of("shoutd")).collect::<Result<_>>()?;
    for (host, ..) in rules {
        // First without any, as between two leases.
        let (own, other) = (host.address().to_string(), other_address(host));
        host.sh(&format!("ip address del {own}/24 dev eth0"))?;
        wait_until("the status to say that the address is missing", SOON, || {
            let problems = status(host)?["problems"].to_string();
            Ok(problems.contains("it goes on by itself when").then_some(()))
        })?;
        host.sh(&format!("ip address add {other}/24 dev eth0"))?;
        await_address(&hosts, host, &other)?;
    }
    let after: Vec<_> =
        rules.iter().map(|(host, ..)| host.pids_of("shoutd")).collect::<Result<_>>()?;
    ensure!(daemons == after, "the process is another: {daemons:?}, {after:?}");
    Stream::default().send(&containers[0], &receivers, 1)?;
    Stream::default().send(&containers[1], &[&containers[0], &containers[2]], 1)?;
    // Back, while shoutd is killed and started again: the rule is remembered.
    for (host, ..) in rules {
        let (own, other) = (host.address().to_string(), other_address(host));
        host.sh(&format!(
            "ip address del {other}/24 dev eth0 && ip address add {own}/24 dev eth0"
        ))?;
        host.kill_shoutd()?;
        host.start_shoutd(&[])?;
        await_address(&hosts, host, &own)?;
    }
    Stream::default().send(&containers[0], &receivers, 1)?;
    // A fixed address again.
    for (host, ..) in rules {
        host.sh("shoutdctl stop")?;
        host.start_shoutd(&[&host.address().to_string()])?;
        ensure!(status(host)?["address_rule"].is_null(), "the address is not fixed");
    }
    drop(containers);
    network.remove_on(&hosts[0])
}

/// A running daemon is not told another rule, and a rule that fits nothing is refused.
fn refuses_the_other_ways(host: &Host) -> Result<()> {
    for (arguments, text) in [
        ("10.77.0.2", "of interface eth0; to start it with 10.77.0.2:7789, stop it first"),
        ("--advertise-interface=eth7", "to start it with interface eth7, stop it first"),
        ("10.77.0.2/24", "give 10.77.0.2 for this address, or 10.77.0.0/24"),
        ("10.77.0.2 --advertise-interface=eth0", "cannot be used with"),
    ] {
        let output = host.run(["sh", "-c", &format!("shoutdctl start {arguments}")])?;
        let is_told = output.stderr.contains(text);
        ensure!(!output.success() && is_told, "{arguments} is not refused: {output}");
    }
    host.start_shoutd(&["--advertise-interface=eth0"]).map(drop)
}
