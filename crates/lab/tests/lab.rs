//! Labs on this machine. They need root and the packages that `cargo xtask test` installs.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests say what they expect by failing")]

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use shoutd_lab::{Host, IMAGE, Lab, STATE_ROOT, wait_until};

/// Set in a process that a test starts as the owner of a lab.
const OWNER: &str = "SHOUTD_LAB_TEST_OWNER";

/// The kinds of namespaces that a host has of its own.
const NAMESPACES: [&str; 5] = ["mnt", "net", "uts", "ipc", "pid"];

/// Starts a container that stays, and returns its address.
fn start_container(host: &Host, name: &str) -> String {
    host.docker(["run", "--detach", "--init", "--name", name, IMAGE, "sleep", "1000"]).unwrap();
    let format = "{{.NetworkSettings.IPAddress}}";
    host.docker(["inspect", "--format", format, name]).unwrap().trim().to_owned()
}

/// The namespaces of a lab's hosts and its keeper.
fn namespaces_of(name: &str) -> BTreeSet<String> {
    let directory = Path::new(STATE_ROOT).join(name);
    let record: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(directory.join("lab.json")).unwrap()).unwrap();
    let mut found = BTreeSet::from([namespace(&record["keeper"].to_string(), "net")]);
    for entry in fs::read_dir(&directory).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "pid") {
            let pid = fs::read_to_string(path).unwrap();
            found.extend(NAMESPACES.map(|kind| namespace(pid.trim(), kind)));
        }
    }
    let own = NAMESPACES.map(|kind| namespace("self", kind));
    assert!(own.iter().all(|namespace| !found.contains(namespace)), "{own:?} is among {found:?}");
    found
}

fn namespace(pid: &str, kind: &str) -> String {
    let link = fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap();
    link.to_str().unwrap().to_owned()
}

/// The processes, of the whole machine, that are in one of these namespaces.
fn processes_in(namespaces: &BTreeSet<String>) -> Vec<String> {
    let mut commands = Vec::new();
    for process in fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path()) {
        let links = NAMESPACES.map(|kind| fs::read_link(process.join("ns").join(kind)).ok());
        if links.into_iter().flatten().any(|link| namespaces.contains(link.to_str().unwrap())) {
            commands.push(fs::read_to_string(process.join("cmdline")).unwrap_or_default());
        }
    }
    commands
}

