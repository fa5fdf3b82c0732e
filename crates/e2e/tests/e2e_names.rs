//! Names of containers resolve on all hosts, with any image. The hosts have engines of different
//! versions.

use std::collections::BTreeSet;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use shoutd_e2e::{Cluster, Container, Network, SOON, run_checks};
use shoutd_lab::{Host, wait_until};

fn main() -> ExitCode {
    run_checks(
        || {
            let cluster = Cluster::up_mixed("names", 3)?;
            cluster.form([1, 2, 3])?;
            Ok(cluster)
        },
        &[
            ("by name and by alias, on every host", names_and_aliases),
            ("containers are renamed, moved, restarted and removed", changes),
            ("one alias of several containers", shared_alias),
            ("no name of another network, and none with shoutd.names=off", kept_apart),
            ("IPv6 addresses", ipv6),
            ("shoutd is killed, a host is lost", daemons_and_hosts),
            ("lines of others in a hosts file stay", foreign_lines),
            ("programs that ask DNS themselves", asked_by_dns),
            ("names of the public DNS come from no other host", public_names),
            ("files that users mount at /etc/hosts are not touched", mounted_files),
        ],
    )
}

/// Starts a container with an alias, in addition to its name.
fn start(host: &Host, network: &str, name: &str, options: &[&str]) -> Result<Container> {
    let run = ["run", "--detach", "--init", "--name", name, "--network", network];
    host.docker(run.iter().chain(options).chain(&[shoutd_lab::IMAGE, "sleep", "100000"]))?;
    Ok(Container { host: host.clone(), name: name.to_owned() })
}

/// The addresses that a program in the container finds for a name (getaddrinfo(3)): its hosts file
/// first, then DNS.
fn resolve(container: &Container, name: &str) -> Result<BTreeSet<String>> {
    let output = container.try_sh(&format!("getent ahosts {name}"))?;
    Ok(output
        .stdout
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .map(str::to_owned)
        .collect())
}

/// Waits until the name resolves to exactly these addresses.
fn await_name(container: &Container, name: &str, wanted: &[String]) -> Result<()> {
    let wanted: BTreeSet<String> = wanted.iter().cloned().collect();
    let mut found = BTreeSet::new();
    let what =
        format!("{name} to be {wanted:?} for {} on {}", container.name, container.host.name());
    let resolved = wait_until(&what, SOON, || {
        found = resolve(container, name)?;
        Ok((found == wanted).then_some(()))
    });
    resolved.with_context(|| {
        let hosts = container.sh("cat /etc/hosts").unwrap_or_default();
        format!("it is {found:?}; /etc/hosts:\n{hosts}")
    })
}

fn address(container: &Container, network: &str) -> Result<Vec<String>> {
    Ok(vec![container.address(network)?.to_string()])
}

fn names_and_aliases(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.three()?;
    let _network = Network::create(cluster, &hosts[0], "foo", &[])?;
    let mut containers = Vec::new();
    for (host, name) in hosts.iter().zip(["ash", "birch", "cedar"]) {
        containers.push(start(host, "foo", name, &["--network-alias", &format!("{name}-tree")])?);
    }
    for asker in &containers {
        for asked in &containers {
            let wanted = address(asked, "foo")?;
            await_name(asker, &format!("{}-tree", asked.name), &wanted)?;
            if asker.name != asked.name {
                await_name(asker, &asked.name, &wanted)?;
                await_name(asker, &asked.name.to_uppercase(), &wanted)?;
                asker.ping(&asked.name)?;
            }
        }
    }
    Ok(())
}

fn changes(cluster: &mut Cluster) -> Result<()> {
    let [first, second, third] = cluster.three()?;
    let _networks = [
        Network::create(cluster, &first, "foo", &[])?,
        Network::create(cluster, &first, "bar", &["--ipam-driver", "shoutd"])?,
    ];
    let asker = start(&first, "foo", "asker", &[])?;
    let mut asked = start(&second, "foo", "old", &[])?;
    await_name(&asker, "old", &address(&asked, "foo")?)?;
    second.docker(["rename", "old", "new"])?;
    asked.name = "new".to_owned();
    await_name(&asker, "new", &address(&asked, "foo")?)?;
    await_name(&asker, "old", &[])?;

    // After a restart, perhaps with another address.
    let other = start(&second, "foo", "other", &[])?;
    second.docker(["stop", "--time", "1", "new", "other"])?;
    await_name(&asker, "new", &[])?;
    second.docker(["start", "other", "new"])?;
    await_name(&asker, "new", &address(&asked, "foo")?)?;
    await_name(&asker, "other", &address(&other, "foo")?)?;

    // Moved to another network, and back with an alias.
    second.docker(["network", "disconnect", "foo", "new"])?;
    second.docker(["network", "connect", "bar", "new"])?;
    await_name(&asker, "new", &[])?;
    second.docker(["network", "connect", "--alias", "again", "foo", "new"])?;
    await_name(&asker, "again", &address(&asked, "foo")?)?;
    first.docker(["network", "connect", "bar", "asker"])?;
    let both = [address(&asked, "foo")?, address(&asked, "bar")?].concat();
    await_name(&asker, "new", &both)?;
    // A container that leaves its last network loses the names.
    first.docker(["network", "disconnect", "foo", "asker"])?;
    await_name(&asker, "new", &address(&asked, "bar")?)?;
    first.docker(["network", "disconnect", "bar", "asker"])?;
    wait_until("the names to be forgotten", SOON, || {
        Ok((!asker.sh("cat /etc/hosts")?.contains("shoutd")).then_some(()))
    })?;
    first.docker(["network", "connect", "foo", "asker"])?;
    await_name(&asker, "again", &address(&asked, "foo")?)?;

    // The same name elsewhere.
    asked.remove()?;
    await_name(&asker, "again", &[])?;
    let moved = start(&third, "foo", "new", &[])?;
    await_name(&asker, "new", &address(&moved, "foo")?)
}

