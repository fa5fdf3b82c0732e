//! The containers that are members of multicast groups. Advertisements only have the memberships of
//! a whole host, so each host looks up its own containers on request.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;

use futures::future::join_all;
use shoutd_core::local::Local;
use shoutd_core::plane::DeviceName;
use shoutd_core::view::{GroupMemberRow, GroupRow};
use shoutd_core::{EndpointId, NetworkId, Vni};
use shoutd_dataplane::group_members;
use tracing::debug;

use crate::api::views::{PEER_DEADLINE, Views};
use crate::plane::NAMESPACES;

/// Path at which peers ask for this host's members.
pub const GROUP_MEMBERS: &str = "/v1/listeners";

impl Views {
    /// The groups with their member hosts, and the member containers of the hosts that answer.
    pub async fn groups(&self) -> Vec<GroupRow> {
        let cluster = self.services.agreement.cluster();
        let mut rows = self.services.advertiser.groups();
        let with_members: BTreeSet<String> =
            rows.iter().flat_map(|row| &row.hosts).map(|host| host.name.clone()).collect();
        let hosts = cluster.hosts.iter().filter(|(_, host)| with_members.contains(&host.name));
        let answers = join_all(hosts.map(async |(id, host)| {
            let members = if *id == self.services.agreement.me {
                self.own_group_members().await
            } else {
                let answer = self
                    .services
                    .peers
                    .call_host(*id, host.address, GROUP_MEMBERS, &(), PEER_DEADLINE)
                    .await;
                // A host that is down, or too old to answer, is shown without its containers.
                answer.unwrap_or_default()
            };
            (host.name.as_str(), members)
        }));
        let mut containers: BTreeMap<(&str, String, Option<IpAddr>), Vec<String>> = BTreeMap::new();
        for (host, members) in answers.await {
            for member in members {
                let title = cluster.network_title(&member.network).to_owned();
                containers.entry((host, title, member.group)).or_default().push(member.container);
            }
        }
        for row in &mut rows {
            for host in &mut row.hosts {
                let members = containers.get(&(host.name.as_str(), row.network.clone(), row.group));
                host.containers = members.cloned().unwrap_or_default();
            }
        }
        rows
    }

    /// This host's containers that are members of groups.
    pub async fn own_group_members(&self) -> Vec<GroupMemberRow> {
        let (cluster, local) = (self.services.agreement.cluster(), self.services.local.get());
        let names = self.container_names_in_time(&local).await;
        let ports = ports(&local, &names);
        let vnis: Vec<(NetworkId, Vni)> = cluster
            .networks
            .iter()
            .filter(|(id, _)| local.is_attached(id))
            .map(|(id, network)| (id.clone(), network.vni))
            .collect();
        let rows = tokio::task::spawn_blocking(move || {
            let mut rows = Vec::new();
            for (network, vni) in vnis {
                match group_members(Path::new(NAMESPACES), vni) {
                    Ok(members) => rows.extend(members.into_iter().filter_map(|(port, group)| {
                        let container = ports.get(&port)?.clone();
                        Some(GroupMemberRow { network: network.clone(), group, container })
                    })),
                    Err(error) => {
                        debug!("cannot read the members on network {}: {error}", network.short());
                    }
                }
            }
            rows.sort();
            rows
        });
        rows.await.unwrap_or_default()
    }
}

/// The container's name for each port.
fn ports(local: &Local, names: &BTreeMap<EndpointId, String>) -> BTreeMap<DeviceName, String> {
    local
        .endpoints
        .keys()
        .map(|id| {
            let name = names.get(id).map_or(id.short(), String::as_str);
            (DeviceName::port(id), name.to_owned())
        })
        .collect()
}
