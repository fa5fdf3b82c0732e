//! Subnets that hosts use, and the search for a subnet that is free on every host.

use std::collections::BTreeMap;

use ipnet::{IpNet, Ipv4Net};

use super::{Cluster, Pool, Refusal, ReportedSubnet};
use crate::limits::{REPORTED_ROUTES_MAX, REPORTED_SUBNETS_MAX};
use crate::{HostId, NetworkId};

/// How many overlaps are reported per network.
const OVERLAPS_SHOWN_MAX: usize = 4;

/// Routes with longer prefixes are reported with this prefix length. Hosts that route to each of
/// their containers have thousands of routes, which change often.
const ROUTE_LENGTH_MAX: u8 = 24;

/// A route of a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostRoute {
    /// The destination.
    pub destination: IpNet,
    /// The outgoing interface.
    pub interface: String,
    /// Whether the destination is behind a gateway.
    pub remote: bool,
}

/// The subnets that a host reports: those that are certainly in use, and the IPv4 routes to other
/// destinations, aggregated. The default route is left out.
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
    // Directly connected routes come first: false is less than true.
    let routes = merged.into_iter().flat_map(|((remote, interface), subnets)| {
        Ipv4Net::aggregate(&subnets).into_iter().map(move |subnet| ReportedSubnet {
            subnet: IpNet::V4(subnet),
            user: format!("a route of interface {interface}"),
            exclusive: false,
            remote,
        })
    });
    let routes: Vec<_> = routes.take(REPORTED_ROUTES_MAX).collect();
    certain.into_iter().chain(routes).take(REPORTED_SUBNETS_MAX).collect()
}

impl Cluster {
    /// Whether a network has a subnet that overlaps this one.
    pub fn has_overlapping_network(&self, subnet: IpNet) -> bool {
        let mut pools = self.networks.values().flat_map(|network| &network.settings.pools);
        pools.any(|pool| overlap(pool.subnet, subnet))
    }

    /// Checks the subnets of a new network.
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
        let outside = pool.reserved().into_iter().find(|address| !subnet.contains(address));
        let why = if let Some(why) = super::pool::unfit(subnet) {
            Some(why.to_owned())
        } else if let Some(outside) = outside {
            Some(format!("does not contain {outside}, its gateway or auxiliary address"))
        } else if earlier.iter().any(|other| overlap(other.subnet, subnet)) {
            Some("overlaps another subnet of the same network".to_owned())
        } else {
            None
        };
        if let Some(why) = why {
            return Err(Refusal::UnfitSubnet { subnet, why });
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

    /// The user of a subnet that this one overlaps and must not overlap.
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

    /// An IPv4 subnet that no network and no host uses. `turn` selects where the search starts, so
    /// that hosts which choose at the same time choose different subnets. If hosts have routes to
    /// all candidates, it is one to which some host has only a route by a gateway: the containers
    /// on that host cannot reach that subnet.
    pub fn free_subnet(&self, turn: u64) -> Option<Ipv4Net> {
        self.find_free_subnet(turn, |_| true)
            .or_else(|| self.find_free_subnet(turn, |reported| !reported.remote))
    }

    fn find_free_subnet(
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

    /// Host subnets that overlap a network, as one line per network. Such a subnet came into use
    /// after the network was created, or is not exclusive. A host reports its own subnets and the
    /// networks that were created on it.
    pub fn overlap_problems(&self, me: HostId) -> BTreeMap<NetworkId, String> {
        let lines = self.networks.iter().filter_map(|(id, network)| {
            let overlaps = self.overlaps(&network.settings.pools);
            let mine = overlaps.filter(|overlap| overlap.host == me || network.origin == me);
            let texts: Vec<_> =
                mine.take(OVERLAPS_SHOWN_MAX).map(|overlap| self.overlap_text(&overlap)).collect();
            let title = network.title(id);
            let text = texts.join("; ");
            (!texts.is_empty()).then(|| {
                let advice =
                    "containers on the network cannot reach other users of these addresses there";
                (id.clone(), format!("network {title}: {text}; {advice}"))
            })
        });
        lines.collect()
    }

    fn overlap_text(&self, overlap: &Overlap<'_>) -> String {
        let Overlap { host, pool, reported: ReportedSubnet { subnet, user, .. } } = overlap;
        let host = self.host_name(*host);
        format!("subnet {} overlaps {subnet} of {user} on host {host}", pool.subnet)
    }

    /// The pairs of a pool and a host's subnet that overlap. Subnets behind a gateway are left out,
    /// because users may well intend to hide those from containers.
    fn overlaps<'a>(&'a self, pools: &'a [Pool]) -> impl Iterator<Item = Overlap<'a>> {
        let reported = self
            .hosts
            .iter()
            .flat_map(|(id, host)| host.subnets.iter().map(move |reported| (id, reported)));
        let near = reported.filter(|(_, reported)| !reported.remote);
        near.flat_map(move |(host, reported)| {
            let overlapping = pools.iter().filter(|pool| overlap(pool.subnet, reported.subnet));
            overlapping.map(move |pool| Overlap { host: *host, pool, reported })
        })
    }
}

/// A pool that overlaps a host's subnet.
struct Overlap<'a> {
    host: HostId,
    pool: &'a Pool,
    reported: &'a ReportedSubnet,
}

/// Candidates in private address space (RFC 1918), away from Docker's default pools (172.17.0.0/16
/// upwards) and from the subnets that users tend to choose.
fn candidates() -> Vec<Ipv4Net> {
    let medium = (20..=31).rev().map(|b| Ipv4Net::new_assert([172, b, 0, 0].into(), 16));
    let large = (64..=255).rev().map(|b| Ipv4Net::new_assert([10, b, 0, 0].into(), 16));
    let small = (0..16).rev().map(|c| Ipv4Net::new_assert([192, 168, c * 16, 0].into(), 20));
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

    /// Two hosts more than needed, and network aaaaaaaaaaaaaaaa with 10.1.0.0/16, created on host
    /// 1.
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
        cluster.apply(&Command::Found { cluster: ClusterId::new(1) }).unwrap();
        for value in 1..=3 {
            let admit = Command::AdmitHost {
                host: host(value),
                name: format!("h{value}"),
                address: format!("10.0.0.{value}:7789").parse().unwrap(),
            };
            cluster.apply(&admit).unwrap();
        }
        let create = Command::CreateNetwork {
            id: "a".repeat(16).parse().unwrap(),
            origin: host(1),
            settings,
        };
        cluster.apply(&create).unwrap();
        cluster
    }

    fn report(cluster: &mut Cluster, by: u64, subnets: Vec<ReportedSubnet>) {
        cluster.apply(&Command::ReportSubnets { host: host(by), subnets }).unwrap();
    }

    #[test]
    fn an_overlap_is_reported_by_the_host_that_has_it_and_by_the_networks_origin() {
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
    fn a_chosen_subnet_avoids_routes_and_prefers_gateway_routes_if_all_are_taken() {
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
        assert_eq!(cluster.free_subnet(0), Some(second), "only routes by gateways may be used");
        assert!(
            cluster.overlap_problems(host(1)).is_empty(),
            "an overlap with a subnet behind a gateway is not a problem"
        );
    }

    #[test]
    fn reported_routes_are_new_aggregated_and_limited_in_number() {
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
