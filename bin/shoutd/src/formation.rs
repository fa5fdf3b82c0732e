//! How a host comes to belong to a cluster: it founds one, joins one, or was in one before.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;
use shoutd_consensus::Consensus;
use shoutd_core::ClusterId;
use shoutd_core::view::Membership;
use tokio::sync::watch;
use tracing::{info, warn};

use crate::settings::Settings;

/// How long to wait between two rounds of asking the peers.
const RETRY: Duration = Duration::from_millis(500);

/// How long one round of asking may take.
const ROUND: Duration = Duration::from_secs(15);

/// Brings this host into a cluster, and keeps trying until it is told to stop.
///
/// # Errors
/// If trying again cannot help: the peers belong to another cluster than this host, or refuse it.
pub async fn form(consensus: &Consensus, settings: &Settings, membership: &watch::Sender<Membership>) -> Result<()> {
    if consensus.state().borrow().id.is_some() {
        membership.send_replace(Membership::Member);
    }
    let mut told = String::new();
    loop {
        let why = match attempt(consensus, &settings.peer_addresses).await? {
            None => break,
            // A member whose peers do not answer just now goes on with what it knows.
            Some(_) if is_known_as(consensus, settings.advertise_address) => break,
            Some(why) => why,
        };
        if why != told {
            warn!("not in step with the cluster yet: {why}");
            told.clone_from(&why);
            membership.send_if_modified(|membership| match membership {
                Membership::Joining(known) => {
                    known.clone_from(&why);
                    true
                }
                Membership::Member => false,
            });
        }
        tokio::time::sleep(RETRY).await;
    }
    membership.send_replace(Membership::Member);
    info!("this host belongs to the cluster");
    Ok(())
}

/// Whether the cluster has this host at this address.
fn is_known_as(consensus: &Consensus, address: SocketAddr) -> bool {
    let cluster = consensus.state().borrow().clone();
    cluster.hosts.get(&consensus.identity().host()).is_some_and(|host| host.address == address)
}

/// One attempt to found, join or resume; why it came to nothing, if it may come to something later.
async fn attempt(consensus: &Consensus, peers: &[SocketAddr]) -> Result<Option<String>> {
    if !peers.is_empty() {
        return match consensus.join(peers, ROUND).await {
            Ok(()) => Ok(None),
            Err(error) if error.may_pass() => Ok(Some(error.to_string())),
            Err(error) => Err(error.into()),
        };
    }
    // Without peers, the first start founds a cluster; every later one takes up where it was.
    let cluster = consensus.identity().cluster().unwrap_or_else(|| ClusterId::new(rand::random()));
    match consensus.found(cluster, ROUND).await {
        Ok(()) => Ok(None),
        Err(error) if error.may_pass() => Ok(Some(error.to_string())),
        Err(error) => Err(error.into()),
    }
}
