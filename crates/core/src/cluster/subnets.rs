//! Which subnets are free on every host.

use ipnet::{IpNet, Ipv4Net};

use super::{Cluster, Pool, Refusal};
use crate::NetworkId;

impl Cluster {
    /// Checks the subnets of a network that is to be.
    pub(super) fn check_pools(&self, id: &NetworkId, pools: &[Pool]) -> Result<(), Refusal> {
        if !pools.iter().any(|pool| matches!(pool.subnet, IpNet::V4(_))) {
            return Err(Refusal::NoSubnet);
        }
        for (index, pool) in pools.iter().enumerate() {
            self.check_pool(id, pool, &pools[..index])?;
        }
        Ok(())
    }

    fn check_pool(&self, id: &NetworkId, pool: &Pool, earlier: &[Pool]) -> Result<(), Refusal> {
        let subnet = pool.subnet;
        let unfit = |why: &str| Refusal::UnfitSubnet { subnet, why: why.to_owned() };
        if let Some(why) = super::pool::unfit(subnet) {
            return Err(unfit(why));
        }
        if let Some(outside) = pool.reserved().into_iter().find(|address| !subnet.contains(address)) {
            return Err(unfit(&format!("does not contain {outside}, its gateway or auxiliary address")));
        }
        if earlier.iter().any(|other| overlap(other.subnet, subnet)) {
            return Err(unfit("overlaps another subnet of the same network"));
        }
        match self.user_of(id, subnet) {
            None => Ok(()),
            Some((taken, user)) => {
                let free = matches!(subnet, IpNet::V4(_)).then(|| self.free_subnet(0)).flatten().map(IpNet::V4);
                Err(Refusal::Overlap { subnet, taken, user, free })
            }
        }
    }

    /// Who has a subnet that this one must not overlap.
    fn user_of(&self, id: &NetworkId, subnet: IpNet) -> Option<(IpNet, String)> {
        let networks = self.networks.iter().filter(|(other, _)| *other != id).flat_map(|(other, network)| {
            network
                .settings
                .pools
                .iter()
                .map(move |pool| (pool.subnet, format!("shoutd network {}", network.title(other))))
        });
        let hosts = self.hosts.values().flat_map(|host| {
            let exclusive = host.subnets.iter().filter(|reported| reported.exclusive);
            exclusive.map(|reported| (reported.subnet, format!("{} on host {}", reported.user, host.name)))
        });
        networks.chain(hosts).find(|(taken, _)| overlap(*taken, subnet))
    }

    /// An IPv4 subnet that neither a network nor anything on any host uses. Different `turn`s start the search at different places, so that
    /// hosts which choose at the same time choose differently.
    pub fn free_subnet(&self, turn: u64) -> Option<Ipv4Net> {
        let candidates = candidates();
        let count = candidates.len();
        let start = usize::try_from(turn % count.max(1) as u64).unwrap_or(0);
        (0..count).map(|step| candidates[(start + step) % count]).find(|candidate| {
            let candidate = IpNet::V4(*candidate);
            let networks =
                self.networks.values().flat_map(|network| network.settings.pools.iter().map(|pool| pool.subnet));
            let hosts = self.hosts.values().flat_map(|host| host.subnets.iter().map(|reported| reported.subnet));
            !networks.chain(hosts).any(|taken| overlap(taken, candidate))
        })
    }

    /// Subnets that hosts use and that overlap this network's without breaking it: worth a warning.
    pub fn overlap_warnings(&self, pools: &[Pool]) -> Vec<String> {
        let reported = self.hosts.values().flat_map(|host| host.subnets.iter().map(move |reported| (host, reported)));
        let clashes = reported.filter(|(_, reported)| !reported.exclusive).flat_map(|(host, reported)| {
            let overlapping = pools.iter().filter(|pool| overlap(pool.subnet, reported.subnet));
            overlapping.map(move |pool| {
                format!(
                    "subnet {} overlaps {} of {} on host {}",
                    pool.subnet, reported.subnet, reported.user, host.name
                )
            })
        });
        clashes.collect()
    }
}

/// Private space (RFC 1918), far from where Docker's own pools begin (172.17.0.0/16 upwards) and from what people type first.
fn candidates() -> Vec<Ipv4Net> {
    let block = |a: u8, b: u8, c: u8, length: u8| Ipv4Net::new_assert([a, b, c, 0].into(), length);
    let medium = (20..=31).rev().map(|b| block(172, b, 0, 16));
    let large = (64..=255).rev().map(|b| block(10, b, 0, 16));
    let small = (0..16).rev().map(|c| block(192, 168, c * 16, 20));
    medium.chain(large).chain(small).collect()
}

fn overlap(a: IpNet, b: IpNet) -> bool {
    a.contains(&b) || b.contains(&a)
}
