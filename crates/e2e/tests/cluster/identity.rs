//! Hosts are identified by their keys, at any address, and whatever happened to their data.

use std::thread;

use anyhow::{Context, Result, bail};
use shoutd_e2e::{Cluster, Network, SOON, Stream, one_on_each, status, view};
use shoutd_lab::{Host, wait_until};

use crate::refuses;

fn usual_address(host: &Host) -> String {
    host.address().to_string()
}

/// The usual address of the other one of hosts 4 and 5.
fn swapped_address(host: &Host) -> String {
    format!("10.77.0.{}", if host.number() == 4 { 5 } else { 4 })
}

/// A host's second address.
fn other_address(host: &Host) -> String {
    format!("10.77.0.{}", 100 + host.number())
}

/// Stops shoutd on these hosts, gives each another address, and starts them all at once, each with
/// the first one's new address as its peer.
fn renumber(
    hosts: &[Host],
    from: impl Fn(&Host) -> String,
    to: impl Fn(&Host) -> String + Sync,
) -> Result<()> {
    for host in hosts {
        host.sh("shoutdctl stop")?;
        host.sh(&format!(
            "ip address del {}/24 dev eth0 && ip address add {}/24 dev eth0",
            from(host),
            to(host)
        ))?;
    }
    let first = to(hosts.first().context("a host")?);
    thread::scope(|scope| {
        let starting: Vec<_> = hosts
            .iter()
            .map(|host| {
                scope.spawn(|| {
                    let (own, peers) = (to(host), format!("--peer-addresses={first}"));
                    let arguments = if own == first {
                        vec![own.as_str()]
                    } else {
                        vec![own.as_str(), peers.as_str()]
                    };
                    host.start_shoutd(&arguments).map(|_| ())
                })
            })
            .collect();
        starting
            .into_iter()
            .try_for_each(|thread| thread.join().unwrap_or_else(|_| bail!("a thread panicked")))
    })?;
    for host in hosts {
        wait_until(&format!("all new addresses on {}", host.name()), SOON, || {
            let known = view(host, "hosts")?;
            let known = known.as_array().context("a list of hosts")?.clone();
            let are_there = hosts.iter().map(|host| format!("{}:7789", to(host))).all(|address| {
                known
                    .iter()
                    .any(|row| row["address"] == address.as_str() && row["reachable"] == true)
            });
            Ok(are_there.then_some(()))
        })?;
    }
    Ok(())
}

pub fn renumbered(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.hosts().into_iter().take(5).collect::<Vec<_>>();
    let network = Network::create(cluster, &hosts[0], "foo", &[])?;
    let containers = one_on_each(&hosts, "foo", &[])?;
    let [sender, receivers @ ..] = containers.as_slice() else { bail!("no containers") };
    renumber(&hosts, usual_address, other_address)?;
    Stream::default().send(sender, &receivers.iter().collect::<Vec<_>>(), 1)?;
    renumber(&hosts, other_address, usual_address)?;
    Stream::default().send(sender, &receivers.iter().collect::<Vec<_>>(), 1)?;
    // Two hosts swap their addresses.
    renumber(&hosts[3..], usual_address, swapped_address)?;
    Stream::default().send(sender, &receivers.iter().collect::<Vec<_>>(), 1)?;
    renumber(&hosts[3..], swapped_address, usual_address)?;
    Stream::default().send(&containers[4], &containers[..4].iter().collect::<Vec<_>>(), 1)?;
    // One host loses its address while it runs, and gets it back.
    let fifth = &hosts[4];
    fifth.sh("ip address del 10.77.0.5/24 dev eth0")?;
    wait_until("the status to say so", SOON, || {
        let problems = status(fifth)?["problems"].to_string();
        Ok(problems.contains("no interface has the address 10.77.0.5").then_some(()))
    })?;
    fifth.sh("ip address add 10.77.0.5/24 dev eth0")?;
    wait_until("nothing to be wrong", SOON, || {
        Ok(status(fifth)?["problems"].as_array().is_some_and(Vec::is_empty).then_some(()))
    })?;
    Stream::default().send(sender, &receivers.iter().collect::<Vec<_>>(), 1)?;
    drop(containers);
    network.remove_on(fifth)
}

fn events_of(host: &Host) -> Result<String> {
    host.sh("shoutdctl events")
}

/// Waits until a host knows one at this address.
fn await_address(asked: &Host, address: &str) -> Result<()> {
    wait_until(&format!("a host to be known at {address}"), SOON, || {
        let hosts = view(asked, "hosts")?.to_string();
        Ok(hosts.contains(&format!("\"{address}:7789\"")).then_some(()))
    })
}

pub fn set_back_and_copied(cluster: &mut Cluster) -> Result<()> {
    let (first, fifth) = (cluster.host(1)?, cluster.host(5)?);
    let network = Network::create(cluster, &first, "foo", &["--ipam-driver", "shoutd"])?;
    // Its data are copied, and put back after more was agreed on.
    fifth.sh("shoutdctl stop && cp -a /var/lib/shoutd /run/earlier && shoutdctl start")?;
    let later = Network::create(cluster, &fifth, "later", &["--ipam-driver", "shoutd"])?;
    fifth.kill_shoutd()?;
    fifth.sh(
        "rm -rf /var/lib/shoutd/* && cp -a /run/earlier/. /var/lib/shoutd/ && shoutdctl start",
    )?;
    wait_until("the event", SOON, || {
        Ok(events_of(&fifth)?.contains("data-set-back").then_some(()))
    })?;
    // Until then Docker has the network, but shoutd does not know it as one of the cluster.
    fifth.sh("shoutdctl network wait later")?;
    later.remove_on(&fifth)?;
    // The copy is started at another address while the original is down.
    fifth.sh("shoutdctl stop && rm -rf /run/earlier && cp -a /var/lib/shoutd /run/earlier")?;
    fifth.sh("ip address add 10.77.0.105/24 dev eth0")?;
    let places =
        "--run-dir=/run/copy --data-dir=/run/earlier --plugin-socket=/run/copy/plugin.sock";
    let mut copy = fifth.spawn(["sh", "-c", &format!("exec shoutd {places} 10.77.0.105")])?;
    await_address(&first, "10.77.0.105")?;
    refuses(&fifth, "shoutdctl start", &["10.77.0.105:7789", "10.77.0.5:7789", "copy"])?;
    copy.kill()?;
    fifth
        .sh("ip address del 10.77.0.105/24 dev eth0; rm -rf /run/earlier /run/copy; shoutdctl \
             start")?;
    await_address(&first, "10.77.0.5")?;
    let containers = one_on_each(&[first.clone(), fifth.clone()], "foo", &[])?;
    let [a, b] = containers.as_slice() else { bail!("two containers") };
    Stream::default().send(a, &[b], 1)?;
    Stream::default().send(b, &[a], 1)?;
    drop(containers);
    network.remove_on(&fifth)
}
