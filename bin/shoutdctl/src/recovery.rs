//! `shoutdctl restore` and `shoutdctl recover`: manual recovery after hosts are lost for good. Both
//! need that shoutd does not run.

use std::fs::{DirBuilder, File};
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};
use clap::Args;
use shoutd_cli::Directories;
use shoutd_consensus::{Settings, recover, restore};
use shoutd_core::address::parse_address;
use shoutd_core::view::DATA_DIRECTORY;
use shoutd_core::{ClusterId, HostId};
use shoutd_peer::CredentialStore;

use crate::control::{self, ControlError};

/// Restore the cluster from a backup.
#[derive(Debug, Args)]
#[command(long_about = "Restore the cluster on this host from a backup, after all hosts lost \
                        their data. The cluster keeps its id, its networks and the leases of all \
                        addresses; this host is its only member. Then start shoutd (shoutdctl \
                        start <ADVERTISE_ADDRESS>). Let the others join, each with an empty data \
                        directory and the new token that the start prints. Remove those that do \
                        not come back (shoutdctl remove), to free their addresses.")]
pub struct Restore {
    /// The backup
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Address of this host on the network between the hosts
    #[arg(value_name = "ADVERTISE_ADDRESS", value_parser = parse_address)]
    advertise_address: SocketAddr,
    /// Directory of the daemon's persistent data
    #[arg(long, value_name = "DIR", default_value = DATA_DIRECTORY)]
    data_dir: PathBuf,
}

impl Restore {
    /// Restores the cluster into the data directory.
    pub async fn run(self, directories: &Directories) -> Result<()> {
        refuse_running(directories).await?;
        let mut file = File::open(&self.file)
            .with_context(|| format!("cannot read {}", self.file.display()))?;
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.data_dir)
            .with_context(|| format!("cannot create the directory {}", self.data_dir.display()))?;
        let credentials = CredentialStore::open(&self.data_dir)?;
        if let Some(held) = credentials.credentials() {
            bail!(
                "{} holds the identity of a host of cluster {}; restore into an empty data \
                 directory",
                self.data_dir.display(),
                held.cluster()
            );
        }
        let name = nix::unistd::gethostname()
            .context("cannot read the host's name")?
            .to_string_lossy()
            .into_owned();
        let settings = Settings { advertise: self.advertise_address, name };
        let restored = restore(&mut file, &self.data_dir, credentials.host(), &settings, now())?;
        let age = Duration::from_secs(now().saturating_sub(restored.made).as_secs());
        println!(
            "restored cluster {} with {} networks, as it was {age:?} ago",
            restored.cluster, restored.networks
        );
        tell_lost(&restored.lost);
        println!("start it with: shoutdctl start {}", self.advertise_address);
        Ok(())
    }
}

/// Make this host the only member of its cluster.
#[derive(Debug, Args)]
#[command(long_about = "Make this host the only member of its cluster, with the agreed state \
                        that it has. Use this when a majority of the voters is lost for good, so \
                        that the cluster can no longer elect a leader. What the others agreed on \
                        without this host is lost. Start the other hosts again only with an \
                        empty data directory.")]
pub struct Recover {
    /// Id of the cluster, as shoutdctl status shows it; it confirms that the other hosts are lost
    #[arg(value_name = "CLUSTER")]
    cluster: ClusterId,
    /// Directory of the daemon's persistent data
    #[arg(long, value_name = "DIR", default_value = DATA_DIRECTORY)]
    data_dir: PathBuf,
}

impl Recover {
    /// Removes the other hosts from the agreed state in the data directory.
    pub async fn run(self, directories: &Directories) -> Result<()> {
        refuse_running(directories).await?;
        let recovered = recover(&self.data_dir, self.cluster, now())?;
        if recovered.lost.is_empty() {
            println!("this host is already the only member of its cluster; nothing was changed");
            return Ok(());
        }
        println!(
            "this host is now the only member of its cluster, with {} networks",
            recovered.networks
        );
        tell_lost(&recovered.lost);
        println!("start it with: shoutdctl start");
        Ok(())
    }
}

async fn refuse_running(directories: &Directories) -> Result<()> {
    match control::daemon(directories).await {
        Err(ControlError::NotRunning { .. }) => Ok(()),
        Ok(_) => bail!("shoutd is running; stop it first: shoutdctl stop"),
        Err(error) => Err(error.into()),
    }
}

fn tell_lost(lost: &[(HostId, String)]) {
    for (id, name) in lost {
        println!(
            "lost: {name} ({id}); to free the addresses of its containers: shoutdctl remove {name}"
        );
    }
}

fn now() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}
