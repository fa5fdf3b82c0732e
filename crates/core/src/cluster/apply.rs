//! Applies commands.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use super::{
    Cluster, Command, Description, Host, Network, Outcome, Refusal, ReportedSubnet, Settings,
};
use crate::limits::{
    HOSTS_MAX, MTU_MIN, NETWORKS_MAX, PAIRS_MAX, REPORTED_SUBNETS_MAX, SUBNETS_MAX, TEXT_BYTES_MAX,
    VNI_FIRST, VNI_NOWHERE,
};
use crate::plane::MTU_OPTION;
use crate::{ClusterId, HostId, NetworkId, Vni};

impl Cluster {
    /// Applies a command, or refuses it and changes nothing.
    ///
    /// # Errors
    /// The reason why the command is refused.
    pub fn apply(&mut self, command: &Command) -> Result<Outcome, Refusal> {
        match command {
            Command::Found { cluster } => self.found(*cluster),
            _ if self.id.is_none() => Err(Refusal::NoCluster),
            Command::SetAuthority { authority } => self.set_authority(authority),
            Command::ReplaceAuthority { former, authority } => {
                self.replace_authority(former, authority)
            }
            Command::AddToken { hash, token, now } => self.add_token(*hash, *token, *now),
            Command::RevokeTokens => Ok(self.revoke_tokens()),
            Command::Approve { key, until, now } => self.approve(*key, *until, *now),
            Command::Enroll { host, pass, now } => self.enroll(*host, *pass, *now),
            Command::RemoveHost { host, now } => self.remove_host(*host, *now),
            Command::AdmitHost { host, name, address } => self.admit(*host, name, *address),
            Command::MoveHosts { hosts } => self.move_hosts(hosts),
            Command::ReportSubnets { host, subnets } => self.report(*host, subnets),
            Command::SetEncryption { always } => Ok(self.set_encryption(*always)),
            Command::PublishTunnelEnd { host, end } => self.publish_end(*host, *end),
            Command::RotateTunnelKeys { to } => self.rotate_tunnel_keys(*to),
            Command::CreateNetwork { id, origin, settings } => self.create(id, *origin, settings),
            Command::DescribeNetwork { id, description } => self.describe(id, description),
            Command::Attach { network, host } => self.attach(network, *host),
            Command::Detach { network, host } => Ok(self.detach(network, *host)),
            Command::RemoveNetwork { id } => self.remove(id),
            Command::ClaimAddress { network, host, address } => {
                self.claim(network, *host, *address)
            }
            Command::YieldAddress { network, address, from, claims, to } => {
                self.yield_address(network, *address, (*from, *claims), *to)
            }
            Command::ReleaseAddresses { network, host, claims, addresses } => {
                self.release(network, (*host, *claims), addresses)
            }
        }
    }

    fn found(&mut self, cluster: ClusterId) -> Result<Outcome, Refusal> {
        match self.id {
            Some(current) if current != cluster => {
                Err(Refusal::OtherCluster { has: current, wanted: cluster })
            }
            _ => {
                self.id = Some(cluster);
                Ok(Outcome::Done)
            }
        }
    }

    fn admit(&mut self, id: HostId, name: &str, address: SocketAddr) -> Result<Outcome, Refusal> {
        check_text("host name", name)?;
        self.check_not_removed(id)?;
        if let Some((_, other)) = self
            .hosts
            .iter()
            .find(|(other, host)| **other != id && host.address.ip() == address.ip())
        {
            return Err(Refusal::HostAddressTaken {
                address: address.ip().to_string(),
                name: other.name.clone(),
            });
        }
        if let Some((_, other)) = self
            .hosts
            .iter()
            .find(|(other, host)| **other != id && host.address.is_ipv4() != address.is_ipv4())
        {
            return Err(Refusal::OtherAddressFamily {
                address: address.ip().to_string(),
                name: other.name.clone(),
                has: other.address.ip().to_string(),
            });
        }
        if !self.hosts.contains_key(&id) && self.hosts.len() >= HOSTS_MAX {
            return Err(Refusal::Full { what: "hosts".to_owned(), count: HOSTS_MAX });
        }
        self.admissions.enrolled.remove(&id);
        let subnets = self.hosts.remove(&id).map_or_else(Vec::new, |host| host.subnets);
        self.hosts.insert(id, Host { name: name.to_owned(), address, subnets });
        Ok(Outcome::Done)
    }

    fn move_hosts(&mut self, moves: &BTreeMap<HostId, SocketAddr>) -> Result<Outcome, Refusal> {
        for (id, address) in moves {
            let host = self.hosts.get(id).ok_or(Refusal::UnknownHost(*id))?;
            let holder =
                self.hosts.iter().filter(|(other, _)| *other != id).find(|(other, host)| {
                    moves.get(other).unwrap_or(&host.address).ip() == address.ip()
                });
            if let Some((_, other)) = holder {
                return Err(Refusal::HostAddressTaken {
                    address: address.ip().to_string(),
                    name: other.name.clone(),
                });
            }
            if host.address.is_ipv4() != address.is_ipv4() {
                return Err(Refusal::OtherAddressFamily {
                    address: address.ip().to_string(),
                    name: host.name.clone(),
                    has: host.address.ip().to_string(),
                });
            }
        }
        for (id, address) in moves {
            if let Some(host) = self.hosts.get_mut(id) {
                host.address = *address;
            }
        }
        Ok(Outcome::Done)
    }

