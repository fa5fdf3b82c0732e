//! This host's end of the encrypted underlay. Once a network of the cluster is encrypted, every
//! host publishes its public key and port.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use shoutd_core::cluster::{Cluster, Command, TunnelEnd, TunnelKey};
use shoutd_dataplane::{EncryptionSetup, WireguardTier};
use shoutd_netlink::wireguard::PrivateKey;
use shoutd_peer::CredentialStore;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::agreement::Agreement;

/// Pause after a failed proposal.
const RETRY: Duration = Duration::from_secs(2);

/// The control socket of WireGuard in user space, in the run directory.
const SOCKET: &str = "wireguard.sock";

/// What the data plane needs, and this host's end.
///
/// # Errors
/// The key cannot be read or made.
pub fn prepare(
    credentials: &CredentialStore,
    run_directory: &Path,
    (port, tier): (u16, Option<WireguardTier>),
) -> Result<(EncryptionSetup, TunnelEnd)> {
    let key = credentials.tunnel_key()?;
    let private_key = PrivateKey::new(&key);
    let end = TunnelEnd { key: TunnelKey::new(shoutd_tunnel::public_key(&private_key).0), port };
    let program = std::env::current_exe().context("find the running program")?;
    let socket = run_directory.join(SOCKET);
    Ok((EncryptionSetup { private_key, tier, program, socket }, end))
}

/// Whether this host must publish its end.
fn is_missing(cluster: &Cluster, agreement: &Agreement, end: &TunnelEnd) -> bool {
    cluster.encryption.wanted
        && cluster.hosts.contains_key(&agreement.me)
        && cluster.encryption.ends.get(&agreement.me) != Some(end)
}

/// Publishes this host's end whenever the cluster wants it and does not have it.
pub async fn publish(agreement: Agreement, end: TunnelEnd, stop: CancellationToken) {
    let mut agreed = agreement.watch();
    loop {
        let cluster = agreed.borrow_and_update().clone();
        let wait = if is_missing(&cluster, &agreement, &end) {
            let command = Command::PublishTunnelEnd { host: agreement.me, end };
            match agreement.propose(command).await {
                Ok(_) => {
                    info!(key = %end.key, port = end.port, "published the WireGuard key");
                    None
                }
                Err(error) => {
                    warn!("cannot publish this host's WireGuard key: {error}");
                    Some(RETRY)
                }
            }
        } else {
            None
        };
        let changed = async {
            match wait {
                Some(wait) => tokio::time::sleep(wait).await,
                None if agreed.changed().await.is_err() => std::future::pending().await,
                None => {}
            }
        };
        if stop.run_until_cancelled(changed).await.is_none() {
            return;
        }
    }
}
