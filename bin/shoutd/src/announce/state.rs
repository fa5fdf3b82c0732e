//! What the announcer keeps.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use shoutd_core::HostId;
use shoutd_core::announce::{Content, Excess, Heard, HeardHost, Listeners, Speakers};
use shoutd_core::cluster::Cluster;
use tracing::{info, warn};

/// How long a fault is shown that has not been met again: longer than the time between two attempts.
const FAULT_SHOWN: Duration = Duration::from_secs(10);

/// How often the same fault is logged.
const FAULT_LOGGED: Duration = Duration::from_secs(60);

/// What is wrong while the kernel does not tell what containers listen to.
const SILENT: &str =
    "it has not been read yet what the containers of this host listen to: the other hosts send it all multicast";

/// What the announcer keeps.
#[derive(Debug, Default)]
pub struct State {
    /// Whether it has been read what the containers listen to, so that it can be announced.
    pub is_speaking: bool,
    /// What this host announces.
    pub content: Content,
    /// What it would announce but for the limits.
    pub excesses: Vec<Excess>,
    /// What the others have of it.
    pub speakers: Speakers,
    /// What the others announced.
    pub listeners: Listeners,
    /// When it was last looked at what changes by time alone.
    pub expired_at: Duration,
    /// What is wrong with announcements to and from a host and does not pass by itself.
    faults: BTreeMap<(HostId, Direction), Fault>,
}

/// Which way announcements go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    /// From this host to another.
    Out,
    /// From another host to this one.
    In,
}

#[derive(Debug)]
struct Fault {
    text: String,
    logged: Duration,
    met: Duration,
}

impl State {
    /// Notes what is wrong with a host. Says it, but not all the time.
    pub fn note_fault(&mut self, host: HostId, direction: Direction, text: String, cluster: &Cluster, now: Duration) {
        self.faults.retain(|(host, _), fault| cluster.hosts.contains_key(host) && now < fault.met + FAULT_LOGGED);
        let known = self.faults.get(&(host, direction)).filter(|known| known.text == text);
        let logged = known.map(|known| known.logged).filter(|logged| now < *logged + FAULT_LOGGED);
        if logged.is_none() {
            warn!(host = cluster.host_name(host), "{text}");
        }
        self.faults.insert((host, direction), Fault { text, logged: logged.unwrap_or(now), met: now });
    }

    /// Notes what this host announces less of than there is; says each once.
    pub fn note_excesses(&mut self, excesses: Vec<Excess>) {
        let is_known = |excess: &Excess| self.excesses.iter().any(|known| known.network == excess.network);
        excesses.iter().filter(|excess| !is_known(excess)).for_each(|excess| warn!("{excess}"));
        self.excesses = excesses;
    }

    /// Logs who is in sync no more, or again.
    pub fn tell_changes(&self, before: &Heard, after: &Heard, cluster: &Cluster) {
        for (host, is) in &after.hosts {
            let is_known = |was: &&Arc<HeardHost>| !(was.networks.is_empty() && is.networks.is_empty());
            let Some(was) = before.hosts.get(host).filter(is_known) else { continue };
            let host = cluster.host_name(*host);
            match (was.in_sync, is.in_sync) {
                (true, false) => info!(host, "not in sync: it is sent all multicast until it is"),
                (false, true) if is.networks.is_empty() => {
                    warn!(host, "not heard for too long: what it announced is withdrawn");
                }
                (false, true) => info!(host, "in sync: it is sent the multicast that it listens to"),
                _ => {}
            }
        }
    }

    /// What is wrong, one line each.
    pub fn problems(&self, cluster: &Cluster, now: Duration) -> Vec<String> {
        let faults = self.faults.iter().filter(|(_, fault)| now < fault.met + FAULT_SHOWN);
        let faults = faults.map(|((host, _), fault)| format!("host {}: {}", cluster.host_name(*host), fault.text));
        let silence = (!self.is_speaking).then(|| SILENT.to_owned());
        silence.into_iter().chain(self.excesses.iter().map(ToString::to_string)).chain(faults).collect()
    }
}