fn shared_alias(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.three()?;
    let _network = Network::create(cluster, &hosts[1], "foo", &[])?;
    let mut containers = Vec::new();
    for (host, name) in hosts.iter().zip(["web-1", "web-2", "web-3"]) {
        containers.push(start(host, "foo", name, &["--network-alias", "web"])?);
    }
    let all: Vec<String> =
        containers.iter().map(|one| address(one, "foo")).collect::<Result<Vec<_>>>()?.concat();
    for container in &containers {
        await_name(container, "web", &all)?;
    }
    let gone = containers.remove(1);
    let others: Vec<String> =
        all.iter().zip(0..).filter(|(_, place)| *place != 1).map(|(one, _)| one.clone()).collect();
    gone.remove()?;
    for container in &containers {
        await_name(container, "web", &others)?;
    }
    Ok(())
}

fn kept_apart(cluster: &mut Cluster) -> Result<()> {
    let [first, second, third] = cluster.three()?;
    let _networks = [
        Network::create(cluster, &first, "foo", &["--ipam-driver", "shoutd"])?,
        Network::create(cluster, &first, "bar", &["--ipam-driver", "shoutd"])?,
        Network::create(
            cluster,
            &first,
            "quiet",
            &["--ipam-driver", "shoutd", "--opt", "shoutd.names=off"],
        )?,
    ];
    let red = start(&first, "foo", "in-foo", &[])?;
    let blue = start(&second, "bar", "in-bar", &[])?;
    let both = start(&third, "foo", "in-both", &[])?;
    third.docker(["network", "connect", "bar", "in-both"])?;
    let quiet = [start(&first, "quiet", "quiet-1", &[])?, start(&second, "quiet", "quiet-2", &[])?];
    await_name(&both, "in-foo", &address(&red, "foo")?)?;
    await_name(&both, "in-bar", &address(&blue, "bar")?)?;
    await_name(&red, "in-both", &address(&both, "foo")?)?;
    await_name(&blue, "in-both", &address(&both, "bar")?)?;
    ensure!(
        resolve(&red, "in-bar")?.is_empty() && resolve(&blue, "in-foo")?.is_empty(),
        "names of another network"
    );
    ensure!(resolve(&quiet[0], "quiet-2")?.is_empty(), "a name of a network without names");
    let output = first.run([
        "docker",
        "network",
        "create",
        "--driver",
        "shoutd",
        "--opt",
        "shoutd.names=maybe",
        "x",
    ])?;
    ensure!(!output.success() && output.stderr.contains("give on, all or off"), "{output}");
    Ok(())
}

fn ipv6(cluster: &mut Cluster) -> Result<()> {
    let [first, second, _] = cluster.three()?;
    let options = ["--ipv6", "--subnet", "10.71.0.0/24", "--subnet", "fd00:71::/64"];
    let _network = Network::create(cluster, &first, "dual", &options)?;
    let asker = start(&first, "dual", "asker", &[])?;
    let asked = start(&second, "dual", "asked", &["--ip6", "fd00:71::99"])?;
    await_name(
        &asker,
        "asked",
        &[address(&asked, "dual")?, vec!["fd00:71::99".to_owned()]].concat(),
    )
}

