//! What messages tell their readers to do, done: each remedy is typed as the message has it, and
//! what it promises happens.
//!
//! Where each remedy is tried, by the words of its message. `data`, `belonging`, `ways`, `network`
//! and `disk` are modules of this test; other names are those of other end-to-end tests and their
//! functions.
//!
//! | message | remedy | tried in |
//! |---|---|---|
//! | `agreed.redb`, `local.redb` is damaged, is missing | restore a copy | `data::copy` |
//! | | `shoutdctl remove` on another host, remove the data, join again | `data::join_again`, `cluster::wiped` |
//! | | its cluster has no other host: `shoutdctl restore`, or begin a new one | `data::alone` |
//! | `identity/...` is damaged | restore it from a copy, or join again | `data::copy`, `data::join_again` |
//! | a lost certificate: it waits for approval | `shoutdctl approve` | `data::copy` |
//! | has mode ..., belongs to user ... | `chmod`, `chown` | `data::permissions` |
//! | `start.json` is damaged | remove it and give the address again | `data::start_file` |
//! | the data directory is a copy | remove it and join again | `data::copied`, `cluster::set_back_and_copied` |
//! | it was set back | none needed | `cluster::set_back_and_copied` |
//! | the disk has only ... left | free space, or `--data-dir` | `disk::full` |
//! | No space left | free space | `disk::full` |
//! | hosts that do not answer are lost for good | `shoutdctl recover --help`, and that | `data::half`, `cluster::recovered` |
//! | shoutd is running; stop it first | `shoutdctl stop` | `data::half` |
//! | belongs to another cluster | start without peers, or `shoutdctl stop --leave` | `belonging::other_cluster` |
//! | this is the only host of the cluster | `docker network rm`, stop, remove the data | `belonging::other_cluster` |
//! | containers of this host use ... | stop or disconnect them | `belonging::containers` |
//! | host ... is not removed | `stop --leave` there, or `remove --force` | `belonging::containers` |
//! | host ... was removed | remove the data, join again | `belonging::containers`, `cluster::removed` |
//! | the token was revoked, has expired, is used up | `token show`, `token rotate` | `belonging::tokens` |
//! | this host has no valid token | `token rotate` | `belonging::tokens` |
//! | this is a prepared token | `--peer-addresses` | `belonging::tokens` |
//! | no change can be committed | `--peer-addresses` of the others | `belonging::renumbered` |
//! | this host waits for approval | `shoutdctl approve` | `bad_input::no_token`, `cluster::sixth_host` |
//! | the peers belong to no cluster | start a cluster there first | `bad_input::peers_without_cluster` |
//! | the port is in use | `ss` names who, another port | `ways::ports` |
//! | the socket is served by another process, is in the way | `ss` names who, move it | `ways::sockets` |
//! | the daemon is stopped, nothing answers, it does not run | `kill -CONT`, `stop`, `start` | `ways::silent` |
//! | open files | `ulimit -Hn` | `ways::descriptors` |
//! | is already running, with address; has ... | stop it first | `ways::other_address` |
//! | other hosts cannot reach this one | `stop`, `start <address>`, or the address back | `ways::other_address`, `cluster::renumbered` |
//! | no Docker Engine answers | start it, run this again | `bad_input::no_engine` |
//! | its MTU option says ... | raise the underlay's, a smaller one, none | `network::mtu` |
//! | device ... is not shoutd's | rename or delete it | `network::foreign_device` |
//! | options that do nothing, or have wrong values | leave it out, `--internal`, give ... | `network::refused_options` |
//! | no subnet is free; the IPv6 subnet | `--subnet` | `network::refused_options` |
//! | subnets overlap | the suggested command | `addresses::overlaps` |
//! | address, MAC address is in use | another, or none | `network::addresses` |
//! | no free address left | remove containers, a larger subnet, `--ip` | `network::addresses`, `addresses::full_subnet` |
//! | the removal of network ... waits for | `shoutdctl remove` | `network::removal` |
//! | a Docker network of that name is here already | `docker network rm` | `addresses::foreign_name`, `network::name_taken` |
//! | names of the public DNS | `shoutd.names=all` | `names::public_names` |
//! | a Swarm's network, the managed plugin | `docker network rm`, drain the node | `swarm_options::dissolved`, `swarm::plugin_in_use` |
//!
//! Not tried: what needs another kernel or another version of shoutd (`modprobe`, "upgrade
//! shoutd"), systemd's own settings (`LimitNOFILE=`, `systemctl start docker`), two networks of one
//! name with containers on both ("stop its containers to merge them") and an address that is leased
//! to another host ("disconnect it from the network and connect it again"), which no command leads
//! to any more, and a foreign process at the control socket.

#[path = "remedies/belonging.rs"]
mod belonging;

#[path = "remedies/data.rs"]
mod data;
#[path = "remedies/disk.rs"]
mod disk;
#[path = "remedies/network.rs"]
mod network;
#[path = "remedies/ways.rs"]
mod ways;

