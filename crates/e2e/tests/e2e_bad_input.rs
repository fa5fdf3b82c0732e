//! Errors at the start of shoutd: each shows one clear line and leaves nothing half made.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests say what they expect by failing")]

#[path = "bad_input/configuration.rs"]
mod configuration;
#[path = "bad_input/start.rs"]
mod start;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use shoutd_e2e::{
    Check, Cluster, SOON, containers_of, ensure_runs, left_in_kernel, networks, run_checks, status,
};
use shoutd_lab::{Host, IMAGE, Output, wait_until};

/// shoutd's data directory.
const DATA: &str = "/var/lib/shoutd";

fn main() -> ExitCode {
    let checks: &[Check] = &[
        ("commands without a daemon", commands_without_daemon),
        ("a start without arguments on a new host", never_started),
        ("malformed addresses", malformed_addresses),
        ("an advertise address that no interface has", foreign_address),
        ("an IPv6 address that may not be used yet", start::tentative_address),
        ("an address that comes late", start::late_address),
        ("a port that is in use", port_in_use),
        ("an unreachable peer", unreachable_peer),
        ("peers that belong to no cluster yet", peers_without_cluster),
        ("a peer of another cluster", other_cluster),
        ("a host without a token", no_token),
        ("tokens that are none", bad_tokens),
        ("no Docker engine", no_engine),
        ("not root", not_root),
        ("without the right to make devices", no_rights),
        ("a data directory that cannot be written", unwritable_data),
        ("damaged data", damaged_data),
        ("a second start", start::second_start),
        ("a daemon that is frozen", start::frozen),
        ("a daemon that has ended", start::ended),
        ("a start that asks a host in a cluster for something else", start::unmet_wishes),
        ("a token for a host that waits", start::late_token),
        ("a token in no list of processes", start::hidden_token),
        ("words that are almost commands and options", start::almost),
        ("a configuration file, and what a running daemon takes of it", configuration::file),
        ("garbage on the plugin socket", garbage_for_plugin),
        ("garbage on the control socket and the peers' port", garbage_elsewhere),
        ("the daemon in the foreground", foreground),
    ];
    run_checks(|| Cluster::up("wrong", 2), checks)
}

/// The first two hosts, as if shoutd had never run there.
fn new_hosts(cluster: &Cluster) -> Result<[Host; 2]> {
    let hosts = [cluster.host(1)?, cluster.host(2)?];
    for host in &hosts {
        forget(host)?;
    }
    Ok(hosts)
}

/// Stops shoutd on a host and removes its data.
fn forget(host: &Host) -> Result<()> {
    host.sh(&format!("shoutdctl stop && find {DATA} -mindepth 1 -delete")).map(|_| ())
}

/// Runs shoutdctl with these arguments.
fn shoutdctl(host: &Host, arguments: &[&str]) -> Result<Output> {
    host.run(["shoutdctl"].iter().chain(arguments))
}

/// Checks that a command failed with one line that has these words.
fn ensure_one_line(output: &Output, words: &[&str]) -> Result<()> {
    ensure!(!output.success(), "it did not fail: {output}");
    let said = output.stderr.trim_end();
    ensure!(
        said.starts_with("shoutdctl: ") && said.lines().count() == 1,
        "not one line of shoutdctl: {output}"
    );
    let missing: Vec<_> = words.iter().filter(|word| !said.contains(**word)).collect();
    ensure!(missing.is_empty(), "{missing:?} is missing in: {said}");
    ensure!(output.stdout.trim().is_empty(), "a failure that says more than why: {output}");
    Ok(())
}

