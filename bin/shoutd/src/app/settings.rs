//! The settings of the last start, which `shoutdctl start` without arguments uses again.

use std::fmt::Display;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use anyhow::{Context, Error, Result, anyhow, bail};
use serde::{Deserialize, Serialize};
use shoutd_cli::{StartArguments, read_at_most};
use shoutd_core::address::check_address;
use shoutd_core::limits::{HOSTS_MAX, PORT};
use shoutd_core::own_address::{AddressChoice, AddressRule};
use shoutd_core::view::START_FILE;

use crate::membership::swarm_node::SwarmStart;

/// Size limit of the file, in octets: [`HOSTS_MAX`] peers, each an IPv6 address on its own line,
/// need less.
const FILE_BYTES_MAX: u64 = 128 << 10;

/// The remembered settings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// The address at which peers reach this host.
    pub advertise_address: SocketAddr,
    /// How it is found; `None` if it is fixed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advertise_by: Option<AddressRule>,
    /// Members of the cluster to join (`--peer-addresses`).
    pub peer_addresses: Vec<SocketAddr>,
}

/// The settings of this start before the host's address is known, compared with the last start's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// What decides on the address.
    pub choice: AddressChoice,
    /// Whether the last start had the same rule. The rule is then correct, and an address may only
    /// be late.
    pub is_remembered: bool,
    peer_addresses: Vec<SocketAddr>,
    before: Option<SocketAddr>,
}

/// The settings of this start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// The settings of this start.
    pub settings: Settings,
    /// The address at the last start, if it was different.
    pub moved_from: Option<SocketAddr>,
}

impl Wanted {
    /// Takes the settings from the configuration, or else from the last start, or else from the
    /// Swarm.
    ///
    /// # Errors
    /// The settings of the last start cannot be read, or there is no address.
    pub fn read(arguments: &StartArguments, swarm: Option<&SwarmStart>) -> Result<Self> {
        let remembered = Settings::load(&arguments.data_dir)?;
        let before = remembered.as_ref().map(|remembered| remembered.advertise_address);
        let rule_before = remembered.as_ref().map(Settings::rule);
        let in_swarm =
            || swarm.map(|swarm| AddressRule::Address(SocketAddr::new(swarm.address, PORT)));
        let Some(rule) = arguments.address_rule().or(rule_before.clone()).or_else(in_swarm) else {
            bail!(
                "this host was not started before, and is not in a Docker Swarm; give its address \
                 on the network between the hosts"
            );
        };
        let peer_addresses = match remembered {
            _ if !arguments.peer_addresses.is_empty() => arguments.peer_addresses.clone(),
            Some(remembered) => remembered.peer_addresses,
            None => swarm.map_or_else(Vec::new, |swarm| swarm.managers.clone()),
        };
        let known = before.or(peer_addresses.first().copied()).filter(|_| rule.can_move());
        let choice = AddressChoice {
            is_ipv4: known.map(|known| known.is_ipv4()),
            before: before.map(|before| before.ip()),
            rule,
        };
        let is_remembered = rule_before.as_ref() == Some(&choice.rule);
        let wanted = Self { is_remembered, choice, peer_addresses, before };
        if let AddressRule::Address(address) = wanted.choice.rule {
            // A fixed address is checked before anything waits for it.
            wanted.clone().at(address.ip())?;
        }
        Ok(wanted)
    }

    /// The settings with the address that the host has.
    ///
    /// # Errors
    /// The address and the peers do not fit together.
    pub fn at(self, address: IpAddr) -> Result<Resolved> {
        let rule = self.choice.rule;
        let own = SocketAddr::new(address, rule.port());
        let mut peer_addresses = self.peer_addresses;
        let advertise_by = rule.can_move().then_some(rule);
        if advertise_by.is_some() {
            // One command line may serve every host.
            peer_addresses.retain(|peer| *peer != own);
        }
        let settings = Settings { advertise_address: own, advertise_by, peer_addresses };
        settings.check().map_err(Error::msg)?;
        Ok(Resolved { settings, moved_from: self.before.filter(|before| *before != own) })
    }
}

/// Whether this start is told nothing, so that only a Swarm can tell the address.
pub fn needs_swarm(arguments: &StartArguments) -> Result<bool> {
    let is_first = Settings::load(&arguments.data_dir)?.is_none();
    Ok(is_first && arguments.address_rule().is_none())
}

