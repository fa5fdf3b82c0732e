//! `shoutdctl remove`.

use anyhow::Result;
use clap::Args;
use shoutd_cli::Places;
use shoutd_core::view::{Done, RemoveHost};

use crate::control;

/// Remove a host from the cluster.
#[derive(Debug, Args)]
pub struct Remove {
    /// Its name or id
    #[arg(value_name = "HOST")]
    host: String,
}

impl Remove {
    /// Does it. Removing a host that was removed is no error.
    pub async fn run(self, places: &Places) -> Result<()> {
        let done: Done = control::post(places, "/v1/remove", &RemoveHost { host: self.host }).await?;
        println!("{}", done.message);
        Ok(())
    }
}