/// Checks that shoutd does not run, that none of its sockets answers, and that nothing of it is in
/// the kernel.
fn ensure_nothing_left(host: &Host) -> Result<()> {
    let pids = host.pids_of("shoutd")?;
    ensure!(pids.is_empty(), "shoutd runs on {}: {pids:?}", host.name());
    let asked = shoutdctl(host, &["status"])?;
    ensure!(asked.code == 1, "something answers on {}: {asked}", host.name());
    let left = left_in_kernel(host)?;
    ensure!(left.is_empty(), "left on {}: {left:?}", host.name());
    let listening = host.sh("grep -E ':1E6D 0+:0000 0A' /proc/net/tcp /proc/net/tcp6 || true")?;
    ensure!(listening.is_empty(), "port 7789 is open on {}: {listening}", host.name());
    Ok(())
}

/// Checks that `shoutdctl start` with these arguments fails with these words and leaves nothing.
fn refuses(host: &Host, arguments: &[&str], words: &[&str]) -> Result<()> {
    let begin = host.sh("date +%s.%N")?;
    let output = shoutdctl(host, &[&["start"], arguments].concat())?;
    ensure_one_line(&output, words)
        .and_then(|()| ensure_nothing_left(host))
        .with_context(|| format!("shoutdctl start {}, since {begin}", arguments.join(" ")))
}

/// Checks that a cluster can be founded on the host now, with its address alone.
fn can_be_founded(host: &Host) -> Result<()> {
    host.start_shoutd(&[&host.address().to_string()])?;
    ensure!(status(host)?["hosts"] == 1, "not a cluster of one: {}", status(host)?);
    forget(host)
}

fn commands_without_daemon(cluster: &mut Cluster) -> Result<()> {
    let [host, _] = new_hosts(cluster)?;
    for command in ["status", "hosts", "networks", "endpoints"] {
        for arguments in [&[command][..], &[command, "--json"]] {
            ensure_one_line(&shoutdctl(&host, arguments)?, &["is not running", "shoutdctl start"])?;
        }
    }
    // shoutd is already stopped.
    ensure!(shoutdctl(&host, &["stop"])?.success(), "a daemon that does not run cannot be stopped");
    ensure_nothing_left(&host)
}

fn never_started(cluster: &mut Cluster) -> Result<()> {
    let [host, _] = new_hosts(cluster)?;
    refuses(&host, &[], &["address"])
}

fn malformed_addresses(cluster: &mut Cluster) -> Result<()> {
    let [host, _] = new_hosts(cluster)?;
    let mut faults = Vec::new();
    for address in
        ["nonsense", "10.77.0", "10.77.0.1:99999", "10.77.0.1:", "10.77.0.1/24", "::1::2", ""]
    {
        faults.extend(fault_of_refusal(&host, &[address], &[address]));
    }
    // Well-formed, but no host can have it.
    for address in ["0.0.0.0", "224.1.1.1", "255.255.255.255", "10.77.0.1:0", "::", "ff02::1"] {
        faults.extend(fault_of_refusal(&host, &[address], &[address.trim_end_matches(":0")]));
    }
    for (address, kind) in
        [("127.0.0.1", "loopback"), ("::1", "loopback"), ("169.254.1.1", "link-local")]
    {
        let peers = format!("--peer-addresses={address}");
        for arguments in [&[address][..], &["10.77.0.1", &peers]] {
            faults.extend(fault_of_refusal(&host, arguments, &[address, kind]));
        }
    }
    for peers in ["nonsense", "10.77.0.2,", "10.77.0.2;10.77.0.3", "10.77.0.2:0"] {
        let peers = format!("--peer-addresses={peers}");
        faults.extend(fault_of_refusal(&host, &["10.77.0.1", &peers, "--timeout=2"], &[]));
    }
    for (argument, words) in [
        ("--peer-addresses=10.77.0.1", &["10.77.0.1", "own address"][..]),
        ("--timeout=soon", &["soon"]),
        ("10.77.0.2", &["10.77.0.2"]),
    ] {
        faults.extend(fault_of_refusal(&host, &["10.77.0.1", argument], words));
    }
    ensure!(faults.is_empty(), "{}", faults.join("\n"));
    can_be_founded(&host)
}

