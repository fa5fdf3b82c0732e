//! Root file systems of distributions, in which commands run by chroot(8).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::files::copy;
use crate::project::Project;
use crate::tools::{empty_directory, output, run};

/// The Debian releases in which packages are checked: 11, 12 and 13. Ubuntu 20.04 and RHEL 8 have a
/// C library (2.31, 2.28) no newer than that of Debian 11, and the programs need none.
pub const RELEASES: [&str; 3] = ["bullseye", "bookworm", "trixie"];

/// Packages in these root file systems beside the essential ones.
const PACKAGES: &str = "python3-venv";

/// A root file system.
#[derive(Debug)]
pub struct Root {
    directory: PathBuf,
}

impl Root {
    /// One without any file.
    pub fn empty(work: &Path) -> Result<Self> {
        Ok(Self { directory: empty_directory(work.join("empty"))? })
    }

    /// A new one of a Debian release. What mmdebstrap made of the release stays below the target
    /// directory.
    pub fn of_debian(project: &Project, release: &str, work: &Path) -> Result<Self> {
        let kept = project.target.join("roots");
        let tar = kept.join(format!("{release}.tar"));
        if !tar.exists() {
            fs::create_dir_all(&kept).with_context(|| format!("make {}", kept.display()))?;
            let new = kept.join(format!("new-{release}.tar"));
            let mut command = Command::new("mmdebstrap");
            command.args(["--quiet", "--variant=minbase", &format!("--include={PACKAGES}")]);
            run(command.arg(release).arg(&new))?;
            fs::rename(&new, &tar).with_context(|| format!("make {}", tar.display()))?;
        }
        let root = Self { directory: empty_directory(work.join(release))? };
        root.unpack(&tar)?;
        Ok(root)
    }

    /// The path of a file in it.
    pub fn path(&self, path: &str) -> PathBuf {
        self.directory.join(path.trim_start_matches('/'))
    }

    /// Unpacks an archive at its top.
    pub fn unpack(&self, archive: &Path) -> Result<()> {
        let mut command = Command::new("tar");
        // Device nodes, which a container may not make, are not needed.
        command.args(["--extract", "--exclude=./dev/*", "--file"]).arg(archive);
        run(command.arg("--directory").arg(&self.directory))
    }

    /// Copies a file to its top, and returns the file's path in it.
    pub fn add(&self, file: &Path) -> Result<String> {
        let name = file.file_name().context("a file's name")?.to_string_lossy().into_owned();
        copy(file, &self.directory.join(&name))?;
        Ok(format!("/{name}"))
    }

    /// Runs a command in it, with its own `/proc`, and returns the standard output.
    pub fn run(&self, words: &[&str]) -> Result<String> {
        let mut command = Command::new("unshare");
        command.args(["--mount", "--pid", "--fork", "--net", "--kill-child", "--root"]);
        command.arg(&self.directory);
        if self.path("proc").is_dir() {
            command.arg("--mount-proc");
        }
        command.args(words).env_clear();
        command
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("DEBIAN_FRONTEND", "noninteractive");
        let told = output(&mut command)?;
        Ok(String::from_utf8_lossy(&told).into_owned())
    }

    /// Removes it.
    pub fn remove(self) -> Result<()> {
        fs::remove_dir_all(&self.directory)
            .with_context(|| format!("remove {}", self.directory.display()))
    }
}
