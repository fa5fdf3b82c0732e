//! The settings of the last start, which `shoutdctl start` without arguments uses again.

use std::fmt::Display;
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context, Error, Result, anyhow, bail};
use serde::{Deserialize, Serialize};
use shoutd_cli::{StartArguments, read_at_most};
use shoutd_core::address::check_address;
use shoutd_core::limits::HOSTS_MAX;
use shoutd_core::view::START_FILE;

/// Size limit of the file, in octets: [`HOSTS_MAX`] peers, each an IPv6 address on its own line,
/// need less.
const FILE_BYTES_MAX: u64 = 128 << 10;

/// The remembered settings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// The address at which peers reach this host.
    pub advertise_address: SocketAddr,
    /// Members of the cluster to join (`--peer-addresses`).
    pub peer_addresses: Vec<SocketAddr>,
}

/// The settings of this start, compared with those of the last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// The settings of this start.
    pub settings: Settings,
    /// The address at the last start, if it was different.
    pub moved_from: Option<SocketAddr>,
    /// Whether the address at the last start was the same.
    pub is_remembered: bool,
}

impl Settings {
    /// Takes the settings from the command line, or else from the last start.
    pub fn resolve(arguments: &StartArguments) -> Result<Resolved> {
        let remembered = Self::load(&arguments.data_dir)?;
        let before = remembered.as_ref().map(|remembered| remembered.advertise_address);
        let settings = Self::choose(arguments, remembered)?;
        let moved_from = before.filter(|before| *before != settings.advertise_address);
        Ok(Resolved {
            settings,
            moved_from,
            is_remembered: before.is_some() && moved_from.is_none(),
        })
    }

    fn choose(arguments: &StartArguments, remembered: Option<Self>) -> Result<Self> {
        let (address, peers) = match (arguments.advertise_address, remembered) {
            (None, None) => {
                bail!(
                    "this host was not started before; give its address on the network between \
                     the hosts"
                );
            }
            (address, Some(before)) => {
                (address.unwrap_or(before.advertise_address), before.peer_addresses)
            }
            (Some(address), None) => (address, Vec::new()),
        };
        let peers = if arguments.peer_addresses.is_empty() {
            peers
        } else {
            arguments.peer_addresses.clone()
        };
        let settings = Self { advertise_address: address, peer_addresses: peers };
        settings.check().map_err(Error::msg)?;
        Ok(settings)
    }

    fn load(directory: &Path) -> Result<Option<Self>> {
        let path = directory.join(START_FILE);
        let text = match read_at_most(&path, FILE_BYTES_MAX) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) if error.kind() == ErrorKind::InvalidData => {
                return Err(damaged(&path, &error));
            }
            Err(error) => {
                return Err(error).with_context(|| format!("cannot read {}", path.display()));
            }
        };
        Self::parse(&text).map(Some).map_err(|reason| damaged(&path, &reason))
    }

    /// Parses the file of [`Settings::save`], with the same checks as the command line.
    fn parse(text: &[u8]) -> Result<Self, String> {
        let settings: Self = serde_json::from_slice(text).map_err(|error| error.to_string())?;
        settings.check().map(|()| settings)
    }

    fn check(&self) -> Result<(), String> {
        let own = self.advertise_address;
        for address in self.peer_addresses.iter().chain([&own]) {
            check_address(address).map_err(|error| error.to_string())?;
        }
        if self.peer_addresses.contains(&own) {
            return Err(format!(
                "{own} is this host's own address; --peer-addresses names other hosts"
            ));
        }
        if let Some(other) = self.peer_addresses.iter().find(|peer| peer.is_ipv4() != own.is_ipv4())
        {
            return Err(format!(
                "{other} and {own} are not of the same address family; give all hosts of a \
                 cluster IPv4 addresses, or all IPv6 addresses"
            ));
        }
        if self.peer_addresses.len() > HOSTS_MAX {
            return Err(format!(
                "{} peers are more than the {HOSTS_MAX} that a cluster may have",
                self.peer_addresses.len()
            ));
        }
        Ok(())
    }

    /// Saves this host's address, and keeps the peers that are already saved.
    pub fn save_address(&self, directory: &Path) -> Result<()> {
        let mut peers = Self::load(directory)?.map_or_else(Vec::new, |known| known.peer_addresses);
        peers.retain(|peer| *peer != self.advertise_address);
        Self { peer_addresses: peers, ..self.clone() }.save(directory)
    }

    /// Saves the settings atomically.
    pub fn save(&self, directory: &Path) -> Result<()> {
        let path = directory.join(START_FILE);
        // Do not write unchanged settings, so that a restart works even if the disk is full.
        if Self::load(directory).is_ok_and(|known| known.as_ref() == Some(self)) {
            return Ok(());
        }
        let temporary = directory.join(format!("{START_FILE}.new"));
        let write = || {
            let mut file = File::create(&temporary)?;
            file.write_all(&serde_json::to_vec_pretty(self)?)?;
            file.sync_all()?;
            fs::rename(&temporary, &path)?;
            File::open(directory)?.sync_all()
        };
        write().with_context(|| format!("cannot write {}", path.display()))
    }
}