    fn report(&mut self, id: HostId, subnets: &[ReportedSubnet]) -> Result<Outcome, Refusal> {
        if subnets.len() > REPORTED_SUBNETS_MAX {
            return Err(Refusal::Full {
                what: "subnets of one host".to_owned(),
                count: REPORTED_SUBNETS_MAX,
            });
        }
        subnets.iter().try_for_each(|reported| check_text("user of a subnet", &reported.user))?;
        let host = self.hosts.get_mut(&id).ok_or(Refusal::UnknownHost(id))?;
        host.subnets = subnets.to_vec();
        Ok(Outcome::Done)
    }

    fn create(
        &mut self,
        id: &NetworkId,
        origin: HostId,
        settings: &Settings,
    ) -> Result<Outcome, Refusal> {
        if let Some(network) = self.networks.get(id) {
            return if network.is_same(origin, settings) {
                Ok(Outcome::Done)
            } else {
                Err(Refusal::NetworkExists(id.clone()))
            };
        }
        if !self.hosts.contains_key(&origin) {
            return Err(Refusal::UnknownHost(origin));
        }
        if self.networks.len() >= NETWORKS_MAX {
            return Err(Refusal::Full { what: "networks".to_owned(), count: NETWORKS_MAX });
        }
        if settings.pools.len() > SUBNETS_MAX {
            return Err(Refusal::TooLarge(format!(
                "a network can have at most {SUBNETS_MAX} subnets, not {}",
                settings.pools.len()
            )));
        }
        check_pairs("options", &settings.options)?;
        check_mtu(settings.options.get(MTU_OPTION))?;
        self.check_pools(id, &settings.pools)?;
        let encrypted = self.encrypts(&settings.options)?;
        self.encryption.wanted |= encrypted;
        let vni = self.take_vni();
        let network = Network {
            vni,
            origin,
            settings: settings.clone(),
            description: None,
            leases: BTreeMap::new(),
            claims: BTreeMap::new(),
            attached: BTreeSet::new(),
            removing: false,
            encrypted,
        };
        self.networks.insert(id.clone(), Arc::new(network));
        Ok(Outcome::Done)
    }

    /// The next free VNI. There is always one, because `NETWORKS_MAX` is less than the number of
    /// VNIs.
    fn take_vni(&mut self) -> Vni {
        loop {
            let candidate = Vni::new(self.next_vni).filter(|vni| vni.get() != VNI_NOWHERE);
            self.next_vni = self.next_vni.saturating_add(1);
            match candidate {
                Some(vni) if !self.networks.values().any(|network| network.vni == vni) => {
                    return vni;
                }
                Some(_) => {}
                None => self.next_vni = VNI_FIRST,
            }
        }
    }

    fn describe(&mut self, id: &NetworkId, description: &Description) -> Result<Outcome, Refusal> {
        check_text("network name", &description.name)?;
        check_text("Swarm id", description.swarm.as_deref().unwrap_or_default())?;
        check_pairs("labels", &description.labels)?;
        check_pairs("IPAM options", &description.ipam_options)?;
        if description.subnets.len() > SUBNETS_MAX {
            let count = description.subnets.len();
            return Err(Refusal::TooLarge(format!(
                "a network can have at most {SUBNETS_MAX} subnets, not {count}"
            )));
        }
        if let Some((_, other)) =
            self.network_named(&description.name).filter(|(other, _)| *other != id)
        {
            let origin = self.host_name(other.origin);
            return Err(Refusal::NameTaken { name: description.name.clone(), origin });
        }
        let network =
            self.networks.get_mut(id).ok_or_else(|| Refusal::UnknownNetwork(id.clone()))?;
        let network = Arc::make_mut(network);
        network.description = Some(description.clone());
        for pool in &mut network.settings.pools {
            let range = description.subnets.get(&pool.subnet).and_then(|described| described.range);
            // Docker accepts only a range within the subnet.
            pool.range = range.filter(|range| pool.subnet.contains(range));
        }
        Ok(Outcome::Done)
    }
}

fn check_text(what: &str, text: &str) -> Result<(), Refusal> {
    if text.len() > TEXT_BYTES_MAX {
        return Err(Refusal::TooLarge(format!(
            "the {what} has {} bytes; the limit is {TEXT_BYTES_MAX}",
            text.len()
        )));
    }
    Ok(())
}

fn check_mtu(wanted: Option<&String>) -> Result<(), Refusal> {
    match wanted {
        Some(text) if !text.parse().is_ok_and(|mtu: u16| mtu >= MTU_MIN) => {
            Err(Refusal::UnfitMtu(text.chars().take(20).collect()))
        }
        _ => Ok(()),
    }
}

fn check_pairs(what: &str, pairs: &BTreeMap<String, String>) -> Result<(), Refusal> {
    if pairs.len() > PAIRS_MAX {
        return Err(Refusal::TooLarge(format!(
            "a network can have at most {PAIRS_MAX} {what}, not {}",
            pairs.len()
        )));
    }
    pairs
        .iter()
        .flat_map(|(key, value)| [key, value])
        .try_for_each(|text| check_text(&format!("text in {what}"), text))
}
