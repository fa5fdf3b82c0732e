//! What is in the daemon's way: ports, sockets, limits, and a daemon that does not answer.

use anyhow::{Context, Result, ensure};
use shoutd_e2e::{Cluster, Container, Network, SOON, status};
use shoutd_lab::{Host, wait_until};

use super::{after, await_no_problem, await_problem, formed, quoted, refused};

pub fn ports(cluster: &mut Cluster) -> Result<()> {
    let [host, ..] = formed(cluster, 1)?;
    host.sh("shoutdctl stop")?;
    for taker in ["TCP4-LISTEN:7789,bind=10.77.0.1,reuseaddr", "UDP4-RECV:7789"] {
        let mut socat = host.spawn(["socat", "-d", "-d", "-u", taker, "-"])?;
        socat.wait_for_line(SOON, |line| {
            line.contains("listening on") || line.contains("starting data transfer")
        })?;
        let said = refused(&host, "shoutdctl start", &["7789", "in use by another program"])?;
        let named = host.sh(quoted(&said)?)?;
        ensure!(named.contains("socat"), "{said} and that says: {named}");
        if taker.starts_with("TCP") {
            ensure!(said.contains("choose another port"), "{said}");
            host.start_shoutd(&["10.77.0.1:7799"])?;
            host.sh("shoutdctl stop")?;
        }
        socat.kill()?;
        host.start_shoutd(&["10.77.0.1:7789"])?;
        host.sh("shoutdctl stop")?;
    }
    host.start_shoutd(&[]).map(|_| ())
}

pub fn sockets(cluster: &mut Cluster) -> Result<()> {
    let [host, ..] = formed(cluster, 1)?;
    for socket in ["/run/docker/plugins/shoutd.sock", "/run/shoutd/control.sock"] {
        host.sh(&format!("shoutdctl stop; rm -f {socket}; mkdir {socket}"))?;
        refused(&host, "shoutdctl start", &[socket, "move it elsewhere"])?;
        host.sh(&format!("mv {socket} /run/elsewhere && shoutdctl start && rmdir /run/elsewhere"))?;
    }
    let socket = "/run/docker/plugins/shoutd.sock";
    host.sh(&format!("shoutdctl stop; rm {socket}"))?;
    let mut socat =
        host.spawn(["socat", "-d", "-d", &format!("UNIX-LISTEN:{socket},fork"), "-"])?;
    socat.wait_for_line(SOON, |line| line.contains("listening on"))?;
    let said = refused(&host, "shoutdctl start", &["another process already serves"])?;
    let named = host.sh(quoted(&said)?)?;
    ensure!(named.contains("socat"), "{said} and that says: {named}");
    socat.kill()?;
    host.start_shoutd(&[])?;
    // While it runs.
    host.sh(&format!("rm {socket} && mkdir {socket}"))?;
    await_advice(&host, true)?;
    host.sh(&format!("mv {socket} /run/elsewhere && rmdir /run/elsewhere"))?;
    await_advice(&host, false)?;
    let network = Network::create_here(cluster, &host, "foo", &[])?;
    network.remove_on(&host).context("Docker does not find shoutd")
}

/// Waits until the status says what is in the socket's way, or says it no more.
fn await_advice(host: &Host, wanted: bool) -> Result<()> {
    wait_until("the status to say what is in the way, or no more", SOON, || {
        let docker = status(host)?["docker"].to_string();
        Ok((docker.contains("move it elsewhere") == wanted).then_some(()))
    })
}

