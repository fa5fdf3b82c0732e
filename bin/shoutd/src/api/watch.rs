//! `shoutdctl watch`: what changes, as lines of JSON while the connection is open.
//!
//! While there are watchers, one task makes the scene, and publishes it in a `watch` channel. Each
//! connection compares the newest scene with the last one that it has shown. So no queue grows if a
//! watcher reads slowly: it is told the difference, and how many scenes it has skipped.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use futures::future::join_all;
use futures::stream::{Stream, unfold};
use shoutd_core::limits::{EVENTS_MAX, WATCH_BEAT, WATCHERS_MAX};
use shoutd_core::names::Name;
use shoutd_core::watch::{
    Line, News, Scene, SeenContainer, SeenHost, SeenMember, changes, first_lines,
};
use shoutd_core::{EndpointId, HostId};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::api::control::Control;
use crate::api::views::Views;
use crate::app::clock::now;

/// Interval of scenes without a signal: problems begin and end with time.
const PERIOD: Duration = Duration::from_millis(500);

/// Pause after each scene, so that changes that come together are shown together.
const PAUSE: Duration = Duration::from_millis(100);

/// Interval at which the other hosts are asked whether they answer.
const ASK_PERIOD: Duration = Duration::from_secs(2);

/// Questions in a row that a host must leave unanswered to count as unreachable.
const UNANSWERED_MAX: u8 = 2;

/// How long a new container is not shown for lack of its name, which comes with the engine's
/// events.
const NAME_GRACE: Duration = Duration::from_secs(1);

/// The scenes, for all watchers.
#[derive(Debug)]
pub struct Scenes {
    /// The newest scene; `None` if there is no watcher.
    newest: watch::Sender<Option<Arc<Scene>>>,
    /// Signaled when there is a new watcher.
    wanted: Notify,
}

impl Default for Scenes {
    fn default() -> Self {
        Self { newest: watch::Sender::new(None), wanted: Notify::new() }
    }
}

/// What the task remembers from scene to scene.
#[derive(Debug, Default)]
struct Memory {
    number: u64,
    /// How many questions in a row each host has left unanswered.
    unanswered: BTreeMap<HostId, u8>,
    /// When each container without a name was first seen.
    unnamed: BTreeMap<EndpointId, Instant>,
}

impl Scenes {
    /// The body of the answer to a new watcher; `None` if there are too many.
    pub fn body(&self, after: Option<u64>) -> Option<Body> {
        if self.newest.receiver_count() >= WATCHERS_MAX {
            return None;
        }
        let scenes = self.newest.subscribe();
        self.wanted.notify_one();
        Some(Body::from_stream(lines(scenes, after)))
    }

    /// Makes scenes while there are watchers, until `stop`.
    pub async fn run(self: Arc<Self>, control: Arc<Control>, stop: CancellationToken) {
        while stop.run_until_cancelled(self.wanted.notified()).await.is_some() {
            let shown = stop.run_until_cancelled(self.show(&control.views)).await;
            if shown.is_none() {
                return;
            }
        }
    }

    /// Makes scenes until the last watcher has left.
    async fn show(&self, views: &Views) {
        let (answers, answered) = watch::channel(BTreeMap::new());
        tokio::select! {
            () = self.follow(views, answered) => {}
            () = ask(views, &answers) => {}
        }
        // The next watcher must not see this scene as current.
        self.newest.send_replace(None);
    }

    async fn follow(&self, views: &Views, mut answered: watch::Receiver<BTreeMap<HostId, bool>>) {
        let services = &views.services;
        let mut cluster = services.agreement.watch();
        let mut local = services.local.watch();
        let mut heard = services.advertiser.watch_heard();
        let mut tick = interval(PERIOD);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut memory = Memory::default();
        while self.newest.receiver_count() > 0 {
            tokio::select! {
                _ = tick.tick() => {}
                Ok(()) = answered.changed() => memory.note_answers(&answered.borrow_and_update()),
                Ok(()) = cluster.changed() => {}
                Ok(()) = local.changed() => {}
                Ok(()) = heard.changed() => {}
                () = services.events.next() => {}
            }
            let scene = views.scene(&mut memory);
            self.newest.send_if_modified(|newest| {
                let is_new = newest.as_ref().is_none_or(|known| !known.shows_the_same(&scene));
                if is_new {
                    memory.number += 1;
                    *newest = Some(Arc::new(Scene { number: memory.number, ..scene }));
                }
                is_new
            });
            sleep(PAUSE).await;
        }
    }
}

/// Publishes which of the other hosts answer, again and again. It may take as long as one that does
/// not.
async fn ask(views: &Views, answers: &watch::Sender<BTreeMap<HostId, bool>>) {
    let mut tick = interval(ASK_PERIOD);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        answers.send_replace(views.answering().await);
    }
}

impl Memory {
    /// Counts the questions that hosts have left unanswered.
    fn note_answers(&mut self, answers: &BTreeMap<HostId, bool>) {
        let before = std::mem::take(&mut self.unanswered);
        self.unanswered = answers
            .iter()
            .map(|(host, answered)| {
                let missed = before.get(host).copied().unwrap_or_default();
                (*host, if *answered { 0 } else { missed.saturating_add(1) })
            })
            .collect();
    }

    fn is_reachable(&self, host: HostId) -> bool {
        self.unanswered.get(&host).is_none_or(|missed| *missed < UNANSWERED_MAX)
    }

