//! Data that are set back to an earlier time, as by a restored copy, while the containers run that
//! were started since.

use std::collections::BTreeSet;
use std::net::IpAddr;

use anyhow::{Context, Result, bail, ensure};
use shoutd_e2e::{
    Cluster, Container, Network, SOON, Stream, endpoints, is_leader, leased, one_on_each, status,
};
use shoutd_lab::{Host, wait_until};

/// Where the earlier data are kept.
const EARLIER: &str = "/run/earlier";

const AGREED: &str = "agreed.redb";

const LOCAL: &str = "local.redb";

/// What is set back, whether on a host that leads, and whether much is lost. `cargo test` has no
/// time for all of the twelve.
const ROUNDS: [(&[&str], bool, bool); 4] = [
    (&[AGREED], true, true),
    (&[LOCAL], true, false),
    (&[LOCAL], false, true),
    (&[AGREED, LOCAL], false, false),
];

/// Networks that are created after the copy was made, where much is lost: some twenty log entries.
const NETWORKS: [&str; 5] = ["since0", "since1", "since2", "since3", "since4"];

/// Takes the lead from whoever has it until this host has it, or some other host.
fn elect(cluster: &Cluster, host: &Host, leads: bool) -> Result<()> {
    wait_until("the right leader", SOON * 2, || {
        let (leader, others) = cluster.leader_and_others()?;
        if (leader.number() == host.number()) == leads {
            return Ok(Some(()));
        }
        // One that was started again at once would be elected again.
        leader.kill_shoutd()?;
        wait_until("another leader", SOON, || {
            for other in &others {
                if is_leader(other)? {
                    return Ok(Some(()));
                }
            }
            Ok(None)
        })?;
        leader.start_shoutd(&[])?;
        Ok(None)
    })
}

/// On each host in turn.
pub fn set_back(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.three()?;
    let network = Network::create(cluster, &hosts[0], "foo", &["--ipam-driver", "shoutd"])?;
    let others = one_on_each(&hosts, "foo", &[])?;
    for (victim, (what, leads, much)) in hosts.iter().cycle().zip(ROUNDS) {
        let told = format!("{what:?} of {}, leads: {leads}, much: {much}", victim.name());
        println!("        {told}");
        lose(cluster, victim, what, (leads, much), &others).with_context(|| told)?;
    }
    drop(others);
    network.remove_on(&hosts[2])
}

/// Sets these files of a host back to before a container was started there, and sees that nothing
/// of it is lost.
fn lose(
    cluster: &Cluster,
    victim: &Host,
    what: &[&str],
    (leads, much): (bool, bool),
    others: &[Container],
) -> Result<()> {
    victim.sh(&format!(
        "shoutdctl stop && rm -rf {EARLIER} && cp -a /var/lib/shoutd {EARLIER} && shoutdctl start"
    ))?;
    elect(cluster, victim, leads)?;
    let names: &[&str] = if much { &NETWORKS } else { &[] };
    let options = ["--ipam-driver", "shoutd"];
    let networks = names.iter().map(|name| Network::create(cluster, victim, name, &options));
    let networks = networks.collect::<Result<Vec<_>>>()?;
    victim.sh("shoutdctl token rotate")?;
    let mut since = vec![Container::start(victim, "foo", &[])?];
    for name in names.iter().take(1) {
        since.push(Container::start(victim, name, &[])?);
    }
    let before = interfaces(&since)?;
    victim.kill_shoutd()?;
    for file in what {
        victim.sh(&format!("cp -a {EARLIER}/{file} /var/lib/shoutd/{file}"))?;
    }
    victim.start_shoutd(&[])?;
    let mut found = String::new();
    let mended = wait_until("nothing to be wrong", SOON, || {
        found = status(victim)?["problems"].to_string();
        Ok((found == "[]").then_some(()))
    });
    mended.with_context(|| found)?;
    ensure_known(&since)?;
    let after = interfaces(&since)?;
    ensure!(after == before, "interfaces were made anew: they were {before:?} and are {after:?}");
    // Addresses of before are nobody else's now.
    let new = (0..6)
        .map(|number| Container::start(&others[number % 3].host, "foo", &[]))
        .collect::<Result<Vec<_>>>()?;
    let all: Vec<_> = others.iter().chain(&since[..1]).chain(&new).collect();
    let addresses = all.iter().map(|one| one.address("foo")).collect::<Result<BTreeSet<_>>>()?;
    ensure!(addresses.len() == all.len(), "an address is in two hands: {addresses:?}");
    let [sender, receivers @ ..] = others else { bail!("no containers") };
    let receivers: Vec<_> = receivers.iter().chain(&since[..1]).chain(&new).collect();
    Stream::default().send(sender, &receivers, 1)?;
    let containers = since.len() + new.len() + others.len();
    drop((since, new));
    wait_until("what was removed to be forgotten", SOON, || {
        Ok((endpoints(victim)?.len() == others.len()).then_some(()))
    })
    .with_context(|| format!("of {containers}: {:?}", endpoints(victim)))?;
    networks.into_iter().try_for_each(|network| network.remove_on(victim))
}

/// The kernel's numbers of the containers' interfaces: one that was made anew has another.
fn interfaces(containers: &[Container]) -> Result<Vec<String>> {
    containers.iter().map(|container| container.sh("cat /sys/class/net/eth0/ifindex")).collect()
}

/// Waits until shoutd knows these containers again, by their addresses.
fn ensure_known(containers: &[Container]) -> Result<()> {
    for container in containers {
        let address =
            container.inspect("{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}")?;
        let address: IpAddr = address.parse().with_context(|| address.clone())?;
        let known = wait_until("the container to be known", SOON, || {
            Ok(leased(&container.host)?.keys().any(|(_, known)| *known == address).then_some(()))
        });
        known.with_context(|| {
            format!("{address} of {}: {:?}", container.name, leased(&container.host))
        })?;
    }
    Ok(())
}
