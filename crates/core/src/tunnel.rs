//! Whether the tunnel carries between this host and its peers, by direction: probes are sent
//! through it, small ones and ones of full size, and hosts tell one another which arrived. Pure.
//!
//! Two hosts have up to two tunnels: that of plain networks, and that of encrypted ones, whose
//! VXLAN is in WireGuard, at another UDP port. A firewall may block one of them only.
//!
//! A peer that answers over TCP and sends probes must be heard. So a tunnel that does not carry is
//! known although the hosts reach each other otherwise.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::HostId;
use crate::limits::{PORT, PROBE_SILENCE, PROBES_COUNTED};

/// A probe: the content of one frame. A frame of full size has zeros behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    /// The host that sent it.
    pub from: HostId,
    /// A random number of that host's daemon.
    pub run: u64,
    /// Counts the probes of this run, from 0. Each number is sent twice: small and full.
    pub number: u64,
    /// Whether its frame is as large as the network's MTU allows.
    pub full: bool,
}

/// Which networks a tunnel carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TunnelKind {
    /// Those that are not encrypted.
    Plain,
    /// Those that are.
    Encrypted,
}

/// Something of each kind of tunnel.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ByKind<T> {
    /// Of the tunnel of plain networks.
    pub plain: T,
    /// Of the tunnel of encrypted networks.
    pub encrypted: T,
}

impl<T> ByKind<T> {
    /// That of one kind.
    pub fn of(&self, kind: TunnelKind) -> &T {
        match kind {
            TunnelKind::Plain => &self.plain,
            TunnelKind::Encrypted => &self.encrypted,
        }
    }

    /// That of one kind, to change it.
    pub fn of_mut(&mut self, kind: TunnelKind) -> &mut T {
        match kind {
            TunnelKind::Plain => &mut self.plain,
            TunnelKind::Encrypted => &mut self.encrypted,
        }
    }
}

/// What a host tells another about the probes through one tunnel between them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeReport {
    /// Whether it sends probes on a network that both have.
    pub sends: bool,
    /// What it hears of the host that asks.
    pub hears: Carriage,
}

/// What a host tells another about the probes between them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeReports {
    /// Through the tunnel of plain networks. Versions without encryption tell nothing else.
    #[serde(flatten)]
    pub plain: ProbeReport,
    /// Through the tunnel of encrypted networks.
    #[serde(default)]
    pub encrypted: ProbeReport,
}

/// Whether one direction of a tunnel carries.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Carriage {
    /// Not known, or not yet: the hosts share no network, or one does not answer.
    #[default]
    Unknown,
    /// Probes of both sizes arrive.
    Carries,
    /// No probe arrives.
    Silent,
    /// Only small probes arrive: some link on the way has a smaller MTU.
    SmallOnly,
    /// This many percent of the small probes are lost.
    Loses(u8),
}

impl fmt::Display for Carriage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => f.write_str("unknown"),
            Self::Carries => f.write_str("carries"),
            Self::Silent => f.write_str("NOTHING ARRIVES"),
            Self::SmallOnly => f.write_str("LARGE PACKETS ARE LOST"),
            Self::Loses(percent) => write!(f, "LOSES {percent} %"),
        }
    }
}

/// Loss, in percent, from which a direction counts as lossy.
const LOSS_MIN: u64 = 25;

/// Successive probes whose loss is an outage: they take as long as [`PROBE_SILENCE`].
const OUTAGE: u64 = 4;

/// The probes of one peer. Times are since any fixed moment.
#[derive(Debug, Clone, Default)]
struct Peer {
    /// When it began to answer and to send probes, without interruption.
    sends_since: Option<Duration>,
    /// When it last answered, and what.
    answer: Option<(Duration, ProbeReport)>,
    /// Since when both hosts have had a network in common.
    shares_since: Duration,
    run: u64,
    small: Option<Duration>,
    full: Option<Duration>,
    /// Numbers of the last small probes.
    numbers: VecDeque<u64>,
}

