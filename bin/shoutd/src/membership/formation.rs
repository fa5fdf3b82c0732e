//! How a host comes to belong to a cluster: it founds one, joins one, or was in one before.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use shoutd_consensus::{Consensus, JoinError};
use shoutd_core::ClusterId;
use shoutd_core::cluster::Command;
use shoutd_core::limits::AGREEMENT_DEADLINE;
use shoutd_core::view::Membership;
use shoutd_peer::{Authority, Client, Prepared, SealKey};
use tokio::sync::watch;
use tracing::{info, warn};

use crate::api::views::HELLO;
use crate::app::settings::Settings;
use crate::membership::enrollment::{Applicant, Enrolled};

/// How long to wait between two rounds of asking the peers.
const RETRY: Duration = Duration::from_millis(500);

/// How long one round of asking may take.
const ROUND: Duration = Duration::from_secs(15);

/// How long a host may take to show that it has this host's identity.
const CLONE_DEADLINE: Duration = Duration::from_secs(2);

/// Brings this host into a cluster.
#[derive(Debug)]
pub struct Formation {
    /// Consensus.
    pub consensus: Arc<Consensus>,
    /// This host as one that wants in.
    pub applicant: Applicant,
    /// How the daemon was started.
    pub settings: Settings,
    /// Where it was the last time, if that was elsewhere.
    pub moved_from: Option<SocketAddr>,
    /// The other hosts, for whoever is a member.
    pub peers: Client,
    /// For all to see how far it is.
    pub membership: watch::Sender<Membership>,
}

/// What one attempt came to.
enum Attempt {
    Member,
    Later(Membership),
}

fn later(why: &dyn std::fmt::Display) -> Attempt {
    Attempt::Later(Membership::Joining(why.to_string()))
}

impl Formation {
    /// Keeps trying until this host is a member; [`Formation::finish`] says so.
    ///
    /// # Errors
    /// If trying again cannot help: the peers belong to another cluster than this host, or refuse
    /// it.
    pub async fn form(&self, data_directory: &Path) -> Result<()> {
        self.refuse_clone().await?;
        if self.is_member() {
            if let Some(twin) = self.consensus.looked_around().await {
                bail!(twin);
            }
            // It serves from what it knows, whether others can be asked or not, and so where it is
            // now is where it is next time. Peers are remembered when they have answered.
            if let Err(error) = self.settings.save_address(data_directory) {
                warn!("the next start will not know how this one was: {error:#}");
            }
            self.membership.send_replace(Membership::Member);
        }
        let peers: Vec<_> =
            self.settings.peer_addresses.iter().map(SocketAddr::to_string).collect();
        self.tell(&Membership::Joining(format!("no answer yet from {}", peers.join(", "))));
        let mut told = Membership::Member;
        loop {
            let why = match self.attempt().await? {
                Attempt::Member => break,
                // A member whose peers do not answer just now goes on with what it knows.
                Attempt::Later(_) if self.is_settled() => break,
                Attempt::Later(why) => why,
            };
            if why != told {
                if let Membership::Joining(reason) = &why {
                    warn!("not in step with the cluster yet: {reason}");
                }
                self.tell(&why);
                told = why;
            }
            tokio::time::sleep(RETRY).await;
        }
        // Only now, on a host that was no member: an address that led nowhere is not one to take up
        // again.
        self.settings.save(data_directory).or_else(|error| match self.is_member() {
            // It was remembered when it began to serve, or a warning said why not.
            true => Ok(()),
            false => Err(error),
        })
    }

    /// Whether this host has all that a member needs: it can serve its containers without asking
    /// anybody.
    fn is_member(&self) -> bool {
        self.consensus.state().borrow().id.is_some()
            && self.applicant.credentials.credentials().is_some()
    }

    /// Says that this host is a member.
    pub fn finish(&self) {
        self.membership.send_replace(Membership::Member);
        info!("this host belongs to the cluster");
    }

    /// Says why this host is no member yet; one that is a member stays one.
    fn tell(&self, why: &Membership) {
        self.membership.send_if_modified(|membership| {
            let changes = *membership != Membership::Member;
            if changes {
                membership.clone_from(why);
            }
            changes
        });
    }

    /// A copy of a data directory makes a second host with the identity of the first. It shows when
    /// the first still answers where the data say that this host was.
    async fn refuse_clone(&self) -> Result<()> {
        let Some(before) = self.moved_from else {
            return Ok(());
        };
        let me = self.applicant.identity.host();
        let asked = self.peers.call_host::<_, ()>(me, before, HELLO, &(), CLONE_DEADLINE).await;
        if asked.is_ok() {
            bail!(
                "the data directory is a copy of the one of the host at {before}, which is \
                 running: two hosts cannot be one ({me}); remove the data directory on this host \
                 and let it join anew"
            );
        }
        Ok(())
    }

    /// Whether the cluster has this host at its address.
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
                // Two hosts that founded alone with one token would have one cluster's name and two
                // clusters.
                bail!(
                    "this token was prepared for hosts that are started at once, each naming the \
                     others: give --peer-addresses"
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
                    Enrolled::NotYet(why) => return Ok(later(&why)),
                },
            }
        }
        match self.consensus.join(peers, ROUND).await {
            Ok(()) => Ok(Attempt::Member),
            // Hosts that are started in the same instant, each naming the others: all know who is
            // to begin.
            Err(JoinError::NoCluster { peers: idle })
                if idle.len() == peers.len() && self.is_to_begin() =>
            {
                self.found().await
            }
            Err(error) if error.may_pass() => Ok(later(&error)),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether this host is the one to found the cluster of a prepared token: the one with the
    /// lowest address.
    fn is_to_begin(&self) -> bool {
        let is_prepared = self.applicant.prepared().is_ok_and(|prepared| prepared.is_some());
        is_prepared
            && self
                .settings
                .peer_addresses
                .iter()
                .all(|peer| self.settings.advertise_address < *peer)
    }

    /// Without peers, the first start founds a cluster; every later one takes up where it was.
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

    /// Makes what certifies hosts, and makes it known. While it is not known nobody has been
    /// certified by it, so one that was lost by a crash is simply made anew.
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
