//! The hosts files (hosts(5)) of containers: which file it is, which lines shoutd writes, and which
//! it removes from files that are not a container's own.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{Directory, EndpointContainer, Name};
use crate::limits::{HOSTS_LINE_BYTES_MAX, HOSTS_LINES_MAX};

/// The end of each line that shoutd writes. Lines without it belong to others.
const MARK: &str = "# shoutd";

/// Facts from the engine that prove which hosts file it made for a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EngineFacts {
    /// The engine's directory (`DockerRootDir` of its `/info`), with symbolic links resolved.
    pub root: PathBuf,
    /// The container's first process, in the host's PID namespace.
    pub process: u32,
}

/// The hosts file that an engine made for a container. We know this from its path only; the code
/// that opens it has to verify the rest.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostsFile {
    /// The directory that the engine made for the container.
    pub directory: PathBuf,
    /// The container's first process, which sees the file at `/etc/hosts`.
    pub process: u32,
}

impl HostsFile {
    /// The name of the file in its directory.
    pub const NAME: &str = "hosts";

    /// The path of the file.
    pub fn path(&self) -> PathBuf {
        self.directory.join(Self::NAME)
    }

    /// The users that may own its directory: root, and the user to which the engine maps root in
    /// containers (`--userns-remap`: the engine's directory is then called `<uid>.<gid>`, see
    /// `daemon/daemon_unix.go`).
    pub fn owners(&self) -> BTreeSet<u32> {
        let root = self
            .directory
            .ancestors()
            .nth(2)
            .and_then(Path::file_name)
            .and_then(|name| name.to_str());
        let remapped = root.and_then(|name| name.split_once('.')).and_then(|(user, group)| {
            let is_group = group.parse::<u32>().is_ok();
            user.parse().ok().filter(|_| is_group)
        });
        remapped.into_iter().chain([0]).collect()
    }
}

impl EndpointContainer {
    /// The hosts file that the engine made for the container, if the container uses it. If a user
    /// mounted a file at `/etc/hosts`, the engine names that file (`TrySetNetworkMount` in
    /// `container/container_unix.go`), which may be the host's own.
    ///
    /// `None` also if the engine's directory is not known, as in state written by an earlier
    /// version.
    pub fn own_hosts_file(&self) -> Option<HostsFile> {
        let engine = self.engine.as_ref()?;
        let is_name =
            !self.id.is_empty() && self.id.bytes().all(|octet| octet.is_ascii_alphanumeric());
        // `daemon.repository` and `GetRootResourcePath("hosts")`, from 20.10 to 29.
        let directory = engine.root.join("containers").join(&self.id);
        let file = HostsFile { directory, process: engine.process };
        (is_name && self.hosts_file.as_ref() == Some(&file.path())).then_some(file)
    }

    /// The file that a user mounted at the container's `/etc/hosts`. Earlier versions wrote to it.
    pub fn foreign_hosts_file(&self) -> Option<&Path> {
        let engine = self.engine.as_ref()?;
        let path = self.hosts_file.as_deref()?;
        // The hosts file of another container is updated for that container.
        (!path.starts_with(engine.root.join("containers"))).then_some(path)
    }
}

impl Directory {
    /// The lines for names of containers on other hosts, by address. Names that the file already
    /// has are left out.
    fn lines(&self, taken: &BTreeSet<String>) -> Vec<String> {
        let mut names: BTreeMap<IpAddr, Vec<&str>> = BTreeMap::new();
        for name in self.remote.iter().filter(|name| !taken.contains(name.as_str())) {
            for address in self.addresses.get(name).into_iter().flatten() {
                names.entry(*address).or_default().push(name.as_str());
            }
        }
        let lines = names.into_iter().flat_map(|(address, names)| lines_of(address, &names));
        lines.take(HOSTS_LINES_MAX).collect()
    }
}

/// The lines for one address. There are several if the names do not fit into one.
fn lines_of(address: IpAddr, names: &[&str]) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for name in names {
        match lines
            .last_mut()
            .filter(|line| line.len() + 1 + name.len() + 1 + MARK.len() <= HOSTS_LINE_BYTES_MAX)
        {
            Some(line) => {
                line.push(' ');
                line.push_str(name);
            }
            None => lines.push(format!("{address}\t{name}")),
        }
    }
    lines.into_iter().map(|line| format!("{line} {MARK}")).collect()
}

fn is_marked(line: &str) -> bool {
    line.trim_end().ends_with(MARK)
}

/// The new text of a hosts file (hosts(5)) that contains `now`: all foreign lines unchanged,
/// followed by shoutd's. `None` if the file is up to date.
///
/// Names in foreign lines take precedence, such as the container's own name or one of `--add-host`.
pub fn hosts_file(now: &str, directory: &Directory) -> Option<String> {
    let (marked, foreign): (Vec<&str>, Vec<&str>) = now.lines().partition(|line| is_marked(line));
    let taken = foreign.iter().flat_map(|line| {
        let entry = line.split('#').next().unwrap_or_default();
        entry.split_whitespace().skip(1).map(str::to_ascii_lowercase)
    });
    let own = directory.lines(&taken.collect());
    if marked == own {
        return None;
    }
    let lines = foreign.into_iter().map(str::to_owned).chain(own);
    Some(lines.map(|line| line + "\n").collect())
}

/// A hosts file that is not a container's own, without the lines of an earlier version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cleaned {
    /// The new text of the file.
    pub text: String,
    /// The number of removed lines.
    pub removed: usize,
    /// The number of lines with shoutd's mark that are kept, because they are not proven to be
    /// ours.
    pub left: usize,
}

/// Removes the lines that an earlier version wrote to a file that contains `now`, and no others.
/// Such a line is exactly as shoutd writes it, and its address lies in one of `subnets`, the
/// subnets of the cluster's networks. `None` if there is no line with shoutd's mark.
pub fn without_lines(now: &str, subnets: &[IpNet]) -> Option<Cleaned> {
    if !now.lines().any(is_marked) {
        return None;
    }
    let (ours, kept): (Vec<&str>, Vec<&str>) = now.split_inclusive('\n').partition(|line| {
        address_of_own_line(line)
            .is_some_and(|at| subnets.iter().any(|subnet| subnet.contains(&at)))
    });
    let left = kept.iter().filter(|line| is_marked(line)).count();
    Some(Cleaned { text: kept.concat(), removed: ours.len(), left })
}

/// The address of a line, if the line is exactly as shoutd writes it.
fn address_of_own_line(line: &str) -> Option<IpAddr> {
    let line = line.strip_suffix('\n').unwrap_or(line);
    let (address, names) = line.strip_suffix(MARK)?.strip_suffix(' ')?.split_once('\t')?;
    let parsed: IpAddr =
        address.parse().ok().filter(|parsed: &IpAddr| parsed.to_string() == address)?;
    let names: Vec<&str> = names.split(' ').collect();
    let are_names =
        names.iter().all(|text| text.parse::<Name>().is_ok_and(|name| name.as_str() == *text));
    (are_names && names.is_sorted()).then_some(parsed)
}
