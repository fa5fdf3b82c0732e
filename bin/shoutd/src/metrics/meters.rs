//! The counters and histograms of what happens in the daemon.

use std::fmt;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use shoutd_dataplane::{ReplicatorRound, Round, RoundObserver, RoundOutcome};
use shoutd_docker::plugin::CallObserver;

/// Bounds of histograms of what takes from fractions of a millisecond to the deadlines of Docker's
/// calls, in seconds.
const BOUNDS: [f64; 12] =
    [0.000_5, 0.001, 0.002, 0.005, 0.01, 0.025, 0.1, 0.25, 0.5, 1.0, 5.0, 15.0];

/// One label, with a value that the program knows beforehand.
type OneLabel = [(&'static str, &'static str); 1];

/// Two labels.
type TwoLabels = [(&'static str, &'static str); 2];

type Timed<L> = Family<L, Histogram, fn() -> Histogram>;

/// How an exchange of an advertisement went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exchange {
    /// The receiver has it.
    Accepted,
    /// The receiver wants it in another form or later.
    Deferred,
    /// The receiver refuses it.
    Refused,
    /// There was no answer.
    Unanswered,
}

impl Exchange {
    /// The value of the label.
    fn label(self) -> OneLabel {
        let text = match self {
            Self::Accepted => "accepted",
            Self::Deferred => "deferred",
            Self::Refused => "refused",
            Self::Unanswered => "unanswered",
        };
        [("result", text)]
    }
}

/// All that is counted where it happens. Clones share their counts.
#[derive(Clone)]
pub struct Meters {
    /// Docker's calls, by method and result.
    plugin_calls: Timed<TwoLabels>,
    /// Commands that this host proposed to the cluster, by result.
    proposals: Timed<OneLabel>,
    /// From a join to the acknowledgement of a peer.
    joins: Histogram,
    /// From an advertisement to the kernel that is programmed with it.
    applied: Histogram,
    sent: Family<OneLabel, Counter>,
    received: Family<OneLabel, Counter>,
    probes_sent: Counter,
    /// The reconciler's rounds, by outcome.
    rounds: Timed<OneLabel>,
    actions: Family<OneLabel, Counter>,
    replicator_rounds: Histogram,
    changes: Family<OneLabel, Counter>,
}

impl fmt::Debug for Meters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Meters")
    }
}

fn histogram() -> Histogram {
    Histogram::new(BOUNDS)
}

fn timed<L: Clone + std::hash::Hash + Eq>() -> Timed<L> {
    Family::new_with_constructor(histogram)
}

impl Default for Meters {
    fn default() -> Self {
        let meters = Self {
            plugin_calls: timed(),
            proposals: timed(),
            joins: histogram(),
            applied: histogram(),
            sent: Family::default(),
            received: Family::default(),
            probes_sent: Counter::default(),
            rounds: timed(),
            actions: Family::default(),
            replicator_rounds: histogram(),
            changes: Family::default(),
        };
        // A series that begins with its first event hides this event from rate().
        for exchange in
            [Exchange::Accepted, Exchange::Deferred, Exchange::Refused, Exchange::Unanswered]
        {
            drop(meters.sent.get_or_create(&exchange.label()));
            if exchange != Exchange::Unanswered {
                drop(meters.received.get_or_create(&exchange.label()));
            }
        }
        for result in ["done", "failed"] {
            drop(meters.actions.get_or_create(&[("result", result)]));
            drop(meters.changes.get_or_create(&[("result", result)]));
        }
        for result in ["committed", "refused", "failed"] {
            drop(meters.proposals.get_or_create(&[("result", result)]));
        }
        for outcome in [RoundOutcome::Changed, RoundOutcome::Unchanged, RoundOutcome::Unreadable] {
            drop(meters.rounds.get_or_create(&outcome_label(outcome)));
        }
        meters
    }
}

fn outcome_label(outcome: RoundOutcome) -> OneLabel {
    let text = match outcome {
        RoundOutcome::Changed => "changed",
        RoundOutcome::Unchanged => "unchanged",
        RoundOutcome::Unreadable => "unreadable",
    };
    [("outcome", text)]
}

