//! Why packets of a group do not arrive: collects the facts of all hosts that have the network.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, anyhow};
use futures::future::join_all;
use ipnet::IpNet;
use shoutd_core::cluster::Host;
use shoutd_core::explain::{
    ALL_HOSTS, Answer, AskFacts, AskWhy, ContainerFacts, EncryptionFacts, Explanation, HostFacts,
    PeerFacts, SegmentFacts, explain,
};
use shoutd_core::limits::{ENCRYPTION_PORT, FACT_CONTAINERS_MAX};
use shoutd_core::local::Local;
use shoutd_core::plane::vtep_of;
use shoutd_core::rollout::resolve;
use shoutd_core::tunnel::Carriage;
use shoutd_core::{HostId, NetworkId};
use shoutd_dataplane::{Facts, FactsWanted, SETTING_UP_ENCRYPTION, Subject, facts};

use crate::api::views::{ENGINE_DEADLINE, Views};
use crate::plane::NAMESPACES;
use crate::probes::kind_of;

/// Path at which peers ask for this host's facts.
pub const FACTS: &str = "/v1/facts";

/// How long a host may take to collect its facts.
const FACTS_DEADLINE: Duration = Duration::from_secs(2);

/// A fault that is gone after this time is none: memberships are on their way.
const SETTLING: Duration = Duration::from_millis(500);

impl Views {
    /// `shoutdctl why`.
    ///
    /// # Errors
    /// The user asks for what does not exist.
    pub async fn why(&self, asked: &AskWhy) -> Result<Explanation> {
        let (id, title) = self.network(&asked.network)?;
        let wanted = AskFacts { network: id, group: asked.group.unwrap_or(ALL_HOSTS) };
        let (mut answers, without) =
            tokio::join!(self.facts_of_all(&wanted), self.hosts_without(&wanted.network, &title));
        answers.extend(without.iter().cloned());
        let first = explain(asked, &title, &answers)?;
        if first.cause().is_none() {
            return Ok(first);
        }
        // A container may have joined just now, and be known everywhere in a moment.
        tokio::time::sleep(SETTLING).await;
        let mut answers = self.facts_of_all(&wanted).await;
        answers.extend(without);
        Ok(explain(asked, &title, &answers)?.lasting(&first))
    }

    /// The hosts without containers on the network that have a problem with it, such as another
    /// Docker network of its name.
    async fn hosts_without(&self, network: &NetworkId, title: &str) -> Vec<Answer> {
        let cluster = self.services.agreement.cluster();
        let with: BTreeSet<HostId> =
            self.hosts_with(network).into_iter().map(|(id, _)| id).collect();
        let subject = format!("network {title} ");
        let encrypted = self.is_encrypted(network);
        let others = self.health().await.into_iter().filter(|host| !with.contains(&host.id));
        let ill = others.filter_map(|mut host| {
            let own = encrypted.then(|| {
                let mut told = host.problems.iter();
                let failure = told.find(|told| told.starts_with(SETTING_UP_ENCRYPTION)).cloned();
                EncryptionFacts { failure, ..EncryptionFacts::default() }
            });
            host.problems.retain(|problem| problem.contains(&subject));
            let is_ill =
                !host.problems.is_empty() || own.as_ref().is_some_and(|own| own.failure.is_some());
            let vtep = vtep_of(&cluster, encrypted, host.id)?;
            let problems = host.problems;
            let facts = HostFacts { problems, encryption: own, ..HostFacts::default() };
            is_ill.then_some(Answer { host: host.name, vtep, facts: Ok(facts) })
        });
        ill.collect()
    }

    /// The id and the title of the network that the user names.
    pub(super) fn network(&self, named: &str) -> Result<(NetworkId, String)> {
        let cluster = self.services.agreement.cluster();
        let id = resolve(&cluster, named).ok_or_else(|| {
            anyhow!("there is no network {named} in the cluster; shoutdctl networks lists them")
        })?;
        let title = cluster.network_title(&id).to_owned();
        Ok((id, title))
    }

