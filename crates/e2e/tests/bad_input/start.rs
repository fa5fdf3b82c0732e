//! Requests to `shoutdctl start` that cannot be met, or not yet; and daemons that do not answer.

use anyhow::{Context, Result, ensure};
use shoutd_e2e::{Cluster, SOON, status};
use shoutd_lab::wait_until;

use super::{
    DATA, can_be_founded, ensure_nothing_left, ensure_one_line, forget, new_hosts, shoutdctl,
};

/// As in the second after a boot: duplicate address detection is still running.
pub fn tentative_address(cluster: &mut Cluster) -> Result<()> {
    let [host, _] = new_hosts(cluster)?;
    let said = host.sh("ip -6 address add fd77::77/64 dev eth0 && ip -6 address show dev eth0 \
                         && shoutdctl start fd77::77")?;
    ensure!(said.contains("tentative"), "the address could be used at once: {said}");
    forget(&host)?;
    host.sh("ip -6 address del fd77::77/64 dev eth0").map(|_| ())
}

/// As with DHCP: the address of the last start does not exist yet when shoutd starts.
pub fn late_address(cluster: &mut Cluster) -> Result<()> {
    let [host, _] = new_hosts(cluster)?;
    host.sh("ip address add 10.77.0.177/24 dev eth0")?;
    host.start_shoutd(&["10.77.0.177"])?;
    host.sh("shoutdctl stop && ip address del 10.77.0.177/24 dev eth0")?;
    let mut start = host.spawn(["shoutdctl", "start"])?;
    wait_until("shoutd to wait", SOON, || {
        let log = host.sh("tail -n 3 /var/log/shoutd.log")?;
        Ok(log.contains("waiting for the advertise address").then_some(()))
    })?;
    host.sh("ip address add 10.77.0.177/24 dev eth0")?;
    let output = start.wait(SOON)?;
    ensure!(output.success(), "{output}");
    forget(&host)?;
    host.sh("ip address del 10.77.0.177/24 dev eth0").map(|_| ())
}

/// The host goes on as it was, and reports which parts of the command line it ignores.
pub fn unmet_wishes(cluster: &mut Cluster) -> Result<()> {
    let [first, second] = new_hosts(cluster)?;
    first.start_shoutd(&["10.77.0.1"])?;
    let stranger = second.sh("shoutdctl token prepare")?;
    let foreign = format!("--token={}", stranger.trim());
    let cases: &[(&[&str], &[&str])] = &[
        (
            &["--peer-addresses=10.77.0.2"],
            &["--peer-addresses is ignored", "10.77.0.2:7789", "shoutdctl stop --leave"],
        ),
        (&["--peer-addresses=10.77.0.1"], &["10.77.0.1:7789 is this host itself"]),
        (&["--replication=flood"], &["not by flood", "shoutdctl stop"]),
        (&["--data-dir=/var/lib/other"], &["/var/lib/other", "shoutdctl stop"]),
        (&[&foreign], &["the token is for the cluster with fingerprint", "shoutdctl stop --leave"]),
    ];
    for (arguments, words) in cases {
        let output = shoutdctl(&first, &[&["start"], *arguments].concat())?;
        ensure_one_line(&output, words).with_context(|| arguments.join(" "))?;
        ensure!(
            output.stderr.contains("serves Docker"),
            "it does not say that it serves: {output}"
        );
    }
    // The same for a host whose daemon does not run, with a peer that does not answer and with a
    // member of another cluster.
    first.sh("shoutdctl stop")?;
    let output = shoutdctl(&first, &["start", "10.77.0.1", "--peer-addresses=10.77.0.2"])?;
    ensure_one_line(&output, &["--peer-addresses is ignored", "10.77.0.2:7789"])?;
    second.start_shoutd(&["10.77.0.2"])?;
    let output = shoutdctl(&first, &["start", "--peer-addresses=10.77.0.2"])?;
    ensure_one_line(
        &output,
        &["10.77.0.2:7789 belongs to another cluster", "shoutdctl stop --leave"],
    )?;
    ensure!(status(&first)?["hosts"] == 1, "host1 is not as it was: {}", status(&first)?);
    // A request that is already met is not an error.
    forget(&second)?;
    cluster.join(&second, &first)?;
    first.start_shoutd(&[
        "10.77.0.1",
        "--peer-addresses=10.77.0.2",
        "--replication=vxlan-mdb",
        &cluster.token()?,
    ])?;
    forget(&second)
}

