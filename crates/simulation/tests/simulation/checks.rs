//! The invariants that are checked throughout a simulation.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use openraft::EntryPayload;
use parking_lot::{Mutex, MutexGuard};
use shoutd_consensus::ProposeError;
use shoutd_consensus::testing::{Answer, Entry, LogId, Logged, Types};
use shoutd_core::HostId;
use shoutd_core::cluster::{Cluster, Command, Outcome};
use shoutd_core::local::Local;
use tokio::time::Instant;

use super::chance::mixed;

/// The checks of all hosts of a simulation. Clones share the state.
#[derive(Debug, Clone)]
pub(crate) struct Checks(Arc<Mutex<State>>);

/// The state after one log entry, by the first host that applied it.
#[derive(Debug)]
struct Agreed {
    log_id: LogId,
    command: Option<Command>,
    answer: Answer,
    cluster: Arc<Cluster>,
}

#[derive(Debug)]
struct State {
    began: Instant,
    agreed: BTreeMap<u64, Agreed>,
    /// Log indices of each command, by its JSON.
    places: BTreeMap<String, Vec<u64>>,
    leaders: BTreeMap<u64, u64>,
    locals: BTreeMap<HostId, Arc<Local>>,
    clocks: BTreeMap<HostId, i64>,
    violation: Option<String>,
    trace: u64,
    history: Vec<String>,
}

/// Lines of history shown with a violation.
const HISTORY: usize = 60;

