//! Which subnets are free on every host.

use std::collections::BTreeMap;

use ipnet::{IpNet, Ipv4Net};

use super::{Cluster, Pool, Refusal, ReportedSubnet};
use crate::limits::{REPORTED_ROUTES_MAX, REPORTED_SUBNETS_MAX};
use crate::{HostId, NetworkId};

/// How many overlaps of one network are told in one line.
const CLASHES_TOLD_MAX: usize = 4;

/// The longest prefix by which a route is reported. Hosts that route to each of their containers
/// have thousands of routes, which come and go.
const ROUTE_LENGTH_MAX: u8 = 24;

/// A route of a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostRoute {
    /// Where it leads.
    pub destination: IpNet,
    /// Out of which interface.
    pub interface: String,
    /// Whether the destination is behind a gateway.
    pub remote: bool,
}

/// What a host reports: the subnets that are in use for certain, and the IPv4 routes to others,
/// merged where they lie side by side. The default route means nothing.
pub fn with_routes(certain: Vec<ReportedSubnet>, routes: &[HostRoute]) -> Vec<ReportedSubnet> {
    let mut merged: BTreeMap<(bool, &str), Vec<Ipv4Net>> = BTreeMap::new();
    for route in routes {
        let IpNet::V4(destination) = route.destination else { continue };
        let length = destination.prefix_len().min(ROUTE_LENGTH_MAX);
        let Ok(widened) = Ipv4Net::new(destination.addr(), length) else { continue };
        let is_known = certain.iter().any(|known| known.subnet.contains(&route.destination));
        if length > 0 && !is_known {
            merged.entry((route.remote, &route.interface)).or_default().push(widened.trunc());
        }
    }
    // Those at the host's own interfaces first: false is less than true.
    let routes = merged.into_iter().flat_map(|((remote, interface), subnets)| {
        let reported = move |subnet| ReportedSubnet {
            subnet: IpNet::V4(subnet),
            user: format!("a route of interface {interface}"),
            exclusive: false,
            remote,
        };
        Ipv4Net::aggregate(&subnets).into_iter().map(reported)
    });
    let routes: Vec<_> = routes.take(REPORTED_ROUTES_MAX).collect();
    certain.into_iter().chain(routes).take(REPORTED_SUBNETS_MAX).collect()
}

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
        if let Some(outside) = pool.reserved().into_iter().find(|address| !subnet.contains(address))
        {
            return Err(unfit(&format!(
                "does not contain {outside}, its gateway or auxiliary address"
            )));
        }
        if earlier.iter().any(|other| overlap(other.subnet, subnet)) {
            return Err(unfit("overlaps another subnet of the same network"));
        }
        match self.user_of(id, subnet) {
            None => Ok(()),
            Some((taken, user)) => {
                let free = matches!(subnet, IpNet::V4(_))
                    .then(|| self.free_subnet(0))
                    .flatten()
                    .map(IpNet::V4);
                Err(Refusal::Overlap { subnet, taken, user, free })
            }
        }
    }

    /// Who has a subnet that this one must not overlap.
    fn user_of(&self, id: &NetworkId, subnet: IpNet) -> Option<(IpNet, String)> {
        let networks =
            self.networks.iter().filter(|(other, _)| *other != id).flat_map(|(other, network)| {
                network.settings.pools.iter().map(move |pool| {
                    (pool.subnet, format!("shoutd network {}", network.title(other)))
                })
            });
        let hosts = self.hosts.values().flat_map(|host| {
            let exclusive = host.subnets.iter().filter(|reported| reported.exclusive);
            exclusive.map(|reported| {
                (reported.subnet, format!("{} on host {}", reported.user, host.name))
            })
        });
        networks.chain(hosts).find(|(taken, _)| overlap(*taken, subnet))
    }

    /// An IPv4 subnet that neither a network nor anything on any host uses. Different `turn`s start
    /// the search at different places, so that hosts which choose at the same time choose
    /// differently. If hosts have routes to all there are, it is one that some host has a gateway
    /// to: only that host's containers lose something by it.
    pub fn free_subnet(&self, turn: u64) -> Option<Ipv4Net> {
        self.free_subnet_beside(turn, |_| true)
            .or_else(|| self.free_subnet_beside(turn, |reported| !reported.remote))
    }

    fn free_subnet_beside(
        &self,
        turn: u64,
        counts: impl Fn(&ReportedSubnet) -> bool,
    ) -> Option<Ipv4Net> {
        let candidates = candidates();
        let count = candidates.len();
        let start = usize::try_from(turn % count.max(1) as u64).unwrap_or(0);
        (0..count).map(|step| candidates[(start + step) % count]).find(|candidate| {
            let candidate = IpNet::V4(*candidate);
            let networks = self
                .networks
                .values()
                .flat_map(|network| network.settings.pools.iter().map(|pool| pool.subnet));
            let reported = self
                .hosts
                .values()
                .flat_map(|host| &host.subnets)
                .filter(|reported| counts(reported));
            !networks
                .chain(reported.map(|reported| reported.subnet))
                .any(|taken| overlap(taken, candidate))
        })
    }

    /// What hosts use and that overlaps a network of the cluster, one line for each network: those
    /// that came to be after the network was made, and those that do not keep one from being made.
    /// A host is told of what is its own, and of networks that were created on it.
    pub fn overlap_problems(&self, me: HostId) -> BTreeMap<NetworkId, String> {
        let lines = self.networks.iter().filter_map(|(id, network)| {
            let clashes = self.clashes(&network.settings.pools);
            let mine = clashes.filter(|(host, ..)| **host == me || network.origin == me);
            let texts: Vec<_> =
                mine.take(CLASHES_TOLD_MAX).map(|clash| self.clash_text(clash)).collect();
            let title = network.title(id);
            let text = texts.join("; ");
            (!texts.is_empty()).then(|| {
                let advice =
                    "containers on the network cannot reach what else has these addresses there";
                (id.clone(), format!("network {title}: {text}; {advice}"))
            })
        });
        lines.collect()
    }

    fn clash_text(&self, (host, pool, reported): (&HostId, &Pool, &ReportedSubnet)) -> String {
        let (host, ReportedSubnet { subnet, user, .. }) = (self.host_name(*host), reported);
        format!("subnet {} overlaps {subnet} of {user} on host {host}", pool.subnet)
    }

    /// Each subnet of these pools with what a host has at it. What a host has behind a gateway may
    /// well be meant to be hidden from containers.
    fn clashes<'a>(
        &'a self,
        pools: &'a [Pool],
    ) -> impl Iterator<Item = (&'a HostId, &'a Pool, &'a ReportedSubnet)> {
        let reported = self
            .hosts
            .iter()
            .flat_map(|(id, host)| host.subnets.iter().map(move |reported| (id, reported)));
        let near = reported.filter(|(_, reported)| !reported.remote);
        near.flat_map(move |(host, reported)| {
            let overlapping = pools.iter().filter(|pool| overlap(pool.subnet, reported.subnet));
            overlapping.map(move |pool| (host, pool, reported))
        })
    }
}

