//! The settings of a start: what it is told, what the last one was told, and what a Swarm tells.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Error, Result, bail};
use shoutd_cli::{LastStart, StartArguments};
use shoutd_core::limits::PORT;
use shoutd_core::own_address::{AddressChoice, AddressRule};

use crate::membership::swarm_node::SwarmStart;

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
    pub settings: LastStart,
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
        let remembered = LastStart::load(&arguments.data_dir)?;
        let before = remembered.as_ref().map(|remembered| remembered.advertise_address);
        let rule_before = remembered.as_ref().map(LastStart::rule);
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
        let settings = LastStart { advertise_address: own, advertise_by, peer_addresses };
        settings.check().map_err(Error::msg)?;
        Ok(Resolved { settings, moved_from: self.before.filter(|before| *before != own) })
    }
}

/// Whether this start is told nothing, so that only a Swarm can tell the address.
pub fn needs_swarm(arguments: &StartArguments) -> Result<bool> {
    let is_first = LastStart::load(&arguments.data_dir)?.is_none();
    Ok(is_first && arguments.address_rule().is_none())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;
    use std::time::SystemTime;

    use clap::{Args, Command, FromArgMatches};
    use shoutd_core::view::START_FILE;

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

    fn settings(address: &str, peers: &[&str]) -> LastStart {
        let peers = peers.iter().map(|peer| peer.parse().unwrap());
        LastStart {
            advertise_address: address.parse().unwrap(),
            advertise_by: None,
            peer_addresses: peers.collect(),
        }
    }

    /// When the settings were last written.
    fn written(directory: &Path) -> SystemTime {
        fs::metadata(directory.join(START_FILE)).unwrap().modified().unwrap()
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
}