fn damaged(path: &Path, reason: &dyn Display) -> Error {
    anyhow!("{} is damaged: {reason}; remove it and give the address again", path.display())
}

#[cfg(test)]
mod tests {
    use clap::{Args, Command, FromArgMatches};
    use shoutd_fuzz::fuzz;

    use super::*;

    fn arguments(directory: &Path, more: &[&str]) -> StartArguments {
        let line = ["shoutd", "--data-dir", directory.to_str().unwrap()]
            .into_iter()
            .chain(more.iter().copied());
        let matches = StartArguments::augment_args(Command::new("shoutd")).get_matches_from(line);
        StartArguments::from_arg_matches(&matches).unwrap()
    }

    fn settings(address: &str, peers: &[&str]) -> Settings {
        let peers = peers.iter().map(|peer| peer.parse().unwrap());
        Settings { advertise_address: address.parse().unwrap(), peer_addresses: peers.collect() }
    }

    #[test]
    fn settings_of_the_last_start_hold_until_new_ones_are_given() {
        let directory = tempfile::tempdir().unwrap();
        let resolve = |more: &[&str]| Settings::resolve(&arguments(directory.path(), more));
        assert!(
            resolve(&[]).unwrap_err().to_string().starts_with("this host was not started before")
        );
        let first = settings("10.0.0.1:7789", &["10.0.0.2:7789", "10.0.0.5:7789"]);
        first.save(directory.path()).unwrap();
        assert_eq!(
            resolve(&[]).unwrap(),
            Resolved { settings: first.clone(), moved_from: None, is_remembered: true }
        );
        let moved = resolve(&["10.0.0.3"]).unwrap();
        assert_eq!(moved.settings.peer_addresses, first.peer_addresses);
        assert_eq!((moved.moved_from, moved.is_remembered), (Some(first.advertise_address), false));
        moved.settings.save_address(directory.path()).unwrap();
        assert_eq!(resolve(&[]).unwrap().settings, moved.settings, "the peers are kept");
        first.save_address(directory.path()).unwrap();
        let written =
            || std::fs::metadata(directory.path().join(START_FILE)).unwrap().modified().unwrap();
        let before = written();
        first.save(directory.path()).unwrap();
        assert_eq!(written(), before, "unchanged settings are not written again");
        let others = resolve(&["--peer-addresses=10.0.0.4"]).unwrap();
        assert_eq!(others.settings, settings("10.0.0.1:7789", &["10.0.0.4:7789"]));
        for own in [&["--peer-addresses=10.0.0.1"][..], &["10.0.0.2"]] {
            let error = resolve(own).unwrap_err().to_string();
            assert!(error.contains("is this host's own address"), "{error}");
        }
        let error = resolve(&["--peer-addresses=fd00::2"]).unwrap_err().to_string();
        assert!(
            error.contains("[fd00::2]:7789 and 10.0.0.1:7789 are not of the same address family"),
            "{error}"
        );
    }