impl Peer {
    fn hears(&self, now: Duration) -> Carriage {
        let is_answering =
            self.answer.is_some_and(|(at, _)| now.saturating_sub(at) < PROBE_SILENCE);
        let Some(since) = self.sends_since.filter(|_| is_answering) else {
            // It may be cut off from TCP only.
            let came =
                |at: Option<Duration>| at.is_some_and(|at| now.saturating_sub(at) < PROBE_SILENCE);
            return if came(self.small) && came(self.full) {
                Carriage::Carries
            } else {
                Carriage::Unknown
            };
        };
        let since = since.max(self.shares_since);
        let [small, full] =
            [self.small, self.full].map(|heard| heard.filter(|heard| *heard >= since));
        let is_late =
            |heard: Option<Duration>| now.saturating_sub(heard.unwrap_or(since)) >= PROBE_SILENCE;
        match (is_late(small), is_late(full)) {
            (true, true) => Carriage::Silent,
            (false, true) => Carriage::SmallOnly,
            _ if small.is_none() && full.is_none() => Carriage::Unknown,
            _ => match self.loss() {
                Some(percent) => Carriage::Loses(percent),
                None => Carriage::Carries,
            },
        }
    }

    /// The loss of the small probes, if it is high. While the tunnel carried nothing, it was silent
    /// and not lossy: those probes do not count.
    fn loss(&self) -> Option<u8> {
        let mut numbers: Vec<u64> = self.numbers.iter().copied().collect();
        numbers.sort_unstable();
        let gaps = numbers.windows(2).filter_map(|pair| pair[1].checked_sub(pair[0] + 1));
        let lost: u64 = gaps.filter(|gap| *gap < OUTAGE).sum();
        let sent = lost + u64::try_from(numbers.len()).ok()?;
        let percent = 100 * lost / sent.max(1);
        (self.numbers.len() >= PROBES_COUNTED / 2 && percent >= LOSS_MIN)
            .then(|| u8::try_from(percent).unwrap_or(100))
    }
}

/// Both directions of the tunnel to one peer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TunnelState {
    /// From the peer to this host.
    pub inbound: Carriage,
    /// From this host to the peer, as the peer tells.
    pub outbound: Carriage,
}

impl fmt::Display for TunnelState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { inbound, outbound } = self;
        if inbound == outbound {
            write!(f, "{inbound}")
        } else {
            write!(f, "from it: {inbound}, to it: {outbound}")
        }
    }
}

/// The tunnels of one kind to all peers that share such a network.
#[derive(Debug, Clone, Default)]
pub struct Tunnels {
    peers: BTreeMap<HostId, Peer>,
}

impl Tunnels {
    /// Replaces the peers that share a network with this host.
    pub fn set_peers(&mut self, peers: impl IntoIterator<Item = HostId>, now: Duration) {
        let mut before = std::mem::take(&mut self.peers);
        for peer in peers {
            let known = before.remove(&peer);
            let new = || Peer { shares_since: now, ..Peer::default() };
            self.peers.insert(peer, known.unwrap_or_else(new));
        }
    }

    /// The peers that share a network.
    pub fn peers(&self) -> impl Iterator<Item = HostId> {
        self.peers.keys().copied()
    }

    /// A probe came through the tunnel. One of an unknown host is ignored.
    pub fn received(&mut self, probe: Probe, now: Duration) {
        let Some(peer) = self.peers.get_mut(&probe.from) else { return };
        if peer.run != probe.run {
            peer.run = probe.run;
            peer.numbers.clear();
        }
        if probe.full {
            peer.full = Some(now);
            return;
        }
        peer.small = Some(now);
        // One that comes twice, as by two networks, counts once.
        if !peer.numbers.contains(&probe.number) {
            peer.numbers.push_back(probe.number);
        }
        if peer.numbers.len() > PROBES_COUNTED {
            peer.numbers.pop_front();
        }
    }

    /// A peer answered over TCP, or did not (`None`).
    pub fn answered(&mut self, host: HostId, answer: Option<ProbeReport>, now: Duration) {
        let Some(peer) = self.peers.get_mut(&host) else { return };
        match answer {
            Some(report) => {
                let before = peer.sends_since;
                peer.sends_since = report.sends.then(|| before.unwrap_or(now));
                peer.answer = Some((now, report));
            }
            // Some answers may be late; a peer that stays silent is unknown.
            None if peer.answer.is_some_and(|(at, _)| now.saturating_sub(at) >= PROBE_SILENCE) => {
                peer.sends_since = None;
            }
            None => {}
        }
    }

    /// What this host tells a peer that asks.
    pub fn report(&self, host: HostId, now: Duration) -> ProbeReport {
        self.peers.get(&host).map_or_else(ProbeReport::default, |peer| ProbeReport {
            sends: true,
            hears: peer.hears(now),
        })
    }

