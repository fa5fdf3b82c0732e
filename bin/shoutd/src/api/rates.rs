//! The rates of multicast: has all hosts measure at the same time.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, bail};
use futures::future::join_all;
use ipnet::IpNet;
use shoutd_core::limits::{RATED_MS_MAX, RATED_NETWORKS_MAX};
use shoutd_core::rates::{AskRates, AskTop, HostRates, NetworkRates, Top, rate_rows};
use shoutd_core::{NetworkId, Vni};
use shoutd_dataplane::{Rated, measure};

use crate::api::trace::blocking;
use crate::api::views::Views;
use crate::plane::NAMESPACES;

/// Path at which peers ask this host to measure.
pub const RATES: &str = "/v1/rates";

/// How long a host may take besides measuring.
const ANSWER_DEADLINE: Duration = Duration::from_secs(2);

impl Views {
    /// `shoutdctl top`.
    ///
    /// # Errors
    /// There is no such network, or the time is out of range.
    pub async fn top(&self, asked: &AskTop) -> Result<Top> {
        if !(100..=RATED_MS_MAX).contains(&asked.milliseconds) {
            bail!("rates are measured for 100 ms to {} s", RATED_MS_MAX / 1000);
        }
        let network = asked.network.as_deref().map(|named| self.network(named)).transpose()?;
        let network = network.map(|(id, _)| id);
        let wanted = AskRates { network, milliseconds: asked.milliseconds };
        let (answers, groups) = tokio::join!(self.rates_of_all(&wanted), self.groups());
        let cluster = self.services.agreement.cluster();
        let mut top = Top::default();
        for (host, answer) in answers {
            match answer {
                Err(why) => top.silent.push((host, why)),
                Ok(rates) => {
                    for rates in &rates.networks {
                        let Some(network) = cluster.networks.get(&rates.network) else { continue };
                        let others = network.attached.len().saturating_sub(1);
                        let title = cluster.network_title(&rates.network);
                        top.rows.extend(rate_rows(&host, title, rates, others, &groups));
                    }
                }
            }
        }
        top.rows.sort_by(|a, b| b.packets.total_cmp(&a.packets));
        Ok(top)
    }

    async fn rates_of_all(&self, wanted: &AskRates) -> Vec<(String, Result<HostRates, String>)> {
        let (cluster, me) = (self.services.agreement.cluster(), self.services.agreement.me);
        let deadline = Duration::from_millis(wanted.milliseconds) + ANSWER_DEADLINE;
        let answers = cluster.hosts.iter().map(async |(id, host)| {
            let answer = if *id == me {
                self.own_rates(wanted).await
            } else {
                let peers = &self.services.peers;
                let asked = peers.call_host(*id, host.address, RATES, wanted, deadline).await;
                asked.map_err(|error| error.to_string()).flatten()
            };
            (host.name.clone(), answer)
        });
        join_all(answers).await
    }

    /// What the containers of this host send.
    ///
    /// # Errors
    /// Why this host cannot measure.
    pub async fn own_rates(&self, asked: &AskRates) -> Result<HostRates, String> {
        if asked.milliseconds > RATED_MS_MAX {
            return Err(format!("rates are measured for {RATED_MS_MAX} ms at most"));
        }
        let _permit = self.countings.begin(1)?;
        let local = self.services.local.get();
        let mut names = self.container_names_in_time(&local).await;
        let mut senders: BTreeMap<NetworkId, Vec<(IpAddr, String)>> = BTreeMap::new();
        for (id, endpoint) in &local.endpoints {
            let name = names.remove(id).unwrap_or_else(|| id.short().to_owned());
            let addresses = endpoint.addresses.iter().map(IpNet::addr);
            let of_network = senders.entry(endpoint.network.clone()).or_default();
            of_network.extend(addresses.map(|address| (address, name.clone())));
        }
        let (networks, wanted) = self.rated(asked);
        let time = Duration::from_millis(asked.milliseconds);
        let measured = blocking(move || measure(Path::new(NAMESPACES), &wanted, time)).await?;
        let rates = networks.into_iter().filter_map(|(vni, network)| {
            let measured = measured.get(&vni)?.clone();
            let mut senders = senders.remove(&network).unwrap_or_default();
            senders
                .retain(|(address, _)| measured.flows.iter().any(|flow| flow.source == *address));
            Some(NetworkRates { network, measured, senders })
        });
        Ok(HostRates { networks: rates.collect() })
    }

    /// The segments to measure.
    fn rated(&self, asked: &AskRates) -> (BTreeMap<Vni, NetworkId>, Vec<Rated>) {
        let (cluster, local) = (self.services.agreement.cluster(), self.services.local.get());
        let observed = self.services.plane.watch_observed();
        let observed = observed.borrow();
        let networks = cluster.networks.iter().filter(|(id, _)| {
            local.is_attached(id) && asked.network.as_ref().is_none_or(|wanted| wanted == *id)
        });
        let networks: BTreeMap<_, _> = networks
            .map(|(id, network)| (network.vni, id.clone()))
            .take(RATED_NETWORKS_MAX)
            .collect();
        let wanted = networks.keys().map(|vni| {
            let segment = observed.segments.get(vni);
            let flood = segment.map(|segment| segment.flood.clone()).unwrap_or_default();
            Rated { vni: *vni, flood }
        });
        let wanted = wanted.collect();
        (networks, wanted)
    }
}
