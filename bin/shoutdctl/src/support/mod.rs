//! `shoutdctl support`: one archive for a bug report, without secrets.
//!
//! What goes into it is named one by one ([`collect`]): nothing copies a directory.

mod archive;
mod collect;
mod scrub;

use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use archive::Archive;
use clap::Args;
use shoutd_cli::{DOCKER_SOCKET, Directories};
use shoutd_core::view::DATA_DIRECTORY;

use crate::moment::when;

/// Write an archive for a bug report: what shoutd, Docker and the kernel know, and shoutd's log
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  shoutdctl support
  shoutdctl support -o /tmp/report.tar.gz
  tar -tzf /tmp/report.tar.gz

The archive has names of hosts, networks and containers, their addresses, and firewall rules. It \
                        has no token, no key and no password. Read it before you publish it. The \
                        archive is also written if shoutd or Docker does not answer; its index.txt \
                        says what is missing.

Exit codes: 0 if the archive is written, 1 if it cannot be written, 2 for a wrong command line.")]
pub struct Support {
    /// The file to write, which must not exist; by default, in this directory,
    /// shoutd-support-HOST-TIME.tar.gz
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,

    /// The daemon's data directory, if it does not run
    #[arg(long, value_name = "DIR", default_value = DATA_DIRECTORY)]
    data_dir: PathBuf,

    /// Docker's API socket, if the daemon does not run
    #[arg(long, value_name = "PATH", default_value = DOCKER_SOCKET)]
    docker_socket: PathBuf,
}

impl Support {
    /// Collects everything and writes the archive.
    ///
    /// # Errors
    /// The archive cannot be written.
    pub async fn run(self, directories: &Directories) -> Result<()> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let time = when(now.as_millis().try_into().unwrap_or(u64::MAX));
        let host = nix::unistd::gethostname().context("cannot read the host's name")?;
        let host = plain(&host.to_string_lossy());
        let name = format!("shoutd-support-{host}-{}", time.replace(['-', ':'], ""));
        let path = self.output.unwrap_or_else(|| PathBuf::from(format!("{name}.tar.gz")));
        let mut archive = Archive::create(&path, &name, now.as_secs())?;
        let from = collect::Sources {
            directories: directories.clone(),
            data_directory: self.data_dir,
            docker_socket: self.docker_socket,
        };
        tokio::select! {
            collected = from.collect(&mut archive) => collected?,
            interrupted = tokio::signal::ctrl_c() => {
                interrupted?;
                anyhow::bail!("interrupted; no archive was written");
            }
        }
        let head = format!(
            "Written by shoutdctl {} on {host} at {time}.\nIt has names of hosts, networks and \
             containers, their addresses, and firewall rules.\nIt has no token, no key and no \
             password.\n",
            env!("CARGO_PKG_VERSION")
        );
        let (files, missing, size) = archive.finish(&head)?;
        println!("{}: {files} files, {} KiB", path.display(), size.div_ceil(1024));
        println!(
            "It has names of hosts, networks and containers, their addresses, and firewall rules, \
             but no token, key or password. Read it before you publish it: tar -xzf {}",
            path.display()
        );
        for line in missing {
            eprintln!("(missing: {line})");
        }
        Ok(())
    }
}

/// A host's name as a part of a file's name.
fn plain(name: &str) -> String {
    name.chars()
        .map(|c| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '_' })
        .collect()
}