impl Meters {
    /// A command was committed, was refused by the cluster, or failed.
    pub fn proposed(&self, result: &'static str, took: Duration) {
        self.proposals.get_or_create(&[("result", result)]).observe(took.as_secs_f64());
    }

    /// A peer has acknowledged a join of this host's containers.
    pub fn joined(&self, took: Duration) {
        self.joins.observe(took.as_secs_f64());
    }

    /// This host's kernel was programmed with an advertisement.
    pub fn applied(&self, took: Duration) {
        self.applied.observe(took.as_secs_f64());
    }

    /// An advertisement was sent.
    pub fn sent(&self, exchange: Exchange) {
        self.sent.get_or_create(&exchange.label()).inc();
    }

    /// An advertisement was received.
    pub fn received(&self, exchange: Exchange) {
        self.received.get_or_create(&exchange.label()).inc();
    }

    /// A probe was sent.
    pub fn probed(&self) {
        self.probes_sent.inc();
    }

    /// Registers all of it.
    pub fn register(&self, registry: &mut Registry) {
        let seconds = || Unit::Seconds;
        registry.register_with_unit(
            "plugin_call_duration",
            "Time from a call of Docker to its answer, by method and result",
            seconds(),
            self.plugin_calls.clone(),
        );
        registry.register_with_unit(
            "raft_proposal_duration",
            "Time until a command of this host was committed and applied, or failed",
            seconds(),
            self.proposals.clone(),
        );
        registry.register_with_unit(
            "join_to_programmed",
            "Time from a join of a container of this host until a peer has programmed its kernel",
            seconds(),
            self.joins.clone(),
        );
        registry.register_with_unit(
            "advertisement_apply_duration",
            "Time from a peer's advertisement until this host's kernel is programmed with it",
            seconds(),
            self.applied.clone(),
        );
        registry.register(
            "advertisements_sent",
            "Advertisements that this host sent to peers, by result",
            self.sent.clone(),
        );
        registry.register(
            "advertisements_received",
            "Advertisements that this host received from peers, by result",
            self.received.clone(),
        );
        registry.register(
            "tunnel_probes_sent",
            "Probes that this host sent through its tunnels, one for all hosts of a network",
            self.probes_sent.clone(),
        );
        self.register_rounds(registry);
    }

    fn register_rounds(&self, registry: &mut Registry) {
        registry.register_with_unit(
            "reconciler_round_duration",
            "Duration of the rounds of the reconciler, by outcome",
            Unit::Seconds,
            self.rounds.clone(),
        );
        registry.register(
            "reconciler_actions",
            "Changes of devices, filters and flood entries, by result",
            self.actions.clone(),
        );
        registry.register_with_unit(
            "replicator_round_duration",
            "Duration of the rounds of the replicator",
            Unit::Seconds,
            self.replicator_rounds.clone(),
        );
        registry.register(
            "replicator_changes",
            "Changes of replication entries and pins, by result",
            self.changes.clone(),
        );
    }
}

impl RoundObserver for Meters {
    fn reconciled(&self, round: &Round) {
        self.rounds.get_or_create(&outcome_label(round.outcome)).observe(round.took.as_secs_f64());
        add(&self.actions, round.done, round.failed);
    }

    fn replicated(&self, round: &ReplicatorRound) {
        self.replicator_rounds.observe(round.took.as_secs_f64());
        add(&self.changes, round.made, round.failed);
    }
}

fn add(counts: &Family<OneLabel, Counter>, done: usize, failed: usize) {
    for (result, count) in [("done", done), ("failed", failed)] {
        counts.get_or_create(&[("result", result)]).inc_by(count.try_into().unwrap_or_default());
    }
}

impl CallObserver for Meters {
    fn answered(&self, method: &'static str, succeeded: bool, took: Duration) {
        let result = if succeeded { "ok" } else { "error" };
        let labels = [("method", method), ("result", result)];
        self.plugin_calls.get_or_create(&labels).observe(took.as_secs_f64());
    }
}