/// The first thing that is left of a lab, if any.
fn left_of(name: &str, namespaces: &BTreeSet<String>) -> Option<String> {
    let processes = processes_in(namespaces);
    if !processes.is_empty() {
        return Some(format!("processes: {processes:?}"));
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    if let Some(mount) = mounts.lines().find(|line| {
        line.contains(name) || namespaces.iter().any(|namespace| line.contains(namespace))
    }) {
        return Some(format!("mount: {mount}"));
    }
    let cgroups = Command::new("find")
        .args(["/sys/fs/cgroup", "-name", &format!("*{name}*")])
        .output()
        .unwrap();
    if !cgroups.stdout.is_empty() {
        return Some(format!("control groups: {}", String::from_utf8_lossy(&cgroups.stdout)));
    }
    let directory = Path::new(STATE_ROOT).join(name);
    directory.exists().then(|| format!("directory: {}", directory.display()))
}

#[test]
fn a_host_is_a_whole_host() {
    let mut lab = Lab::up("whole", 2).unwrap();
    let name = lab.name().to_owned();
    let [first, second] = lab.hosts() else { panic!("{lab:?}") };
    for host in [first, second] {
        assert_eq!(host.sh("hostname").unwrap().trim(), host.name());
        // As on a host that did not forward before Docker was installed.
        assert!(host.sh("iptables --list-rules FORWARD").unwrap().starts_with("-P FORWARD DROP\n"));
        assert_eq!(
            host.docker(["info", "--format", "{{.CgroupDriver}}"]).unwrap().trim(),
            "cgroupfs"
        );
        // Both engines chose the same subnet, which is harmless.
        assert_eq!(start_container(host, "stays"), "172.17.0.2");
        let command = ["run", "--rm", IMAGE, "ping", "-c", "1", "-W", "5", "172.17.0.2"];
        host.docker(command).unwrap();
        // There is no registry and there are no names. On the host there is no name server, and in
        // a container it says so. Without an answer, programs would stall.
        let pulled = host.run(["docker", "run", "--rm", "nonesuch", "true"]).unwrap();
        assert!(!pulled.success() && pulled.stderr.contains("connection refused"), "{pulled}");
        let asked =
            host.run(["docker", "exec", "stays", "busybox", "nslookup", "example.com"]).unwrap();
        assert!(!asked.success() && asked.to_string().contains("NXDOMAIN"), "{asked}");
    }
    // The underlay, from a host and from a container.
    let to = second.address().to_string();
    first.run(["ping", "-c", "1", "-W", "5", &to]).unwrap();
    first.sh(&format!("ping -c 1 -W 5 {}", second.address_v6())).unwrap();
    first.docker(["exec", "stays", "ping", "-c", "1", "-W", "5", &to]).unwrap();
    second.cut().unwrap();
    assert!(!first.run(["ping", "-c", "1", "-W", "1", &to]).unwrap().success());
    second.mend().unwrap();
    wait_until("the underlay to be whole again", Duration::from_secs(20), || {
        Ok(first.run(["ping", "-c", "1", "-W", "1", &to])?.success().then_some(()))
    })
    .unwrap();

    // As in a cloud, the underlay carries no multicast.
    let receive = ["socat", "-u", "UDP4-RECV:5000,ip-add-membership=239.1.1.1:eth0", "STDOUT"];
    let receiver = second.spawn(receive).unwrap();
    // /proc/net/igmp shows groups in the machine's byte order.
    let group = format!("{:08X}", u32::from_ne_bytes([239, 1, 1, 1]));
    wait_until("the receiver", Duration::from_secs(20), || {
        Ok(second.sh("cat /proc/net/igmp")?.contains(&group).then_some(()))
    })
    .unwrap();
    for (text, to) in [("multicast", "239.1.1.1"), ("unicast", to.as_str())] {
        first.sh(&format!("echo {text} | socat - UDP4-DATAGRAM:{to}:5000")).unwrap();
    }
    let heard = receiver.wait_for_line(Duration::from_secs(20), |_| true).unwrap();
    assert_eq!(heard, "unicast");
    drop(receiver);

    let third = lab.add_host().unwrap();
    assert_eq!(third.name(), "host3");
    third.sh(&format!("ping -c 1 -W 5 {to}")).unwrap();

    let namespaces = namespaces_of(&name);
    assert!(!processes_in(&namespaces).is_empty());
    lab.down().unwrap();
    assert_eq!(left_of(&name, &namespaces), None);
}

#[test]
fn engines_and_hosts_come_back() {
    let lab = Lab::up("back", 1).unwrap();
    let host = lab.host(1).unwrap();
    host.docker(["run", "--detach", "--init", "--name", "once", IMAGE, "sleep", "1000"]).unwrap();
    let always = [
        "run",
        "--detach",
        "--init",
        "--name",
        "always",
        "--restart",
        "always",
        IMAGE,
        "sleep",
        "1000",
    ];
    host.docker(always).unwrap();
    host.stop_engine().unwrap();
    assert!(!host.run(["docker", "version"]).unwrap().success());
    assert!(host.stop_engine().is_err());
    host.start_engine().unwrap();
    await_restart(host, "the container after the engine was stopped");

    host.kill_engine().unwrap();
    assert!(host.pids_of("dockerd").unwrap().is_empty());
    host.start_engine().unwrap();
    await_restart(host, "the container after the engine was killed");

    // A frozen container cannot be killed.
    host.docker(["pause", "always"]).unwrap();
    host.sh("touch /run/gone /var/lib/shoutd/kept").unwrap();
    host.power_off().unwrap();
    assert!(host.sh("true").unwrap_err().to_string().contains("host1 is off"));
    host.power_on().unwrap();
    host.sh("test ! -e /run/gone && test -e /var/lib/shoutd/kept").unwrap();
    await_restart(host, "the container after the host was off");
    assert!(host.engine_log().unwrap().matches("Starting up").count() >= 4);
}

#[test]
fn labs_do_not_see_each_other() {
    let labs = ["side-a", "side-b"].map(|name| Lab::up(name, 1).unwrap());
    let [first, second] = labs.each_ref().map(|lab| lab.host(1).unwrap());
    start_container(first, "only-here");
    assert_eq!(second.docker(["ps", "--quiet"]).unwrap(), "");
    first.cut().unwrap();
    second.run(["ping", "-c", "1", "-W", "5", "10.77.0.254"]).unwrap();
    let [first, second] = labs;
    let (names, namespaces) = (first.name().to_owned(), namespaces_of(first.name()));
    drop(first);
    assert_eq!(left_of(&names, &namespaces), None);
    second.host(1).unwrap().docker(["run", "--rm", IMAGE, "true"]).unwrap();
    assert!(Lab::list().iter().any(|lab| lab.name == second.name()));
}

#[test]
fn a_killed_owner_leaves_nothing() {
    if env::var_os(OWNER).is_some() {
        own_a_lab();
        return;
    }
    let mut owner = Command::new(env::current_exe().unwrap())
        .args(["--exact", "a_killed_owner_leaves_nothing", "--nocapture"])
        .env(OWNER, "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(owner.stdout.take().unwrap()).lines().map(Result::unwrap);
    let line = lines.find(|line| line.contains("lab is up: ")).expect("the owner's lab comes up");
    let (_, name) = line.split_once(": ").unwrap();
    let namespaces = namespaces_of(name);
    // A new process has its name a moment before its command line.
    wait_until("the command to be among the lab's processes", Duration::from_secs(20), || {
        Ok(processes_in(&namespaces)
            .iter()
            .any(|process| process.starts_with("sleep"))
            .then_some(()))
    })
    .unwrap();

    owner.kill().unwrap();
    owner.wait().unwrap();
    let mut left = None;
    wait_until("the keeper to take the lab down", Duration::from_secs(20), || {
        left = left_of(name, &namespaces);
        Ok(left.is_none().then_some(()))
    })
    .unwrap_or_else(|error| panic!("{error}; left is {left:?}"));
}

/// Brings a lab up, with a container and a command on its host, and waits to be killed.
fn own_a_lab() {
    let lab = Lab::up("owned", 1).unwrap();
    let host = lab.host(1).unwrap();
    start_container(host, "stays");
    let _command = host.spawn(["sleep", "1000"]).unwrap();
    // The container's sleep and this one.
    wait_until("both commands to run", Duration::from_secs(20), || {
        Ok((host.pids_of("sleep")?.len() == 2).then_some(()))
    })
    .unwrap();
    println!("lab is up: {}", lab.name());
    _ = std::io::stdin().read(&mut [0]);
}

/// Waits until the container that restarts always runs, and no other.
fn await_restart(host: &Host, what: &str) {
    wait_until(what, Duration::from_secs(20), || {
        let names = host.docker(["ps", "--format", "{{.Names}}"])?;
        Ok(names.lines().eq(["always"]).then_some(()))
    })
    .unwrap();
}