/// A host that was started without a token accepts one later; an invalid one leaves it waiting.
pub fn late_token(cluster: &mut Cluster) -> Result<()> {
    let [first, second] = new_hosts(cluster)?;
    first.start_shoutd(&["10.77.0.1"])?;
    let token = cluster.token()?;
    let line = ["start", "10.77.0.2", "--peer-addresses=10.77.0.1"];
    let mut waiting = second.spawn(["shoutdctl"].iter().chain(&line))?;
    waiting.wait_for_line(SOON, |line| line.contains("shoutdctl approve "))?;
    let (stem, secret) = token.rsplit_once('-').context("a token")?;
    let unknown: String = secret.chars().rev().collect();
    let output = shoutdctl(&second, &[&line[..], &[&format!("{stem}-{unknown}")]].concat())?;
    ensure_one_line(&output, &["10.77.0.1:7789 refuses to let this host join", "token"])?;
    ensure_one_line(
        &shoutdctl(&second, &["start", "--peer-addresses=10.77.0.3"])?,
        &["joins a cluster with", "10.77.0.3:7789"],
    )?;
    // By standard input, which no process list shows.
    let (_, text) = token.split_once('=').context("a token")?;
    second.sh(&format!("echo {text} | shoutdctl start --token-file=-"))?;
    let output = waiting.wait(SOON)?;
    ensure!(output.success(), "the one that waited does not know: {output}");
    ensure!(status(&second)?["hosts"] == 2, "it is not in: {}", status(&second)?);
    Ok(())
}

/// No command waits forever for a frozen daemon, all say what to do, and it can be stopped.
pub fn frozen(cluster: &mut Cluster) -> Result<()> {
    let [host, _] = new_hosts(cluster)?;
    host.start_shoutd(&["10.77.0.1"])?;
    let pids = host.pids_of("shoutd")?;
    host.signal("STOP", &pids)?;
    let asked = ["status", "hosts", "start"].map(|command| host.spawn(["shoutdctl", command]));
    for command in asked {
        ensure_one_line(&command?.wait(SOON)?, &["does not answer", "kill -CONT"])?;
    }
    host.sh("shoutdctl stop")?;
    ensure_nothing_left(&host)
}

/// Commands that find no daemon show why it ended and where its log is.
pub fn ended(cluster: &mut Cluster) -> Result<()> {
    let [host, _] = new_hosts(cluster)?;
    host.start_shoutd(&["10.77.0.1"])?;
    host.sh("shoutdctl stop")?;
    let log = "its log is /var/log/shoutd.log";
    ensure_one_line(&shoutdctl(&host, &["status"])?, &["is not running", "it was stopped", log])?;
    host.start_shoutd(&[])?;
    // A daemon that is refused or wrongly started does not replace the record of the running one.
    for address in ["10.77.0.1", "10.77.0.99"] {
        ensure!(!host.run(["shoutd", address])?.success(), "two daemons run");
    }
    host.signal("KILL", &host.pids_of("shoutd")?)?;
    wait_until("its end", SOON, || Ok(host.pids_of("shoutd")?.is_empty().then_some(())))?;
    ensure_one_line(&shoutdctl(&host, &["hosts"])?, &["without giving a reason", "killed", log])?;
    // A daemon that could not start, as at boot, when no user sees its output.
    host.sh(&format!("echo damaged > {DATA}/start.json; shoutd 2> /run/boot.log || true"))?;
    ensure_one_line(
        &shoutdctl(&host, &["status"])?,
        &["start.json is damaged", "its log is /run/boot.log"],
    )?;
    host.sh(&format!("rm {DATA}/start.json /run/boot.log"))?;
    can_be_founded(&host)
}

