//! `shoutdctl restore` and `shoutdctl recover`: what is done by hand, while shoutd does not run,
//! when hosts are lost for good.

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

/// Found the cluster anew from a backup.
#[derive(Debug, Args)]
#[command(long_about = "Found the cluster anew on this host from a backup, for when no host has \
                        its data any more. The cluster keeps its id, its networks and who holds \
                        which address; this host is its only one. Then start it (shoutdctl start \
                        <ADVERTISE_ADDRESS>), let the others join with the new token that this \
                        prints, each with an empty data directory, and shoutdctl remove those \
                        that do not come back, which frees their addresses.")]
pub struct Restore {
    /// The backup
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Address of this host on the network between the hosts
    #[arg(value_name = "ADVERTISE_ADDRESS", value_parser = parse_address)]
    advertise_address: SocketAddr,
    /// Directory of what must outlive the daemon
    #[arg(long, value_name = "DIR", default_value = DATA_DIRECTORY)]
    data_dir: PathBuf,
}

impl Restore {
    /// Does it.
    pub async fn run(self, directories: &Directories) -> Result<()> {
        refuse_running(directories).await?;
        let mut file = File::open(&self.file)
            .with_context(|| format!("cannot read {}", self.file.display()))?;
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.data_dir)
            .with_context(|| format!("cannot make the directory {}", self.data_dir.display()))?;
        let credentials = CredentialStore::open(&self.data_dir)?;
        if let Some(held) = credentials.credentials() {
            bail!(
                "{} has the identity of a host of cluster {}: restore into an empty data directory",
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
            "cluster {} with {} networks, as it was {age:?} ago",
            restored.cluster, restored.networks
        );
        tell_lost(&restored.lost);
        println!("start it with: shoutdctl start {}", self.advertise_address);
        Ok(())
    }
}

/// Make this host the only one of its cluster.
#[derive(Debug, Args)]
#[command(long_about = "Make this host the only one of its cluster, with all that it knows of \
                        what was agreed on: for a cluster of which most of the hosts that vote \
                        are lost for good, so that it cannot agree on anything any more. What \
                        the others agreed on without this host is lost. The others must not be \
                        started again but with an empty data directory.")]
pub struct Recover {
    /// Id of the cluster, as shoutdctl status shows it: says that the other hosts are lost, and
    /// that you know it
    #[arg(value_name = "CLUSTER")]
    cluster: ClusterId,
    /// Directory of what must outlive the daemon
    #[arg(long, value_name = "DIR", default_value = DATA_DIRECTORY)]
    data_dir: PathBuf,
}

impl Recover {
    /// Does it.
    pub async fn run(self, directories: &Directories) -> Result<()> {
        refuse_running(directories).await?;
        let recovered = recover(&self.data_dir, self.cluster, now())?;
        if recovered.lost.is_empty() {
            println!("this host is the only one of its cluster already; nothing was changed");
            return Ok(());
        }
        println!(
            "this host is the only one of its cluster now, with {} networks",
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
        Ok(_) => bail!("shoutd runs; stop it first: shoutdctl stop"),
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
