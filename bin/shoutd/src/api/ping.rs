//! `shoutdctl ping`: has all hosts of a network ping each other at the same time.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail};
use futures::future::join_all;
use shoutd_core::cluster::Host;
use shoutd_core::limits::PING_HOSTS_MAX;
use shoutd_core::ping::{AskEchoes, AskPing, Echoes, Exchange, Ping, PingAnswer, Sizes};
use shoutd_core::{HostId, MacAddress, NetworkId, Vni};
use shoutd_dataplane::{PingSockets, Subject};

use crate::api::trace::blocking;
use crate::api::views::Views;
use crate::plane::NAMESPACES;

/// Path at which peers ask this host to take part in a ping.
pub const ECHOES: &str = "/v1/echoes";

/// How long hosts listen before they send, so that all of them have begun.
const LEAD: Duration = Duration::from_millis(500);

/// How long they listen after they sent, so that the last answer has arrived.
const TAIL: Duration = Duration::from_secs(1);

/// How long a host may take besides that.
const ANSWER_DEADLINE: Duration = Duration::from_secs(3);

/// What a host pings with.
struct Pinger {
    vni: Vni,
    /// The address of one of its containers on the network.
    source: MacAddress,
    subject: Subject,
}

impl Views {
    /// `shoutdctl ping`.
    ///
    /// # Errors
    /// The user asks for what does not exist, or for too much.
    pub async fn ping(&self, asked: &AskPing) -> Result<Ping> {
        let requests = asked.requests().map_err(|why| anyhow!(why))?;
        let (network, title) = match &asked.network {
            Some(named) => self.network(named)?,
            None => self.only_network()?,
        };
        let mut hosts = self.hosts_with(&network);
        // A host without a container on the network has no segment.
        let attached = self.services.local.get().is_attached(&network);
        hosts.retain(|(id, _)| attached || *id != self.services.agreement.me);
        if hosts.len() < 2 {
            bail!(
                "only {} of the cluster's hosts has containers on {title}: there is nothing to ping",
                hosts.len()
            );
        }
        if hosts.len() > PING_HOSTS_MAX {
            bail!("at most {PING_HOSTS_MAX} hosts ping each other; {title} has {}", hosts.len());
        }
        let wanted = AskEchoes {
            network,
            group: asked.group,
            session: rand::random(),
            hosts: hosts.iter().map(|(id, _)| *id).collect(),
            requests,
        };
        let (answers, listeners) =
            tokio::join!(self.echoes_of_all(hosts, &wanted), self.listeners(&title, asked.group));
        if let (Some(group), Some([])) = (asked.group, listeners.as_deref()) {
            bail!("no container has joined {group} on {title}; shoutdctl groups lists the groups");
        }
        if let (Sizes::Fixed(size), Some(mtu)) = (asked.sizes, least_mtu(&answers))
            && size > mtu
        {
            bail!("{size} octets are more than the network's MTU allows, which is {mtu}");
        }
        let listeners = listeners.map(BTreeSet::from_iter);
        Ok(Ping::new(title, asked.group, asked.sizes, &answers, listeners.as_ref()))
    }

    /// The only network of the cluster.
    fn only_network(&self) -> Result<(NetworkId, String)> {
        let cluster = self.services.agreement.cluster();
        let mut networks = cluster.networks.keys();
        let only = networks.next().filter(|_| networks.next().is_none());
        let only = only.ok_or_else(|| {
            anyhow!(
                "name a network with --network: the cluster has {}; shoutdctl networks lists them",
                cluster.networks.len()
            )
        })?;
        Ok((only.clone(), cluster.network_title(only).to_owned()))
    }

    /// The hosts with members of the group.
    async fn listeners(&self, title: &str, group: Option<IpAddr>) -> Option<Vec<String>> {
        let group = group?;
        let rows = self.groups().await.into_iter();
        let rows = rows.filter(|row| {
            row.network == title && row.group.is_none_or(|listened| listened == group)
        });
        Some(rows.flat_map(|row| row.hosts).map(|host| host.name).collect())
    }

    async fn echoes_of_all(
        &self,
        hosts: Vec<(HostId, Host)>,
        wanted: &AskEchoes,
    ) -> Vec<PingAnswer> {
        let me = self.services.agreement.me;
        let deadline = LEAD + wanted.requests.duration() + TAIL + ANSWER_DEADLINE;
        let answers = hosts.into_iter().map(async |(id, host)| {
            let echoes = if id == me {
                self.own_echoes(wanted).await
            } else {
                let peers = &self.services.peers;
                let asked = peers.call_host(id, host.address, ECHOES, wanted, deadline).await;
                asked.map_err(|error| error.to_string()).flatten()
            };
            PingAnswer { id, name: host.name, echoes }
        });
        join_all(answers).await
    }

    /// What this host sends and receives in a ping.
    ///
    /// # Errors
    /// Why it cannot take part.
    pub async fn own_echoes(&self, asked: &AskEchoes) -> Result<Echoes, String> {
        asked.check()?;
        let _permit = self.countings.begin(1)?;
        let pinger = self.pinger(asked)?;
        let (me, asked) = (self.services.agreement.me, asked.clone());
        let end = Instant::now() + LEAD + asked.requests.duration() + TAIL;
        blocking(move || {
            let group = asked.group.map(|group| (group, &pinger.subject));
            let sockets =
                PingSockets::open(Path::new(NAMESPACES), pinger.vni, pinger.source, group)?;
            let mut exchange = Exchange::new(me, &asked, sockets.mtu());
            sockets.run(&mut exchange, LEAD, end);
            Ok(exchange.finish())
        })
        .await
    }

    fn pinger(&self, asked: &AskEchoes) -> Result<Pinger, String> {
        let (cluster, local) = (self.services.agreement.cluster(), self.services.local.get());
        let network = cluster.networks.get(&asked.network).ok_or("the network does not exist")?;
        let mut endpoints = local.endpoints.iter();
        // A container that has started can send.
        let found = endpoints
            .find(|(_, found)| found.network == asked.network && found.sandbox.is_some())
            .ok_or("no container runs there on the network")?;
        let (id, endpoint) = found;
        let subject = Subject { endpoint: id.clone(), sandbox: endpoint.sandbox.clone() };
        Ok(Pinger { vni: network.vni, source: endpoint.mac, subject })
    }
}

fn least_mtu(answers: &[PingAnswer]) -> Option<u16> {
    let echoes = answers.iter().filter_map(|answer| answer.echoes.as_ref().ok());
    echoes.map(|echoes| echoes.mtu).min()
}
