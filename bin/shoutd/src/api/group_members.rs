//! Which containers listen to which group: looked up when somebody asks, on the host that has them.
//! What hosts announce to each other says only what all containers of a host want together.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;

use futures::future::join_all;
use shoutd_core::local::Local;
use shoutd_core::plane::DeviceName;
use shoutd_core::view::{GroupRow, ListenerRow};
use shoutd_core::{EndpointId, NetworkId, Vni};
use shoutd_dataplane::listeners;
use tracing::debug;

use crate::api::views::{PEER_DEADLINE, Views};
use crate::app::daemon::NAMESPACES;

/// Where peers ask for this host's listeners.
pub const LISTENERS: &str = "/v1/listeners";

impl Views {
    /// `shoutdctl groups`: who listens, with the containers that do, as far as the hosts tell.
    pub async fn groups(&self) -> Vec<GroupRow> {
        let cluster = self.services.agreement.cluster();
        let mut rows = self.services.advertiser.groups();
        let listening =
            |name: &str| rows.iter().any(|row| row.hosts.iter().any(|host| host.name == name));
        let hosts = cluster.hosts.iter().filter(|(_, host)| listening(&host.name));
        let told = join_all(hosts.map(async |(id, host)| {
            let told = if *id == self.services.agreement.me {
                self.own_listeners().await
            } else {
                let asked = self
                    .services
                    .peers
                    .call_host(*id, host.address, LISTENERS, &(), PEER_DEADLINE)
                    .await;
                // An older host, or one that is away just now, tells nothing: the rest is shown all
                // the same.
                asked.unwrap_or_default()
            };
            (host.name.as_str(), told)
        }));
        let mut containers: BTreeMap<(&str, String, Option<IpAddr>), Vec<String>> = BTreeMap::new();
        for (host, listener) in told
            .await
            .into_iter()
            .flat_map(|(host, told)| told.into_iter().map(move |row| (host, row)))
        {
            let title = cluster.network_title(&listener.network).to_owned();
            containers.entry((host, title, listener.group)).or_default().push(listener.container);
        }
        for row in &mut rows {
            for host in &mut row.hosts {
                let listening =
                    containers.get(&(host.name.as_str(), row.network.clone(), row.group));
                host.containers = listening.cloned().unwrap_or_default();
            }
        }
        rows
    }

    /// This host's containers that listen.
    pub async fn own_listeners(&self) -> Vec<ListenerRow> {
        let (cluster, local) = (self.services.agreement.cluster(), self.services.local.get());
        let names = self.container_names_in_time(&local).await;
        let ports = ports(&local, &names);
        let vnis: Vec<(NetworkId, Vni)> = cluster
            .networks
            .iter()
            .filter(|(id, _)| local.is_attached(id))
            .map(|(id, network)| (id.clone(), network.vni))
            .collect();
        let looked = tokio::task::spawn_blocking(move || {
            let mut rows = Vec::new();
            for (network, vni) in vnis {
                match listeners(Path::new(NAMESPACES), vni) {
                    Ok(listening) => {
                        rows.extend(listening.into_iter().filter_map(|(port, group)| {
                            let container = ports.get(&port)?.clone();
                            Some(ListenerRow { network: network.clone(), group, container })
                        }))
                    }
                    Err(error) => {
                        debug!("who listens on network {} is not known: {error}", network.short())
                    }
                }
            }
            rows.sort();
            rows
        });
        looked.await.unwrap_or_default()
    }
}

/// What people call the container behind each port.
fn ports(local: &Local, names: &BTreeMap<EndpointId, String>) -> BTreeMap<DeviceName, String> {
    let named = |id: &EndpointId| names.get(id).cloned().unwrap_or_else(|| id.short().to_owned());
    local.endpoints.keys().map(|id| (DeviceName::port(id), named(id))).collect()
}
