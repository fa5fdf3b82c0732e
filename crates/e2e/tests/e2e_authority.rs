//! What a removed host's disk opens, before and after the cluster replaces its certificate
//! authority.

use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail, ensure};
use shoutd_consensus::{LocalStore, Store};
use shoutd_core::cluster;
use shoutd_e2e::{Cluster, Network, SOON, Stream, one_on_each, run_checks};
use shoutd_lab::{Host, wait_until};
use shoutd_peer::{Authority, CredentialStore, Credentials};

/// The data directory of shoutd.
const DATA: &str = "/var/lib/shoutd";

/// A copy of it, in the hands of a thief.
const STOLEN: &str = "/var/lib/stolen";

/// How long a daemon may run that is killed while it replaces the authority.
const KILLED_AFTER: [u64; 5] = [0, 10, 30, 80, 200];

fn main() -> ExitCode {
    run_checks(
        || {
            let cluster = Cluster::up("authority", 4)?;
            cluster.form([1, 2, 3])?;
            cluster.join(&cluster.host(4)?, &cluster.host(1)?)?;
            Ok(cluster)
        },
        &[
            ("a stolen disk opens nothing after remove --revoke", revoked),
            ("a host that was away gets a certificate when it is back", away),
            ("the daemon that replaces the authority is killed at any instant", killed),
        ],
    )
}

/// The file of the fingerprint of a host's authority.
fn authority(host: &Host) -> Result<String> {
    host.sh(&format!("cat {DATA}/identity/authority.pem"))
}

/// Waits until these hosts have the same authority, another one than `former`, and no problems.
fn await_one_authority(hosts: &[&Host], former: &str) -> Result<()> {
    wait_until("all hosts to have the new authority", SOON, || {
        let held = hosts.iter().map(|host| authority(host)).collect::<Result<Vec<_>>>()?;
        let is_new = held.iter().all(|one| one == &held[0] && one != former);
        Ok(is_new.then_some(()))
    })?;
    for host in hosts {
        wait_until(&format!("{} to have no problems", host.name()), SOON, || {
            Ok(host.run(["shoutdctl", "status"])?.success().then_some(()))
        })?;
    }
    Ok(())
}

/// The last authority in a file of agreed state.
fn sealed_in(file: &Path) -> Result<cluster::Authority> {
    let octets = fs::read(file).with_context(|| format!("read {}", file.display()))?;
    let text = String::from_utf8_lossy(&octets);
    let begin = "{\"certificate\":\"";
    let found = text.rmatch_indices(begin).find_map(|(at, _)| {
        let rest = &text[at..];
        let end = rest.find('}')?;
        serde_json::from_str(&rest[..=end]).ok()
    });
    found.context("the stolen disk has no authority")
}

/// Makes the data directory of a member, with nothing but what is on the stolen disk.
fn forge(host: &Host) -> Result<()> {
    host.sh(&format!("shoutdctl stop || true; rm -rf {DATA}/*"))?;
    let (stolen, forged) = (host.file(STOLEN)?, host.file(DATA)?);
    let held = CredentialStore::open(&stolen)?.credentials().context("it was no member")?;
    let sealed = sealed_in(&stolen.join("agreed.redb"))?;
    let authority = Authority::unseal(&sealed, held.seal_key(), held.cluster())?;
    let own = CredentialStore::open(&forged)?;
    let (key, seal_key, now) = (own.key().public(), held.seal_key().clone(), SystemTime::now());
    own.enroll(Credentials::issue(key, &authority, held.cluster(), seal_key, now)?)?;
    drop((Store::open(&forged, own.host())?, LocalStore::open(&forged)?));
    Ok(())
}

/// Starts shoutd on the thief's host. Returns why it is no member, if it is none.
fn start_thief(thief: &Host, peer: &Host, token: Option<&str>) -> Result<Option<String>> {
    let (address, peers) =
        (thief.address().to_string(), format!("--peer-addresses={}", peer.address()));
    let start = ["timeout", "10", "shoutdctl", "start", &address, &peers];
    let output = thief.run(start.into_iter().chain(token))?;
    if output.success() {
        return Ok(None);
    }
    let status = thief.run(["shoutdctl", "status"])?;
    thief.sh("shoutdctl stop || true")?;
    Ok(Some(format!("{output}{status}")))
}

