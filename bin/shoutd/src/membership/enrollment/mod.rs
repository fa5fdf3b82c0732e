//! Enrollment: a host gets its certificate from a member, with a token or an administrator's
//! approval. The founder of a cluster issues its own.

mod held;
mod member;
#[cfg(test)]
mod tests;
pub mod wire;

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};
pub use held::HeldToken;
pub use member::{SwarmDoor, Waiting, router};
use shoutd_core::{ClusterId, Fingerprint};
use shoutd_peer::identity::ENROLL;
use shoutd_peer::{
    Authority, AuthorityCertificate, Certificate, Client, CredentialStore, Credentials, Identity,
    Prepared, SealKey,
};
use shoutd_peer::{
    CallError, Distrust, Rejection, Statement, SwarmIdentity, SwarmProof, TlsConnector, Token,
    Trust,
};
use wire::{Answer, Request};

/// How long one member may take to answer, including its proposal.
const DEADLINE: Duration = Duration::from_secs(15);

/// Result of a request to enroll.
#[derive(Debug)]
pub enum Enrolled {
    /// This host has its certificate.
    Certified,
    /// It waits for approval in the cluster with this fingerprint.
    Waiting(Fingerprint),
    /// A retry may succeed; why this one did not.
    NotYet(String),
    /// As [`Enrolled::NotYet`], but no peer belongs to a cluster.
    Nobody {
        /// The peers on which shoutd runs. On the others it does not.
        idle: Vec<SocketAddr>,
        /// Why there is no certificate yet.
        why: String,
    },
}

/// Whether this error shows that no shoutd runs there: its host refused the connection.
fn is_absent(error: &CallError) -> bool {
    matches!(error, CallError::Unreachable { source, .. }
        if source.kind() == io::ErrorKind::ConnectionRefused)
}

/// A host that enrolls.
#[derive(Debug)]
pub struct Applicant {
    /// This host's name.
    pub name: String,
    /// Its identity.
    pub identity: Identity,
    /// Its key and, once it is enrolled, its certificate.
    pub credentials: Arc<CredentialStore>,
    /// Its token, if it has one.
    pub token: HeldToken,
    /// Its own address.
    pub address: SocketAddr,
    /// Without a token: its node in a Swarm, if it is on one.
    pub swarm: Option<Arc<SwarmIdentity>>,
    /// Without a token: the fingerprint of the cluster whose approval it waits for.
    pub waits_for: OnceLock<Fingerprint>,
}

impl Applicant {
    /// The cluster that derives from this host's token, if it is a prepared one.
    ///
    /// # Errors
    /// The derivation fails.
    pub fn prepared(&self) -> Result<Option<Prepared>> {
        let prepared = self.token.get().as_ref().map(Prepared::from_token).transpose()?;
        Ok(prepared.flatten())
    }

    /// Issues this host's own certificate.
    ///
    /// # Errors
    /// It cannot be issued or saved.
    pub fn certify_itself(
        &self,
        authority: &Authority,
        cluster: ClusterId,
        seal_key: SealKey,
    ) -> Result<()> {
        let key = self.credentials.key().public();
        let credentials = Credentials::issue(key, authority, cluster, seal_key, SystemTime::now())?;
        self.credentials.enroll(credentials)?;
        self.token.accepted();
        Ok(())
    }

    /// Asks each peer once, until one enrolls this host.
    ///
    /// # Errors
    /// A retry cannot help.
    pub async fn ask(&self, peers: &[SocketAddr]) -> Result<Enrolled> {
        // A copy: another token may be offered during the request.
        let token = self.token.get();
        match self.ask_with(token.as_ref(), peers).await {
            Err(error) => self.token.refused(token.as_ref(), error).map(Enrolled::NotYet),
            Ok(Enrolled::Certified) => {
                self.token.accepted();
                Ok(Enrolled::Certified)
            }
            other => other,
        }
    }