pub fn silent(cluster: &mut Cluster) -> Result<()> {
    let [host, ..] = formed(cluster, 1)?;
    let pids = host.pids_of("shoutd")?;
    host.signal("STOP", &pids)?;
    let said = refused(&host, "shoutdctl status", &["kill -CONT"])?;
    host.sh(after(&said, "continue it:")?)?;
    ensure!(status(&host)?["hosts"] == 1, "{}", status(&host)?);
    // Frozen, and its socket is away.
    host.signal("STOP", &pids)?;
    host.sh("rm /run/shoutd/control.sock")?;
    let said = refused(&host, "shoutdctl status", &["nothing answers there"])?;
    host.sh(after(&said, "stop it:")?)?;
    wait_until("its end", SOON, || Ok(host.pids_of("shoutd")?.is_empty().then_some(())))?;
    let said = refused(&host, "shoutdctl status", &["start it:"])?;
    host.sh(after(&said, "start it:")?)?;
    ensure!(status(&host)?["hosts"] == 1, "{}", status(&host)?);
    Ok(())
}

/// The limit is told before it is reached, and what is told raises it.
pub fn descriptors(cluster: &mut Cluster) -> Result<()> {
    let [host, ..] = formed(cluster, 1)?;
    let pids = host.pids_of("shoutd")?;
    let open = host.sh(&format!("ls /proc/{}/fd | wc -l", pids.first().context("a daemon")?))?;
    let open: u64 = open.trim().parse()?;
    // Three quarters of it are reached by a few networks.
    let limit = (open + 8) * 4 / 3;
    host.sh(&format!("shoutdctl stop && ulimit -n {limit} && shoutdctl start"))?;
    let network = Network::create_here(cluster, &host, "foo", &[])?;
    let mut containers = Vec::new();
    let told = wait_until("the limit to be told of", SOON, || {
        let problems = status(&host)?["problems"].to_string();
        if problems.contains(&format!("files open and may have {limit}")) {
            return Ok(Some(problems));
        }
        if containers.len() < 6 {
            containers.push(Container::start(&host, "foo", &[])?);
        }
        Ok(None)
    })?;
    // By a shell with the limit that the daemon had. Not every machine lets its root raise the hard
    // limit, so that is not lowered.
    let raise = quoted(&told)?;
    host.sh(&format!("ulimit -Sn {limit} && shoutdctl stop && {raise} && shoutdctl start"))?;
    ensure!(!status(&host)?["problems"].to_string().contains("files open"), "{}", status(&host)?);
    drop(containers);
    network.remove_on(&host)
}

pub fn other_address(cluster: &mut Cluster) -> Result<()> {
    let [host, ..] = formed(cluster, 1)?;
    host.sh("ip address add 10.77.0.201/24 dev eth0")?;
    let said = refused(
        &host,
        "shoutdctl start 10.77.0.201",
        &["is already running, with address 10.77.0.1:7789"],
    )?;
    host.sh(&format!("{} && shoutdctl start 10.77.0.201", after(&said, "stop it first:")?))?;
    ensure!(status(&host)?["address"] == "10.77.0.201:7789", "{}", status(&host)?);
    // The address is lost, and the host is given another.
    host.sh("ip address del 10.77.0.201/24 dev eth0")?;
    await_problem(&host, "shoutdctl stop, shoutdctl start <address>")?;
    host.sh("shoutdctl stop && shoutdctl start 10.77.0.1")?;
    await_no_problem(&host, "other hosts cannot reach")?;
    // Replication and places of its own.
    for (wish, words) in [
        ("--replication=flood", "replicates multicast by"),
        ("--data-dir=/run/other", "the running daemon has"),
    ] {
        refused(&host, &format!("shoutdctl start {wish}"), &[words, "to change that, stop it"])?;
    }
    host.sh("shoutdctl stop && shoutdctl start --replication=flood")?;
    ensure!(status(&host)?["replication"] == "flood", "{}", status(&host)?);
    host.sh("shoutdctl stop && shoutdctl start 10.77.0.1 --data-dir=/run/other")?;
    ensure!(status(&host)?["data_directory"] == "/run/other", "{}", status(&host)?);
    host.sh("shoutdctl stop && rm -r /run/other && shoutdctl start").map(|_| ())
}
