//! Preshared keys of encrypted networks: replaced on request, while daemons are killed and hosts
//! are away, and without the loss of a packet.

use std::collections::BTreeSet;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use shoutd_e2e::{Cluster, Container, Network, SOON, Stream, one_on_each, run_checks};
use shoutd_lab::{Host, wait_until};

/// Where a host keeps its preshared keys.
const KEYS: &str = "/var/lib/shoutd/identity/preshared";

/// Datagrams that a stream sends in ten seconds, about.
const TEN_SECONDS: u64 = 850;

/// The streams: one from each host to the others.
const STREAMS: [Stream<'static>; 3] = [
    Stream { group: "224.1.1.1", port: 5001, rate: "1M", length: 1470 },
    Stream { group: "224.1.1.2", port: 5002, rate: "1M", length: 1470 },
    Stream { group: "224.1.1.3", port: 5003, rate: "1M", length: 1470 },
];

fn main() -> ExitCode {
    run_checks(
        || {
            let cluster = Cluster::up("rotation", 3)?;
            cluster.form([1, 2, 3])?;
            Ok(cluster)
        },
        &[
            ("there are no keys to replace", nothing_encrypted),
            ("keys are replaced, whatever is killed, and nothing is lost", replaced),
            ("lost, damaged and old keys are replaced", mended),
            ("keys are in no output, and those of a removed host are deleted", secret),
        ],
    )
}

fn nothing_encrypted(cluster: &mut Cluster) -> Result<()> {
    let refused = cluster.host(1)?.run(["shoutdctl", "rotate-keys"])?;
    let is_clear = refused.stderr.contains("no network of the cluster was ever encrypted");
    ensure!(!refused.success() && is_clear, "{refused}");
    Ok(())
}

/// Replaces the keys, and returns what the command prints.
fn rotate(host: &Host) -> Result<Value> {
    let printed = host.sh("shoutdctl rotate-keys --json")?;
    let progress: Value = serde_json::from_str(&printed)?;
    ensure!(progress["pending"] == serde_json::json!([]), "{progress}");
    Ok(progress)
}

/// The preshared keys that a host has on disk, as text.
fn keys(host: &Host) -> Result<BTreeSet<String>> {
    let texts = host.sh(&format!("cat {KEYS}/*.json"))?;
    let stored = serde_json::Deserializer::from_str(&texts).into_iter::<Value>();
    let mut keys = BTreeSet::new();
    for pair in stored {
        let pair = pair?;
        ensure!(pair["other"].is_null(), "a pair is not settled on {}", host.name());
        keys.insert(pair["current"]["key"].as_str().context("no key")?.to_owned());
    }
    Ok(keys)
}

/// Waits until each pair of hosts has one key, and each host has it in WireGuard. Returns all keys.
fn await_settled(hosts: &[Host]) -> Result<BTreeSet<String>> {
    wait_until("the hosts to agree on keys", SOON, || {
        let mut all = Vec::new();
        for host in hosts {
            let Ok(found) = keys(host) else { return Ok(None) };
            let programmed = in_wireguard(host)?;
            if programmed.is_some_and(|programmed| programmed != found) {
                return Ok(None);
            }
            all.extend(found);
        }
        let distinct: BTreeSet<_> = all.iter().cloned().collect();
        let pairs = hosts.len() * (hosts.len() - 1) / 2;
        Ok((all.len() == 2 * pairs && distinct.len() == pairs).then_some(distinct))
    })
}

/// The preshared keys that WireGuard in user space has; `None` if this kernel has WireGuard.
fn in_wireguard(host: &Host) -> Result<Option<BTreeSet<String>>> {
    let told = wireguard(host)?;
    let keys = told.lines().filter_map(|line| line.strip_prefix("preshared_key="));
    Ok((!told.is_empty()).then(|| keys.map(str::to_owned).collect()))
}

