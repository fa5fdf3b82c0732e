//! `shoutdctl stop --leave`: this host leaves its cluster, and nothing of the cluster stays on it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use shoutd_core::view::Membership;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::app::services::Services;
use crate::docker::mirrors::Mirrors;

/// How long the cluster may take to let go of this host.
const REMOVAL_DEADLINE: Duration = Duration::from_secs(15);

/// How long the kernel may take to take networks down.
const VACATING_DEADLINE: Duration = Duration::from_secs(10);

/// What a host does to leave.
#[derive(Debug)]
pub struct Leaving {
    services: Services,
    mirrors: Arc<Mirrors>,
    membership: watch::Sender<Membership>,
    in_flight: AtomicBool,
    left: CancellationToken,
}

impl Leaving {
    /// Puts the parts together; nothing happens yet.
    pub fn new(
        services: Services,
        mirrors: Arc<Mirrors>,
        membership: watch::Sender<Membership>,
    ) -> Self {
        Self {
            services,
            mirrors,
            membership,
            in_flight: AtomicBool::new(false),
            left: CancellationToken::new(),
        }
    }

    /// Whether this host is about to leave.
    pub fn is_under_way(&self) -> bool {
        self.in_flight.load(Ordering::SeqCst)
    }

    /// Whether it has left.
    pub fn has_left(&self) -> bool {
        self.left.is_cancelled()
    }

    /// Waits until it has left.
    pub async fn left(&self) {
        self.left.cancelled().await;
    }

    /// Takes the networks off this host's engine and this host out of the cluster. Nothing is
    /// changed in the end if it fails: the networks come back.
    ///
    /// # Errors
    /// If containers use networks here, this is the only host, the engine does not answer, or the
    /// cluster cannot do without this host.
    pub async fn leave(&self) -> Result<()> {
        if self.membership.borrow().clone() != Membership::Member {
            bail!("this host belongs to no cluster yet; stop it with: shoutdctl stop");
        }
        if self.in_flight.swap(true, Ordering::SeqCst) {
            bail!("this host is leaving already");
        }
        // From now on no container is started on a network here, and no network is made anew that
        // is taken away.
        self.membership.send_replace(Membership::Joining("it is leaving the cluster".to_owned()));
        let done = self.try_leave().await;
        if done.is_err() {
            self.in_flight.store(false, Ordering::SeqCst);
            self.membership.send_replace(Membership::Member);
        } else {
            info!("this host has left the cluster");
            self.left.cancel();
        }
        done
    }

    async fn try_leave(&self) -> Result<()> {
        let cluster = self.services.agreement.cluster();
        if cluster.hosts.len() <= 1 {
            bail!(
                "this is the only host of the cluster: nobody would be left to know its networks; \
                 remove them (docker network rm), stop shoutd (shoutdctl stop) and remove its \
                 data directory to end the cluster"
            );
        }
        let local = self.services.local.get();
        let used: BTreeSet<_> =
            local.endpoints.values().map(|endpoint| &endpoint.network).collect();
        if !used.is_empty() {
            let names: Vec<_> = used.iter().map(|id| cluster.network_title(id)).collect();
            bail!(
                "containers of this host use {}: stop them, or disconnect them, first",
                names.join(", ")
            );
        }
        self.mirrors.remove_all().await.map_err(|error| anyhow!(error))?;
        // Afterwards this host does not know any more what is its own.
        if !self.services.plane.is_vacated(VACATING_DEADLINE).await {
            bail!(
                "the kernel still has networks of this host after {VACATING_DEADLINE:?}; see: \
                 shoutdctl status"
            );
        }
        let removed = self
            .services
            .agreement
            .consensus()
            .remove_host(self.services.agreement.me, REMOVAL_DEADLINE)
            .await;
        removed.map(|_| ()).context("this host stays in the cluster")
    }
}
