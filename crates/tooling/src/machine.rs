//! Requirements of the machine: root, and Debian's packages of the programs that the lab's hosts
//! run.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use nix::unistd::geteuid;

use crate::service_policy::NoServices;

/// Programs that only long tests need, to install a whole Debian.
const LONG_TESTS_PROGRAMS: [(&str, &str); 2] =
    [("/usr/bin/mmdebstrap", "mmdebstrap"), ("/usr/sbin/mke2fs", "e2fsprogs")];

/// Programs that the lab runs, each with its package.
const PROGRAMS: [(&str, &str); 43] = [
    ("/usr/sbin/dockerd", "docker.io"),
    ("/usr/bin/docker", "docker.io"),
    ("/usr/bin/containerd", "containerd"),
    ("/usr/sbin/iptables", "iptables"),
    ("/usr/sbin/nft", "nftables"),
    ("/usr/bin/ip", "iproute2"),
    ("/usr/bin/busybox", "busybox-static"),
    ("/usr/bin/iperf", "iperf"),
    ("/usr/bin/socat", "socat"),
    ("/usr/bin/unshare", "util-linux"),
    ("/usr/bin/ldd", "libc-bin"),
    // For tests on another kernel.
    ("/usr/bin/qemu-system-x86_64", "qemu-system-x86"),
    // For the benchmark.
    ("/usr/bin/wg", "wireguard-tools"),
    ("/usr/sbin/sshd", "openssh-server"),
    ("/usr/bin/ssh", "openssh-client"),
    // Only to check the man pages.
    ("/usr/bin/groff", "groff-base"),
    // Only to check the unit that shoutdctl writes.
    ("/usr/bin/systemd-analyze", "systemd"),
    ("/usr/sbin/keepalived", "keepalived"),
    ("/usr/sbin/ucarp", "ucarp"),
    ("/usr/sbin/smcrouted", "smcroute"),
    ("/usr/sbin/igmpproxy", "igmpproxy"),
    ("/usr/lib/frr/pimd", "frr"),
    ("/usr/sbin/avahi-daemon", "avahi-daemon"),
    ("/usr/bin/avahi-browse", "avahi-utils"),
    ("/usr/bin/dbus-daemon", "dbus-daemon"),
    ("/usr/sbin/ptp4l", "linuxptp"),
    ("/usr/bin/faketime", "faketime"),
    ("/usr/bin/prometheus", "prometheus"),
    ("/usr/bin/promtool", "prometheus"),
    ("/usr/bin/chromium", "chromium"),
    ("/usr/bin/chromedriver", "chromium-driver"),
    ("/usr/share/doc/python3-venv", "python3-venv"),
    ("/usr/bin/java", "default-jre-headless"),
    ("/usr/share/java/jgroups.jar", "libjgroups-java"),
    ("/usr/bin/gssdp-discover", "gupnp-tools"),
    ("/usr/bin/ddsperf", "cyclonedds-tools"),
    ("/usr/bin/python3", "python3"),
    ("/usr/bin/cc", "gcc"),
    // For the recipes of the book.
    ("/usr/sbin/corosync", "corosync"),
    ("/usr/bin/ffmpeg", "ffmpeg"),
    ("/usr/sbin/bird", "bird2"),
    ("/usr/bin/uftp", "uftp"),
    ("/usr/bin/coap-client-notls", "libcoap3-bin"),
];

/// Installs what a lab needs and prints what it does.
///
/// # Errors
///
/// Fails without root, and when something is missing and cannot be installed.
pub fn prepare() -> Result<()> {
    prepare_for(&PROGRAMS)
}

/// As [`prepare`], with what the long tests need.
///
/// # Errors
///
/// As [`prepare`].
pub fn prepare_for_long_tests() -> Result<()> {
    prepare_for(&[PROGRAMS.as_slice(), &LONG_TESTS_PROGRAMS].concat())
}

fn prepare_for(programs: &[(&'static str, &'static str)]) -> Result<()> {
    ensure!(
        geteuid().is_root(),
        "hosts are made of namespaces, mounts and Docker engines, for which you have to be root: \
         become root and try again"
    );
    install_missing(programs)
}

/// Installs the Debian packages of those of these programs that the machine lacks, and prints what
/// it does.
///
/// # Errors
///
/// Fails when something is missing and cannot be installed.
pub fn install_missing(programs: &[(&'static str, &'static str)]) -> Result<()> {
    let missing = missing_packages(programs);
    if missing.is_empty() {
        return Ok(());
    }
    let packages = missing.join(" ");
    ensure!(
        Path::new("/usr/bin/apt-get").exists(),
        "missing on this machine: {packages}; these are Debian's names, install them as your \
         system does"
    );
    println!("installing what is missing: {packages}");
    let _no_services = NoServices::begin()?;
    apt_get(&["update", "--quiet", "--quiet"])?;
    let mut arguments = vec!["install", "--quiet", "--quiet", "--yes", "--no-install-recommends"];
    arguments.extend(&missing);
    apt_get(&arguments)?;
    match missing_packages(programs).as_slice() {
        [] => Ok(()),
        left => bail!("still missing after installation: the programs of {}", left.join(" ")),
    }
}

fn missing_packages(programs: &[(&'static str, &'static str)]) -> Vec<&'static str> {
    let missing = programs.iter().filter(|(program, _)| !Path::new(program).exists());
    let mut packages: Vec<&str> = missing.map(|(_, package)| *package).collect();
    packages.dedup();
    packages
}

fn apt_get(arguments: &[&str]) -> Result<()> {
    let status = Command::new("apt-get")
        .args(["-o", "Dpkg::Use-Pty=0"])
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .status()
        .context("run apt-get")?;
    ensure!(status.success(), "apt-get {} failed, see above", arguments.join(" "));
    Ok(())
}