    /// The tunnel to each peer.
    pub fn states(&self, now: Duration) -> BTreeMap<HostId, TunnelState> {
        let states = self.peers.iter().map(|(host, peer)| {
            let told = peer.answer.filter(|(at, _)| now.saturating_sub(*at) < PROBE_SILENCE);
            let outbound = told.map_or(Carriage::Unknown, |(_, report)| report.hears);
            (*host, TunnelState { inbound: peer.hears(now), outbound })
        });
        states.collect()
    }
}

/// A direction that does not carry, and what to do. As text, it is one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TunnelProblem {
    /// What does not arrive, and where.
    pub what: String,
    /// What to do.
    pub remedy: String,
}

impl fmt::Display for TunnelProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.remedy)
    }
}

/// The problem of a direction of a plain tunnel; `None` if it carries or is unknown. `from` and
/// `to` are hosts' names.
pub fn tunnel_problem(from: &str, to: &str, carriage: Carriage) -> Option<TunnelProblem> {
    problem(from, to, carriage, "the tunnel", || {
        format!(
            "allow UDP port {PORT} from {from} to {to} in the firewalls of both and of the \
             networks between them"
        )
    })
}

/// The problem of a direction of an encrypted tunnel; `None` if it carries or is unknown. `port` is
/// the UDP port of `to`'s WireGuard.
pub fn encrypted_tunnel_problem(
    from: &str,
    to: &str,
    port: u16,
    carriage: Carriage,
) -> Option<TunnelProblem> {
    problem(from, to, carriage, "the encrypted tunnel", || {
        format!(
            "allow UDP port {port} (WireGuard) from {from} to {to}, and its answers, in the \
             firewalls of both and of the networks between them; if it is allowed, see shoutdctl \
             status on both"
        )
    })
}

