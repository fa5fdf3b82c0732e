//! What a host remembers of its last start: `start.json` in the data directory. `shoutdctl start`
//! without arguments uses it again.

use std::fmt::Display;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use shoutd_core::address::check_address;
use shoutd_core::configuration::{Layer, Setting};
use shoutd_core::limits::HOSTS_MAX;
use shoutd_core::own_address::AddressRule;
use shoutd_core::view::START_FILE;
use thiserror::Error;

use crate::read_at_most;

/// Size limit of the file, in octets: [`HOSTS_MAX`] peers, each an IPv6 address on its own line,
/// need less.
const FILE_BYTES_MAX: u64 = 128 << 10;

/// The remembered settings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastStart {
    /// The address at which peers reach this host.
    pub advertise_address: SocketAddr,
    /// How it is found; `None` if it is fixed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advertise_by: Option<AddressRule>,
    /// Members of the cluster to join (`--peer-addresses`).
    pub peer_addresses: Vec<SocketAddr>,
}

/// Why the file cannot be used.
#[derive(Debug, Error)]
pub enum LastStartError {
    /// Something else changed it, or it is not a file.
    #[error("{} is damaged: {reason}; remove it and give the address again", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The system does not let it be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The system does not let it be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl LastStart {
    /// How the advertise address is found.
    pub fn rule(&self) -> AddressRule {
        self.advertise_by.clone().unwrap_or(AddressRule::Address(self.advertise_address))
    }

    /// Puts the address and the peers where nothing else sets them.
    pub fn overlay(&self, settings: &mut [Setting]) {
        let is_set = |name: &str| {
            settings.iter().any(|setting| setting.name == name && setting.layer != Layer::Default)
        };
        let has_address = is_set("advertise-address") || is_set("advertise-interface");
        let address = Some(self.rule().setting()).filter(|_| !has_address);
        let peers: Vec<_> = self.peer_addresses.iter().map(ToString::to_string).collect();
        let peers = Some(("peer-addresses", peers.join(",")))
            .filter(|(name, value)| !is_set(name) && !value.is_empty());
        for (name, value) in address.into_iter().chain(peers) {
            if let Some(setting) = settings.iter_mut().find(|setting| setting.name == name) {
                setting.value = Some(value);
                setting.layer = Layer::LastStart;
            }
        }
    }

    /// Reads the file in the data directory; `None` if there is none.
    ///
    /// # Errors
    /// It is damaged, or cannot be read.
    pub fn load(directory: &Path) -> Result<Option<Self>, LastStartError> {
        let path = directory.join(START_FILE);
        let text = match read_at_most(&path, FILE_BYTES_MAX) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) if error.kind() == ErrorKind::InvalidData => {
                return Err(damaged(path, &error));
            }
            Err(source) => return Err(LastStartError::Read { path, source }),
        };
        Self::parse(&text).map(Some).map_err(|reason| damaged(path, &reason))
    }

    /// Parses the file of [`Settings::save`], with the same checks as the command line.
    fn parse(text: &[u8]) -> Result<Self, String> {
        let settings: Self = serde_json::from_slice(text).map_err(|error| error.to_string())?;
        settings.check().map(|()| settings)
    }

    /// Checks that the addresses can be those of a host and its peers.
    ///
    /// # Errors
    /// What is wrong, as a sentence.
    pub fn check(&self) -> Result<(), String> {
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
    ///
    /// # Errors
    /// As of [`LastStart::load`] and [`LastStart::save`].
    pub fn save_address(&self, directory: &Path) -> Result<(), LastStartError> {
        let mut peers = Self::load(directory)?.map_or_else(Vec::new, |known| known.peer_addresses);
        peers.retain(|peer| *peer != self.advertise_address);
        Self { peer_addresses: peers, ..self.clone() }.save(directory)
    }

    /// Saves the settings atomically.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn save(&self, directory: &Path) -> Result<(), LastStartError> {
        // Do not write unchanged settings, so that a restart works even if the disk is full.
        if Self::load(directory).is_ok_and(|known| known.as_ref() == Some(self)) {
            return Ok(());
        }
        let path = directory.join(START_FILE);
        self.replace(directory).map_err(|source| LastStartError::Write { path, source })
    }

    /// Replaces the file atomically.
    fn replace(&self, directory: &Path) -> io::Result<()> {
        let temporary = directory.join(format!("{START_FILE}.new"));
        let mut file = File::create(&temporary)?;
        file.write_all(&serde_json::to_vec_pretty(self)?)?;
        file.sync_all()?;
        fs::rename(&temporary, directory.join(START_FILE))?;
        File::open(directory)?.sync_all()
    }
}

fn damaged(path: PathBuf, reason: &dyn Display) -> LastStartError {
    LastStartError::Damaged { path, reason: reason.to_string() }
}

#[cfg(test)]
mod tests {
    use shoutd_fuzz::fuzz;

    use super::*;