/// What is wrong with the refusal of a start with these arguments, if anything is; see [`refuses`].
fn fault_of_refusal(host: &Host, arguments: &[&str], words: &[&str]) -> Option<String> {
    let error = refuses(host, arguments, words).err()?;
    _ = host.sh("shoutdctl stop");
    Some(format!("{error:#}"))
}

fn foreign_address(cluster: &mut Cluster) -> Result<()> {
    let [host, _] = new_hosts(cluster)?;
    refuses(&host, &["10.77.0.99"], &["10.77.0.99", "interface"])?;
    refuses(&host, &["fd77::99"], &["fd77::99", "interface"])?;
    can_be_founded(&host)
}

fn port_in_use(cluster: &mut Cluster) -> Result<()> {
    let [host, _] = new_hosts(cluster)?;
    for taker in ["TCP4-LISTEN:7789,bind=10.77.0.1", "TCP4-LISTEN:7789", "UDP4-RECV:7789"] {
        let mut socat = host.spawn(["socat", "-d", "-d", "-u", taker, "-"])?;
        socat.wait_for_line(SOON, |line| {
            line.contains("listening on") || line.contains("starting data transfer")
        })?;
        let output = shoutdctl(&host, &["start", "10.77.0.1"])?;
        ensure_one_line(&output, &["7789", "in use"]).with_context(|| taker.to_owned())?;
        socat.kill()?;
        ensure_nothing_left(&host)?;
    }
    can_be_founded(&host)
}

fn unreachable_peer(cluster: &mut Cluster) -> Result<()> {
    let [host, other] = new_hosts(cluster)?;
    // No host, no shoutd, and another program at that port.
    let _other =
        host.spawn(["socat", "-u", "TCP4-LISTEN:7799,fork,reuseaddr", "OPEN:/dev/null"])?;
    for peer in ["10.77.0.200", &other.address().to_string(), "10.77.0.1:7799"] {
        refuses(
            &host,
            &["10.77.0.1", &format!("--peer-addresses={peer}"), "--timeout=3"],
            &[peer],
        )?;
    }
    refuses(
        &host,
        &["10.77.0.1", "--peer-addresses=10.77.0.200,10.77.0.201", "--timeout=3"],
        &["10.77.0.200", "10.77.0.201"],
    )?;
    can_be_founded(&host)
}

fn peers_without_cluster(cluster: &mut Cluster) -> Result<()> {
    let [first, second] = new_hosts(cluster)?;
    let starts = [(&first, &second), (&second, &first)].map(|(host, peer)| {
        let peers = format!("--peer-addresses={}", peer.address());
        host.spawn(["shoutdctl", "start", &host.address().to_string(), &peers, "--timeout=6"])
    });
    for start in starts {
        let output = start?.wait(SOON)?;
        ensure_one_line(&output, &["no cluster"])?;
    }
    for host in [&first, &second] {
        ensure_nothing_left(host)?;
    }
    // The remedy, typed as the README says.
    first.start_shoutd(&[&first.address().to_string()])?;
    cluster.join(&second, &first)?;
    ensure!(status(&second)?["hosts"] == 2, "not a cluster of two: {}", status(&second)?);
    Ok(())
}

fn other_cluster(cluster: &mut Cluster) -> Result<()> {
    let [first, second] = new_hosts(cluster)?;
    for host in [&first, &second] {
        host.start_shoutd(&[&host.address().to_string()])?;
    }
    second.sh("shoutdctl stop")?;
    let peers = format!("--peer-addresses={}", first.address());
    refuses(&second, &[&second.address().to_string(), &peers, "--timeout=10"], &["cluster"])?;
    // Neither is harmed.
    ensure!(status(&first)?["hosts"] == 1, "host1 took it in: {}", status(&first)?);
    second.start_shoutd(&[&second.address().to_string()])?;
    ensure!(status(&second)?["hosts"] == 1, "host2 has left its cluster: {}", status(&second)?);
    Ok(())
}