    /// Whether the network is encrypted.
    pub(super) fn is_encrypted(&self, network: &NetworkId) -> bool {
        let cluster = self.services.agreement.cluster();
        cluster.networks.get(network).is_some_and(|network| network.encrypted)
    }

    /// The VTEP of a host on the network.
    pub(super) fn vtep(&self, network: &NetworkId, (id, host): (HostId, &Host)) -> IpAddr {
        let cluster = self.services.agreement.cluster();
        let vtep = vtep_of(&cluster, self.is_encrypted(network), id);
        vtep.unwrap_or(host.address.ip())
    }

    /// The hosts that have the network, and this one.
    pub(super) fn hosts_with(&self, network: &NetworkId) -> Vec<(HostId, Host)> {
        let cluster = self.services.agreement.cluster();
        let network = cluster.networks.get(network);
        let mut hosts = network.map(|network| network.attached.clone()).unwrap_or_default();
        hosts.insert(self.services.agreement.me);
        let known = |id| Some((id, cluster.hosts.get(&id)?.clone()));
        hosts.into_iter().filter_map(known).collect()
    }

    /// The facts of all hosts that have the network, sorted by their names.
    pub(super) async fn facts_of_all(&self, wanted: &AskFacts) -> Vec<Answer> {
        let me = self.services.agreement.me;
        let answers = self.hosts_with(&wanted.network).into_iter().map(async |(id, host)| {
            let facts = if id == me {
                Ok(self.own_facts(wanted).await)
            } else {
                let peers = &self.services.peers;
                let answer = peers.call_host(id, host.address, FACTS, wanted, FACTS_DEADLINE).await;
                answer.map_err(|error| error.to_string())
            };
            let vtep = self.vtep(&wanted.network, (id, &host));
            Answer { host: host.name, vtep, facts }
        });
        let mut answers = join_all(answers).await;
        answers.sort_by(|a, b| a.host.cmp(&b.host));
        answers
    }

    /// The facts of this host.
    pub async fn own_facts(&self, asked: &AskFacts) -> HostFacts {
        let local = self.services.local.get();
        let problems = self.status().faults();
        let (peers, tunnels) = (self.peers(asked), self.tunnels(&asked.network));
        let encryption = self.is_encrypted(&asked.network).then(|| self.encryption());
        let mut told = HostFacts { problems, peers, tunnels, encryption, ..HostFacts::default() };
        let Some(wanted) = self.wanted(asked, &local) else { return told };
        let (names, paused) = tokio::join!(
            self.container_names_in_time(&local),
            self.paused(&asked.network, &local),
        );
        let read = tokio::task::spawn_blocking(move || {
            facts(Path::new(NAMESPACES), &wanted).map_err(|error| error.to_string())
        });
        let read = read.await.unwrap_or_else(|error| Err(error.to_string()));
        let (segment, Facts { mut ports, mut inside, .. }) = match read {
            Ok(facts) => (Ok(facts.segment.clone()), facts),
            Err(why) => (Err(why), Facts::default()),
        };
        let segment = segment.map(|read| SegmentFacts {
            undone: self.services.plane.undone(&asked.network),
            // After a restart of snooping, all multicast is sent here until queries are answered.
            snooping: read.snooping && self.services.plane.snoops(&asked.network),
            ..read
        });
        let unread = segment.as_ref().err().cloned().unwrap_or_default();
        told.segment = Some(segment);
        let here = local.endpoints.iter().filter(|(_, found)| found.network == asked.network);
        told.containers = here
            .take(FACT_CONTAINERS_MAX)
            .map(|(id, endpoint)| ContainerFacts {
                name: names.get(id).map_or_else(|| id.short().to_owned(), String::clone),
                endpoint: id.clone(),
                addresses: endpoint.addresses.iter().map(IpNet::addr).collect(),
                paused: paused.as_ref().map(|paused| {
                    let container = endpoint.container.as_ref();
                    container.is_some_and(|container| paused.contains(&container.id))
                }),
                port: ports.remove(id),
                inside: inside.remove(id).unwrap_or_else(|| Err(unread.clone())),
            })
            .collect();
        told
    }