impl Checks {
    pub fn new() -> Self {
        Self(Arc::new(Mutex::new(State {
            began: Instant::now(),
            agreed: BTreeMap::new(),
            places: BTreeMap::new(),
            leaders: BTreeMap::new(),
            locals: BTreeMap::new(),
            clocks: BTreeMap::new(),
            violation: None,
            trace: 0,
            history: Vec::new(),
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock()
    }

    /// Records an event in the history and the trace.
    pub fn note(&self, text: impl AsRef<str>) {
        self.state().note(text.as_ref());
    }

    /// Records a frequent event in the trace only.
    pub fn count(&self, what: u64, detail: u64) {
        let mut state = self.state();
        let now = u64::try_from(state.began.elapsed().as_millis()).unwrap();
        state.trace = mixed(mixed(state.trace, now), mixed(what, detail));
    }

    /// Records a violation.
    pub fn violated(&self, what: impl Into<String>) {
        self.state().violated(what.into());
    }

    /// The first violation.
    pub fn violation(&self) -> Option<String> {
        self.state().violation.clone()
    }

    /// A hash of all events and their order.
    pub fn trace(&self) -> u64 {
        self.state().trace
    }

    /// The latest events.
    pub fn history(&self) -> String {
        let state = self.state();
        state.history[state.history.len().saturating_sub(HISTORY)..].join("\n")
    }

    /// Checks an entry that a host applied. Returns the equal state of the other hosts, so that it
    /// is in memory only once.
    pub fn applied(
        &self,
        host: HostId,
        entry: &Entry,
        answer: &Answer,
        cluster: Arc<Cluster>,
    ) -> Arc<Cluster> {
        let mut state = self.state();
        let index = entry.log_id.index;
        if let Some(agreed) = state.agreed.get(&index) {
            let same = agreed.log_id == entry.log_id
                && agreed.answer == *answer
                && *agreed.cluster == *cluster;
            let text = (!same).then(|| {
                let (ours, theirs) = (&agreed.log_id, entry.log_id);
                format!(
                    "the state forks at {index}: host {host} applied {theirs} with {answer:?}, \
                     another {ours} with {:?}",
                    agreed.answer
                )
            });
            let agreed = Arc::clone(&agreed.cluster);
            text.into_iter().for_each(|text| state.violated(text));
            return agreed;
        }
        let command = match &entry.payload {
            EntryPayload::Normal(Logged::Known(command)) => Some(command.clone()),
            EntryPayload::Normal(Logged::Unknown(_))
            | EntryPayload::Blank
            | EntryPayload::Membership(_) => None,
        };
        if let Some(command) = &command {
            let json = serde_json::to_string(command).unwrap();
            state.places.entry(json).or_default().push(index);
        }
        state.note(&format!("{index} is applied: {} -> {answer:?}", kind(&entry.payload)));
        let before = state.agreed.range(..index).next_back().map(|(_, before)| before.log_id);
        if before.is_some_and(|before| before.leader_id > entry.log_id.leader_id) {
            state.violated(format!("entry {index} is of an earlier leader than the one before it"));
        }
        if let Some(text) = unsound(&cluster) {
            state.violated(format!("after entry {index}: {text}"));
        }
        let agreed = Agreed {
            log_id: entry.log_id,
            command,
            answer: answer.clone(),
            cluster: Arc::clone(&cluster),
        };
        state.agreed.insert(index, agreed);
        cluster
    }

    /// Checks a snapshot that a host installed.
    pub fn installed(&self, host: HostId, last: LogId, cluster: &Cluster) {
        let mut state = self.state();
        state.note(&format!("host {host} got a snapshot up to {last}"));
        match state.agreed.get(&last.index) {
            Some(agreed) if agreed.log_id == last && *agreed.cluster == *cluster => {}
            _ => state.violated(format!(
                "host {host} got a snapshot up to {last} that differs from agreed state"
            )),
        }
    }

    /// Checks that a term has one leader, by the leaders' messages.
    pub fn leads(&self, term: u64, host: u64) {
        let mut state = self.state();
        let leader = *state.leaders.entry(term).or_insert(host);
        if leader != host {
            state.violated(format!("term {term} has two leaders, {leader:016x} and {host:016x}"));
        }
    }

    /// Checks the answer that a host got to its command.
    pub fn answered(
        &self,
        host: HostId,
        command: &Command,
        result: &Result<Outcome, ProposeError>,
        unsure: bool,
    ) {
        let mut state = self.state();
        let json = serde_json::to_string(command).unwrap();
        state.note(&format!("host {host}: {json} -> {result:?}"));
        let places = state.places.get(&json).cloned().unwrap_or_default();
        let mut answers =
            places.iter().filter_map(|index| state.agreed.get(index)?.answer.0.clone());
        let wrong = match result {
            Ok(outcome) => !answers.any(|answer| answer.as_ref() == Ok(outcome)),
            // A retry may be refused because the first try succeeded.
            Err(ProposeError::Refused(_)) if !unsure && is_unique(command) => {
                answers.any(|answer| answer.is_ok())
            }
            Err(_) => false,
        };
        if wrong {
            state.violated(format!(
                "host {host} got the answer {result:?} to {json}, which is not what was applied"
            ));
        }
    }

    /// Checks that no other host uses this host's addresses: those of containers and reserved ones.
    pub fn uses(&self, host: HostId, local: &Arc<Local>) {
        let mut state = self.state();
        state.locals.insert(host, Arc::clone(local));
        let Some(latest) = state.latest() else { return };
        let removed = &latest.admissions.removed;
        let mut twice = None;
        for (other, theirs) in state.locals.iter().filter(|(other, _)| **other != host) {
            if removed.contains_key(&host) || removed.contains_key(other) {
                continue;
            }
            twice = twice.or_else(|| {
                used(local)
                    .find(|(network, address)| theirs.uses(network, *address))
                    .map(|it| (it, *other))
            });
        }
        if let Some(((network, address), other)) = twice {
            let text = format!(
                "address {address} of network {} is in use on {host} and {other}",
                network.short()
            );
            state.violated(text);
        }
    }

    /// The index of the last entry that any host applied.
    pub fn last_index(&self) -> Option<u64> {
        self.state().agreed.last_key_value().map(|(index, _)| *index)
    }

    /// The newest state that any host has.
    pub fn latest(&self) -> Option<Arc<Cluster>> {
        self.state().latest()
    }

    /// The number of applied commands.
    pub fn commands(&self) -> usize {
        self.state().agreed.values().filter(|agreed| agreed.command.is_some()).count()
    }

    /// The time since 1970 by a host's clock.
    pub fn wall_clock(&self, host: HostId) -> Duration {
        let state = self.state();
        let offset = state.clocks.get(&host).copied().unwrap_or(0);
        let now = i64::try_from(state.began.elapsed().as_millis()).unwrap() + EPOCH_MILLIS + offset;
        Duration::from_millis(u64::try_from(now).unwrap_or(0))
    }

    /// Moves a host's clock by this many milliseconds.
    pub fn set_clock(&self, host: HostId, offset: i64) {
        self.state().clocks.insert(host, offset);
    }
}

/// The start of simulations, in milliseconds since 1970.
const EPOCH_MILLIS: i64 = 1_700_000_000_000;

/// Whether no two callers send equal commands of this kind.
fn is_unique(command: &Command) -> bool {
    matches!(command, Command::CreateNetwork { .. } | Command::Enroll { .. })
}

fn kind(payload: &EntryPayload<Types>) -> String {
    match payload {
        EntryPayload::Blank => "a leader's first entry".to_owned(),
        EntryPayload::Normal(command) => serde_json::to_string(command).unwrap(),
        EntryPayload::Membership(members) => format!("{:?}", members.get_joint_config()),
    }
}

impl State {
    fn note(&mut self, text: &str) {
        let now = u64::try_from(self.began.elapsed().as_millis()).unwrap();
        let hash = text
            .bytes()
            .fold(now, |hash, byte| hash.wrapping_mul(0x0100_0000_01b3) ^ u64::from(byte));
        self.trace = mixed(self.trace, hash);
        self.history.push(format!("{now:>6} ms  {text}"));
    }

    fn violated(&mut self, what: String) {
        self.note(&format!("VIOLATION: {what}"));
        self.violation.get_or_insert(what);
    }

    fn latest(&self) -> Option<Arc<Cluster>> {
        self.agreed.last_key_value().map(|(_, agreed)| Arc::clone(&agreed.cluster))
    }
}

fn used(local: &Local) -> impl Iterator<Item = (shoutd_core::NetworkId, std::net::IpAddr)> {
    let endpoints = local.endpoints.values().flat_map(|endpoint| {
        endpoint.addresses.iter().map(|address| (endpoint.network.clone(), address.addr()))
    });
    let reserved = local.reservations.iter().flat_map(|(network, addresses)| {
        addresses.keys().map(|address| (network.clone(), *address))
    });
    endpoints.chain(reserved)
}

/// A violated invariant of agreed state, if there is one.
fn unsound(cluster: &Cluster) -> Option<String> {
    let mut vnis = BTreeMap::new();
    for (id, network) in &cluster.networks {
        if let Some(other) = vnis.insert(network.vni, id) {
            return Some(format!(
                "networks {} and {} have the same VNI",
                id.short(),
                other.short()
            ));
        }
        for (address, host) in &network.leases {
            if network.pool_of(*address).is_none_or(|pool| pool.is_reserved(*address)) {
                return Some(format!("{address} is leased, but must not be"));
            }
            if !cluster.hosts.contains_key(host) {
                return Some(format!("{address} is leased to host {host}, which is not a member"));
            }
        }
        if let Some(host) = network.attached.iter().find(|host| !cluster.hosts.contains_key(host)) {
            return Some(format!(
                "network {} is attached on host {host}, which is not a member",
                id.short()
            ));
        }
    }
    None
}