/// The host waits until an administrator lets it in, and says so once.
fn no_token(cluster: &mut Cluster) -> Result<()> {
    let [first, second] = new_hosts(cluster)?;
    first.start_shoutd(&["10.77.0.1"])?;
    let mut start =
        second.spawn(["shoutdctl", "start", "10.77.0.2", "--peer-addresses=10.77.0.1"])?;
    let line = start.wait_for_line(SOON, |line| line.contains("shoutdctl approve "))?;
    let (_, approve) = line.rsplit_once("shoutdctl ").context("a command")?;
    ensure!(
        status(&first)?["hosts"] == 1,
        "it is in without having been let in: {}",
        status(&first)?
    );
    wait_until("the host to be listed", SOON, || {
        let listed = first.sh("shoutdctl approve")?;
        Ok(listed.contains(approve.trim_start_matches("approve ").trim()).then_some(()))
    })?;
    first.sh(&format!("shoutdctl {approve}"))?;
    let output = start.wait(SOON)?;
    ensure!(output.success(), "{output}");
    ensure!(output.stderr.lines().count() == 1, "it says more than once what to do: {output}");
    ensure!(status(&first)?["hosts"] == 2, "it is not in: {}", status(&first)?);
    Ok(())
}

fn bad_tokens(cluster: &mut Cluster) -> Result<()> {
    let [first, second] = new_hosts(cluster)?;
    first.start_shoutd(&["10.77.0.1"])?;
    let token = cluster.token()?;
    let peer = "--peer-addresses=10.77.0.1";
    let (stem, secret) = token.rsplit_once('-').context("a token")?;
    let (_, fingerprint) = stem.rsplit_once('-').context("a fingerprint")?;
    let (_, stranger) = second
        .sh("shoutdctl token prepare")?
        .trim()
        .rsplit_once('-')
        .map(|(a, b)| (a.to_owned(), b.to_owned()))
        .context("a token")?;
    let other_cluster = format!("--token=SHOUT1-{}-{secret}", "0".repeat(64));
    for (wrong, words) in [
        ("--token=nonsense", ["token"].as_slice()),
        ("--token=SHOUT1-12-34", &["token"]),
        (&format!("{stem}-{stranger}"), &["token"]),
        (&other_cluster, &["another cluster", &"0".repeat(64), fingerprint]),
    ] {
        refuses(&second, &["10.77.0.2", peer, wrong, "--timeout=5"], words)?;
    }
    // A revoked token is refused; after all that, the good one works.
    first.sh("shoutdctl token rotate --expires 1h")?;
    refuses(&second, &["10.77.0.2", peer, &token, "--timeout=5"], &["token"])?;
    cluster.join(&second, &first)?;
    ensure!(status(&first)?["hosts"] == 2, "it is not in: {}", status(&first)?);
    Ok(())
}

fn no_engine(cluster: &mut Cluster) -> Result<()> {
    let [host, _] = new_hosts(cluster)?;
    host.stop_engine()?;
    let refused = refuses(&host, &["10.77.0.1", "--timeout=5"], &["Docker"]);
    host.start_engine()?;
    refused?;
    refuses(
        &host,
        &["10.77.0.1", "--docker-socket=/run/none.sock", "--timeout=5"],
        &["/run/none.sock"],
    )?;
    can_be_founded(&host)
}

/// Runs programs as a user who is not root, outside root's own directories.
const AS_NOBODY: &str = "mkdir -p /run/programs && cp $(command -v shoutd) $(command -v \
                         shoutdctl) /run/programs &&
    exec setpriv --reuid=65534 --regid=65534 --clear-groups /run/programs/";

