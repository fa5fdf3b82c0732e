//! `shoutdctl remove`.

use anyhow::Result;
use clap::Args;
use shoutd_cli::Directories;
use shoutd_core::view::{Done, RemoveHost};

use crate::control;

/// Remove a host from the cluster.
#[derive(Debug, Args)]
pub struct Remove {
    /// Name or id of the host
    #[arg(value_name = "HOST")]
    host: String,
    /// Remove it even if it is this host, or if it runs and has containers; these are cut off from
    /// the others
    #[arg(long)]
    force: bool,
    /// Replace the cluster's certificate authority as well, so that the keys on the host's disk are
    /// useless. All tokens are revoked
    #[arg(long)]
    revoke: bool,
}

impl Remove {
    /// Removes the host. To remove a host twice is not an error.
    pub async fn run(self, directories: &Directories) -> Result<()> {
        let done: Done = control::post(
            directories,
            "/v1/remove",
            &RemoveHost { host: self.host, force: self.force, revoke: self.revoke },
        )
        .await?;
        println!("{}", done.message);
        Ok(())
    }
}
