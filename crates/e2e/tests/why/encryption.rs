//! Encrypted networks: WireGuard that does not work is named, and packets are counted there.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use shoutd_e2e::{
    Cluster, Container, GroupSocket, Network, SOON, Sources, await_members, one_on_each, status,
    view,
};
use shoutd_lab::{Host, wait_until};

use super::packets::{Drops, Way};
use super::ping::{all_arrive, ping};
use super::{GROUP, cause, ensure_named};

/// The UDP port of WireGuard.
const PORT: u16 = 7792;

const PROBE: [&str; 5] = ["--probe", "--count", "50", "--size", "1000"];

/// WireGuard in user space, or its absence, of one host.
struct Wireguard<'a> {
    host: &'a Host,
}

impl<'a> Wireguard<'a> {
    /// Kills it, and keeps it from starting again until this is dropped. `None` if the kernel has
    /// WireGuard.
    fn taken_from(host: &'a Host) -> Result<Option<Self>> {
        let found = host.sh("pgrep -x shoutd-wg || true")?;
        let Some(process) = found.lines().next() else { return Ok(None) };
        host.sh("mount --bind /dev/null /dev/net/tun")?;
        let taken = Self { host };
        host.sh(&format!("kill -KILL {process}"))?;
        Ok(Some(taken))
    }
}

impl Drop for Wireguard<'_> {
    fn drop(&mut self) {
        let _ = self.host.sh("umount /dev/net/tun");
    }
}

fn await_nothing_broken(host: &Host, options: &[&str]) -> Result<()> {
    let mut last = None;
    wait_until("nothing to be broken", SOON, || {
        last = cause(host, options)?;
        Ok(last.is_none().then_some(()))
    })
    .with_context(|| format!("{last:?}"))
}

/// Waits until this is named first, whichever host is asked.
fn await_named(hosts: &[Host], options: &[&str], text: &str) -> Result<()> {
    let mut last = Ok(());
    wait_until(&format!("{text:?} to be named"), SOON, || {
        last = ensure_named(hosts, options, text);
        Ok(last.is_ok().then_some(()))
    })
    .with_context(|| format!("{last:?}"))
}

pub(crate) fn what_wireguard_lacks(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.three()?;
    let _foo = Network::create(cluster, &hosts[0], "foo", &["--opt", "encrypted"])?;
    let containers = one_on_each(&hosts, "foo", &[])?;
    let [sender, receiver, third] = &containers[..] else { anyhow::bail!("three containers") };
    let member = GroupSocket::open(receiver, true, 5001)?;
    member.join("224.1.1.1".parse()?, Sources::All)?;
    await_members(&hosts[0], "224.1.1.1", &[&hosts[1]])?;
    let ends = ["--from", &sender.name, "--to", &receiver.name, GROUP];
    await_nothing_broken(&hosts[2], &ends)?;
    is_shown(&hosts)?;
    counts(&Way { hosts: &hosts, sender, receiver })?;

    let Some(taken) = Wireguard::taken_from(&hosts[1])? else {
        println!("this kernel has WireGuard: there is no process to take away");
        return Ok(());
    };
    let text = format!("WireGuard does not work on {}", hosts[1].name());
    await_named(&hosts, &ends, &text)?;
    let back = ["--from", &receiver.name, "--to", &sender.name];
    await_named(&hosts, &back, &text)?;
    drop(taken);
    await_nothing_broken(&hosts[2], &ends)?;
    no_container_can_start(&hosts, sender, third)
}

/// `status` and `hosts` show the device and its sessions.
fn is_shown(hosts: &[Host; 3]) -> Result<()> {
    for host in hosts {
        wait_until(&format!("{} to have sessions", host.name()), SOON, || {
            Ok((status(host)?["wireguard"]["sessions"] == 2).then_some(()))
        })?;
        let own = &status(host)?["wireguard"];
        ensure!(own["port"] == PORT && own["peers"] == 2, "{own}");
        let tier = own["tier"].as_str().context("a tier")?;
        ensure!(["kernel", "userspace"].contains(&tier), "{own}");
        let table = host.sh("shoutdctl networks")?;
        ensure!(table.contains("ENCRYPTED") && table.contains("yes"), "{table}");
        let rows = view(host, "hosts")?;
        let others = rows.as_array().context("a list")?.iter();
        for row in others.filter(|row| row["this_host"] == false) {
            let own = &row["wireguard"];
            ensure!(own["port"] == PORT && own["handshake_ago"].as_u64().is_some(), "{row}");
        }
        let metrics = host.sh("busybox wget -q -O - http://127.0.0.1:7790/metrics")?;
        for line in [
            format!("shoutd_wireguard_info{{tier=\"{tier}\"}} 1"),
            "shoutd_wireguard_sessions 2".to_owned(),
            "shoutd_wireguard_handshake_age_seconds{peer=".to_owned(),
        ] {
            ensure!(metrics.lines().any(|found| found.starts_with(&line)), "{line}: {metrics}");
        }
    }
    Ok(())
}

/// A ping passes at full size. A trace counts at the WireGuard devices, and a capture has the
/// packets of both.
fn counts(way: &Way<'_>) -> Result<()> {
    // The largest packet that fits into 1500 octets with VXLAN and WireGuard.
    let largest = ["--network", "foo", "--count", "20", "--size", "1370"];
    let mut found = Value::Null;
    wait_until("all requests of a ping to arrive", SOON, || {
        found = ping(&way.hosts[2], &largest)?;
        Ok(all_arrive(&found).then_some(()))
    })
    .with_context(|| found.to_string())?;
    wait_until("the probe to pass", SOON, || Ok(way.ensure_passes().is_ok().then_some(())))?;
    let file = "/run/encrypted.pcapng";
    let ends = format!("--network foo --from {} --to {}", way.sender.name, way.receiver.name);
    let line = format!("shoutdctl capture {ends} --probe --count 7 -w {file} {GROUP}");
    let output = way.hosts[2].sh(&line)?;
    ensure!(output.contains("56 packets of 8 places"), "{output}");
    way.hosts[2].sh(&format!("rm {file}"))?;
    let _drops = Drops::on(&way.receiver.host, &format!("udp dport {PORT}"))?;
    way.ensure_stops(&PROBE, "packets that passed the WireGuard device of")
}

/// A host cannot encrypt, and has no container on the network.
fn no_container_can_start(hosts: &[Host; 3], sender: &Container, third: &Container) -> Result<()> {
    let host = &hosts[2];
    host.docker(["rm", "--force", &third.name])?;
    let Some(taken) = Wireguard::taken_from(host)? else { return Ok(()) };
    let text = format!("{} cannot encrypt, so no container of network foo", host.name());
    await_named(&hosts[..2], &["--from", &sender.name, GROUP], &text)?;
    let findings = host.run(["shoutdctl", "doctor"])?;
    ensure!(
        findings.stdout.contains("this host cannot encrypt, so no container starts"),
        "{findings}"
    );
    drop(taken);
    await_nothing_broken(&hosts[0], &["--from", &sender.name, GROUP])
}