fn not_root(cluster: &mut Cluster) -> Result<()> {
    let [host, _] = new_hosts(cluster)?;
    for command in
        ["shoutdctl start 10.77.0.1", "shoutdctl status", "shoutdctl stop", "shoutdctl networks"]
    {
        ensure_one_line(&host.run(["sh", "-c", &format!("{AS_NOBODY}{command}")])?, &["root"])?;
    }
    let output = host.run(["sh", "-c", &format!("{AS_NOBODY}shoutd 10.77.0.1")])?;
    ensure!(!output.success() && output.stderr.contains("root"), "{output}");
    ensure_nothing_left(&host)?;
    // Only root can use the control socket, with any program.
    host.start_shoutd(&["10.77.0.1"])?;
    let as_nobody = "setpriv --reuid=65534 --regid=65534 --clear-groups";
    let raw = format!("{as_nobody} socat -u OPEN:/dev/null UNIX-CONNECT:/run/shoutd/control.sock");
    ensure!(!host.run(["sh", "-c", &raw])?.success(), "anybody can connect to the control socket");
    // Only root can read the secrets, even in a directory that another user made before.
    let readable =
        host.sh(&format!("{as_nobody} find {DATA} -readable -type f 2>/dev/null || true"))?;
    let secrets: Vec<_> = readable
        .lines()
        .filter(|file| !file.ends_with(".redb") && !file.ends_with("start.json"))
        .collect();
    ensure!(secrets.is_empty(), "anybody can read {secrets:?}");
    host.sh("shoutdctl stop")?;
    host.start_shoutd(&["10.77.0.1", "--data-dir=/run/test-data"])?;
    let mode = host.sh("stat --format=%a /run/test-data")?;
    ensure!(mode.trim() == "700", "the data directory has the mode {mode}");
    host.sh("shoutdctl stop && rm -r /run/test-data").map(|_| ())
}

fn no_rights(cluster: &mut Cluster) -> Result<()> {
    let [host, _] = new_hosts(cluster)?;
    let drop = "setpriv --bounding-set=-net_admin --inh-caps=-net_admin";
    let output =
        host.run(["sh", "-c", &format!("{drop} shoutdctl start 10.77.0.1 --timeout=10")])?;
    ensure_one_line(&output, &[])?;
    ensure_nothing_left(&host)?;
    can_be_founded(&host)
}

fn unwritable_data(cluster: &mut Cluster) -> Result<()> {
    let [host, _] = new_hosts(cluster)?;
    host.sh(&format!("mount --bind {DATA} {DATA} && mount -o remount,bind,ro {DATA}"))?;
    let refused = refuses(&host, &["10.77.0.1"], &[DATA]);
    host.sh(&format!("umount {DATA}"))?;
    refused?;
    host.sh("mkdir -p /run/test && mount -t tmpfs -o size=64k tmpfs /run/test")?;
    let refused = refuses(&host, &["10.77.0.1", "--data-dir=/run/test"], &["/run/test"]);
    refused?;
    host.sh("umount /run/test && mount -t tmpfs -o size=4m tmpfs /run/test")?;
    let refused =
        refuses(&host, &["10.77.0.1", "--data-dir=/run/test"], &["/run/test", "free some space"]);
    host.sh("umount /run/test && touch /run/test/file")?;
    refused?;
    refuses(&host, &["10.77.0.1", "--data-dir=/run/test/file"], &["/run/test/file"])?;
    refuses(&host, &["10.77.0.1", "--data-dir=/run/test/file/below"], &["/run/test/file/below"])?;
    refuses(&host, &["10.77.0.1", "--log-file=/run/test/file/log"], &["/run/test/file/log"])?;
    can_be_founded(&host)
}

/// Damage that a file of shoutd can have.
const DAMAGES: [(&str, &str); 3] = [
    ("overwritten", "dd if=/dev/urandom bs=4096 count=2 conv=notrunc status=none of=$file"),
    ("cut off", "truncate --size=$(($(stat --format=%s $file) / 2)) $file"),
    ("emptied", "truncate --size=0 $file"),
];