fn daemons_and_hosts(cluster: &mut Cluster) -> Result<()> {
    let [first, second, third] = cluster.three()?;
    let _network = Network::create(cluster, &first, "foo", &[])?;
    let asker = start(&first, "foo", "asker", &[])?;
    let asked = start(&second, "foo", "asked", &[])?;
    let lost = start(&third, "foo", "lost", &[])?;
    await_name(&asker, "asked", &address(&asked, "foo")?)?;
    await_name(&asker, "lost", &address(&lost, "foo")?)?;
    // Names resolve while shoutd is away, on either side, and right afterwards.
    for host in [&first, &second] {
        host.kill_shoutd()?;
        ensure!(
            resolve(&asker, "asked")? == address(&asked, "foo")?.into_iter().collect(),
            "not without shoutd"
        );
        host.start_shoutd(&[])?;
        ensure!(
            resolve(&asker, "asked")? == address(&asked, "foo")?.into_iter().collect(),
            "not with shoutd again"
        );
    }
    let late = start(&second, "foo", "late", &[])?;
    await_name(&asker, "late", &address(&late, "foo")?)?;
    third.power_off()?;
    third.boot()?;
    third.boot_shoutd()?;
    third.start_engine()?;
    // The container did not come back with its host.
    await_name(&asker, "lost", &[])?;
    third.start_shoutd(&[]).map(|_| ())
}

fn foreign_lines(cluster: &mut Cluster) -> Result<()> {
    let [first, second, _] = cluster.three()?;
    let _network = Network::create(cluster, &first, "foo", &[])?;
    let asker = start(
        &first,
        "foo",
        "asker",
        &["--add-host", "asked:192.0.2.7", "--add-host", "extra:192.0.2.8"],
    )?;
    let asked = start(&second, "foo", "asked", &["--network-alias", "also-asked"])?;
    await_name(&asker, "also-asked", &address(&asked, "foo")?)?;
    ensure!(
        resolve(&asker, "asked")? == ["192.0.2.7".to_owned()].into(),
        "what the user says counts"
    );
    ensure!(resolve(&asker, "extra")? == ["192.0.2.8".to_owned()].into(), "a line was lost");
    asker.sh("echo '192.0.2.9 mine' >> /etc/hosts")?;
    let late = start(&second, "foo", "late", &[])?;
    await_name(&asker, "late", &address(&late, "foo")?)?;
    ensure!(resolve(&asker, "mine")? == ["192.0.2.9".to_owned()].into(), "a line was lost");
    // Another program removes our lines.
    asker.sh("grep -v shoutd /etc/hosts > /tmp/hosts; cat /tmp/hosts > /etc/hosts")?;
    await_name(&asker, "late", &address(&late, "foo")?)?;
    ensure!(resolve(&asker, "mine")? == ["192.0.2.9".to_owned()].into(), "a line was lost");
    let own = asker.sh("hostname")?;
    ensure!(!resolve(&asker, own.trim())?.is_empty(), "it does not know itself");
    Ok(())
}

/// A container of another host does not hide a public DNS name, unless the network allows it.
fn public_names(cluster: &mut Cluster) -> Result<()> {
    let [first, second, _] = cluster.three()?;
    for (network, options, is_resolved) in
        [("foo", &[][..], false), ("all", &["--opt", "shoutd.names=all"][..], true)]
    {
        let options = [&["--ipam-driver", "shoutd"][..], options].concat();
        let _network = Network::create(cluster, &first, network, &options)?;
        let asker = start(&first, network, "asker", &[])?;
        let aliases = ["--network-alias", "auth.docker.io", "--network-alias", "auth.internal"];
        let asked = start(&second, network, "asked", &aliases)?;
        let wanted = address(&asked, network)?;
        await_name(&asker, "auth.internal", &wanted)?;
        let found = if is_resolved { wanted } else { Vec::new() };
        ensure!(
            resolve(&asker, "auth.docker.io")? == found.into_iter().collect(),
            "{}",
            asker.sh("cat /etc/hosts")?
        );
        if !is_resolved {
            [&first, &second].into_iter().try_for_each(tells_of_it)?;
        }
    }
    Ok(())
}

/// Waits until a host reports the rejected name; this is not a problem.
fn tells_of_it(host: &Host) -> Result<()> {
    wait_until(&format!("{} to tell of it", host.name()), SOON, || {
        let events = host.sh("shoutdctl events")?;
        Ok(events
            .lines()
            .any(|line| line.contains("auth.docker.io") && line.contains("foo"))
            .then_some(()))
    })?;
    let status = host.sh("shoutdctl status")?;
    ensure!(!status.contains("problem"), "{status}");
    Ok(())
}