    /// An address in the longest form.
    fn peer(number: u32) -> SocketAddr {
        format!("[2001:db8:aaaa:bbbb:cccc:dddd:eeee:{number:x}]:65535").parse().unwrap()
    }

    /// A file with one peer.
    fn file(address: &str, peer: &str) -> Vec<u8> {
        format!(r#"{{"advertise_address": "{address}", "peer_addresses": ["{peer}"]}}"#)
            .into_bytes()
    }

    #[test]
    fn a_file_with_the_maximum_number_of_peers_can_be_read() {
        let directory = tempfile::tempdir().unwrap();
        let full = LastStart {
            advertise_address: "[2001:db8::1]:7789".parse().unwrap(),
            advertise_by: None,
            peer_addresses: (0x1000..).map(peer).take(HOSTS_MAX).collect(),
        };
        full.save(directory.path()).unwrap();
        assert_eq!(LastStart::load(directory.path()).unwrap(), Some(full.clone()));
        let more =
            LastStart { peer_addresses: [full.peer_addresses, vec![peer(1)]].concat(), ..full };
        more.save(directory.path()).unwrap();
        let error = LastStart::load(directory.path()).unwrap_err().to_string();
        assert!(error.contains("1001 peers are more than the 1000"), "{error}");
    }

    #[test]
    fn an_invalid_file_is_an_error_of_one_line_that_names_it_and_says_what_to_do() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(START_FILE);
        let large = vec![b' '; usize::try_from(FILE_BYTES_MAX).unwrap() + 1];
        for (text, reason) in [
            (Vec::new(), "EOF"),
            (b"\xff\xfe".to_vec(), "expected value"),
            ([br#"{"x": "#.as_slice(), &[b'['; 100_000]].concat(), "EOF"),
            (br#"{"advertise_address": "10.0.0.1:7789"}"#.to_vec(), "peer_addresses"),
            (file("10.0.0.1", "10.0.0.2:7789"), "socket address"),
            (file("0.0.0.0:7789", "10.0.0.2:7789"), "0.0.0.0:7789 is the unspecified address"),
            (file("10.0.0.1:7789", "224.0.0.1:7789"), "224.0.0.1:7789 is a multicast address"),
            (file("10.0.0.1:7789", "10.0.0.2:0"), "10.0.0.2:0 is an address with port 0"),
            (file("10.0.0.1:7789", "10.0.0.1:7789"), "own address"),
            (large, "larger than 131072 octets"),
        ] {
            fs::write(&path, &text).unwrap();
            let error = format!("{:#}", LastStart::load(directory.path()).unwrap_err());
            assert!(error.contains(reason), "{error}");
            assert!(error.starts_with(&format!("{} is damaged: ", path.display())), "{error}");
            assert!(
                error.ends_with("; remove it and give the address again") && !error.contains('\n'),
                "{error}"
            );
        }
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        let error = format!("{:#}", LastStart::load(directory.path()).unwrap_err());
        assert!(error.contains("it is not a file"), "{error}");
        fs::remove_dir(&path).unwrap();
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let error = format!("{:#}", LastStart::load(directory.path()).unwrap_err());
        assert!(error.contains("it is not a file"), "{error}");
    }

    fn shown(last: &str, layer: Layer) -> [(Option<String>, Layer); 3] {
        let setting = |name: &str, layer| Setting { name: name.to_owned(), value: None, layer };
        let mut settings = [
            setting("advertise-address", layer),
            setting("advertise-interface", Layer::Default),
            setting("peer-addresses", Layer::Default),
        ];
        LastStart::parse(last.as_bytes()).unwrap().overlay(&mut settings);
        settings.map(|setting| (setting.value, setting.layer))
    }

    #[test]
    fn a_daemon_starts_as_at_its_last_start_where_nothing_else_is_set() {
        let fixed = String::from_utf8(file("10.0.0.1:7789", "10.0.0.2:7789")).unwrap();
        let remembered = |value: &str| (Some(value.to_owned()), Layer::LastStart);
        let default = (None, Layer::Default);
        assert_eq!(
            shown(&fixed, Layer::Default),
            [remembered("10.0.0.1:7789"), default.clone(), remembered("10.0.0.2:7789")]
        );
        let by = r#"{"advertise_address": "10.0.0.1:7789", "peer_addresses": [],
                     "advertise_by": {"interface": "eth1"}}"#;
        assert_eq!(
            shown(by, Layer::Default),
            [default.clone(), remembered("eth1"), default.clone()]
        );
        assert_eq!(shown(&fixed, Layer::Environment)[..2], [(None, Layer::Environment), default]);
    }

    #[test]
    fn fuzz_start_file() {
        fuzz("start_file", env!("CARGO_MANIFEST_DIR"), |text| {
            let settings = LastStart::parse(text);
            if let Ok(settings) = &settings {
                let written = serde_json::to_vec_pretty(settings).unwrap();
                assert_eq!(LastStart::parse(&written).as_ref(), Ok(settings));
                assert!(settings.peer_addresses.len() <= HOSTS_MAX);
            }
            settings
        });
    }
}