    /// What to read of the kernel; `None` if this host has no container on the network.
    pub(super) fn wanted(&self, asked: &AskFacts, local: &Local) -> Option<FactsWanted> {
        let cluster = self.services.agreement.cluster();
        let network =
            cluster.networks.get(&asked.network).filter(|_| local.is_attached(&asked.network))?;
        let observed = self.services.plane.watch_observed();
        let observed = observed.borrow();
        let segment = observed.segments.get(&network.vni);
        let here = local.endpoints.iter().filter(|(_, found)| found.network == asked.network);
        let subjects = here.take(FACT_CONTAINERS_MAX).map(|(id, endpoint)| Subject {
            endpoint: id.clone(),
            sandbox: endpoint.sandbox.clone(),
        });
        Some(FactsWanted {
            vni: network.vni,
            group: asked.group,
            flood: segment.map(|segment| segment.flood.clone()).unwrap_or_default(),
            subjects: subjects.collect(),
            others: network.leases.keys().copied().collect(),
        })
    }

    /// Whether the tunnels from the peers carry, by the peers' VTEPs.
    fn tunnels(&self, network: &NetworkId) -> BTreeMap<IpAddr, Carriage> {
        let cluster = self.services.agreement.cluster();
        let encrypted = self.is_encrypted(network);
        let states = self.services.prober.states(kind_of(encrypted)).into_iter();
        let states = states
            .filter_map(|(host, state)| Some((vtep_of(&cluster, encrypted, host)?, state.inbound)));
        states.collect()
    }

    /// This host's end of the encrypted networks.
    fn encryption(&self) -> EncryptionFacts {
        let cluster = self.services.agreement.cluster();
        let end = cluster.encryption.ends.get(&self.services.agreement.me);
        let unpublished = || "its WireGuard key is not published yet".to_owned();
        EncryptionFacts {
            port: end.map_or(ENCRYPTION_PORT, |end| end.port),
            failure: match end {
                Some(_) => self.services.plane.encryption_failure(),
                None => Some(unpublished()),
            },
        }
    }

    /// What this host knows of the others that have the network.
    fn peers(&self, asked: &AskFacts) -> BTreeMap<IpAddr, PeerFacts> {
        let (cluster, states) =
            (self.services.agreement.cluster(), self.services.advertiser.peer_states());
        let encrypted = self.is_encrypted(&asked.network);
        let known = |host: &HostId, network: &NetworkId| {
            let state = states.hosts.get(host)?;
            let advertised = state.networks.get(network)?;
            let vtep = vtep_of(&cluster, encrypted, *host)?;
            let filter = advertised.memberships.groups.get(&asked.group).cloned();
            Some((vtep, PeerFacts { in_sync: state.in_sync, filter }))
        };
        states.hosts.keys().filter_map(|host| known(host, &asked.network)).collect()
    }

    /// The ids of the paused containers on the network; `None` if the engine does not answer in
    /// time.
    async fn paused(&self, network: &NetworkId, local: &Local) -> Option<BTreeSet<String>> {
        let docker = local.bindings.iter().filter(|(_, bound)| *bound == network);
        let asked = docker.map(|(docker, _)| self.services.engine.paused_containers(docker));
        let answers = tokio::time::timeout(ENGINE_DEADLINE, join_all(asked)).await.ok()?;
        let lists: Result<Vec<_>, _> = answers.into_iter().collect();
        Some(lists.ok()?.into_iter().flatten().map(|id| id.to_string()).collect())
    }
}
