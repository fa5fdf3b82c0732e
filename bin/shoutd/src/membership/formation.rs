//! Makes this host a member of a cluster: it founds one, joins one, or was in one before.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use parking_lot::Mutex;
use shoutd_cli::LastStart;
use shoutd_consensus::{Consensus, JoinError};
use shoutd_core::ClusterId;
use shoutd_core::cluster::Command;
use shoutd_core::founding::{SwarmRounds, is_lowest};
use shoutd_core::limits::AGREEMENT_DEADLINE;
use shoutd_core::view::Membership;
use shoutd_peer::{Authority, Client, Prepared, SealKey};
use tokio::sync::watch;
use tracing::{info, warn};

use crate::api::views::HELLO;
use crate::membership::enrollment::{Applicant, Enrolled};

/// Pause between two rounds of asking the peers.
const RETRY: Duration = Duration::from_millis(500);

/// Deadline of one round.
const ROUND: Duration = Duration::from_secs(15);

/// How long we wait for an answer that shows a duplicate identity.
const CLONE_DEADLINE: Duration = Duration::from_secs(2);

/// Brings this host into a cluster.
#[derive(Debug)]
pub struct Formation {
    /// The Raft node.
    pub consensus: Arc<Consensus>,
    /// Enrollment of this host.
    pub applicant: Applicant,
    /// The settings of this start.
    pub settings: LastStart,
    /// The address at the last start, if it was different.
    pub moved_from: Option<SocketAddr>,
    /// What this host saw of the managers of its Swarm.
    pub rounds: Mutex<SwarmRounds>,
    /// Client of the other members.
    pub peers: Client,
    /// Publishes the progress.
    pub membership: watch::Sender<Membership>,
}

/// Result of one attempt.
enum Attempt {
    Member,
    Later(Membership),
}

fn later(why: &dyn std::fmt::Display) -> Attempt {
    Attempt::Later(Membership::Joining(why.to_string()))
}