/// What WireGuard in user space tells about itself.
fn wireguard(host: &Host) -> Result<String> {
    let socket = "/run/shoutd/wireguard.sock";
    host.sh(&format!("test -S {socket} || exit 0; printf 'get=1\\n\\n' | socat - UNIX:{socket}"))
}

/// When each peer's last handshake was, in seconds since 1970.
fn handshakes(host: &Host) -> Result<Vec<u64>> {
    let told = wireguard(host)?;
    let times = told.lines().filter_map(|line| line.strip_prefix("last_handshake_time_sec="));
    Ok(times.map(str::parse).collect::<Result<_, _>>()?)
}

/// Kills the daemon, and not WireGuard's process.
fn kill_daemon(host: &Host) -> Result<()> {
    let record: Value = serde_json::from_str(&host.sh("cat /run/shoutd/daemon.json")?)?;
    let process = record["pid"].as_u64().with_context(|| format!("no process in {record}"))?;
    host.sh(&format!("kill -KILL {process}")).map(drop)
}

fn time(host: &Host) -> Result<u64> {
    Ok(host.sh("date +%s")?.trim().parse()?)
}

fn encrypted(cluster: &Cluster) -> Result<(Network, Vec<Container>)> {
    let hosts = cluster.three()?;
    let network = Network::create(cluster, &hosts[0], "foo", &["--opt", "encrypted"])?;
    let containers = one_on_each(&hosts, "foo", &[])?;
    await_settled(&hosts)?;
    Ok((network, containers))
}

fn replaced(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.three()?;
    let [first, second, third] = &hosts;
    let (network, containers) = encrypted(cluster)?;
    let mut running = Vec::new();
    for (place, stream) in STREAMS.into_iter().enumerate() {
        let receivers: Vec<_> =
            containers.iter().enumerate().filter(|(other, _)| *other != place).collect();
        let receivers: Vec<_> = receivers.into_iter().map(|(_, container)| container).collect();
        running.push(stream.begin(&containers[place], &receivers)?);
    }
    let mut seen = await_settled(&hosts)?;
    for (number, host) in (1..).zip([first, second, third, first, second]) {
        let progress = rotate(host)?;
        ensure!(progress["rotation"] == number && progress["renewed"] == 3, "{progress}");
        let settled = await_settled(&hosts)?;
        ensure!(seen.is_disjoint(&settled), "a key was not replaced");
        seen.extend(settled);
    }
    // A daemon, and then the leader's, is killed in the course of a rotation.
    let (leader, _) = cluster.leader_and_others()?;
    for victim in [second, &leader] {
        let other = if victim.name() == third.name() { first } else { third };
        let command = other.spawn(["shoutdctl", "rotate-keys"])?;
        kill_daemon(victim)?;
        running.iter().try_for_each(|stream| stream.await_more(TEN_SECONDS / 2))?;
        victim.start_shoutd(&[])?;
        drop(command);
        rotate(other)?;
        let settled = await_settled(&hosts)?;
        ensure!(seen.is_disjoint(&settled), "a key was not replaced");
        seen.extend(settled);
    }
    // A host is away; its containers go on.
    third.sh("shoutdctl stop")?;
    let told = first.sh("shoutdctl rotate-keys")?;
    ensure!(told.contains("1 pair of hosts has other keys"), "{told}");
    ensure!(told.contains("host3 is away; its keys change when it is back"), "{told}");
    running.iter().try_for_each(|stream| stream.await_more(TEN_SECONDS / 2))?;
    third.start_shoutd(&[])?;
    wait_until("its keys to be replaced", SOON, || {
        let settled = await_settled(&hosts)?;
        Ok(seen.is_disjoint(&settled).then_some(()))
    })?;
    let events = third.sh("shoutdctl events")?;
    ensure!(events.contains("keys-rotated"), "{events}");
    // The next handshakes use the new keys.
    let since = time(first)?;
    let mut waited = 0;
    while waited < 13 {
        running.iter().try_for_each(|stream| stream.await_more(TEN_SECONDS))?;
        waited += 1;
        let mut made = Vec::new();
        for host in &hosts {
            made.extend(handshakes(host)?);
        }
        if !made.is_empty() && made.iter().all(|at| *at > since) {
            break;
        }
        ensure!(waited < 13 || made.is_empty(), "no handshake since {since}: {made:?}");
    }
    running.into_iter().try_for_each(|stream| stream.finish())?;
    drop(containers);
    network.remove_on(second)
}