    async fn ask_with(&self, token: Option<&Token>, peers: &[SocketAddr]) -> Result<Enrolled> {
        let trust = token.map_or(Trust::Anybody, |token| Trust::Pinned(token.authority));
        let connector = TlsConnector::new(self.credentials.clone(), trust, self.address.ip())?;
        let client = Client::new(self.identity.clone(), connector);
        let secret = token.map(|token| token.secret.reveal().as_str().to_owned());
        let swarm = self.swarm.as_ref().filter(|_| token.is_none());
        let applicant = Statement::Applicant { host: self.fingerprint() };
        let proof = swarm.map(|swarm| swarm.prove(&applicant)).transpose()?;
        let request = Request { name: self.name.clone(), secret, swarm: proof };
        let (mut reasons, mut idle, mut absent) = (Vec::new(), Vec::new(), 0);
        for peer in peers {
            match client.call::<_, Answer>(*peer, ENROLL, &request, DEADLINE).await {
                Ok(Answer::Certified { certificate, authority, seal_key, swarm: proof }) => {
                    if token.is_none() {
                        self.check_manager(proof.as_deref(), &authority)
                            .with_context(|| format!("{peer} may not let this host join"))?;
                    }
                    self.keep(token, certificate, authority, seal_key)
                        .with_context(|| format!("{peer} issued an unusable certificate"))?;
                    return Ok(Enrolled::Certified);
                }
                Ok(Answer::Waiting { authority }) => {
                    return Ok(Enrolled::Waiting(*self.waits_for.get_or_init(|| authority)));
                }
                Err(CallError::Refused { rejection: Rejection::Failed { reason }, .. }) => {
                    bail!("{peer} refuses to let this host join: {reason}")
                }
                Err(CallError::Untrusted {
                    distrust: Distrust::OtherToken { token, cluster },
                    ..
                }) => bail!(
                    "the token is for another cluster, with fingerprint {token}; {peer} belongs \
                     to the one with {cluster}; `shoutdctl token show` on {peer} prints a token \
                     for that cluster"
                ),
                Err(error @ CallError::Untrusted { distrust: Distrust::OtherAuthority, .. }) => {
                    return Err(error.into());
                }
                Err(error @ CallError::Untrusted { distrust: Distrust::NoCluster, .. }) => {
                    idle.push(*peer);
                    reasons.push(error.to_string());
                }
                Err(error) => {
                    absent += usize::from(is_absent(&error));
                    reasons.push(error.to_string());
                }
            }
        }
        let why = reasons.join("; ");
        let nobody = idle.len() + absent == peers.len();
        Ok(if nobody { Enrolled::Nobody { idle, why } } else { Enrolled::NotYet(why) })
    }

    /// Checks that a manager of this host's Swarm vouches for the cluster. A cluster for whose
    /// approval this host waited needs none: an administrator has compared its fingerprint.
    fn check_manager(
        &self,
        proof: Option<&SwarmProof>,
        authority: &AuthorityCertificate,
    ) -> Result<()> {
        let Some(swarm) = self.swarm.as_ref().filter(|_| self.waits_for().is_none()) else {
            return Ok(());
        };
        let proof = proof.context("it proves no node of this host's Swarm")?;
        let member =
            Statement::Member { authority: authority.fingerprint(), applicant: self.fingerprint() };
        Ok(swarm.check_manager(proof, &member, SystemTime::now())?)
    }

    /// The fingerprint of this host's key.
    fn fingerprint(&self) -> Fingerprint {
        self.credentials.key().public().fingerprint()
    }

    fn keep(
        &self,
        token: Option<&Token>,
        certificate: Certificate,
        authority: AuthorityCertificate,
        seal_key: SealKey,
    ) -> Result<()> {
        let expected = token.map(|token| token.authority).or_else(|| self.waits_for());
        let found = authority.fingerprint();
        if let Some(expected) = expected.filter(|expected| *expected != found) {
            bail!("its cluster's fingerprint is {found}, not {expected}");
        }
        let credentials =
            Credentials::new(self.credentials.key().public(), certificate, authority, seal_key)?;
        Ok(self.credentials.enroll(credentials)?)
    }

    /// The cluster that answered first, if this host has no token. After that, no other cluster can
    /// enroll this host.
    fn waits_for(&self) -> Option<Fingerprint> {
        self.waits_for.get().copied()
    }
}
