//! `shoutdctl backup`.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;
use shoutd_cli::Directories;

use crate::control;

/// Write what the hosts agree on to a file.
#[derive(Debug, Args)]
pub struct Backup {
    /// The file; one that is there is replaced
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

impl Backup {
    /// Does it. The file is there whole or not at all.
    pub async fn run(self, directories: &Directories) -> Result<()> {
        let content = control::get_file(directories, "/v1/backup").await?;
        write(&self.file, &content)
            .with_context(|| format!("cannot write {}", self.file.display()))?;
        println!(
            "{}: {} bytes; shoutdctl restore --help tells what it is good for",
            self.file.display(),
            content.len()
        );
        Ok(())
    }
}

fn write(path: &Path, content: &[u8]) -> std::io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let next = path.with_file_name(name);
    let mut file =
        OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&next)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&next, path)
}
