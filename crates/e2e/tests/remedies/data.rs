//! Files of the data directory that are damaged, missing, too open or copied.

use anyhow::{Context, Result, ensure};
use shoutd_e2e::{Cluster, Container, Network, SOON, await_network, networks, status};
use shoutd_lab::Host;

use super::{
    DATA, after, await_hosts, ensure_done, formed, network_on, quoted, refused, remove_data,
};

/// The files without which a host does not start.
const NEEDED: [&str; 6] = [
    "agreed.redb",
    "local.redb",
    "identity/key.pem",
    "identity/certificate.pem",
    "identity/authority.pem",
    "identity/seal.key",
];

/// Overwrites the beginning of a file of the data directory.
fn damage(host: &Host, file: &str) -> Result<()> {
    host.sh(&format!(
        "dd if=/dev/urandom of={DATA}/{file} bs=4096 count=2 conv=notrunc status=none"
    ))
    .map(|_| ())
}

/// Puts a copy of the data directory in its place.
fn restore(host: &Host, copy: &str) -> Result<()> {
    host.sh(&format!("{} && cp -a {copy}/. {DATA}/", remove_data())).map(|_| ())
}

/// What "with its address, --peer-addresses and a token" is on host 2.
fn start_line(cluster: &Cluster) -> Result<String> {
    Ok(format!("shoutdctl start 10.77.0.2 --peer-addresses=10.77.0.1 {}", cluster.token()?))
}

pub fn permissions(cluster: &mut Cluster) -> Result<()> {
    let [host, ..] = formed(cluster, 1)?;
    for (file, harm) in [
        ("identity", "chmod 0755"),
        ("identity/key.pem", "chmod 0644"),
        ("identity/key.pem", "chown nobody"),
        ("identity/seal.key", "chmod 0640"),
    ] {
        host.sh(&format!("shoutdctl stop && {harm} {DATA}/{file}"))?;
        let said = refused(&host, "shoutdctl start", &[file])?;
        host.sh(&format!("{} && shoutdctl start", quoted(&said)?)).with_context(|| said.clone())?;
        ensure!(status(&host)?["hosts"] == 1, "not the cluster that it was: {}", status(&host)?);
    }
    Ok(())
}

pub fn copy(cluster: &mut Cluster) -> Result<()> {
    let [first, second, third] = formed(cluster, 3)?;
    let network = network_on(cluster, &[&first, &second, &third], &[])?;
    second.sh(&format!("shoutdctl stop && rm -rf /run/copy && cp -a {DATA} /run/copy"))?;
    for file in NEEDED {
        for harm in ["damaged", "missing"] {
            match harm {
                "damaged" => damage(&second, file)?,
                // It can be given another.
                _ if file.ends_with("certificate.pem") => continue,
                _ => second.sh(&format!("rm {DATA}/{file}")).map(|_| ())?,
            }
            refused(&second, "shoutdctl start", &[file, "restore"])?;
            restore(&second, "/run/copy")?;
        }
    }
    second.start_shoutd(&[])?;
    ensure!(networks(&second)?.len() == 1, "the network is lost: {:?}", networks(&second)?);
    second.sh(&format!("rm -rf /run/copy; shoutdctl stop; rm {DATA}/identity/certificate.pem"))?;
    let mut start = second.spawn(["shoutdctl", "start"])?;
    let line = start.wait_for_line(SOON, |line| line.contains("shoutdctl approve "))?;
    let (_, fingerprint) = line.rsplit_once("shoutdctl approve ").context("a command")?;
    first.sh(&format!("shoutdctl approve {fingerprint}"))?;
    ensure_done(&start.wait(SOON)?)?;
    await_hosts(&second, 3)?;
    network.remove_on(&second)
}

pub fn join_again(cluster: &mut Cluster) -> Result<()> {
    let [first, second, third] = formed(cluster, 3)?;
    let network = network_on(cluster, &[&first, &second, &third], &["--subnet", "10.44.0.0/24"])?;
    let other = Container::start(&first, "foo", &[])?;
    for file in ["agreed.redb", "local.redb", "identity/key.pem"] {
        let container = Container::start(&second, "foo", &["--ip", "10.44.0.99"])?;
        second.sh("shoutdctl stop")?;
        damage(&second, file)?;
        refused(
            &second,
            "shoutdctl start",
            &[file, "damaged", "shoutdctl remove with its name on another host"],
        )?;
        first.sh("shoutdctl remove host2")?;
        second.sh(&format!("{} && {}", remove_data(), start_line(cluster)?))?;
        await_hosts(&first, 3)?;
        await_network(&second, "foo")?;
        // Containers that ran meanwhile: "start them again".
        second.docker(["restart", "--time", "1", &container.name])?;
        container.ping(&other.address("foo")?.to_string())?;
        other.ping("10.44.0.99")?;
        container.remove()?;
    }
    drop(other);
    network.remove_on(&second)
}