impl Formation {
    /// Tries until this host is a member; [`Formation::finish`] then publishes that.
    ///
    /// # Errors
    /// A retry cannot help: the peers belong to another cluster, or refuse this host.
    pub async fn form(&self, data_directory: &Path) -> Result<()> {
        self.refuse_clone().await?;
        if self.is_member() {
            if let Some(duplicate) = self.consensus.until_participating().await {
                bail!(duplicate);
            }
            // A member serves from its own state even if no peer answers, so we save its address at
            // once. Its peers are saved when they have answered.
            if let Err(error) = self.settings.save_address(data_directory) {
                warn!("cannot save the settings for the next start: {error:#}");
            }
            self.membership.send_replace(Membership::Member);
        }
        let peers: Vec<_> =
            self.settings.peer_addresses.iter().map(SocketAddr::to_string).collect();
        self.publish(&Membership::Joining(format!("no answer yet from {}", peers.join(", "))));
        let mut published = Membership::Member;
        loop {
            let why = match self.attempt().await? {
                Attempt::Member => break,
                // A member whose peers do not answer continues with its own state.
                Attempt::Later(_) if self.is_settled() => break,
                Attempt::Later(why) => why,
            };
            if why != published {
                if let Membership::Joining(reason) = &why {
                    warn!("not a member of the cluster yet: {reason}");
                }
                self.publish(&why);
                published = why;
            }
            tokio::time::sleep(RETRY).await;
        }
        // On a new host only now, so that the next start does not use peers that never answered.
        match self.settings.save(data_directory) {
            // A member has saved its address above, or has logged why it could not.
            Err(error) if !self.is_member() => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// Whether this host was a member before: it then has all state and credentials that it needs
    /// to serve its containers.
    fn is_member(&self) -> bool {
        self.consensus.state().borrow().id.is_some()
            && self.applicant.credentials.credentials().is_some()
    }

    /// Publishes that this host is a member.
    pub fn finish(&self) {
        self.membership.send_replace(Membership::Member);
        info!("this host is a member of the cluster");
    }

    /// Publishes why this host is not a member yet. A member stays one.
    fn publish(&self, why: &Membership) {
        self.membership.send_if_modified(|membership| {
            let changes = *membership != Membership::Member;
            if changes {
                membership.clone_from(why);
            }
            changes
        });
    }

    /// Refuses to start with a copy of another host's data directory. We detect that when the
    /// original still answers at the address in the data.
    async fn refuse_clone(&self) -> Result<()> {
        let Some(before) = self.moved_from else {
            return Ok(());
        };
        let me = self.applicant.identity.host();
        let asked = self.peers.call_host::<_, ()>(me, before, HELLO, &(), CLONE_DEADLINE).await;
        if asked.is_ok() {
            bail!(
                "the data directory is a copy of that of the host at {before}, which is running: \
                 two hosts cannot have the same identity ({me}); remove the data directory on \
                 this host and let it join again"
            );
        }
        Ok(())
    }

    /// Whether agreed state has this host at its current address.
    fn is_settled(&self) -> bool {
        let cluster = self.consensus.state().borrow().clone();
        let known = cluster.hosts.get(&self.applicant.identity.host());
        known.is_some_and(|host| host.address == self.settings.advertise_address)
            && self.applicant.credentials.credentials().is_some()
    }

    async fn attempt(&self) -> Result<Attempt> {
        let peers = &self.settings.peer_addresses;
        if peers.is_empty() {
            if self.applicant.identity.cluster().is_none() && self.applicant.prepared()?.is_some() {
                // Otherwise, each host would found its own cluster with the same id.
                bail!(
                    "this is a prepared token, for hosts that are started at the same time; give \
                     the other hosts with --peer-addresses"
                );
            }
            return self.found().await;
        }
        if self.applicant.credentials.credentials().is_none() {
            match self.applicant.prepared()? {
                Some(Prepared { authority, cluster, seal_key }) => {
                    self.applicant.certify_itself(&authority, cluster, seal_key)?;
                }
                None => match self.applicant.ask(peers).await? {
                    Enrolled::Certified => {}
                    Enrolled::Waiting(cluster) => {
                        let host = self.applicant.credentials.key().public().fingerprint();
                        return Ok(Attempt::Later(Membership::AwaitingApproval { host, cluster }));
                    }
                    Enrolled::NotYet(why) => {
                        self.rounds.lock().found_some();
                        return Ok(later(&why));
                    }
                    Enrolled::Nobody { idle, why } => {
                        let founds = self.rounds.lock().found_none(&idle);
                        return if founds { self.found().await } else { Ok(later(&why)) };
                    }
                },
            }
        }
        match self.consensus.join(peers, ROUND).await {
            Ok(()) => Ok(Attempt::Member),
            // With a prepared token, all hosts know which one must found the cluster.
            Err(JoinError::NoCluster { peers: idle })
                if idle.len() == peers.len() && self.is_founder() =>
            {
                self.found().await
            }
            Err(error) if error.may_pass() => Ok(later(&error)),
            // The other host may be about to move, too. Until then, a member serves its containers.
            Err(error @ JoinError::AddressTaken { .. }) if self.is_member() => Ok(later(&error)),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether this host must found the cluster of a prepared token: the host with the lowest
    /// address does.
    fn is_founder(&self) -> bool {
        let is_prepared = self.applicant.prepared().is_ok_and(|prepared| prepared.is_some());
        is_prepared && is_lowest(self.settings.advertise_address, &self.settings.peer_addresses)
    }

    /// Founds a cluster at the first start; later continues with it.
    async fn found(&self) -> Result<Attempt> {
        let prepared = self.applicant.prepared()?;
        let known = self
            .applicant
            .identity
            .cluster()
            .or_else(|| self.applicant.credentials.credentials().map(|c| c.cluster()));
        let cluster = known.or(prepared.as_ref().map(|prepared| prepared.cluster));
        let cluster = cluster.unwrap_or_else(|| ClusterId::new(rand::random()));
        match self.consensus.found(cluster, ROUND).await {
            Ok(()) => self.establish_authority(cluster, prepared).await,
            Err(error) if error.may_pass() => Ok(later(&error)),
            Err(error) => Err(error.into()),
        }
    }

    /// Creates the certificate authority and proposes it to the cluster. Before it is agreed on, it
    /// has certified no other host; so after a crash we can create a new one.
    async fn establish_authority(
        &self,
        cluster: ClusterId,
        prepared: Option<Prepared>,
    ) -> Result<Attempt> {
        if self.consensus.state().borrow().admissions.authority.is_some() {
            return Ok(Attempt::Member);
        }
        let (authority, seal_key) = match prepared {
            Some(prepared) => (prepared.authority, prepared.seal_key),
            None => (Authority::draw()?, SealKey::draw()?),
        };
        self.applicant.certify_itself(&authority, cluster, seal_key.clone())?;
        let authority = authority.seal(&seal_key, cluster)?;
        match self.consensus.propose(Command::SetAuthority { authority }, AGREEMENT_DEADLINE).await
        {
            Ok(_) => Ok(Attempt::Member),
            Err(error) => Ok(later(&error)),
        }
    }
}