    #[test]
    fn a_file_with_the_maximum_number_of_peers_can_be_read() {
        let directory = tempfile::tempdir().unwrap();
        let peer = |number| {
            format!("[2001:db8:aaaa:bbbb:cccc:dddd:eeee:{number:x}]:65535").parse().unwrap()
        };
        let full = Settings {
            advertise_address: "[2001:db8::1]:7789".parse().unwrap(),
            peer_addresses: (0x1000..).map(peer).take(HOSTS_MAX).collect(),
        };
        full.save(directory.path()).unwrap();
        assert_eq!(Settings::load(directory.path()).unwrap(), Some(full.clone()));
        let more =
            Settings { peer_addresses: [full.peer_addresses, vec![peer(1)]].concat(), ..full };
        more.save(directory.path()).unwrap();
        let error = Settings::load(directory.path()).unwrap_err().to_string();
        assert!(error.contains("1001 peers are more than the 1000"), "{error}");
    }

    #[test]
    fn an_invalid_file_is_an_error_of_one_line_that_names_it_and_says_what_to_do() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(START_FILE);
        let with = |address: &str, peer: &str| {
            format!(r#"{{"advertise_address": "{address}", "peer_addresses": ["{peer}"]}}"#)
                .into_bytes()
        };
        let large = vec![b' '; usize::try_from(FILE_BYTES_MAX).unwrap() + 1];
        for (text, reason) in [
            (Vec::new(), "EOF"),
            (b"\xff\xfe".to_vec(), "expected value"),
            ([br#"{"x": "#.as_slice(), &[b'['; 100_000]].concat(), "EOF"),
            (br#"{"advertise_address": "10.0.0.1:7789"}"#.to_vec(), "peer_addresses"),
            (with("10.0.0.1", "10.0.0.2:7789"), "socket address"),
            (with("0.0.0.0:7789", "10.0.0.2:7789"), "0.0.0.0:7789 is the unspecified address"),
            (with("10.0.0.1:7789", "224.0.0.1:7789"), "224.0.0.1:7789 is a multicast address"),
            (with("10.0.0.1:7789", "10.0.0.2:0"), "10.0.0.2:0 is an address with port 0"),
            (with("10.0.0.1:7789", "10.0.0.1:7789"), "own address"),
            (large, "larger than 131072 octets"),
        ] {
            fs::write(&path, &text).unwrap();
            let error = format!(
                "{:#}",
                Settings::resolve(&arguments(directory.path(), &["10.0.0.9"])).unwrap_err()
            );
            assert!(error.contains(reason), "{error}");
            assert!(error.starts_with(&format!("{} is damaged: ", path.display())), "{error}");
            assert!(
                error.ends_with("; remove it and give the address again") && !error.contains('\n'),
                "{error}"
            );
        }
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        let error = format!("{:#}", Settings::load(directory.path()).unwrap_err());
        assert!(error.contains("it is not a file"), "{error}");
        fs::remove_dir(&path).unwrap();
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let error = format!("{:#}", Settings::load(directory.path()).unwrap_err());
        assert!(error.contains("it is not a file"), "{error}");
    }

    #[test]
    fn fuzz_start_file() {
        fuzz("start_file", env!("CARGO_MANIFEST_DIR"), |text| {
            let settings = Settings::parse(text);
            if let Ok(settings) = &settings {
                let written = serde_json::to_vec_pretty(settings).unwrap();
                assert_eq!(Settings::parse(&written).as_ref(), Ok(settings));
                assert!(settings.peer_addresses.len() <= HOSTS_MAX);
            }
            settings
        });
    }
}
