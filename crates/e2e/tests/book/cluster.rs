//! The cluster between pages.

use anyhow::{Result, ensure};
use shoutd_e2e::{Cluster, SOON, left_in_kernel, status, view};
use shoutd_lab::{Host, wait_until};

/// Hosts of the cluster that a page begins with.
const HOSTS: usize = 3;

/// Makes the hosts what a page begins with: three members of a cluster, or hosts without shoutd.
pub fn prepare(cluster: &Cluster, is_bare: bool) -> Result<()> {
    if !is_bare && is_whole(cluster) {
        return Ok(());
    }
    for host in cluster.hosts() {
        dissolve(&host)?;
    }
    if is_bare {
        return Ok(());
    }
    cluster.form([1, 2, 3])?;
    wait_until("the hosts to be one cluster", SOON, || Ok(is_whole(cluster).then_some(())))
}

/// Removes the containers and networks of a page, and checks that nothing of them is left.
pub fn tidy(cluster: &Cluster) -> Result<()> {
    let hosts = cluster.hosts();
    for host in &hosts {
        host.sh("docker ps --all --quiet | xargs --no-run-if-empty docker rm --force")?;
    }
    // A network stays as long as another host has not noticed the end of its containers.
    for host in &hosts {
        wait_until(&format!("no network of the page on {}", host.name()), SOON, || {
            host.sh("docker network ls --quiet --filter driver=shoutd | xargs \
                     --no-run-if-empty docker network rm >/dev/null; true")?;
            let left = host.docker(["network", "ls", "--quiet", "--filter", "driver=shoutd"])?;
            Ok(left.trim().is_empty().then_some(()))
        })?;
    }
    // Hosts that the page has taken out of the cluster start again for the next one.
    if is_whole(cluster) { cluster.await_clean() } else { Ok(()) }
}

/// Whether each host knows all hosts, and reaches them.
fn is_whole(cluster: &Cluster) -> bool {
    cluster.hosts().iter().all(|host| {
        let hosts = view(host, "hosts").ok();
        let hosts = hosts.as_ref().and_then(|hosts| hosts.as_array());
        let is_well = status(host).is_ok_and(|status| status["membership"]["state"] == "member");
        is_well
            && hosts.is_some_and(|hosts| {
                hosts.len() == HOSTS && hosts.iter().all(|host| host["reachable"] == true)
            })
    })
}

/// Ends shoutd on a host and removes its data.
fn dissolve(host: &Host) -> Result<()> {
    // The last host of a cluster cannot leave it.
    host.sh("shoutdctl stop --leave >/dev/null 2>&1 || shoutdctl stop >/dev/null 2>&1 || true")?;
    // Neither does its WireGuard end.
    host.sh("pgrep -x shoutd-wg | xargs --no-run-if-empty kill; ip netns delete shout-wg \
         2>/dev/null; true")?;
    wait_until("shoutd to end", SOON, || Ok(host.pids_of("shoutd")?.is_empty().then_some(())))?;
    host.sh("rm -rf /var/lib/shoutd/*")?;
    let left = left_in_kernel(host)?;
    ensure!(left.is_empty(), "{} still has {left:?}", host.name());
    Ok(())
}
