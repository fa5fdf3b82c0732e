//! Renews this host's certificate.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use shoutd_core::cluster::Cluster;
use shoutd_peer::{Authority, CredentialStore};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::membership::agreement::Agreement;

/// Interval between checks of the certificate.
const RENEWAL_PERIOD: Duration = Duration::from_secs(60);

/// Renews this host's certificate before it expires, until `stop`.
pub async fn run(agreement: Agreement, credentials: Arc<CredentialStore>, stop: CancellationToken) {
    let mut tick = tokio::time::interval(RENEWAL_PERIOD);
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = stop.cancelled() => return,
        }
        renew_now(&agreement.cluster(), &credentials);
    }
}

/// Renews this host's certificate if it has expired or is about to.
pub fn renew_now(cluster: &Cluster, credentials: &CredentialStore) {
    let now = SystemTime::now();
    let Some(held) = credentials.credentials() else {
        return;
    };
    // From an authority that was replaced, the host needs another certificate, not a longer one.
    if credentials.needs_certificate() {
        return;
    }
    if let (Some(agreed), true) = (&cluster.admissions.authority, held.needs_renewal(now)) {
        let authority = Authority::unseal(agreed, held.seal_key(), held.cluster());
        match authority
            .map_err(anyhow::Error::from)
            .and_then(|authority| Ok(credentials.renew(&authority, now)?))
        {
            Ok(()) => info!("this host has a new certificate"),
            Err(error) => warn!("cannot renew this host's certificate: {error:#}"),
        }
    }
}
