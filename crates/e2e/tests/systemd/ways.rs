//! A host whose shoutd is installed in one way after the other, with systemd.

use anyhow::{Context, Result, ensure};
use shoutd_lab::VirtualHost;

use super::{RECEIVERS, all_is_well, await_true, main_process, run_receiver, streams};

/// Directories in which shoutd may leave files. `/root` has what the test brought.
const AUDITED: &str = "/boot /etc /home /opt /run /srv /tmp /usr /var";

/// The Debian package replaces the archive's programs on the second host; another version replaces
/// it, and it that version; it is removed and installed again.
pub fn package(hosts: [&VirtualHost; 2]) -> Result<()> {
    let [first, second] = hosts;
    second.sh("dpkg --install /root/shoutd_*_amd64.deb")?;
    runs_the_package(second)?;
    second.sh("rm /usr/local/bin/shoutd /usr/local/bin/shoutdctl")?;
    all_is_well(hosts)?;
    for package in ["newer-*.deb", "shoutd_*_amd64.deb"] {
        let before = main_process(second)?;
        second.sh(&format!("dpkg --install /root/{package}"))?;
        runs_the_package(second)?;
        ensure!(main_process(second)? != before, "{package} does not restart the daemon");
        all_is_well(hosts)?;
    }
    let told = second.sh("dpkg --remove shoutd")?;
    ensure!(told.contains("Containers stay connected"), "the removal says: {told}");
    ensure!(second.sh("pidof shoutd").is_err(), "the removed package's daemon runs");
    streams(first, hosts)?;
    second.sh("dpkg --install /root/shoutd_*_amd64.deb && shoutdctl start --timeout=200")?;
    runs_the_package(second)?;
    all_is_well(hosts)?;
    second.reboot()?;
    runs_the_package(second)?;
    all_is_well(hosts)
}

/// Checks that systemd runs the package's program by the package's unit.
fn runs_the_package(host: &VirtualHost) -> Result<()> {
    await_true(host, "systemctl is-active shoutd && shoutdctl status")?;
    let unit = host.sh("systemctl show --property=FragmentPath --value shoutd")?;
    ensure!(unit.trim().ends_with("/lib/systemd/system/shoutd.service"), "the unit is {unit}");
    ensure!(unit.starts_with("/usr/lib") || unit.starts_with("/lib"), "the unit is {unit}");
    let pid = main_process(host)?;
    let program = host.sh(&format!("readlink /proc/{pid}/exe"))?;
    ensure!(program.trim() == "/usr/bin/shoutd", "{program} runs");
    Ok(())
}

/// The second host, which was removed from the cluster, joins again with a shoutd in a container.
pub fn container(hosts: [&VirtualHost; 2]) -> Result<()> {
    let [first, second] = hosts;
    let [_, receiver] = RECEIVERS;
    second.sh(&format!("docker rm --force {}", receiver.0))?;
    second.sh("dpkg --purge shoutd && install /root/archive/bin/shoutdctl /usr/local/bin")?;
    second.sh("docker load --input /root/shoutd-*-image.tar.gz")?;
    let token = first.sh("shoutdctl token show")?;
    let token = token.split_whitespace().find(|word| word.starts_with("--token="));
    let token = token.context("no token is shown")?;
    let (own, peer) = (second.address(), first.address());
    let join = format!("--peer-addresses={peer} {token} --timeout=200");
    second.sh(&format!("shoutdctl start --container {own} {join}"))?;
    second.sh("docker exec shoutd shoutdctl status && ! systemctl is-active shoutd")?;
    await_true(second, "docker network inspect foo")?;
    run_receiver(second, receiver)?;
    all_is_well(hosts)?;
    second.reboot()?;
    await_true(second, "docker exec shoutd shoutdctl status")?;
    all_is_well(hosts)
}

/// The second host leaves, and what installed shoutd there is removed. The first one, the only
/// host then, cannot leave.
pub fn leave([first, second]: [&VirtualHost; 2]) -> Result<()> {
    for (host, (name, _)) in [first, second].iter().zip(RECEIVERS) {
        host.sh(&format!("docker rm --force {name}"))?;
    }
    await_true(first, "shoutdctl network rm foo")?;
    second.sh("shoutdctl stop --leave")?;
    second
        .sh("docker images --quiet shoutd | xargs --no-run-if-empty docker rmi --force; rm -rf \
         /root/archive /root/*.deb /root/*.tar.gz /usr/local/bin/shoutdctl")?;
    let left = second.sh(&format!(
        "find {AUDITED} -xdev -iname '*shout*'; ip netns; ip -oneline link | grep -i shout; nft \
         list ruleset | grep -i shout; docker network ls --quiet --filter driver=shoutd; docker ps \
         --all --quiet; systemctl list-units --all --no-legend 'shout*'; true"
    ))?;
    ensure!(left.trim().is_empty(), "this is left: {left}");
    Ok(())
}
