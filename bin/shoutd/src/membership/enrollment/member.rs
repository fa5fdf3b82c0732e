//! Enrollment on a member: checks tokens and approvals, proposes the enrollment, and issues the
//! certificate.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use axum::extract::State;
use axum::routing::post;
use axum::{Extension, Json, Router};
use parking_lot::Mutex;
use shoutd_consensus::ProposeError;
use shoutd_core::Fingerprint;
use shoutd_core::cluster::{Cluster, Command, Pass, Refusal};
use shoutd_core::view::{Applicant, Membership};
use shoutd_docker::engine::EngineClient;
use shoutd_peer::identity::ENROLL;
use shoutd_peer::{
    Authority, Caller, CredentialStore, Rejection, Secret, Statement, SwarmIdentity, SwarmProof,
};
use tracing::{info, warn};

use super::wire::{Answer, Request};
use crate::app::clock;
use crate::membership::agreement::{Agreement, AgreementError};
use crate::membership::swarm_node;
use crate::membership::tokens::APPROVAL_TIME;

/// Hosts that asked this member and wait for approval. The entries come from unauthenticated hosts,
/// so they are neither agreed on nor persistent.
#[derive(Debug, Default)]
pub struct Waiting(Mutex<BTreeMap<Fingerprint, (Applicant, Instant)>>);

/// Why a host cannot enroll others.
const NO_CLUSTER: &str = "it belongs to no cluster yet";

/// Limit of waiting hosts.
const WAITING_MAX: usize = 64;

/// How long a host counts as waiting after it last asked. It asks every other second.
const WAITING_TIME_MAX: Duration = Duration::from_secs(30);

/// Limit of the name that an unauthenticated host gives, in characters.
const NAME_MAX: usize = 64;

impl Waiting {
    fn note(&self, applicant: &Applicant) {
        let mut waiting = self.0.lock();
        waiting.retain(|_, (_, since)| since.elapsed() < WAITING_TIME_MAX);
        if waiting.len() >= WAITING_MAX && !waiting.contains_key(&applicant.fingerprint) {
            return;
        }
        let key = applicant.fingerprint;
        if waiting.insert(key, (applicant.clone(), Instant::now())).is_none() {
            info!(
                name = applicant.name,
                address = %applicant.address,
                "a host asks to join; approve it with: shoutdctl approve {key}"
            );
        }
    }

    /// The hosts that wait now.
    pub fn list(&self) -> Vec<Applicant> {
        let waiting = self.0.lock();
        let current = waiting.values().filter(|(_, since)| since.elapsed() < WAITING_TIME_MAX);
        current.map(|(applicant, _)| applicant.clone()).collect()
    }
}

struct Enrollment {
    agreement: Agreement,
    credentials: Arc<CredentialStore>,
    waiting: Arc<Waiting>,
    swarm: SwarmDoor,
}

/// Whether nodes of this host's Swarm may join without a token.
#[derive(Debug, Clone)]
pub struct SwarmDoor {
    /// The engine, which knows the Swarm.
    pub engine: EngineClient,
    /// Whether they may (`--swarm-join`).
    pub is_open: bool,
}

/// The only route for hosts without a certificate.
pub fn router(
    agreement: Agreement,
    credentials: Arc<CredentialStore>,
    waiting: Arc<Waiting>,
    swarm: SwarmDoor,
) -> Router {
    let enrollment = Enrollment { agreement, credentials, waiting, swarm };
    Router::new().route(ENROLL, post(enroll)).with_state(Arc::new(enrollment))
}

async fn enroll(
    State(enrollment): State<Arc<Enrollment>>,
    Extension(caller): Extension<Caller>,
    Json(request): Json<Request>,
) -> Result<Json<Answer>, Rejection> {
    enrollment.answer(caller, request).await.map(Json)
}

fn failed(reason: impl std::fmt::Display) -> Rejection {
    Rejection::Failed { reason: reason.to_string() }
}

fn not_now(reason: impl std::fmt::Display) -> Rejection {
    Rejection::Busy { reason: reason.to_string() }
}

fn refused(caller: Caller, refusal: &Refusal) -> Rejection {
    warn!(host = %caller.host, address = %caller.address, "refused to enroll a host: {refusal}");
    failed(refusal)
}

impl Enrollment {
    async fn answer(&self, caller: Caller, request: Request) -> Result<Answer, Rejection> {
        if self.agreement.membership() != Membership::Member {
            return Err(not_now(NO_CLUSTER));
        }
        if caller.is_member && self.agreement.cluster().hosts.contains_key(&caller.host) {
            return self.certify_again(caller);
        }
        let proof = request.swarm.as_ref().filter(|_| request.secret.is_none());
        if let Some(proof) = proof
            && let Some(identity) = self.managed_swarm().await
        {
            return self.answer_node(caller, proof, &identity).await;
        }
        let authority = self.authority()?;
        let key = caller.key.fingerprint();
        let pass = match request.secret {
            Some(digits) => self.known_token(&digits)?,
            None if self.is_approved(&key) => Pass::Approval(key),
            None => {
                let name =
                    request.name.chars().filter(|c| !c.is_control()).take(NAME_MAX).collect();
                self.waiting.note(&Applicant {
                    fingerprint: key,
                    name,
                    address: caller.address.ip(),
                });
                return Ok(Answer::Waiting { authority: authority.certificate().fingerprint() });
            }
        };
        self.agree(caller, pass).await?;
        self.certify(caller, &authority, None)
    }

