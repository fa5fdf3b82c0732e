//! `shoutdctl deploy`: one command makes a cluster of hosts that ssh reaches.

use std::process::ExitCode;

use anyhow::{Result, ensure};
use shoutd_e2e::swarm::receive_from_each_other;
use shoutd_e2e::{Cluster, Network, SOON, one_on_each, run_checks};
use shoutd_lab::{Host, wait_until};

/// Where it puts the programs.
const DIRECTORY: &str = "/run/programs";

fn main() -> ExitCode {
    run_checks(
        || {
            let cluster = Cluster::up("deploy", 3)?;
            begin_ssh(&cluster.three()?)?;
            Ok(cluster)
        },
        &[
            ("a host that ssh does not reach is named", unreachable),
            ("hosts without shoutd become a cluster", deploy),
            ("the same line again changes nothing", again),
            ("a member of another cluster is left as it is", other_cluster),
        ],
    )
}

/// Runs sshd on all hosts, and lets the first one log in.
fn begin_ssh(hosts: &[Host; 3]) -> Result<()> {
    let [first, ..] = hosts;
    first.sh(
        "ssh-keygen -q -t ed25519 -N '' -f /etc/ssh/deploy && printf 'Host *\n IdentityFile \
         /etc/ssh/deploy\n StrictHostKeyChecking no\n UserKnownHostsFile /dev/null\n LogLevel \
         ERROR\n' > /etc/ssh/ssh_config",
    )?;
    let key = first.sh("cat /etc/ssh/deploy.pub")?;
    for host in hosts {
        host.sh(&format!(
            "mkdir -p /run/sshd && echo '{}' > /etc/ssh/allowed && ssh-keygen -A && printf \
             'AuthorizedKeysFile /etc/ssh/allowed\nStrictModes no\nPermitRootLogin \
             yes\nPasswordAuthentication no\nUsePAM yes\n' > /etc/ssh/sshd_config && \
             /usr/sbin/sshd -E /run/sshd/log",
            key.trim()
        ))?;
    }
    Ok(())
}

fn names(hosts: &[Host; 3]) -> String {
    hosts.iter().map(Host::name).collect::<Vec<_>>().join(",")
}

fn line(hosts: &str) -> String {
    format!("shoutdctl deploy --hosts {hosts} --directory {DIRECTORY}")
}

fn unreachable(cluster: &mut Cluster) -> Result<()> {
    let output = cluster.host(1)?.run(["sh", "-c", &line("host1,host9")])?;
    ensure!(!output.success() && output.stderr.starts_with("shoutdctl: host9: ssh:"), "{output}");
    Ok(())
}

fn deploy(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.three()?;
    let printed = hosts[0].sh(&line(&names(&hosts)))?;
    for host in &hosts {
        let copied = format!("{}: copied shoutdctl", host.name());
        ensure!(printed.contains(&copied), "{printed}");
        let row = format!("\n {}  ", host.name());
        ensure!(printed.contains(&row), "{} is not in the table: {printed}", host.name());
        let program = host.sh("readlink /proc/$(pidof shoutd)/exe")?;
        ensure!(program.trim() == format!("{DIRECTORY}/shoutd"), "{program}");
    }
    let network = Network::create(cluster, &hosts[2], "foo", &[])?;
    let containers = one_on_each(&hosts, "foo", &[])?;
    receive_from_each_other(&containers)?;
    drop(containers);
    network.remove_on(&hosts[0])
}

fn again(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.three()?;
    let pids = |hosts: &[Host; 3]| -> Result<Vec<String>> {
        hosts.iter().map(|host| host.sh("pidof shoutd")).collect()
    };
    let before = pids(&hosts)?;
    let printed = hosts[0].sh(&line(&names(&hosts)))?;
    ensure!(!printed.contains("copied") && printed.contains("host3"), "{printed}");
    ensure!(pids(&hosts)? == before, "a daemon was restarted");
    Ok(())
}

fn other_cluster(cluster: &mut Cluster) -> Result<()> {
    let [first, _, third] = cluster.three()?;
    third.sh("shoutdctl stop --leave")?;
    third.start_shoutd(&[&third.address().to_string()])?;
    let output = first.run(["sh", "-c", &line("host1,host3")])?;
    ensure!(
        !output.success() && output.stderr.contains("host3 belongs to another cluster"),
        "{output}"
    );
    wait_until("host3 to be as it was", SOON, || {
        Ok(third.sh("shoutdctl hosts")?.contains("this host").then_some(()))
    })
}