use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use shoutd_e2e::{Cluster, Network, SOON, await_network, run_checks, status};
use shoutd_lab::{Host, Output, wait_until};

/// Where shoutd keeps what must outlive it. In a lab it is a mount: its contents are removed in its
/// place.
const DATA: &str = "/var/lib/shoutd";

fn main() -> ExitCode {
    run_checks(
        || Cluster::up("remedies", 3),
        &[
            ("files of the data directory that others can use", data::permissions),
            ("a damaged file, and a copy of the data directory", data::copy),
            ("a damaged file, and a host that joins again", data::join_again),
            ("a damaged file of one host of two", data::half),
            ("a damaged file of the only host of a cluster", data::alone),
            ("a damaged start.json", data::start_file),
            ("a copied data directory", data::copied),
            ("a host that belongs to another cluster", belonging::other_cluster),
            ("a host that is to leave and has containers", belonging::containers),
            ("tokens that let nobody in", belonging::tokens),
            ("hosts that do not find each other at new addresses", belonging::renumbered),
            ("a disk without room", disk::full),
            ("ports that are taken", ways::ports),
            ("sockets whose places are taken", ways::sockets),
            ("a daemon that does not answer", ways::silent),
            ("too few open files", ways::descriptors),
            ("a start with another address", ways::other_address),
            ("an MTU that the underlay has no room for", network::mtu),
            ("a device that is not shoutd's", network::foreign_device),
            ("subnets and options that are refused", network::refused_options),
            ("addresses that are refused", network::addresses),
            ("a removal that waits for a host", network::removal),
        ],
    )
}

/// The first `size` hosts in one new cluster, and the others without any.
fn formed(cluster: &Cluster, size: usize) -> Result<[Host; 3]> {
    let hosts = cluster.three()?;
    hosts.iter().try_for_each(forget)?;
    let (first, others) = hosts.split_first().context("hosts")?;
    first.start_shoutd(&[&first.address().to_string()])?;
    others.iter().take(size.saturating_sub(1)).try_for_each(|host| cluster.join(host, first))?;
    Ok(hosts)
}

/// A network that is created on the first of these hosts and is there on all of them.
fn network_on(cluster: &Cluster, hosts: &[&Host], options: &[&str]) -> Result<Network> {
    let network = Network::create_here(cluster, hosts.first().context("a host")?, "foo", options)?;
    hosts.iter().try_for_each(|host| await_network(host, "foo"))?;
    Ok(network)
}

/// Stops shoutd on a host and makes the host one that never had it.
fn forget(host: &Host) -> Result<()> {
    host.sh(&format!("shoutdctl stop && {}", remove_data())).map(|_| ())
}

/// "Remove the data directory", as far as it can be removed.
fn remove_data() -> String {
    format!("find {DATA} -mindepth 1 -delete")
}

/// Runs lines of shell that fail with these words, and returns what they say.
fn refused(host: &Host, script: &str, words: &[&str]) -> Result<String> {
    let output = host.run(["sh", "-c", script])?;
    ensure!(!output.success(), "{script} did not fail on {}: {output}", host.name());
    let missing: Vec<_> = words.iter().filter(|word| !output.stderr.contains(**word)).collect();
    ensure!(missing.is_empty(), "{script} does not say {missing:?}: {output}");
    Ok(output.stderr)
}

/// The command that a message has between backquotes.
fn quoted(message: &str) -> Result<&str> {
    message.split('`').nth(1).with_context(|| format!("no command in: {message}"))
}

/// The command that a message has after these words, up to its end or a semicolon.
fn after<'a>(message: &'a str, words: &str) -> Result<&'a str> {
    let (_, rest) =
        message.split_once(words).with_context(|| format!("{words:?} is not in: {message}"))?;
    Ok(rest.split([';', '\n']).next().unwrap_or(rest).trim())
}

/// Waits until the host's status has a problem with these words, and returns all that it has.
fn await_problem(host: &Host, words: &str) -> Result<String> {
    wait_until(&format!("a problem with {words:?} on {}", host.name()), SOON, || {
        let problems = status(host)?["problems"].to_string();
        Ok(problems.contains(words).then_some(problems))
    })
}

/// Waits until the host's status has no problem with these words.
fn await_no_problem(host: &Host, words: &str) -> Result<()> {
    wait_until(&format!("no problem with {words:?} on {}", host.name()), SOON, || {
        Ok((!status(host)?["problems"].to_string().contains(words)).then_some(()))
    })
}

/// Waits until a host knows a cluster of so many hosts.
fn await_hosts(host: &Host, count: u64) -> Result<()> {
    wait_until(&format!("{count} hosts, as {} knows", host.name()), SOON, || {
        Ok((status(host)?["hosts"] == count).then_some(()))
    })
}

/// Fails unless a command succeeded.
fn ensure_done(output: &Output) -> Result<()> {
    ensure!(output.success(), "{output}");
    Ok(())
}
