//! The source of a host's Docker Engine.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::debian;

/// Where the programs of a host's engine come from: dockerd, docker, containerd, runc and what they
/// run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum EngineSource {
    /// The machine's own, as its packages installed them.
    Installed,
    /// A directory of programs that precede the machine's, such as one of Docker's static archives.
    Programs(PathBuf),
    /// The root directory of another system, whose `usr` is mounted over the machine's: its
    /// programs need newer shared libraries than the machine's.
    Root(PathBuf),
}

impl EngineSource {
    /// Parses a user's choice: `installed`, `debian-13`, `debian-14`, or a directory. Debian's
    /// engines are downloaded and unpacked the first time.
    ///
    /// # Errors
    ///
    /// Fails when it is not a directory with an engine, and when Debian's cannot be downloaded.
    pub fn named(name: &str) -> Result<Self> {
        if name == "installed" {
            return Ok(Self::Installed);
        }
        match debian::engine(name)? {
            Some(root) => Ok(Self::Root(root)),
            None => Self::directory(Path::new(name)),
        }
    }

    /// The engine in this directory: a directory of programs (with `dockerd`), or the root of a
    /// system (with `usr/sbin/dockerd`).
    ///
    /// # Errors
    ///
    /// Fails when it has neither.
    pub fn directory(directory: &Path) -> Result<Self> {
        let directory = fs::canonicalize(directory)
            .with_context(|| format!("find the directory {} of an engine", directory.display()))?;
        if directory.join("dockerd").is_file() {
            return Ok(Self::Programs(directory));
        }
        let is_root = ["usr/sbin/dockerd", "usr/bin/dockerd"]
            .iter()
            .any(|path| directory.join(path).is_file());
        ensure!(
            is_root,
            "there is no engine in {}: neither dockerd nor usr/sbin/dockerd",
            directory.display()
        );
        Ok(Self::Root(directory))
    }

    /// The directory whose `usr` is mounted over the machine's, if there is one.
    pub(crate) fn root(&self) -> Option<&Path> {
        match self {
            Self::Root(root) => Some(root),
            Self::Installed | Self::Programs(_) => None,
        }
    }

    /// The directory that is searched before the machine's, if there is one.
    pub(crate) fn programs(&self) -> Option<&Path> {
        match self {
            Self::Programs(directory) => Some(directory),
            Self::Installed | Self::Root(_) => None,
        }
    }
}

/// The engine of host `number`, from 1: the first of `sources` is host1's, and the last one is that
/// of all further hosts.
pub(crate) fn of_host(sources: &[EngineSource], number: u8) -> EngineSource {
    let index = usize::from(number).saturating_sub(1);
    sources.get(index).or(sources.last()).cloned().unwrap_or(EngineSource::Installed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_further_hosts_have_the_last_engine() {
        let static_ones = EngineSource::Programs("/opt/docker".into());
        let sources = [EngineSource::Installed, static_ones.clone()];
        assert_eq!(
            [1, 2, 3].map(|number| of_host(&sources, number)),
            [EngineSource::Installed, static_ones.clone(), static_ones]
        );
        assert_eq!(of_host(&[], 1), EngineSource::Installed);
    }

    #[test]
    fn a_directory_without_an_engine_is_refused() {
        let error = EngineSource::named("/proc/self").unwrap_err().to_string();
        assert!(error.contains("there is no engine in /proc/"), "{error}");
        assert!(EngineSource::named("/nowhere/at/all").is_err());
    }
}
