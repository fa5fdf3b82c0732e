//! The WireGuard sessions of this host with the others: which are missing, and since when. Pure.
//!
//! A session lives for 180 s after its handshake, and keepalives have it renewed after 120 s
//! (`REJECT_AFTER_TIME`, `REKEY_AFTER_TIME`). So a peer whose last handshake is older is not
//! reached, whether or not a network is shared with it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::HostId;
use crate::cluster::{Cluster, TunnelEnd, TunnelKey};
use crate::limits::SESSION_GRACE;
use crate::plane::ObservedEncryption;

/// How long a session lives after its handshake.
pub const SESSION_MAX: Duration = Duration::from_secs(180);

/// A host's end of the encrypted networks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct WireguardView {
    /// What runs WireGuard: `kernel` or `userspace`; `None` if nothing does.
    pub tier: Option<String>,
    /// The UDP port at which it receives; `None` until it has published its key.
    pub port: Option<u16>,
    /// Number of other hosts that have published their keys.
    pub peers: usize,
    /// With how many of them there is a session.
    pub sessions: usize,
}

/// What a host knows of another one's end of the encrypted networks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PeerWireguard {
    /// The UDP port at which its WireGuard receives.
    pub port: u16,
    /// Milliseconds since the last handshake with it; `None` if there was none.
    pub handshake_ago: Option<u64>,
}

/// What a WireGuard device tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WireguardReading {
    /// What runs it: `kernel` or `userspace`.
    pub tier: &'static str,
    /// The peers, by key.
    pub peers: BTreeMap<TunnelKey, Session>,
}

impl WireguardReading {
    /// What was observed of the device at this time; `None` if there is none that can be read.
    pub fn of(observed: &ObservedEncryption, now: SystemTime) -> Option<Self> {
        let peers = observed.peers.iter().map(|(key, peer)| {
            // A clock that was set back makes a handshake seem to be in the future.
            let ago = peer.last_handshake.map(|at| now.duration_since(at).unwrap_or_default());
            (*key, Session { handshake_ago: ago })
        });
        Some(Self { tier: observed.tier?, peers: peers.collect() })
    }
}

/// What it tells of one peer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Session {
    /// How long ago the last handshake was completed; `None` if there was none.
    pub handshake_ago: Option<Duration>,
}

impl Session {
    /// Whether it lives.
    pub fn is_alive(&self) -> bool {
        self.handshake_ago.is_some_and(|ago| ago < SESSION_MAX)
    }
}

/// What a host lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Lack {
    /// It has not published its end.
    End,
    /// There is no session with it.
    Session,
}

/// The sessions as they were read last. Times are since any fixed moment.
#[derive(Debug, Clone, Default)]
pub struct Sessions {
    /// The device; `None` if there is none, or if it cannot be read.
    device: Option<WireguardReading>,
    /// What hosts lack, and since when.
    lacks: BTreeMap<(HostId, Lack), Duration>,
}

impl Sessions {
    /// Notes what was read of the device.
    pub fn note(
        &mut self,
        cluster: &Cluster,
        me: HostId,
        device: Option<WireguardReading>,
        now: Duration,
    ) {
        let mut before = std::mem::take(&mut self.lacks);
        self.device = device;
        if !cluster.encryption.wanted {
            return;
        }
        for host in cluster.hosts.keys() {
            let lack = match (cluster.encryption.ends.get(host), &self.device) {
                (None, _) => Lack::End,
                (Some(end), Some(device)) if *host != me => {
                    if device.peers.get(&end.key).is_some_and(Session::is_alive) {
                        continue;
                    }
                    Lack::Session
                }
                // Without a device, the data plane says why.
                _ => continue,
            };
            let since = before.remove(&(*host, lack)).unwrap_or(now);
            self.lacks.insert((*host, lack), since);
        }
    }