    /// Keeps new containers without a name back for a moment.
    fn hold_back_unnamed(&mut self, containers: &mut BTreeMap<EndpointId, SeenContainer>) {
        let (now, before) = (Instant::now(), std::mem::take(&mut self.unnamed));
        containers.retain(|id, container| {
            if !container.names.is_empty() {
                return true;
            }
            let since = before.get(id).copied().unwrap_or(now);
            self.unnamed.insert(id.clone(), since);
            now.duration_since(since) >= NAME_GRACE
        });
    }
}

impl Views {
    /// Whether each of the other hosts answers.
    async fn answering(&self) -> BTreeMap<HostId, bool> {
        let (cluster, me) = (self.services.agreement.cluster(), self.services.agreement.me);
        let others = cluster.hosts.iter().filter(|(id, _)| **id != me);
        let asked = others.map(async |(id, host)| (*id, self.answers(*id, host.address).await));
        join_all(asked).await.into_iter().collect()
    }

    /// What this host sees now.
    fn scene(&self, memory: &mut Memory) -> Scene {
        let cluster = self.services.agreement.cluster();
        let mut containers = self.seen_containers();
        memory.hold_back_unnamed(&mut containers);
        let hosts = cluster.hosts.iter().map(|(id, host)| {
            let reachable = memory.is_reachable(*id);
            (*id, SeenHost { name: host.name.clone(), reachable })
        });
        let named = cluster.networks.iter().filter_map(|(id, network)| {
            Some((id.clone(), network.description.as_ref()?.name.clone()))
        });
        let groups = self.services.advertiser.groups().into_iter();
        let members = groups.flat_map(|row| {
            row.hosts.into_iter().map(move |host| SeenMember {
                network: row.network.clone(),
                group: row.group,
                host: host.name,
            })
        });
        Scene {
            at: now().as_millis().try_into().unwrap_or(u64::MAX),
            number: 0,
            host: self.name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            events: self.services.events.newest(EVENTS_MAX),
            problems: self.status().faults(),
            hosts: hosts.collect(),
            networks: named.collect(),
            containers,
            members: members.collect(),
        }
    }

    /// The containers on the networks of this host: its own, and those that peers advertise.
    fn seen_containers(&self) -> BTreeMap<EndpointId, SeenContainer> {
        let cluster = self.services.agreement.cluster();
        let (local, states) = (self.services.local.get(), self.services.advertiser.peer_states());
        let texts =
            |names: &BTreeSet<Name>| names.iter().map(|name| name.as_str().to_owned()).collect();
        let own = local.endpoints.iter().map(|(id, endpoint)| SeenContainer {
            network: cluster.network_title(&endpoint.network).to_owned(),
            host: self.name.clone(),
            names: endpoint.container.as_ref().map(|own| texts(&own.names)).unwrap_or_default(),
            endpoint: id.clone(),
            addresses: endpoint.addresses.iter().map(|address| address.addr()).collect(),
        });
        let mut seen: BTreeMap<_, _> =
            own.map(|container| (container.endpoint.clone(), container)).collect();
        for (host, state) in &states.hosts {
            let host = cluster.host_name(*host);
            let shared = state.networks.iter().filter(|(id, _)| local.is_attached(id));
            for (network, advertised) in shared {
                seen.extend(advertised.endpoints.iter().map(|(id, endpoint)| {
                    let container = SeenContainer {
                        network: cluster.network_title(network).to_owned(),
                        host: host.clone(),
                        names: texts(&endpoint.names),
                        endpoint: id.clone(),
                        addresses: endpoint.addresses.clone(),
                    };
                    (id.clone(), container)
                }));
            }
        }
        seen
    }
}

/// What one connection has shown.
struct Watcher {
    scenes: watch::Receiver<Option<Arc<Scene>>>,
    after: Option<u64>,
    shown: Option<Arc<Scene>>,
}

/// The lines for one watcher, as chunks of the answer's body. It ends only with the connection.
fn lines(
    scenes: watch::Receiver<Option<Arc<Scene>>>,
    after: Option<u64>,
) -> impl Stream<Item = Result<Bytes, Infallible>> {
    let watcher = Watcher { scenes, after, shown: None };
    unfold(watcher, async |mut watcher| {
        let lines = watcher.next().await?;
        Some((Ok(encode(&lines)), watcher))
    })
}

impl Watcher {
    /// The next lines, at the latest after [`WATCH_BEAT`]; `None` if the daemon stops.
    async fn next(&mut self) -> Option<Vec<Line>> {
        let shown = self.shown.as_ref().map_or(0, |shown| shown.number);
        let is_new = |newest: &Option<Arc<Scene>>| {
            newest.as_ref().is_some_and(|newest| newest.number != shown)
        };
        let Ok(newest) = timeout(WATCH_BEAT, self.scenes.wait_for(is_new)).await else {
            return Some(vec![alive()]);
        };
        let newest = newest.ok()?.clone()?;
        let lines = match &self.shown {
            Some(shown) => changes(shown, &newest),
            None => first_lines(&newest, self.after),
        };
        self.shown = Some(newest);
        Some(lines)
    }
}

fn alive() -> Line {
    Line { at: now().as_millis().try_into().unwrap_or(u64::MAX), news: News::Alive }
}

/// One line of JSON each.
fn encode(lines: &[Line]) -> Bytes {
    let mut text = String::new();
    for line in lines {
        // These types always serialize.
        text.push_str(&serde_json::to_string(line).unwrap_or_default());
        text.push('\n');
    }
    text.into()
}