impl Settings {
    /// How the advertise address is found.
    pub fn rule(&self) -> AddressRule {
        self.advertise_by.clone().unwrap_or(AddressRule::Address(self.advertise_address))
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
        // Do not write unchanged settings, so that a restart works even if the disk is full.
        if Self::load(directory).is_ok_and(|known| known.as_ref() == Some(self)) {
            return Ok(());
        }
        self.replace(directory)
            .with_context(|| format!("cannot write {}", directory.join(START_FILE).display()))
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

fn damaged(path: &Path, reason: &dyn Display) -> Error {
    anyhow!("{} is damaged: {reason}; remove it and give the address again", path.display())
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

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

    fn wanted(directory: &Path, more: &[&str]) -> Wanted {
        Wanted::read(&arguments(directory, more), None).unwrap()
    }

    /// The settings of a start with a fixed address.
    fn resolve(directory: &Path, more: &[&str]) -> Result<Resolved> {
        let wanted = Wanted::read(&arguments(directory, more), None)?;
        let AddressRule::Address(address) = wanted.choice.rule else { panic!("not fixed") };
        wanted.at(address.ip())
    }

    fn settings(address: &str, peers: &[&str]) -> Settings {
        let peers = peers.iter().map(|peer| peer.parse().unwrap());
        Settings {
            advertise_address: address.parse().unwrap(),
            advertise_by: None,
            peer_addresses: peers.collect(),
        }
    }

    /// When the settings were last written.
    fn written(directory: &Path) -> SystemTime {
        fs::metadata(directory.join(START_FILE)).unwrap().modified().unwrap()
    }

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
    fn settings_of_the_last_start_hold_until_new_ones_are_given() {
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path();
        let error = resolve(directory, &[]).unwrap_err().to_string();
        assert!(error.starts_with("this host was not started before"), "{error}");
        let first = settings("10.0.0.1:7789", &["10.0.0.2:7789", "10.0.0.5:7789"]);
        first.save(directory).unwrap();
        let resolved = resolve(directory, &[]).unwrap();
        assert_eq!(resolved, Resolved { settings: first.clone(), moved_from: None });
        let starts: [(&[&str], bool); 3] =
            [(&[], true), (&["10.0.0.1"], true), (&["10.0.0.3"], false)];
        for (more, is_remembered) in starts {
            assert_eq!(wanted(directory, more).is_remembered, is_remembered, "{more:?}");
        }
        let moved = resolve(directory, &["10.0.0.3"]).unwrap();
        assert_eq!(moved.settings.peer_addresses, first.peer_addresses);
        assert_eq!(moved.moved_from, Some(first.advertise_address));
        moved.settings.save_address(directory).unwrap();
        assert_eq!(resolve(directory, &[]).unwrap().settings, moved.settings, "the peers are kept");
        first.save_address(directory).unwrap();
        let before = written(directory);
        first.save(directory).unwrap();
        assert_eq!(written(directory), before, "unchanged settings are not written again");
        let others = resolve(directory, &["--peer-addresses=10.0.0.4"]).unwrap();
        assert_eq!(others.settings, settings("10.0.0.1:7789", &["10.0.0.4:7789"]));
        for own in [&["--peer-addresses=10.0.0.1"][..], &["10.0.0.2"]] {
            let error = resolve(directory, own).unwrap_err().to_string();
            assert!(error.contains("is this host's own address"), "{error}");
        }
        let error = resolve(directory, &["--peer-addresses=fd00::2"]).unwrap_err().to_string();
        assert!(
            error.contains("[fd00::2]:7789 and 10.0.0.1:7789 are not of the same address family"),
            "{error}"
        );
    }

    #[test]
    fn an_interface_or_a_network_is_remembered_with_the_last_address() {
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path();
        let peers = "--peer-addresses=10.0.0.1,10.0.0.2";
        let first = wanted(directory, &["--advertise-interface=eth1", peers]);
        assert_eq!((first.choice.is_ipv4, first.choice.before), (Some(true), None));
        assert!(!first.is_remembered);
        let here = first.at("10.0.0.2".parse().unwrap()).unwrap();
        let others: Vec<SocketAddr> = vec!["10.0.0.1:7789".parse().unwrap()];
        assert_eq!(here.settings.peer_addresses, others, "one command line serves every host");
        here.settings.save(directory).unwrap();
        let again = wanted(directory, &[]);
        assert!(again.is_remembered);
        assert_eq!(again.choice.rule, AddressRule::Interface("eth1".parse().unwrap()));
        assert_eq!(again.choice.before, Some("10.0.0.2".parse().unwrap()));
        let moved = again.at("10.0.0.9".parse().unwrap()).unwrap();
        assert_eq!(moved.moved_from, Some("10.0.0.2:7789".parse().unwrap()));
        let fixed = wanted(directory, &["10.0.0.2"]).at("10.0.0.2".parse().unwrap()).unwrap();
        assert_eq!((fixed.settings.advertise_by, fixed.moved_from), (None, None));
        let network = wanted(directory, &["10.0.0.0/24"]);
        assert_eq!(network.choice.rule.to_string(), "network 10.0.0.0/24");
        assert!(!network.is_remembered);
    }

    #[test]
    fn a_file_with_the_maximum_number_of_peers_can_be_read() {
        let directory = tempfile::tempdir().unwrap();
        let full = Settings {
            advertise_address: "[2001:db8::1]:7789".parse().unwrap(),
            advertise_by: None,
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
            let error = format!("{:#}", resolve(directory.path(), &["10.0.0.9"]).unwrap_err());
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
