//! The session reader notes at intervals which hosts this host's WireGuard has a session with. It
//! takes this from what the data plane has observed.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::SystemTime;

use parking_lot::Mutex;
use shoutd_core::HostId;
use shoutd_core::limits::SESSIONS_POLL;
use shoutd_core::sessions::{PeerWireguard, Session, Sessions, WireguardReading, WireguardView};
use shoutd_core::tunnel::{Carriage, TunnelKind, TunnelState};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::Prober;
use crate::membership::agreement::Agreement;
use crate::plane::Plane;

/// Reads the sessions while the cluster has encrypted networks.
#[derive(Debug)]
pub struct SessionReader {
    agreement: Agreement,
    plane: Arc<Plane>,
    /// Zero of the times in `sessions`.
    begin: Instant,
    sessions: Mutex<Sessions>,
}

impl SessionReader {
    /// Does not read anything yet.
    pub fn new(agreement: Agreement, plane: Arc<Plane>) -> Self {
        Self { agreement, plane, begin: Instant::now(), sessions: Mutex::default() }
    }

    /// Reads until `stop`.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let reading = async {
            let mut ticks = interval(SESSIONS_POLL);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                let cluster = self.agreement.cluster();
                let device = self.device().filter(|_| !cluster.encryption.is_unused());
                let now = self.begin.elapsed();
                self.sessions.lock().note(&cluster, self.agreement.me, device, now);
            }
        };
        stop.run_until_cancelled(reading).await;
    }

    /// What the device has. The data plane reports why a device cannot be read.
    fn device(&self) -> Option<WireguardReading> {
        let observed = self.plane.watch_observed();
        let observed = observed.borrow();
        WireguardReading::of(observed.encryption.as_ref()?, SystemTime::now())
    }

    /// What is shown of this host's WireGuard; `None` if no network was ever encrypted.
    pub fn view(&self) -> Option<WireguardView> {
        self.sessions.lock().view(&self.agreement.cluster(), self.agreement.me)
    }

    /// What is shown of another host's WireGuard.
    pub fn view_of(&self, host: HostId) -> Option<PeerWireguard> {
        let is_other = host != self.agreement.me;
        let view = || self.sessions.lock().view_of(&self.agreement.cluster(), host);
        is_other.then(view).flatten()
    }

    /// The session with another host.
    pub fn with(&self, host: HostId) -> Option<Session> {
        self.sessions.lock().with(&self.agreement.cluster(), host)
    }

    /// What this host or a session lacks, one line each.
    pub fn problems(&self, prober: &Prober) -> Vec<String> {
        let (cluster, me, now) =
            (self.agreement.cluster(), self.agreement.me, self.begin.elapsed());
        let told = self.told(prober);
        self.sessions.lock().problems(&cluster, me, &told, now)
    }

    /// The hosts whose lack of a session needs no line of its own: nothing arrives through the
    /// encrypted tunnel, which another line says, or the host does not answer at all.
    fn told(&self, prober: &Prober) -> BTreeSet<HostId> {
        let is_silent =
            |state: &TunnelState| [state.inbound, state.outbound].contains(&Carriage::Silent);
        let tunnels = prober.states(TunnelKind::Encrypted).into_iter();
        let silent = tunnels.filter(|(_, state)| is_silent(state)).map(|(host, _)| host);
        let health = self.agreement.consensus().status().peer_health.into_iter();
        silent.chain(health.filter(|peer| !peer.reachable).map(|peer| peer.host)).collect()
    }
}