    /// The session with this host, if the device has this peer.
    pub fn with(&self, cluster: &Cluster, host: HostId) -> Option<Session> {
        let end = cluster.encryption.ends.get(&host)?;
        self.device.as_ref()?.peers.get(&end.key).copied()
    }

    /// What runs WireGuard, if it runs.
    pub fn tier(&self) -> Option<&'static str> {
        self.device.as_ref().map(|device| device.tier)
    }

    /// What is shown of this host; `None` if no network was ever encrypted.
    pub fn view(&self, cluster: &Cluster, me: HostId) -> Option<WireguardView> {
        if cluster.encryption.is_unused() {
            return None;
        }
        let ends = &cluster.encryption.ends;
        let others = ends.keys().filter(|host| **host != me);
        let alive = others
            .clone()
            .filter(|host| self.with(cluster, **host).as_ref().is_some_and(Session::is_alive));
        Some(WireguardView {
            tier: self.tier().map(str::to_owned),
            port: ends.get(&me).map(|end| end.port),
            peers: others.count(),
            sessions: alive.count(),
        })
    }

    /// What is shown of another host; `None` if it has published no end.
    pub fn view_of(&self, cluster: &Cluster, host: HostId) -> Option<PeerWireguard> {
        let TunnelEnd { port, .. } = *cluster.encryption.ends.get(&host)?;
        let ago = self.with(cluster, host).and_then(|session| session.handshake_ago);
        let handshake_ago = ago.map(|ago| u64::try_from(ago.as_millis()).unwrap_or(u64::MAX));
        Some(PeerWireguard { port, handshake_ago })
    }

    /// The lacks that have lasted for [`SESSION_GRACE`], one line each. A host in `told` gets no
    /// line for its missing session: another problem already says that it is not reached.
    pub fn problems(
        &self,
        cluster: &Cluster,
        me: HostId,
        told: &BTreeSet<HostId>,
        now: Duration,
    ) -> Vec<String> {
        let lasting =
            self.lacks.iter().filter(|(_, since)| now.saturating_sub(**since) >= SESSION_GRACE);
        let lines = lasting.filter_map(|((host, lack), _)| {
            let name = cluster.host_name(*host);
            match lack {
                Lack::End if *host == me => Some(
                    "this host has not published its WireGuard key: it has no encrypted networks \
                     until a majority of the hosts answers"
                        .to_owned(),
                ),
                Lack::End => Some(format!(
                    "{name} has not published its WireGuard key, and so has no encrypted networks: \
                     on {name}, shoutdctl status"
                )),
                Lack::Session if told.contains(host) => None,
                Lack::Session => {
                    let [here, there] = [&me, host]
                        .map(|host| cluster.encryption.ends.get(host).map_or(0, |end| end.port));
                    let ago = self.with(cluster, *host).and_then(|session| session.handshake_ago);
                    let last = ago.map_or_else(
                        || "there was no handshake".to_owned(),
                        |ago| format!("the last handshake was {} s ago", ago.as_secs()),
                    );
                    Some(format!(
                        "there is no WireGuard session with {name} ({last}): if {name} runs, allow \
                         UDP port {there} to it and {here} from it, and see shoutdctl status there"
                    ))
                }
            }
        });
        lines.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::Host;

    const ME: u64 = 1;
    const PEER: u64 = 2;

    fn host(number: u64) -> HostId {
        HostId::new(number).unwrap()
    }

    fn key(number: u64) -> TunnelKey {
        TunnelKey::new([u8::try_from(number).unwrap(); 32])
    }

    /// A cluster of two hosts. Those in `ends` have published their ends.
    fn cluster(ends: &[u64]) -> Cluster {
        let mut cluster = Cluster::default();
        for number in [ME, PEER] {
            let name = format!("h{number}");
            let address = format!("192.0.2.{number}:7789").parse().unwrap();
            let subnets = Vec::new();
            cluster.hosts.insert(host(number), Host { name, address, subnets });
        }
        cluster.encryption.wanted = true;
        for number in ends {
            let end = TunnelEnd { key: key(*number), port: 7000 + u16::try_from(*number).unwrap() };
            cluster.encryption.ends.insert(host(*number), end);
        }
        cluster
    }

    /// A device whose only peer had its last handshake so many seconds ago.
    fn device(ago: Option<u64>) -> Option<WireguardReading> {
        let session = Session { handshake_ago: ago.map(Duration::from_secs) };
        Some(WireguardReading { tier: "kernel", peers: [(key(PEER), session)].into() })
    }

    fn problems(sessions: &Sessions, cluster: &Cluster, now: Duration) -> Vec<String> {
        sessions.problems(cluster, host(ME), &BTreeSet::new(), now)
    }

    #[test]
    fn a_session_that_died_is_told_once_it_lasts() {
        let cluster = cluster(&[ME, PEER]);
        let mut sessions = Sessions::default();
        for (ago, words) in [
            (Some(10), None),
            (Some(179), None),
            (Some(180), Some("the last handshake was 180 s ago")),
            (None, Some("there was no handshake")),
        ] {
            sessions = Sessions::default();
            sessions.note(&cluster, host(ME), device(ago), Duration::ZERO);
            assert_eq!(problems(&sessions, &cluster, Duration::ZERO), [""; 0], "{ago:?}");
            sessions.note(&cluster, host(ME), device(ago), SESSION_GRACE);
            let found = problems(&sessions, &cluster, SESSION_GRACE);
            match words {
                None => assert_eq!(found, [""; 0]),
                Some(words) => {
                    assert!(found.len() == 1 && found[0].contains(words), "{found:?}");
                    assert!(found[0].contains("UDP port 7002 to it and 7001 from it"), "{found:?}");
                }
            }
        }
        // Another line says that nothing arrives.
        let told = BTreeSet::from([host(PEER)]);
        assert_eq!(sessions.problems(&cluster, host(ME), &told, SESSION_GRACE), [""; 0]);
        // It heals, and breaks again.
        sessions.note(&cluster, host(ME), device(Some(1)), SESSION_GRACE);
        sessions.note(&cluster, host(ME), device(Some(200)), SESSION_GRACE);
        assert_eq!(problems(&sessions, &cluster, SESSION_GRACE), [""; 0]);
    }

    #[test]
    fn a_host_without_a_key_is_told() {
        for (ends, words) in [(&[ME][..], "h2 has not published"), (&[PEER], "this host has not")] {
            let cluster = cluster(ends);
            let mut sessions = Sessions::default();
            sessions.note(&cluster, host(ME), device(Some(1)), Duration::ZERO);
            let found = problems(&sessions, &cluster, SESSION_GRACE);
            assert!(found.len() == 1 && found[0].contains(words), "{found:?}");
        }
    }

    #[test]
    fn nothing_is_shown_of_a_cluster_without_encryption() {
        let (plain, mut sessions) = (Cluster::default(), Sessions::default());
        sessions.note(&plain, host(ME), None, Duration::ZERO);
        assert_eq!(sessions.view(&plain, host(ME)), None);
        assert_eq!(problems(&sessions, &plain, SESSION_GRACE), [""; 0]);
    }

    #[test]
    fn the_view_counts_what_lives() {
        let cluster = cluster(&[ME, PEER]);
        let mut sessions = Sessions::default();
        for (read, expected) in [
            (device(Some(3)), (Some("kernel".to_owned()), 1)),
            (device(Some(300)), (Some("kernel".to_owned()), 0)),
            (None, (None, 0)),
        ] {
            sessions.note(&cluster, host(ME), read, Duration::ZERO);
            let view = sessions.view(&cluster, host(ME)).unwrap();
            assert_eq!((view.tier, view.sessions), expected);
            assert_eq!((view.port, view.peers), (Some(7001), 1));
        }
        assert_eq!(
            sessions.view_of(&cluster, host(PEER)),
            Some(PeerWireguard { port: 7002, handshake_ago: None })
        );
    }
}