    /// The identity of this host's node, if it can let nodes in: only managers know which nodes the
    /// Swarm has.
    async fn managed_swarm(&self) -> Option<SwarmIdentity> {
        if !self.swarm.is_open {
            return None;
        }
        let info = self.swarm.engine.engine_info().await;
        let info = info.inspect_err(|error| warn!("cannot ask for the Swarm: {error}")).ok()?;
        info.managed_swarm()?;
        let identity = swarm_node::identity(&info);
        identity.inspect_err(|error| warn!("cannot let nodes of the Swarm join: {error:#}")).ok()?
    }

    /// Answers a host that proves to be on a node of this host's Swarm.
    async fn answer_node(
        &self,
        caller: Caller,
        proof: &SwarmProof,
        identity: &SwarmIdentity,
    ) -> Result<Answer, Rejection> {
        let key = caller.key.fingerprint();
        let applicant = Statement::Applicant { host: key };
        identity.check_node(proof, &applicant, SystemTime::now()).map_err(failed)?;
        // The certificate of a node that was removed stays valid for months.
        match self.swarm.engine.has_swarm_node(&proof.node).await {
            Ok(true) => {}
            Ok(false) => {
                let node: String =
                    proof.node.chars().filter(|c| !c.is_control()).take(NAME_MAX).collect();
                return Err(failed(format!("its Swarm has no node {node}")));
            }
            Err(error) => return Err(not_now(error)),
        }
        let authority = self.authority()?;
        let member =
            Statement::Member { authority: authority.certificate().fingerprint(), applicant: key };
        let own_proof = identity.prove(&member).map_err(not_now)?;
        if !self.is_approved(&key) {
            let approve =
                Command::Approve { key, until: clock::now() + APPROVAL_TIME, now: clock::now() };
            self.agreement.propose(approve).await.map_err(not_now)?;
        }
        self.agree(caller, Pass::Approval(key)).await?;
        info!(host = %caller.host, node = %proof.node, "a node of the Swarm joins");
        self.certify(caller, &authority, Some(own_proof))
    }

    /// Unseals the authority. If that fails, only this member's log has the cause.
    fn authority(&self) -> Result<Authority, Rejection> {
        let cluster = self.agreement.cluster();
        let credentials = self.credentials.credentials();
        let (Some(agreed), Some(id), Some(credentials)) =
            (&cluster.admissions.authority, cluster.id, credentials)
        else {
            return Err(not_now("its cluster is only just being founded"));
        };
        Authority::unseal(agreed, credentials.seal_key(), id).map_err(|error| {
            warn!("cannot enroll hosts: {error}");
            not_now("it cannot certify hosts; ask another member")
        })
    }

    /// Refuses an unknown secret here, so that guesses cost the cluster no proposal.
    fn known_token(&self, digits: &str) -> Result<Pass, Rejection> {
        let hash = Secret::from_digits(digits).map_err(failed)?.hash();
        let cluster = self.agreement.cluster();
        let is_known = cluster.admissions.tokens.contains_key(&hash);
        if is_known { Ok(Pass::Token(hash)) } else { Err(failed(Refusal::UnknownToken)) }
    }

    fn is_approved(&self, key: &Fingerprint) -> bool {
        self.agreement
            .cluster()
            .admissions
            .approvals
            .get(key)
            .is_some_and(|until| *until > clock::now())
    }

    async fn agree(&self, caller: Caller, pass: Pass) -> Result<(), Rejection> {
        let command = Command::Enroll { host: caller.host, pass, now: clock::now() };
        // If agreed state refuses the command already here, repeated requests cost the cluster no
        // proposal.
        if let Err(refusal) = Cluster::clone(&self.agreement.cluster()).apply(&command) {
            return Err(refused(caller, &refusal));
        }
        match self.agreement.propose(command).await {
            Ok(_) => Ok(()),
            Err(AgreementError::Propose(ProposeError::Refused(refusal))) => {
                Err(refused(caller, &refusal))
            }
            Err(error) => Err(not_now(error)),
        }
    }

    /// Certifies a member again: the cluster has replaced its authority.
    fn certify_again(&self, caller: Caller) -> Result<Answer, Rejection> {
        if self.credentials.needs_certificate() {
            return Err(not_now("it has no certificate from the cluster's new authority yet"));
        }
        self.certify(caller, &self.authority()?, None)
    }

    fn certify(
        &self,
        caller: Caller,
        authority: &Authority,
        swarm: Option<SwarmProof>,
    ) -> Result<Answer, Rejection> {
        let Some(credentials) = self.credentials.credentials() else {
            return Err(not_now(NO_CLUSTER));
        };
        let issued = authority.issue(&caller.key, credentials.cluster(), SystemTime::now());
        let certificate = issued.map_err(not_now)?;
        if !caller.is_member {
            info!(host = %caller.host, address = %caller.address, "enrolled a host");
        }
        Ok(Answer::Certified {
            certificate,
            authority: authority.certificate().clone(),
            seal_key: credentials.seal_key().clone(),
            swarm: swarm.map(Box::new),
        })
    }
}