/// One of two hosts is damaged: the other cannot agree on its removal alone, and is told how to go
/// on alone.
pub fn half(cluster: &mut Cluster) -> Result<()> {
    let [first, second, _] = formed(cluster, 2)?;
    let network = network_on(cluster, &[&first, &second], &[])?;
    second.sh("shoutdctl stop")?;
    damage(&second, "agreed.redb")?;
    refused(&second, "shoutdctl start", &["agreed.redb is damaged"])?;
    let said = refused(&first, "shoutdctl remove host2", &["host2", "lost for good"])?;
    let help = first.sh(after(&said, "are lost for good:")?)?;
    ensure!(help.contains("Make this host the only member"), "{help}");
    let id = status(&first)?["cluster"].as_str().context("an id")?.to_owned();
    let said = refused(&first, &format!("shoutdctl recover {id}"), &["shoutd is running"])?;
    first.sh(after(&said, "stop it first:")?)?;
    let said = first.sh(&format!("shoutdctl recover {id}"))?;
    first.sh(after(&said, "start it with:")?)?;
    first.sh(after(&said, "to free the addresses of its containers:")?)?;
    first.sh("shoutdctl token rotate")?;
    second.sh(&format!("{} && {}", remove_data(), start_line(cluster)?))?;
    await_hosts(&first, 2)?;
    await_network(&second, "foo")?;
    network.remove_on(&second)
}

/// Nobody else has what it knew: it begins a new cluster, from a backup or with nothing.
pub fn alone(cluster: &mut Cluster) -> Result<()> {
    let [first, ..] = formed(cluster, 1)?;
    let _network = Network::create_here(cluster, &first, "foo", &["--subnet", "10.44.0.0/24"])?;
    let container = Container::start(&first, "foo", &["--ip", "10.44.0.99"])?;
    first.sh("rm -f /run/backup && shoutdctl backup /run/backup && shoutdctl stop")?;
    damage(&first, "agreed.redb")?;
    let words = [
        "damaged",
        "if its cluster has no other host",
        "shoutdctl restore",
        "start this host with its address alone",
    ];
    refused(&first, "shoutdctl start", &words)?;
    let said =
        first.sh(&format!("{} && shoutdctl restore /run/backup 10.77.0.1", remove_data()))?;
    let id = said.lines().find(|line| line.starts_with("lost: ")).map(str::to_owned);
    first.sh(after(&said, "start it with:")?)?;
    ensure!(networks(&first)?.len() == 1, "the network is lost: {:?}", networks(&first)?);
    if let Some(lost) = id {
        let lost = lost.split(['(', ')']).nth(1).context("an id")?.to_owned();
        first.sh(&format!("shoutdctl remove {lost}"))?;
    }
    first.docker(["restart", "--time", "1", &container.name])?;
    container.ping("10.44.0.99")?;
    // Without a backup.
    first.sh("shoutdctl stop")?;
    damage(&first, "agreed.redb")?;
    refused(&first, "shoutdctl start", &words)?;
    first.sh(&format!("{} && shoutdctl start 10.77.0.1", remove_data()))?;
    ensure!(networks(&first)?.is_empty(), "it knows {:?}", networks(&first)?);
    container.remove()?;
    // Docker may still list the network of before.
    first.sh("docker network rm foo 2>/dev/null || true")?;
    first.docker(["network", "create", "--driver", "shoutd", "--subnet", "10.44.0.0/24", "foo"])?;
    let container = Container::start(&first, "foo", &["--ip", "10.44.0.99"])?;
    container.ping("10.44.0.99")
}

pub fn start_file(cluster: &mut Cluster) -> Result<()> {
    let [host, ..] = formed(cluster, 1)?;
    host.sh(&format!("shoutdctl stop && echo damaged > {DATA}/start.json"))?;
    refused(
        &host,
        "shoutdctl start",
        &["start.json is damaged", "remove it and give the address again"],
    )?;
    host.sh(&format!("rm {DATA}/start.json && shoutdctl start 10.77.0.1"))?;
    ensure!(status(&host)?["hosts"] == 1, "{}", status(&host)?);
    Ok(())
}

/// The host with the copy becomes one of its own, and the original goes on.
pub fn copied(cluster: &mut Cluster) -> Result<()> {
    let [first, second, third] = formed(cluster, 2)?;
    second.sh("shoutdctl stop")?;
    let archive = second.file(DATA)?;
    let target = third.file(DATA)?;
    let copied =
        std::process::Command::new("cp").arg("-a").arg(archive.join(".")).arg(&target).status()?;
    ensure!(copied.success(), "the data directory cannot be copied");
    second.start_shoutd(&[])?;
    let words = ["10.77.0.2:7789", "remove the data directory", "let it join again"];
    refused(&third, "shoutdctl start 10.77.0.3", &words)?;
    let line = format!("shoutdctl start 10.77.0.3 --peer-addresses=10.77.0.1 {}", cluster.token()?);
    third.sh(&format!("{} && {line}", remove_data()))?;
    for host in [&first, &second, &third] {
        await_hosts(host, 3)?;
    }
    Ok(())
}
