//! What shoutd writes into the hosts file of a container (hosts(5)), which file that is, and what
//! it takes out of files that are none.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{Directory, EndpointContainer, Name};
use crate::limits::{HOSTS_LINE_BYTES_MAX, HOSTS_LINES_MAX};

/// What ends each line that shoutd keeps in a hosts file. A line without it is somebody else's.
const MARK: &str = "# shoutd";

/// What proves which hosts file the engine made for a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EngineFacts {
    /// The engine's directory (`DockerRootDir` of its `/info`), without symbolic links.
    pub root: PathBuf,
    /// The container's first process, as the host counts it.
    pub process: u32,
}

/// The hosts file that an engine made for a container. That it is one is known from its path alone:
/// whoever opens it has to prove the rest.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostsFile {
    /// The directory that the engine made for the container.
    pub directory: PathBuf,
    /// The container's first process: it sees the file at `/etc/hosts`.
    pub process: u32,
}

impl HostsFile {
    /// The name of the file in its directory.
    pub const NAME: &str = "hosts";

    /// Where it is.
    pub fn path(&self) -> PathBuf {
        self.directory.join(Self::NAME)
    }

    /// The users who may own its directory: root, and whom the engine has in root's place in
    /// containers (`--userns-remap`: its directory is then called `<uid>.<gid>`,
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
    /// The hosts file that the engine made for the container, if it is the one that the engine says
    /// the container has. For a container whose user mounted a file at `/etc/hosts` the engine
    /// names that file (`TrySetNetworkMount` in `container/container_unix.go`), which may be the
    /// host's own.
    ///
    /// `None` also while it is not known where the engine keeps its files, as in what an earlier
    /// version wrote down.
    pub fn own_hosts_file(&self) -> Option<HostsFile> {
        let engine = self.engine.as_ref()?;
        let is_name =
            !self.id.is_empty() && self.id.bytes().all(|octet| octet.is_ascii_alphanumeric());
        // `daemon.repository` and `GetRootResourcePath("hosts")`, from 20.10 to 29.
        let directory = engine.root.join("containers").join(&self.id);
        let file = HostsFile { directory, process: engine.process };
        (is_name && self.hosts_file.as_ref() == Some(&file.path())).then_some(file)
    }

    /// A file that a user mounted at the container's `/etc/hosts`: earlier versions wrote to it.
    pub fn foreign_hosts_file(&self) -> Option<&Path> {
        let engine = self.engine.as_ref()?;
        let told = self.hosts_file.as_deref()?;
        // What is another container's is kept in step for that one.
        (!told.starts_with(engine.root.join("containers"))).then_some(told)
    }
}

impl Directory {
    /// The lines of a hosts file for the names that other hosts' containers have, by address, but
    /// for names that the file has already.
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

/// The lines for one address: more than one if the names do not fit.
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

/// What a hosts file (hosts(5)) should be that is `now` like this: with all lines that are not
/// shoutd's as they are, and then shoutd's own. `None` if it is so already.
///
/// Names that somebody else's line has are left to it, such as the container's own, or one of
/// `--add-host`.
pub fn hosts_file(now: &str, directory: &Directory) -> Option<String> {
    let foreign = || now.lines().filter(|line| !is_marked(line));
    let taken = foreign().flat_map(|line| {
        let entry = line.split('#').next().unwrap_or_default();
        entry.split_whitespace().skip(1).map(str::to_ascii_lowercase)
    });
    let own = directory.lines(&taken.collect());
    if now.lines().filter(|line| is_marked(line)).eq(own.iter().map(String::as_str)) {
        return None;
    }
    let lines = foreign().map(str::to_owned).chain(own);
    Some(lines.map(|line| line + "\n").collect())
}

/// What is left of a hosts file that never was a container's own, without the lines of an earlier
/// version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cleaned {
    /// What the file should be.
    pub text: String,
    /// How many lines are gone from it.
    pub removed: usize,
    /// How many lines carry shoutd's mark, but are not proven to be shoutd's: they are still there.
    pub left: usize,
}

/// Takes out of a file that is `now` like this the lines that an earlier version wrote there, and
/// no others: they are as shoutd writes them, to the octet, and their address is one of these
/// subnets, which are those of the cluster's networks. `None` if there is no line with shoutd's
/// mark.
pub fn without_lines(now: &str, subnets: &[IpNet]) -> Option<Cleaned> {
    if !now.lines().any(is_marked) {
        return None;
    }
    let is_ours = |line: &str| {
        written_for(line).is_some_and(|at| subnets.iter().any(|subnet| subnet.contains(&at)))
    };
    let (ours, kept): (Vec<&str>, Vec<&str>) =
        now.split_inclusive('\n').partition(|line| is_ours(line));
    let left = kept.iter().filter(|line| is_marked(line)).count();
    Some(Cleaned { text: kept.concat(), removed: ours.len(), left })
}

/// The address of a line that is as shoutd writes it.
fn written_for(line: &str) -> Option<IpAddr> {
    let line = line.strip_suffix('\n').unwrap_or(line);
    let (address, names) = line.strip_suffix(MARK)?.strip_suffix(' ')?.split_once('\t')?;
    let parsed: IpAddr =
        address.parse().ok().filter(|parsed: &IpAddr| parsed.to_string() == address)?;
    let is_name = |text: &str| text.parse::<Name>().is_ok_and(|name| name.as_str() == text);
    let names: Vec<&str> = names.split(' ').collect();
    (names.iter().all(|name| is_name(name)) && names.is_sorted()).then_some(parsed)
}
