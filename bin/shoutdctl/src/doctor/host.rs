//! Facts about the host.

use std::collections::HashMap;
use std::fs::{self, OpenOptions};
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::sys::stat::makedev;
use nix::sys::statvfs::statvfs;
use shoutd_consensus::FILES;
use shoutd_core::doctor::{Boot, DiskFacts, KernelFacts, PortFacts, RulesText};
use shoutd_core::limits::PORT;
use shoutd_core::plane::{NAMESPACES, namespace_vni};

use crate::boot::{Systemd, UNIT};
use crate::programs::{self, ProgramError};

/// Size limit of firewall rules, in octets.
const RULES_BYTES_MAX: u64 = 8 << 20;

/// Size limit of what systemctl prints, in octets.
const UNIT_BYTES_MAX: u64 = 64 << 10;

/// The device by which programs make network devices.
const TUN: &str = "/dev/net/tun";

/// Its numbers (`TUN_MINOR`, `include/linux/miscdevice.h`).
const TUN_MAJOR: u64 = 10;
const TUN_MINOR: u64 = 200;

/// The directory of the log.
const LOG_DIRECTORY: &str = "/var/log";

/// The kernel, which is tried out.
pub async fn kernel() -> KernelFacts {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let tried = tokio::task::spawn_blocking(|| {
        let capabilities = shoutd_dataplane::probe().map_err(|error| error.to_string());
        (capabilities, shoutd_dataplane::kernel_has_wireguard())
    });
    let (tried, wireguard) =
        tried.await.unwrap_or_else(|error| (Err(error.to_string()), Ok(false)));
    KernelFacts {
        release: release.trim().to_owned(),
        tier: tried.map(|capabilities| capabilities.tier),
        wireguard: wireguard.unwrap_or_default(),
        userspace: tun(),
    }
}

/// Whether the device can be opened that WireGuard in user space needs.
fn tun() -> Result<(), String> {
    let opened = OpenOptions::new().read(true).write(true).open(TUN);
    let device = opened.and_then(|file| file.metadata()).map(|metadata| metadata.rdev());
    match device {
        Ok(device) if device == makedev(TUN_MAJOR, TUN_MINOR) => Ok(()),
        Ok(_) => Err(format!("{TUN} is another device")),
        Err(error) => Err(format!("{TUN} cannot be opened: {error}")),
    }
}

/// Whether the ports are free.
pub fn ports() -> PortFacts {
    let any = (Ipv4Addr::UNSPECIFIED, PORT);
    PortFacts {
        tcp: TcpListener::bind(any).err().map(|error| error.to_string()),
        udp: UdpSocket::bind(any).err().map(|error| error.to_string()),
    }
}

/// The rules of the firewall, as the host's programs print them.
pub async fn rules() -> Vec<Result<RulesText, String>> {
    let mut rules = vec![printed(&["nft", "list", "ruleset"]).await];
    if rules.iter().all(Result::is_err) {
        rules.push(printed(&["iptables-save"]).await);
        rules.push(printed(&["ip6tables-save"]).await);
    } else if fs::read("/proc/net/ip_tables_names").is_ok_and(|names| !names.is_empty()) {
        // Tables of the older interface, which nft does not show.
        rules.push(printed(&["iptables-legacy-save"]).await);
    }
    rules
}

async fn printed(line: &[&str]) -> Result<RulesText, String> {
    match programs::output(line, RULES_BYTES_MAX).await {
        Ok((text, _)) => Ok(RulesText {
            program: line.join(" "),
            text: String::from_utf8_lossy(&text).into_owned(),
        }),
        Err(error) => Err(error.to_string()),
    }
}

/// The disks of the data directory and of the log.
pub fn disks(data_directory: &Path, has_state: bool) -> Vec<DiskFacts> {
    let mut disks = vec![disk(data_directory, has_state)];
    let device = |path: &Path| fs::metadata(existing(path)).map(|metadata| metadata.dev()).ok();
    if device(Path::new(LOG_DIRECTORY)) != device(data_directory) {
        disks.push(disk(Path::new(LOG_DIRECTORY), true));
    }
    disks
}

/// The free space of a directory that may not exist yet.
fn disk(directory: &Path, holds_state: bool) -> DiskFacts {
    let free = statvfs(existing(directory))
        .map(|disk| disk.blocks_available().saturating_mul(disk.fragment_size()))
        .map_err(|errno| errno.to_string());
    DiskFacts { directory: directory.to_owned(), free, holds_state }
}

/// The path, or the nearest directory above it that exists.
fn existing(path: &Path) -> &Path {
    path.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"))
}

/// Whether the data directory has the state of a host.
pub fn has_state(data_directory: &Path) -> bool {
    FILES.iter().any(|file| data_directory.join(file).exists())
}

/// The names of the namespaces that shoutd has made.
pub fn namespaces() -> Vec<String> {
    let entries = fs::read_dir(NAMESPACES).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let mut names: Vec<String> = names.filter(|name| namespace_vni(name).is_some()).collect();
    names.sort();
    names
}

/// What systemd knows of shoutd's unit.
pub async fn boot() -> Boot {
    if Systemd::of_this_host().is_none() {
        return Boot::NoSystemd;
    }
    let line = ["systemctl", "show", "--property=LoadState,UnitFileState,Before", UNIT];
    match programs::output(&line, UNIT_BYTES_MAX).await {
        Ok((text, _)) => parse_unit(&String::from_utf8_lossy(&text)),
        Err(ProgramError::Missing(_)) => Boot::NoSystemd,
        Err(error) => Boot::Unknown(error.to_string()),
    }
}

/// Parses what `systemctl show` prints.
fn parse_unit(text: &str) -> Boot {
    let properties: HashMap<&str, &str> =
        text.lines().filter_map(|line| line.split_once('=')).collect();
    let has = |name: &str, wanted: &str| {
        properties.get(name).is_some_and(|value| value.split(' ').any(|word| word == wanted))
    };
    Boot::Unit {
        exists: has("LoadState", "loaded"),
        enabled: has("UnitFileState", "enabled"),
        before_docker: has("Before", "docker.service"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_is_read() {
        let text = "Before=multi-user.target docker.service\nLoadState=loaded\n\
                    UnitFileState=enabled\n";
        let unit = parse_unit(text);
        assert!(
            matches!(unit, Boot::Unit { exists: true, enabled: true, before_docker: true }),
            "{unit:?}"
        );
        let unit = parse_unit("LoadState=not-found\nUnitFileState=\nBefore=\n");
        assert!(
            matches!(unit, Boot::Unit { exists: false, enabled: false, before_docker: false }),
            "{unit:?}"
        );
    }

    #[test]
    fn the_disk_of_a_directory_that_does_not_exist_is_that_of_its_parent() {
        let directory = tempfile::tempdir().unwrap();
        let wanted = directory.path().join("a/b");
        assert_eq!(existing(&wanted), directory.path());
        assert!(disk(&wanted, false).free.is_ok());
    }
}