/// Neither the command nor the daemon shows the token while they run.
pub fn hidden_token(cluster: &mut Cluster) -> Result<()> {
    let [host, _] = new_hosts(cluster)?;
    let token = format!("--token={}", host.sh("shoutdctl token prepare")?.trim());
    for program in [&["shoutdctl", "start"][..], &["shoutd"]] {
        let line = [program, &["10.77.0.1", "--peer-addresses=10.77.0.200", &token]].concat();
        let mut started = host.spawn(&line)?;
        wait_until("the daemon to run", SOON, || {
            Ok(shoutdctl(&host, &["status", "--json"])?
                .stdout
                .contains("10.77.0.200")
                .then_some(()))
        })?;
        let shown = host.sh(
            "for file in /proc/[0-9]*/cmdline; do tr '\\0' ' ' < $file; echo; done 2>/dev/null",
        )?;
        let ours: Vec<_> =
            shown.lines().filter(|line| line.contains("--peer-addresses=10.77.0.200")).collect();
        ensure!(!ours.is_empty() && ours.iter().all(|line| !line.contains("SHOUT1-")), "{ours:?}");
        host.sh("shoutdctl stop")?;
        started.wait(SOON)?;
    }
    ensure_nothing_left(&host)
}

pub fn almost(cluster: &mut Cluster) -> Result<()> {
    let [host, _] = new_hosts(cluster)?;
    for (line, words) in [
        ("strat 10.77.0.1", ["'start'", "see shoutdctl --help"]),
        (
            "start 10.77.0.1 --peer-adresses=10.77.0.2",
            ["'--peer-addresses'", "see shoutdctl start --help"],
        ),
        ("network crate foo", ["'create'", "see shoutdctl network --help"]),
        ("status --jsn", ["'--json'", "see shoutdctl status --help"]),
    ] {
        ensure_one_line(&shoutdctl(&host, &line.split(' ').collect::<Vec<_>>())?, &words)?;
    }
    ensure_nothing_left(&host)
}

pub fn second_start(cluster: &mut Cluster) -> Result<()> {
    let [host, _] = new_hosts(cluster)?;
    host.start_shoutd(&["10.77.0.1"])?;
    let pids = host.pids_of("shoutd")?;
    for arguments in [&[][..], &["10.77.0.1"]] {
        host.start_shoutd(arguments)?;
    }
    ensure_one_line(
        &shoutdctl(&host, &["start", "10.77.0.2"])?,
        &["already running", "10.77.0.1"],
    )?;
    // The daemon itself, started while another one runs.
    let output = host.run(["shoutd", "10.77.0.1"])?;
    ensure!(!output.success() && output.stderr.contains("shoutd: "), "{output}");
    ensure!(host.pids_of("shoutd")? == pids, "another daemon than before runs");
    // Started several times at once, as by systemd and a user at boot: one daemon runs, and all
    // commands succeed.
    let at_once = "for i in 1 2 3; do shoutdctl start & pids=\"$pids $!\"; done; for pid in \
                   $pids; do wait $pid || exit 1; done";
    for _ in 0..5 {
        let said = host.sh(&format!("shoutdctl stop; {at_once}"))?;
        ensure!(said.matches("shoutd serves Docker").count() == 3, "{said}");
        // Daemons that came too late may still be ending at that time.
        wait_until("just one daemon", SOON, || {
            Ok((host.pids_of("shoutd")?.len() == 1).then_some(()))
        })?;
    }
    status(&host)?;
    host.docker(["network", "create", "--driver", "shoutd", "foo"])?;
    host.docker(["network", "rm", "foo"]).map(|_| ())
}