fn damaged_data(cluster: &mut Cluster) -> Result<()> {
    let [host, _] = new_hosts(cluster)?;
    host.start_shoutd(&["10.77.0.1"])?;
    host.docker(["network", "create", "--driver", "shoutd", "kept"])?;
    wait_until(
        "the network to be known",
        SOON,
        || Ok((networks(&host)?.len() == 1).then_some(())),
    )?;
    host.sh(&format!("shoutdctl stop && cp -a {DATA} /run/sound"))?;
    let files = host.sh(&format!("cd {DATA} && find . -type f | sed s,^./,,"))?;
    ensure!(!files.is_empty(), "there are no files in {DATA}");
    let mut faults = Vec::new();
    for file in files.lines() {
        for (damage, command) in DAMAGES {
            host.sh(&format!("file={DATA}/{file}; {command}"))?;
            let output = shoutdctl(&host, &["start"])?;
            // The token and past events are kept for display only: a host can serve without them.
            let harmless = ["token", "events.json"].contains(&file) && output.success();
            let refused =
                ensure_one_line(&output, &[file]).and_then(|()| ensure_nothing_left(&host));
            if let Err(error) = refused
                && !harmless
            {
                faults.push(format!("{file} {damage}: {error:#}"));
            }
            host.sh("shoutdctl stop")?;
            host.sh(&format!("rm -rf {DATA}/* && cp -a /run/sound/. {DATA}"))?;
        }
    }
    // With the sound files back, nothing is lost.
    host.start_shoutd(&[])?;
    ensure!(networks(&host)?.len() == 1, "the network is lost: {:?}", networks(&host)?);
    host.docker(["network", "rm", "kept"])?;
    ensure!(faults.is_empty(), "{}", faults.join("\n"));
    Ok(())
}

/// Sends this text, in the form of the shell's `printf`, to a socket, and returns the answer until
/// the other side closes or is silent for a while.
fn send(host: &Host, address: &str, text: &str) -> Result<String> {
    let script = format!(
        "printf '{text}' | socat -T 2 -t 0.1 -,ignoreeof {address} 2>/dev/null | head -c 2000"
    );
    Ok(host.run(["sh", "-c", &script])?.stdout)
}

const PLUGIN: &str = "UNIX-CONNECT:/run/docker/plugins/shoutd.sock";

fn garbage_for_plugin(cluster: &mut Cluster) -> Result<()> {
    let [host, _] = new_hosts(cluster)?;
    host.start_shoutd(&["10.77.0.1"])?;
    host.docker(["network", "create", "--driver", "shoutd", "--subnet", "10.9.0.0/24", "foo"])?;
    let pids = host.pids_of("shoutd")?;
    for text in [
        r"\000\377\001\002",
        r"GET / HTTP/1.1\r\n\r\n",
        r"POST /NetworkDriver.Join HTTP/9.9\r\n\r\n",
        r"POST ",
    ] {
        send(&host, PLUGIN, text)?;
    }
    host.sh(&format!(
        "head -c 2000000 /dev/urandom | timeout 5 socat -u - {PLUGIN} 2>/dev/null || true"
    ))?;
    host.sh(&format!(
        "(printf 'POST /NetworkDriver.Join HTTP/1.1\\r\\nx: '; yes x | head -c 2000000) | timeout \
         5 socat -u - {PLUGIN} 2>/dev/null || true"
    ))?;
    let calls = [
        "CreateNetwork",
        "DeleteNetwork",
        "CreateEndpoint",
        "DeleteEndpoint",
        "Join",
        "Leave",
        "EndpointOperInfo",
    ]
    .map(|call| format!("NetworkDriver.{call}"));
    let pools = ["RequestPool", "RequestAddress", "ReleaseAddress"]
        .map(|call| format!("IpamDriver.{call}"));
    for call in calls.iter().chain(&pools) {
        for body in [
            "",
            "{",
            "[]",
            "null",
            "{\"NetworkID\":7}",
            "{\"NetworkID\":\"../..\",\"PoolID\":\"x\"}",
            "{}",
        ] {
            let head = format!(
                "POST /{call} HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\nContent-Length: {}",
                body.len()
            );
            let answer = send(&host, PLUGIN, &format!("{head}\\r\\n\\r\\n{body}"))?;
            ensure!(answer.starts_with("HTTP/1.1 "), "no answer to {call} {body:?}: {answer:?}");
            // A request for any pool gets one, in any form.
            let valid = call == "IpamDriver.RequestPool" && body != "{" && !body.is_empty();
            ensure!(valid || answer.contains("Err"), "{call} {body:?} is answered {answer}");
        }
    }
    // Connections that send nothing.
    let idle =
        (0..50).map(|_| host.spawn(["socat", "-u", PLUGIN, "-"])).collect::<Result<Vec<_>>>()?;
    ensure!(host.pids_of("shoutd")? == pids, "the daemon is not the one that it was");
    ensure!(networks(&host)?.len() == 1, "garbage made a network: {:?}", networks(&host)?);
    ensure!(left_in_kernel(&host)?.is_empty(), "garbage made {:?}", left_in_kernel(&host)?);
    host.docker(["run", "--rm", "--network=foo", IMAGE, "true"])?;
    drop(idle);
    host.docker(["network", "rm", "foo"]).map(|_| ())
}