fn revoked(cluster: &mut Cluster) -> Result<()> {
    let ([first, second, third], thief) = (cluster.three()?, cluster.host(4)?);
    let plain = Network::create(cluster, &first, "foo", &["--subnet=10.97.0.0/24"])?;
    let options = ["--opt", "encrypted", "--subnet=10.98.0.0/24"];
    let encrypted = Network::create(cluster, &first, "bar", &options)?;
    let hosts = [first.clone(), second.clone(), third.clone()];
    let [plainly, encryptedly] =
        [one_on_each(&hosts, "foo", &[])?, one_on_each(&hosts, "bar", &[])?];
    let streams = [&plainly, &encryptedly].map(|containers| {
        Stream::default().begin(&containers[0], &[&containers[1], &containers[2]])
    });
    let [one, other] = streams;
    let streams = [one?, other?];

    let (token, former) = (cluster.token()?, authority(&first)?);
    thief.sh("shoutdctl stop")?;
    thief.sh(&format!("cp -a {DATA} {STOLEN}"))?;
    first.sh("shoutdctl remove host4")?;
    // Without --revoke, the disk makes members. This is what the removal must prevent.
    forge(&thief)?;
    if let Some(said) = start_thief(&thief, &second, None)? {
        bail!("the forged host did not join before the revocation: {said}");
    }
    let said = first.sh("shoutdctl remove --force --revoke host4")?;
    ensure!(said.contains("replaced the cluster's certificate authority"), "it says: {said}");
    await_one_authority(&[&first, &second, &third], &former)?;
    for peer in [&first, &second, &third] {
        forge(&thief)?;
        let said = start_thief(&thief, peer, None)?.context("the forged host joined")?;
        ensure!(said.contains("authority that the cluster has replaced"), "it is told: {said}");
    }
    // What it could have learnt: a token.
    thief.sh(&format!("rm -rf {DATA}/*"))?;
    let said = start_thief(&thief, &first, Some(&token))?;
    let said = said.context("a token from before admits hosts")?;
    ensure!(said.contains("the token is for another cluster"), "it is told: {said}");
    thief.sh(&format!("rm -rf {DATA}/*"))?;

    // Hosts are admitted as ever.
    first.sh("shoutdctl token rotate")?;
    cluster.join(&thief, &second)?;
    for stream in streams {
        stream.finish()?;
    }
    drop((plainly, encryptedly));
    encrypted.remove_on(&third)?;
    plain.remove_on(&second)
}

fn away(cluster: &mut Cluster) -> Result<()> {
    let ([first, second, third], fourth) = (cluster.three()?, cluster.host(4)?);
    let network = Network::create(cluster, &first, "foo", &["--opt", "encrypted"])?;
    let hosts = [first.clone(), second.clone(), third.clone()];
    let containers = one_on_each(&hosts, "foo", &[])?;
    let stream = Stream::default().begin(&containers[0], &[&containers[1], &containers[2]])?;
    let former = authority(&first)?;
    third.sh("shoutdctl stop")?;
    second.sh("shoutdctl remove --force --revoke host4")?;
    await_one_authority(&[&first, &second], &former)?;
    // A host that never had a certificate from the former authority.
    fourth.sh(&format!("shoutdctl stop || true; rm -rf {DATA}/*"))?;
    second.sh("shoutdctl token rotate")?;
    cluster.join(&fourth, &first)?;
    third.start_shoutd(&[])?;
    await_one_authority(&[&first, &second, &third, &fourth], &former)?;
    let events = third.sh("shoutdctl events")?;
    ensure!(events.contains("authority-replaced"), "the events are: {events}");
    stream.finish()?;
    drop(containers);
    network.remove_on(&first)
}

fn killed(cluster: &mut Cluster) -> Result<()> {
    let ([first, second, third], fourth) = (cluster.three()?, cluster.host(4)?);
    first.sh("shoutdctl remove --force host4")?;
    for after in KILLED_AFTER {
        let former = authority(&second)?;
        let removing = first.spawn(["shoutdctl", "remove", "--revoke", "host4"])?;
        thread::sleep(Duration::from_millis(after));
        first.kill_shoutd()?;
        drop(removing);
        first.start_shoutd(&[])?;
        // It was replaced or not; to ask again must always lead to one that all have.
        first.sh("shoutdctl remove --revoke host4")?;
        await_one_authority(&[&first, &second, &third], &former)?;
    }
    fourth.sh(&format!("shoutdctl stop || true; rm -rf {DATA}/*"))?;
    first.sh("shoutdctl token rotate")?;
    cluster.join(&fourth, &second)
}
