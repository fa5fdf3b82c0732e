//! `shoutdctl stop --leave`: this host leaves its cluster and removes everything of it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use shoutd_core::view::Membership;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::app::services::Services;
use crate::docker::mirrors::Mirrors;

/// Deadline of this host's removal from the cluster.
const REMOVAL_DEADLINE: Duration = Duration::from_secs(15);

/// Deadline of the removal of networks from the kernel.
const VACATING_DEADLINE: Duration = Duration::from_secs(10);

/// Makes this host leave the cluster.
#[derive(Debug)]
pub struct Leaving {
    services: Services,
    mirrors: Arc<Mirrors>,
    membership: watch::Sender<Membership>,
    in_flight: AtomicBool,
    left: CancellationToken,
}

impl Leaving {
    /// Does nothing yet.
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

    /// Removes the networks from this host's engine, and this host from the cluster. If it fails,
    /// the networks are restored.
    ///
    /// # Errors
    /// Containers on this host use networks, this is the only host, the engine does not answer, or
    /// the cluster cannot remove this host.
    pub async fn leave(&self) -> Result<()> {
        if self.membership.borrow().clone() != Membership::Member {
            bail!("this host belongs to no cluster yet; stop it with: shoutdctl stop");
        }
        if self.in_flight.swap(true, Ordering::SeqCst) {
            bail!("this host is already leaving");
        }
        // From now on no container starts on a network here, and removed networks are not restored.
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
                "this is the only host of the cluster; to end the cluster, remove its networks \
                 (docker network rm), stop shoutd (shoutdctl stop) and remove its data directory"
            );
        }
        let local = self.services.local.get();
        let used: BTreeSet<_> =
            local.endpoints.values().map(|endpoint| &endpoint.network).collect();
        if !used.is_empty() {
            let names: Vec<_> = used.iter().map(|id| cluster.network_title(id)).collect();
            bail!(
                "containers on this host use {}; stop or disconnect them first",
                names.join(", ")
            );
        }
        self.mirrors.remove_all().await.map_err(|error| anyhow!(error))?;
        // Before we leave: afterwards shoutd cannot tell which devices are its own.
        if !self.services.plane.is_vacated(VACATING_DEADLINE).await {
            bail!(
                "networks could not be removed from the kernel within {VACATING_DEADLINE:?}; see: \
                 shoutdctl status"
            );
        }
        let removed = self
            .services
            .agreement
            .consensus()
            .remove_host(self.services.agreement.me, REMOVAL_DEADLINE)
            .await;
        removed.context("this host was not removed from the cluster")?;
        // A host that has left cannot return, so this is no reason to fail.
        if let Err(error) = self.services.engine.remove_way_out().await {
            warn!("the way-out bridge stays: {error}");
        }
        Ok(())
    }
}
