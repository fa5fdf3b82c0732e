//! `shoutdctl ping`: has all hosts of a network ping each other at the same time.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail};
use futures::future::join_all;
use shoutd_core::cluster::Host;
use shoutd_core::host_view::HostView;
use shoutd_core::limits::PING_HOSTS_MAX;
use shoutd_core::local::Endpoint;
use shoutd_core::ping::{AskEchoes, AskPing, Echoes, Exchange, Ping, PingAnswer, Sizes};
use shoutd_core::view::GroupRow;
use shoutd_core::{HostId, MacAddress, NetworkId, Vni};
use shoutd_dataplane::{PingSockets, PingTo, Subject};

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
        self.check_target(&network, asked.to).map_err(|why| anyhow!(why))?;
        let is_address = asked.to.is_some_and(|to| !to.is_multicast());
        if hosts.len() < if is_address { 1 } else { 2 } {
            bail!(
                "hosts of the cluster with containers on {title}: {}; there is nothing to ping",
                hosts.len()
            );
        }
        if hosts.len() > PING_HOSTS_MAX {
            bail!("at most {PING_HOSTS_MAX} hosts ping each other; {title} has {}", hosts.len());
        }
        let wanted = AskEchoes {
            network,
            to: asked.to,
            session: rand::random(),
            hosts: hosts.iter().map(|(id, _)| *id).collect(),
            requests,
        };
        let group = asked.to.filter(IpAddr::is_multicast);
        let informed = hosts.first().map(|(id, host)| (*id, host.clone())).filter(|_| !attached);
        let (answers, listeners) = tokio::join!(
            self.echoes_of_all(hosts, &wanted),
            self.listeners(&title, group, informed)
        );
        let listeners = listeners?;
        if let (Some(group), Some([])) = (group, listeners.as_deref()) {
            bail!("no container has joined {group} on {title}; shoutdctl groups lists the groups");
        }
        if let (Sizes::Fixed(size), Some(mtu)) = (asked.sizes, least_mtu(&answers))
            && size > mtu
        {
            bail!("{size} octets are more than the network's MTU allows, which is {mtu}");
        }
        let listeners = listeners.map(BTreeSet::from_iter);
        Ok(Ping::new(title, asked.to, asked.sizes, &answers, listeners.as_ref()))
    }

    /// Refuses an address outside the network: a peer must not have a container send anywhere.
    fn check_target(&self, network: &NetworkId, to: Option<IpAddr>) -> Result<(), String> {
        let Some(to) = to.filter(|to| !to.is_multicast()) else { return Ok(()) };
        let cluster = self.services.agreement.cluster();
        let known = cluster.networks.get(network);
        if known.is_some_and(|known| known.pool_of(to).is_some()) {
            return Ok(());
        }
        let title = cluster.network_title(network);
        Err(format!("{to} is neither a group nor an address of network {title}"))
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

    /// The hosts with members of the group. A host without the network does not know its groups,
    /// and asks one that has it (`informed`).
    async fn listeners(
        &self,
        title: &str,
        group: Option<IpAddr>,
        informed: Option<(HostId, Host)>,
    ) -> Result<Option<Vec<String>>> {
        let Some(group) = group else { return Ok(None) };
        let rows: Vec<GroupRow> = match informed {
            Some((id, host)) => {
                serde_json::from_value(self.view_of(id, &host, HostView::Groups).await?)?
            }
            None => self.groups().await,
        };
        let rows = rows.into_iter().filter(|row| {
            row.network == title && row.group.is_none_or(|listened| listened == group)
        });
        Ok(Some(rows.flat_map(|row| row.hosts).map(|host| host.name).collect()))
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

    /// What this host sends and receives in a ping; nothing if it has no container that can send.
    ///
    /// # Errors
    /// Why it cannot take part.
    pub async fn own_echoes(&self, asked: &AskEchoes) -> Result<Echoes, String> {
        asked.check()?;
        let _permit = self.countings.begin(1)?;
        let Some(pinger) = self.pinger(asked)? else { return Ok(Echoes::default()) };
        let (me, asked) = (self.services.agreement.me, asked.clone());
        let end = Instant::now() + LEAD + asked.requests.duration() + TAIL;
        blocking(move || {
            let (source, container) = (pinger.source, &pinger.subject);
            let (to, begin): (_, fn(_, &_, _) -> _) = match asked.to {
                None => (PingTo::Hosts(source), Exchange::new),
                Some(to) if to.is_multicast() => {
                    (PingTo::Group(source, to, container), Exchange::new)
                }
                Some(to) => (PingTo::Address(to, container), Exchange::with_address),
            };
            let directory = Path::new(NAMESPACES);
            let sockets = PingSockets::open(directory, pinger.vni, asked.session, to)?;
            let mut exchange = begin(me, &asked, sockets.mtu());
            sockets.run(&mut exchange, LEAD, end);
            Ok(exchange.finish())
        })
        .await
    }

    /// `None` if the only container of this host has the address that is pinged.
    fn pinger(&self, asked: &AskEchoes) -> Result<Option<Pinger>, String> {
        let (cluster, local) = (self.services.agreement.cluster(), self.services.local.get());
        let network = cluster.networks.get(&asked.network).ok_or("the network does not exist")?;
        self.check_target(&asked.network, asked.to)?;
        // A container that has started can send.
        let mut running = local
            .endpoints
            .iter()
            .filter(|(_, found)| found.network == asked.network && found.sandbox.is_some())
            .peekable();
        running.peek().ok_or("no container runs there on the network")?;
        let has_it = |endpoint: &Endpoint| {
            endpoint.addresses.iter().any(|address| Some(address.addr()) == asked.to)
        };
        let Some((id, endpoint)) = running.find(|(_, endpoint)| !has_it(endpoint)) else {
            return Ok(None);
        };
        let subject = Subject { endpoint: id.clone(), sandbox: endpoint.sandbox.clone() };
        Ok(Some(Pinger { vni: network.vni, source: endpoint.mac, subject }))
    }
}

fn least_mtu(answers: &[PingAnswer]) -> Option<u16> {
    let echoes = answers.iter().filter_map(|answer| answer.echoes.as_ref().ok());
    // A host that does not send has none.
    echoes.map(|echoes| echoes.mtu).filter(|mtu| *mtu > 0).min()
}
