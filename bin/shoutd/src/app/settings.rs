//! How the daemon was started last, so that `shoutdctl start` without arguments takes up where it
//! was.

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

/// Octets of the largest file that is read: [`HOSTS_MAX`] peers, each an IPv6 address on a line of
/// its own, take less.
const FILE_BYTES_MAX: u64 = 128 << 10;

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
    /// Whether it had the same address at its last start.
    pub is_remembered: bool,
}

impl Settings {
    /// What the command line says, or else what was said last time.
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
                    "this host was not started before: give its address on the network between \
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

    /// Reads what [`Settings::save`] wrote, and takes nothing that the command line would not take.
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
                "{other} and {own} are not of one address family: give all hosts of a cluster \
                 IPv4 addresses, or all IPv6"
            ));
        }
        if self.peer_addresses.len() > HOSTS_MAX {
            return Err(format!(
                "{} peers are more than the {HOSTS_MAX} that a cluster has",
                self.peer_addresses.len()
            ));
        }
        Ok(())
    }

    /// Remembers where this host is, and of its peers what was remembered before.
    pub fn save_address(&self, directory: &Path) -> Result<()> {
        let mut peers = Self::load(directory)?.map_or_else(Vec::new, |known| known.peer_addresses);
        peers.retain(|peer| *peer != self.advertise_address);
        Self { peer_addresses: peers, ..self.clone() }.save(directory)
    }

    /// Remembers it, whole or not at all.
    pub fn save(&self, directory: &Path) -> Result<()> {
        let path = directory.join(START_FILE);
        // A full disk is no matter to a host that is started as it was before.
        if Self::load(directory).is_ok_and(|known| known.as_ref() == Some(self)) {
            return Ok(());
        }
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
    fn what_was_said_last_time_holds_until_something_else_is_said() {
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
        assert_eq!(resolve(&[]).unwrap().settings, moved.settings, "peers stay");
        first.save_address(directory.path()).unwrap();
        let written =
            || std::fs::metadata(directory.path().join(START_FILE)).unwrap().modified().unwrap();
        let before = written();
        first.save(directory.path()).unwrap();
        assert_eq!(written(), before, "what is known is not written again");
        let others = resolve(&["--peer-addresses=10.0.0.4"]).unwrap();
        assert_eq!(others.settings, settings("10.0.0.1:7789", &["10.0.0.4:7789"]));
        for own in [&["--peer-addresses=10.0.0.1"][..], &["10.0.0.2"]] {
            let told = resolve(own).unwrap_err().to_string();
            assert!(told.contains("is this host's own address"), "{told}");
        }
        let told = resolve(&["--peer-addresses=fd00::2"]).unwrap_err().to_string();
        assert!(
            told.contains("[fd00::2]:7789 and 10.0.0.1:7789 are not of one address family"),
            "{told}"
        );
    }

    #[test]
    fn a_file_with_as_many_peers_as_there_can_be_is_read_again() {
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
        let told = Settings::load(directory.path()).unwrap_err().to_string();
        assert!(told.contains("1001 peers are more than the 1000"), "{told}");
    }

    /// One line that names the file and says what to do.
    #[test]
    fn whatever_is_wrong_with_the_file_is_told_in_one_line() {
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
            let told = format!(
                "{:#}",
                Settings::resolve(&arguments(directory.path(), &["10.0.0.9"])).unwrap_err()
            );
            assert!(told.contains(reason), "{told}");
            assert!(told.starts_with(&format!("{} is damaged: ", path.display())), "{told}");
            assert!(
                told.ends_with("; remove it and give the address again") && !told.contains('\n'),
                "{told}"
            );
        }
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        let told = format!("{:#}", Settings::load(directory.path()).unwrap_err());
        assert!(told.contains("it is not a file"), "{told}");
        fs::remove_dir(&path).unwrap();
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let told = format!("{:#}", Settings::load(directory.path()).unwrap_err());
        assert!(told.contains("it is not a file"), "{told}");
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