fn garbage_elsewhere(cluster: &mut Cluster) -> Result<()> {
    let [first, second] = new_hosts(cluster)?;
    first.start_shoutd(&["10.77.0.1"])?;
    let pids = first.pids_of("shoutd")?;
    let control = "UNIX-CONNECT:/run/shoutd/control.sock";
    let request = "POST /v1/raft/vote HTTP/1.1\\r\\nHost: x\\r\\nConnection: \
                   close\\r\\nContent-Length: 2\\r\\n\\r\\n{}";
    for (host, address) in [(&first, control), (&second, "TCP4:10.77.0.1:7789")] {
        for text in [r"\000\377", r"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\377\377\377\377", request] {
            send(host, address, text)?;
        }
        host.sh(&format!(
            "head -c 2000000 /dev/urandom | timeout 5 socat -u - {address} 2>/dev/null || true"
        ))?;
    }
    // VXLAN from a stranger. The filter of the daemon that ran on the sending host stays when the
    // daemon ends, so it is removed first.
    second.sh("nft delete table inet shoutd 2>/dev/null || true")?;
    second.sh("head -c 1000 /dev/urandom | socat -u - UDP4-DATAGRAM:10.77.0.1:7789")?;
    let _idle = (0..50)
        .map(|_| second.spawn(["socat", "-u", "TCP4:10.77.0.1:7789", "-"]))
        .collect::<Result<Vec<_>>>()?;
    ensure!(first.pids_of("shoutd")? == pids, "the daemon is not the one that it was");
    ensure!(status(&first)?["hosts"] == 1, "garbage joined: {}", status(&first)?);
    cluster.join(&second, &first)?;
    ensure_runs(&second)
}

fn foreground(cluster: &mut Cluster) -> Result<()> {
    let [host, _] = new_hosts(cluster)?;
    let mut daemon = host.spawn(["shoutd", "10.77.0.1"])?;
    wait_until("the daemon to serve", SOON, || {
        Ok(shoutdctl(&host, &["status", "--json"])?.stdout.contains(r#""serving""#).then_some(()))
    })?;
    host.docker(["network", "create", "--driver", "shoutd", "foo"])?;
    host.docker(["run", "--detach", "--name", "stays", "--network=foo", IMAGE, "sleep", "1000"])?;
    let namespaces = left_in_kernel(&host)?;
    ensure!(!namespaces.is_empty(), "no namespace while a container runs");
    host.signal("TERM", &host.pids_of("shoutd")?)?;
    let output = daemon.wait(Duration::from_secs(20))?;
    ensure!(output.success(), "SIGTERM does not stop it cleanly, {output}");
    ensure!(
        !output.stderr.is_empty() && output.stdout.is_empty(),
        "it does not log to stderr: {output}"
    );
    ensure!(left_in_kernel(&host)? == namespaces, "it took something from the kernel with it");
    ensure!(containers_of(&host)? == ["stays"], "its container is gone");
    host.start_shoutd(&[])?;
    host.docker(["rm", "--force", "stays"])?;
    host.docker(["network", "rm", "foo"]).map(|_| ())
}
