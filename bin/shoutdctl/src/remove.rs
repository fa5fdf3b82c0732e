//! `shoutdctl remove`.

use anyhow::Result;
use clap::Args;
use shoutd_cli::Directories;
use shoutd_core::view::{Done, RemoveHost};

use crate::control;

/// Remove a host from the cluster.
#[derive(Debug, Args)]
pub struct Remove {
    /// Its name or id
    #[arg(value_name = "HOST")]
    host: String,
    /// Also if it runs and has containers, which are cut off from the others, or is this host
    /// itself
    #[arg(long)]
    force: bool,
}

impl Remove {
    /// Does it. Removing a host that was removed is no error.
    pub async fn run(self, directories: &Directories) -> Result<()> {
        let done: Done = control::post(
            directories,
            "/v1/remove",
            &RemoveHost { host: self.host, force: self.force },
        )
        .await?;
        println!("{}", done.message);
        Ok(())
    }
}