/// Private space (RFC 1918), far from where Docker's own pools begin (172.17.0.0/16 upwards) and
/// from what people type first.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ClusterId;
    use crate::cluster::{Command, Settings};

    fn host(value: u64) -> HostId {
        HostId::new(value).unwrap()
    }

    fn route(destination: &str, interface: &str, remote: bool) -> HostRoute {
        HostRoute {
            destination: destination.parse().unwrap(),
            interface: interface.to_owned(),
            remote,
        }
    }

    fn used(subnet: &str, user: &str) -> ReportedSubnet {
        ReportedSubnet {
            subnet: subnet.parse().unwrap(),
            user: user.to_owned(),
            exclusive: false,
            remote: false,
        }
    }

    /// Two hosts, and network aaaaaaaaaaaaaaaa, created on the first, with 10.1.0.0/16.
    fn cluster() -> Cluster {
        let mut cluster = Cluster::default();
        let pool = Pool {
            subnet: "10.1.0.0/16".parse().unwrap(),
            gateway: None,
            auxiliary: BTreeMap::new(),
            range: None,
        };
        let settings = Settings {
            pools: vec![pool],
            options: BTreeMap::new(),
            internal: false,
            ipv6: false,
            docker_ipam: true,
            swarm: false,
        };
        let admit = |value: u64| Command::AdmitHost {
            host: host(value),
            name: format!("h{value}"),
            address: format!("10.0.0.{value}:7789").parse().unwrap(),
        };
        let create = Command::CreateNetwork {
            id: "a".repeat(16).parse().unwrap(),
            origin: host(1),
            settings,
        };
        for command in
            [Command::Found { cluster: ClusterId::new(1) }, admit(1), admit(2), admit(3), create]
        {
            cluster.apply(&command).unwrap();
        }
        cluster
    }

    fn report(cluster: &mut Cluster, by: u64, subnets: Vec<ReportedSubnet>) {
        cluster.apply(&Command::ReportSubnets { host: host(by), subnets }).unwrap();
    }

    #[test]
    fn what_comes_to_overlap_a_network_is_a_problem_where_it_is_and_where_that_was_created() {
        let mut cluster = cluster();
        assert!(cluster.overlap_problems(host(1)).is_empty());
        report(
            &mut cluster,
            2,
            vec![used("10.1.7.0/24", "Docker network bar"), used("10.2.0.0/16", "other")],
        );
        for (asked, is_told) in [(1, true), (2, true), (3, false)] {
            let problems: Vec<_> = cluster.overlap_problems(host(asked)).into_values().collect();
            assert_eq!(problems.len(), usize::from(is_told), "{problems:?}");
            let text = "subnet 10.1.0.0/16 overlaps 10.1.7.0/24 of Docker network bar on host h2";
            assert!(problems.iter().all(|problem| problem.contains(text)), "{problems:?}");
        }
        report(&mut cluster, 2, Vec::new());
        assert!(cluster.overlap_problems(host(2)).is_empty());
    }

    #[test]
    fn a_subnet_that_is_chosen_is_on_no_hosts_way_unless_all_are() {
        let mut cluster = cluster();
        let first = cluster.free_subnet(0).unwrap();
        report(
            &mut cluster,
            2,
            with_routes(Vec::new(), &[route(&first.to_string(), "vpn0", false)]),
        );
        let second = cluster.free_subnet(0).unwrap();
        assert_ne!(first, second);
        let everywhere: Vec<_> = ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"]
            .map(|destination| route(destination, "eth0", true))
            .into_iter()
            .chain([route(&first.to_string(), "vpn0", false)])
            .collect();
        report(&mut cluster, 2, with_routes(Vec::new(), &everywhere));
        assert_eq!(cluster.free_subnet(0), Some(second), "only the gateway's are taken then");
        assert!(
            cluster.overlap_problems(host(1)).is_empty(),
            "what is behind a gateway is no problem"
        );
    }

    #[test]
    fn routes_are_reported_without_those_that_are_known_merged_and_bounded() {
        let known = vec![used("172.17.0.0/16", "Docker network bridge")];
        let routes = [
            route("0.0.0.0/0", "eth0", true),
            route("172.17.0.0/16", "docker0", false),
            route("10.9.8.1/32", "wg0", false),
            route("10.9.9.77/32", "wg0", false),
            route("fd00::/64", "eth0", false),
        ];
        let reported = with_routes(known.clone(), &routes);
        let wireguard = used("10.9.8.0/23", "a route of interface wg0");
        assert_eq!(reported, [known[0].clone(), wireguard]);
        let many: Vec<_> = (0..=255)
            .flat_map(|a| {
                (0..8).map(move |b| route(&format!("10.{a}.{}.0/24", b * 2), "eth0", true))
            })
            .collect();
        assert_eq!(with_routes(known, &many).len(), 1 + REPORTED_ROUTES_MAX);
    }
}