/// A file that a user mounted at a container's `/etc/hosts`, often the host's own, decides names
/// for more than this container.
fn mounted_files(cluster: &mut Cluster) -> Result<()> {
    let [first, second, _] = cluster.three()?;
    let _network = Network::create(cluster, &first, "foo", &[])?;
    let before = first.sh("cat /etc/hosts")?;
    first.sh("mkdir -p /srv/etc && echo '192.0.2.7 mine' > /srv/etc/hosts")?;
    let asker = start(&first, "foo", "asker", &[])?;
    let mounted = ["/etc/hosts:/etc/hosts", "/srv/etc/hosts:/etc/hosts:ro", "/srv/etc:/etc/other"];
    let names = ["with-hosts", "with-mine", "with-both"];
    let mut containers = Vec::new();
    for (mount, name) in mounted.iter().zip(names) {
        containers.push(start(&first, "foo", name, &["--volume", mount])?);
    }
    let asked = start(&second, "foo", "asked", &["--network-alias", "also-asked"])?;
    let wanted = address(&asked, "foo")?;
    await_name(&asker, "also-asked", &wanted)?;
    // A mount elsewhere does not matter. It comes last: by then all files were checked.
    await_name(&containers[2], "asked", &wanted)?;
    ensure!(first.sh("cat /etc/hosts")? == before, "the host's own file was written to");
    ensure!(first.sh("cat /srv/etc/hosts")? == "192.0.2.7 mine\n", "a user's file was written to");

    // Lines of an earlier version are removed, and nothing else.
    let others = "192.0.2.8 typed # shoutd";
    first.sh(&format!(
        "printf '{}\\tasked # shoutd\\n{others}\\n' >> /etc/hosts",
        wanted.concat()
    ))?;
    first.kill_shoutd()?;
    first.start_shoutd(&[])?;
    wait_until("an earlier version's line to be removed", SOON, || {
        Ok((first.sh("cat /etc/hosts")? == format!("{before}{others}\n")).then_some(()))
    })?;
    let events = first.sh("shoutdctl events")?;
    ensure!(events.contains("hosts-file-cleaned") && events.contains("removed 1 line"), "{events}");
    await_name(&asker, "asked", &wanted)?;
    first
        .sh(&format!("grep -v '{others}' /etc/hosts > /tmp/hosts; cat /tmp/hosts > /etc/hosts"))
        .map(drop)
}

/// A DNS server's answer to a program that asks it directly: addresses, or nothing.
fn look_up(container: &Container, name: &str, server: &str) -> Result<BTreeSet<String>> {
    let output = container.try_sh(&format!("nslookup {name} {server}"))?;
    // The answers follow the lines about the server.
    let answers =
        output.stdout.split_once("\n\n").map(|(_, answers)| answers.to_owned()).unwrap_or_default();
    let addresses = answers
        .lines()
        .filter_map(|line| line.strip_prefix("Address").and_then(|rest| rest.split_once(": ")));
    Ok(addresses
        .filter_map(|(_, rest)| rest.split_whitespace().next().map(str::to_owned))
        .collect())
}

fn asked_by_dns(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.three()?;
    let [first, second, third] = &hosts;
    let _networks = [
        Network::create(cluster, first, "foo", &[])?,
        Network::create(cluster, first, "bar", &["--ipam-driver", "shoutd"])?,
    ];
    // Through Docker's resolver, which asks shoutd's, on both engines; the second server gets the
    // other queries.
    let servers = ["--dns", "127.0.0.12", "--dns", "192.0.2.53"];
    let asked = start(third, "foo", "asked", &["--network-alias", "asked-too"])?;
    let elsewhere = start(third, "bar", "elsewhere", &[])?;
    for host in [first, second] {
        let asker = start(host, "foo", "asker", &servers)?;
        let wanted: BTreeSet<String> = address(&asked, "foo")?.into_iter().collect();
        for (name, server) in [
            ("asked", "127.0.0.11"),
            ("asked-too", "127.0.0.11"),
            ("ASKED", "127.0.0.12"),
            ("asked", "127.0.0.12"),
        ] {
            let what = format!("{name} to be known to {server} on {}", host.name());
            wait_until(&what, SOON, || {
                Ok((look_up(&asker, name, server)? == wanted).then_some(()))
            })?;
        }
        ensure!(
            look_up(&asker, "elsewhere", "127.0.0.12")?.is_empty(),
            "a name of another network"
        );
        let reverse = asker.try_sh(&format!("nslookup {} 127.0.0.12", asked.address("foo")?))?;
        ensure!(reverse.stdout.contains("name = asked"), "{reverse}");
        // It comes back with shoutd.
        host.kill_shoutd()?;
        host.start_shoutd(&[])?;
        wait_until("answers of the new shoutd", SOON, || {
            Ok((look_up(&asker, "asked", "127.0.0.12")? == wanted).then_some(()))
        })?;
        host.docker(["network", "connect", "bar", "asker"])?;
        let wanted: BTreeSet<String> = address(&elsewhere, "bar")?.into_iter().collect();
        wait_until("the other network's names", SOON, || {
            Ok((look_up(&asker, "elsewhere", "127.0.0.12")? == wanted).then_some(()))
        })?;
        // A container without that option keeps port 53 for itself.
        let other = start(host, "foo", "other", &[])?;
        other.sh("netstat -lnu | grep -q ':53 ' && exit 1; true")?;
    }
    Ok(())
}
