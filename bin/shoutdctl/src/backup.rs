//! `shoutdctl backup`.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;
use shoutd_cli::Directories;

use crate::control;

/// Write the agreed state of the cluster to a file.
#[derive(Debug, Args)]
pub struct Backup {
    /// File to write; an existing file is replaced
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

impl Backup {
    /// Writes the backup. The file is replaced atomically: it is never partly written.
    pub async fn run(self, directories: &Directories) -> Result<()> {
        let content = control::get_file(directories, "/v1/backup").await?;
        write(&self.file, &content)
            .with_context(|| format!("cannot write {}", self.file.display()))?;
        println!(
            "wrote {} ({} bytes); for its use see: shoutdctl restore --help",
            self.file.display(),
            content.len()
        );
        Ok(())
    }
}

fn write(path: &Path, content: &[u8]) -> std::io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let temporary = path.with_file_name(name);
    let mut file =
        OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&temporary)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&temporary, path)
}