fn problem(
    from: &str,
    to: &str,
    carriage: Carriage,
    tunnel: &str,
    allow: impl Fn() -> String,
) -> Option<TunnelProblem> {
    let (what, remedy) = match carriage {
        Carriage::Unknown | Carriage::Carries => return None,
        Carriage::Silent => {
            (format!("nothing that {from} sends through {tunnel} arrives at {to}"), allow())
        }
        Carriage::SmallOnly => (
            format!("large packets that {from} sends through {tunnel} do not arrive at {to}"),
            "a link between them has a smaller MTU than the hosts' interfaces: correct that MTU, \
             or create networks with --opt com.docker.network.driver.mtu=<less>"
                .to_owned(),
        ),
        Carriage::Loses(percent) => (
            format!("{percent} % of what {from} sends through {tunnel} does not arrive at {to}"),
            "see the errors and drops of the interfaces between them".to_owned(),
        ),
    };
    Some(TunnelProblem { what, remedy })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn host(number: u64) -> HostId {
        HostId::new(number).unwrap()
    }

    fn probe(number: u64, full: bool) -> Probe {
        Probe { from: host(2), run: 7, number, full }
    }

    /// A peer that answers and sends, each second until `end`, with these probes arriving.
    fn run(tunnels: &mut Tunnels, begin: u32, end: u32, arrives: impl Fn(u64, bool) -> bool) {
        for second in begin..end {
            let now = second * SECOND;
            let report = ProbeReport { sends: true, hears: Carriage::Carries };
            tunnels.answered(host(2), Some(report), now);
            for full in [false, true] {
                if arrives(second.into(), full) {
                    tunnels.received(probe(second.into(), full), now);
                }
            }
        }
    }

    fn inbound(tunnels: &Tunnels, second: u32) -> Carriage {
        tunnels.states(second * SECOND)[&host(2)].inbound
    }

    fn tunnels() -> Tunnels {
        let mut tunnels = Tunnels::default();
        tunnels.set_peers([host(2)], Duration::ZERO);
        tunnels
    }

    #[test]
    fn a_tunnel_carries_or_it_is_said_what_it_does_not_carry() {
        type Arrives = fn(u64, bool) -> bool;
        let cases: [(Arrives, Carriage); 4] = [
            (|_, _| true, Carriage::Carries),
            (|_, _| false, Carriage::Silent),
            (|_, full| !full, Carriage::SmallOnly),
            (|number, full| full || number % 2 == 0, Carriage::Loses(48)),
        ];
        for (arrives, expected) in cases {
            let mut tunnels = tunnels();
            run(&mut tunnels, 0, 40, arrives);
            let found = inbound(&tunnels, 40);
            match expected {
                Carriage::Loses(_) => assert!(matches!(found, Carriage::Loses(40..=50)), "{found}"),
                _ => assert_eq!(found, expected),
            }
        }
    }

    #[test]
    fn a_tunnel_that_breaks_is_known_within_the_silence_and_heals() {
        let mut tunnels = tunnels();
        run(&mut tunnels, 0, 20, |_, _| true);
        let silence = u32::try_from(PROBE_SILENCE.as_secs()).unwrap();
        run(&mut tunnels, 20, 20 + silence - 2, |_, _| false);
        assert_eq!(inbound(&tunnels, 20 + silence - 2), Carriage::Carries);
        run(&mut tunnels, 20 + silence - 2, 20 + silence + 1, |_, _| false);
        assert_eq!(inbound(&tunnels, 20 + silence), Carriage::Silent);
        run(&mut tunnels, 20 + silence + 1, 22 + silence + 1, |_, _| true);
        // What was lost in the meantime is past.
        assert_eq!(inbound(&tunnels, 22 + silence + 1), Carriage::Carries);
    }

    #[test]
    fn nothing_is_said_of_a_peer_that_does_not_answer_or_send() {
        let mut silent = tunnels();
        for second in 0..60 {
            silent.answered(host(2), None, second * SECOND);
        }
        assert_eq!(silent.states(60 * SECOND)[&host(2)], TunnelState::default());
        let mut idle = tunnels();
        for second in 0..60 {
            idle.answered(host(2), Some(ProbeReport::default()), second * SECOND);
        }
        assert_eq!(inbound(&idle, 60), Carriage::Unknown);
        // A daemon that stops sends no probes; that is no fault of the tunnel.
        let mut stopped = tunnels();
        run(&mut stopped, 0, 20, |_, _| true);
        for second in 20..60 {
            stopped.answered(host(2), None, second * SECOND);
            assert_ne!(inbound(&stopped, second), Carriage::Silent, "{second}");
        }
        // One that is cut off from TCP only is heard.
        stopped.received(probe(1, false), 59 * SECOND);
        stopped.received(probe(1, true), 59 * SECOND);
        assert_eq!(inbound(&stopped, 60), Carriage::Carries);
        // When it runs again, it has time to send.
        run(&mut stopped, 60, 62, |_, _| false);
        assert_eq!(inbound(&stopped, 62), Carriage::Unknown);
    }

    #[test]
    fn a_peer_is_told_what_is_heard_of_it() {
        let mut tunnels = tunnels();
        run(&mut tunnels, 0, 20, |_, _| true);
        let report = tunnels.report(host(2), 20 * SECOND);
        assert_eq!(report, ProbeReport { sends: true, hears: Carriage::Carries });
        assert_eq!(tunnels.report(host(3), 20 * SECOND), ProbeReport::default());
        tunnels.received(Probe { from: host(3), ..probe(1, false) }, 20 * SECOND);
        assert_eq!(tunnels.peers().collect::<Vec<_>>(), [host(2)]);
    }
    #[test]
    fn reports_of_versions_without_encryption_are_understood() {
        let old = ProbeReport { sends: true, hears: Carriage::Carries };
        let text = serde_json::to_string(&old).unwrap();
        let reports: ProbeReports = serde_json::from_str(&text).unwrap();
        assert_eq!(reports, ProbeReports { plain: old, encrypted: ProbeReport::default() });
        let encrypted = ProbeReport { sends: true, hears: Carriage::Silent };
        let both = ProbeReports { plain: old, encrypted };
        let text = serde_json::to_string(&both).unwrap();
        assert_eq!(serde_json::from_str::<ProbeReports>(&text).unwrap(), both);
        assert_eq!(serde_json::from_str::<ProbeReport>(&text).unwrap(), old);
    }

    #[test]
    fn a_problem_names_the_port_of_its_tunnel() {
        let plain = tunnel_problem("h1", "h2", Carriage::Silent).unwrap();
        assert!(plain.remedy.contains("UDP port 7789 from h1 to h2"), "{plain}");
        let encrypted = encrypted_tunnel_problem("h1", "h2", 1234, Carriage::Silent).unwrap();
        assert!(encrypted.remedy.contains("UDP port 1234 (WireGuard) from h1 to h2"));
        assert!(encrypted.what.contains("through the encrypted tunnel"), "{encrypted}");
        assert_eq!(encrypted_tunnel_problem("h1", "h2", 1234, Carriage::Carries), None);
    }
}
