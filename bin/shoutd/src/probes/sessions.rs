//! The session reader reads at intervals with which hosts this host's WireGuard has a session.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use shoutd_core::HostId;
use shoutd_core::limits::SESSIONS_POLL;
use shoutd_core::sessions::{PeerWireguard, Session, Sessions, WireguardReading, WireguardView};
use shoutd_core::tunnel::{Carriage, TunnelKind, TunnelState};
use shoutd_dataplane::read_wireguard;
use tokio::runtime::Handle;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::Prober;
use crate::membership::agreement::Agreement;
use crate::plane::NAMESPACES;

/// Reads the sessions while the cluster has encrypted networks.
#[derive(Debug)]
pub struct SessionReader {
    agreement: Agreement,
    /// The control socket of WireGuard in user space.
    socket: PathBuf,
    /// Zero of the times in `sessions`.
    begin: Instant,
    sessions: Mutex<Sessions>,
}

impl SessionReader {
    /// Does not read anything yet.
    pub fn new(agreement: Agreement, socket: PathBuf) -> Self {
        Self { agreement, socket, begin: Instant::now(), sessions: Mutex::default() }
    }

    /// Reads until `stop`.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let reading = async {
            let mut ticks = interval(SESSIONS_POLL);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                let cluster = self.agreement.cluster();
                let device =
                    if cluster.encryption.is_unused() { None } else { self.device().await };
                let now = self.begin.elapsed();
                self.sessions.lock().note(&cluster, self.agreement.me, device, now);
            }
        };
        stop.run_until_cancelled(reading).await;
    }

    /// What the device has. Why it cannot be read is the data plane's to say, which needs it, too.
    async fn device(&self) -> Option<WireguardReading> {
        let socket = self.socket.clone();
        let read = tokio::task::spawn_blocking(move || {
            Handle::current().block_on(read_wireguard(Path::new(NAMESPACES), &socket))
        });
        match read.await {
            Ok(Ok(device)) => device,
            Ok(Err(error)) => {
                debug!("cannot read the WireGuard sessions: {error}");
                None
            }
            Err(error) => {
                debug!("cannot read the WireGuard sessions: {error}");
                None
            }
        }
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
