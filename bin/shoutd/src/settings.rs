//! How the daemon was started last, so that `shoutdctl start` without arguments takes up where it was.

use std::fs::{self, File};
use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use shoutd_cli::StartArguments;
use shoutd_core::view::START_FILE;

/// What is remembered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// Where peers reach this host.
    pub advertise_address: SocketAddr,
    /// Hosts that were named as members.
    pub peer_addresses: Vec<SocketAddr>,
}

/// How the daemon is started, and where it was before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// How it is started.
    pub settings: Settings,
    /// The address it had at its last start, if that was another.
    pub moved_from: Option<SocketAddr>,
}

impl Settings {
    /// What the command line says, or else what was said last time.
    pub fn resolve(arguments: &StartArguments) -> Result<Resolved> {
        let remembered = Self::load(&arguments.data_dir)?;
        let before = remembered.as_ref().map(|remembered| remembered.advertise_address);
        let settings = Self::choose(arguments, remembered)?;
        let moved_from = before.filter(|before| *before != settings.advertise_address);
        Ok(Resolved { settings, moved_from })
    }

    fn choose(arguments: &StartArguments, remembered: Option<Self>) -> Result<Self> {
        let Some(advertise_address) = arguments.advertise_address else {
            let Some(mut settings) = remembered else {
                bail!("this host was not started before: give its address on the network between the hosts");
            };
            if !arguments.peer_addresses.is_empty() {
                settings.peer_addresses.clone_from(&arguments.peer_addresses);
            }
            return Ok(settings);
        };
        let peer_addresses = match remembered {
            Some(remembered) if arguments.peer_addresses.is_empty() => remembered.peer_addresses,
            _ => arguments.peer_addresses.clone(),
        };
        if peer_addresses.contains(&advertise_address) {
            bail!("{advertise_address} is this host's own address; --peer-addresses names other hosts");
        }
        Ok(Self { advertise_address, peer_addresses })
    }

    fn load(directory: &Path) -> Result<Option<Self>> {
        let path = directory.join(START_FILE);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        };
        let settings = serde_json::from_slice(&text);
        settings
            .map(Some)
            .with_context(|| format!("{} is damaged; remove it and give the address again", path.display()))
    }

    /// Remembers it, whole or not at all.
    pub fn save(&self, directory: &Path) -> Result<()> {
        let path = directory.join(START_FILE);
        let next = directory.join(format!("{START_FILE}.new"));
        let write = || {
            let mut file = File::create(&next)?;
            file.write_all(&serde_json::to_vec_pretty(self)?)?;
            file.sync_all()?;
            fs::rename(&next, &path)?;
            File::open(directory)?.sync_all()
        };
        write().with_context(|| format!("cannot write {}", path.display()))
    }
}
