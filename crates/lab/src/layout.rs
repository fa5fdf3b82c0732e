//! A lab's files on the machine, its names and its addresses.

use std::fs::{self, File, TryLockError};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::source::EngineSource;
use crate::wait::wait_until;

/// The directory of all labs of this machine; it exists only while there are labs.
pub const STATE_ROOT: &str = "/var/lib/shoutd-lab";

/// The most hosts in a lab: each runs a Docker Engine of about 150 MB.
pub const MAX_HOSTS: u8 = 32;

/// Directory of busybox's commands on a host.
pub(crate) const COMMANDS: &str = "/run/busybox";

/// The longest name: the path of the keeper's socket must fit the 108 bytes of a UNIX socket
/// address.
const MAX_NAME: usize = 40;

/// How long a process may hold the lock on all labs: the time to clean up after killed labs.
const LOCK_DEADLINE: Duration = Duration::from_secs(60);

/// The underlay address of the machine that is every host's default gateway.
pub(crate) const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 254);

/// The underlay IPv4 address of host `number`, in 10.77.0.0/24.
pub(crate) fn address(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, number)
}

/// The underlay IPv6 address of host `number`, in fd77::/64.
pub(crate) fn address_v6(number: u8) -> Ipv6Addr {
    Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, u16::from(number))
}

/// The MAC address of host `number` on the underlay; a locally administered one.
pub(crate) fn mac(number: u8) -> String {
    format!("02:00:0a:4d:00:{number:02x}")
}

/// What another process needs to use a lab.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Record {
    /// Process id of the keeper.
    pub(crate) keeper: u32,
    /// The directory of `shoutd` and `shoutdctl`, first in the hosts' search path.
    pub(crate) programs: PathBuf,
    /// The engines of the hosts; the last one is that of all further hosts.
    pub(crate) engines: Vec<EngineSource>,
}

/// The files of one lab.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    name: String,
}

impl Layout {
    /// # Errors
    ///
    /// Refuses a name that is not a file name, or is too long for a socket's path.
    pub(crate) fn new(name: &str) -> Result<Self> {
        let fits = (1..=MAX_NAME).contains(&name.len());
        let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
        ensure!(
            fits && plain,
            "a lab cannot be named {name:?}: use 1 to {MAX_NAME} letters, digits, '-' and '_'"
        );
        Ok(Self { name: name.to_owned() })
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The directory of the lab's files.
    pub(crate) fn directory(&self) -> PathBuf {
        Path::new(STATE_ROOT).join(&self.name)
    }

    /// Locked by the keeper as long as it lives.
    pub(crate) fn lock(&self) -> PathBuf {
        self.directory().join("lock")
    }

    pub(crate) fn keeper_socket(&self) -> PathBuf {
        self.directory().join("keeper.sock")
    }

    pub(crate) fn keeper_log(&self) -> PathBuf {
        self.directory().join("keeper.log")
    }

    /// The lab's own link to the helper program, so that a build does not take it away from a
    /// running lab.
    pub(crate) fn helper(&self) -> PathBuf {
        self.directory().join("helper")
    }

    pub(crate) fn image(&self) -> PathBuf {
        self.directory().join("image.tar")
    }

    pub(crate) fn record(&self) -> PathBuf {
        self.directory().join("lab.json")
    }

    /// The files of a host that survive its processes.
    pub(crate) fn host(&self, number: u8) -> PathBuf {
        self.directory().join(format!("host{number}"))
    }

    /// The process id, as the machine sees it, of a running host's first process.
    pub(crate) fn host_init(&self, number: u8) -> PathBuf {
        self.directory().join(format!("host{number}.pid"))
    }

    /// The name of the lab's control group in each hierarchy.
    pub(crate) fn cgroup(&self) -> String {
        format!("shoutd-lab.{}", self.name)
    }

    pub(crate) fn read_record(&self) -> Result<Record> {
        let path = self.record();
        let text = fs::read_to_string(&path)
            .with_context(|| format!("there is no lab named {}: {}", self.name, path.display()))?;
        serde_json::from_str(&text).with_context(|| format!("read {}", path.display()))
    }

    pub(crate) fn write_record(&self, record: &Record) -> Result<()> {
        let path = self.record();
        fs::write(&path, serde_json::to_string_pretty(record)?)
            .with_context(|| format!("write {}", path.display()))
    }

    /// The numbers of the hosts that were ever up in this lab, in order.
    pub(crate) fn host_numbers(&self) -> Result<Vec<u8>> {
        let directory = self.directory();
        let entries =
            fs::read_dir(&directory).with_context(|| format!("read {}", directory.display()))?;
        let mut numbers: Vec<u8> = entries
            .filter_map(|entry| {
                entry.ok()?.file_name().to_str()?.strip_prefix("host")?.parse().ok()
            })
            .collect();
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// Whether the lab's keeper is alive.
    pub(crate) fn is_kept(&self) -> bool {
        File::open(self.lock())
            .is_ok_and(|file| matches!(file.try_lock(), Err(TryLockError::WouldBlock)))
    }
}

/// The names of all labs that have a directory, alive or not.
pub(crate) fn lab_names() -> Vec<String> {
    let Ok(entries) = fs::read_dir(STATE_ROOT) else { return Vec::new() };
    let mut names: Vec<String> =
        entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
    names.sort();
    names
}

/// Prevents other processes from making or removing labs until dropped. The lock is on a directory
/// that every machine has, so that no lock file is left behind.
pub(crate) fn lock_all_labs() -> Result<File> {
    let above = Path::new(STATE_ROOT).parent().unwrap_or(Path::new("/"));
    let directory =
        File::open(above).with_context(|| format!("open {} to lock it", above.display()))?;
    wait_until("the lock on all labs", LOCK_DEADLINE, || match directory.try_lock() {
        Ok(()) => Ok(Some(())),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("lock {}", above.display()))
        }
    })?;
    Ok(directory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_names_that_are_not_file_names() {
        for bad in ["", "..", "a/b", "a b", &"x".repeat(41)] {
            assert!(Layout::new(bad).is_err(), "{bad:?}");
        }
        assert!(Layout::new("demo-1_a").is_ok());
    }
}