fn mended(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.three()?;
    let [first, second, third] = &hosts;
    let (network, containers) = encrypted(cluster)?;
    let before = await_settled(&hosts)?;
    let running = Stream::default().begin(&containers[0], &[&containers[1], &containers[2]])?;
    // Old ones, as from a copy of the disk.
    second.sh(&format!("cp -a {KEYS} /var/lib/copy"))?;
    rotate(first)?;
    await_settled(&hosts)?;
    second.sh("shoutdctl stop")?;
    second.sh(&format!("rm -r {KEYS}; mv /var/lib/copy {KEYS}"))?;
    // Damaged ones, and none.
    first.sh("shoutdctl stop")?;
    first.sh(&format!("for file in {KEYS}/*; do echo damaged > $file; done"))?;
    first.start_shoutd(&[])?;
    second.start_shoutd(&[])?;
    third.sh("shoutdctl stop")?;
    third.sh(&format!("rm -r {KEYS}"))?;
    third.start_shoutd(&[])?;
    let after = await_settled(&hosts)?;
    ensure!(before.is_disjoint(&after), "an old key is in use again");
    let log = first.shoutd_log()?;
    ensure!(log.contains(".json is damaged; the hosts agree on another"), "{log}");
    running.await_more(TEN_SECONDS / 2)?;
    running.finish()?;
    drop(containers);
    network.remove_on(second)
}

fn secret(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.three()?;
    let [first, second, third] = &hosts;
    let (network, containers) = encrypted(cluster)?;
    let secrets = await_settled(&hosts)?;
    first.sh(
        "shoutdctl backup /tmp/backup && shoutdctl support --output /tmp/support.tar.gz && mkdir \
         -p /tmp/support && tar -xzf /tmp/support.tar.gz -C /tmp/support",
    )?;
    for secret in &secrets {
        // Not in hexadecimal, and not as an array of numbers.
        let start: Vec<_> = (0..4)
            .map(|octet| u8::from_str_radix(&secret[2 * octet..][..2], 16).map(|o| o.to_string()))
            .collect::<Result<_, _>>()?;
        for text in [&secret[..8], &start.join(", "), &start.join(",")] {
            let places = "/tmp/backup /tmp/support /var/log /run/shoutd/daemon.json";
            let found = first.sh(&format!("grep -rl '{text}' {places} || true"))?;
            ensure!(found.trim().is_empty(), "a key is in {found}");
        }
        ensure!(!first.shoutd_log()?.contains(&secret[..8]), "a key is in the log");
    }
    first.sh("rm -r /tmp/backup /tmp/support /tmp/support.tar.gz")?;
    drop(containers);
    kill_daemon(third)?;
    first.sh("shoutdctl remove --force host3")?;
    wait_until("the keys of the removed host to be deleted", SOON, || {
        let left = first.sh(&format!("ls {KEYS}"))?;
        Ok((left.lines().count() == 1).then_some(()))
    })?;
    third.sh("rm -rf /var/lib/shoutd/*")?;
    cluster.join(third, first)?;
    await_settled(&hosts)?;
    network.remove_on(second)?;
    second.sh("shoutdctl stop --leave")?;
    let left = second.sh(&format!("ls {KEYS} 2>&1 || true"))?;
    ensure!(left.contains("No such file"), "these are left: {left}");
    Ok(())
}
