//! A member's side: checks tokens and approvals, has the cluster agree, and certifies.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use axum::extract::State;
use axum::routing::post;
use axum::{Extension, Json, Router};
use shoutd_consensus::ProposeError;
use shoutd_core::Fingerprint;
use shoutd_core::cluster::{Cluster, Command, Pass, Refusal};
use shoutd_core::view::{Applicant, Membership};
use shoutd_peer::identity::ENROLL;
use shoutd_peer::{Authority, Caller, CredentialStore, Rejection, Secret};
use tracing::{info, warn};

use super::wire::{Answer, Request};
use crate::ipam::leases;
use crate::membership::agreement::{Agreement, AgreementError};

/// Hosts that wait for approval, as this member has heard of them. Strangers put them there:
/// nothing of it is agreed or kept.
#[derive(Debug, Default)]
pub struct Waiting(Mutex<BTreeMap<Fingerprint, (Applicant, Instant)>>);

/// Hosts that are remembered as waiting at a time.
const WAITING_MAX: usize = 64;

/// How long after it last asked a host counts as waiting. It asks every other second.
const WAITING_TIME_MAX: Duration = Duration::from_secs(30);

/// Characters of a name that a stranger gives.
const NAME_MAX: usize = 64;

impl Waiting {
    fn note(&self, applicant: &Applicant) {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.retain(|_, (_, since)| since.elapsed() < WAITING_TIME_MAX);
        if waiting.len() >= WAITING_MAX && !waiting.contains_key(&applicant.fingerprint) {
            return;
        }
        let key = applicant.fingerprint;
        if waiting.insert(key, (applicant.clone(), Instant::now())).is_none() {
            info!(name = applicant.name, address = %applicant.address, "a host wants to join; let it in with: shoutdctl approve {key}");
        }
    }

    /// Those that wait now.
    pub fn list(&self) -> Vec<Applicant> {
        let waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let current = waiting.values().filter(|(_, since)| since.elapsed() < WAITING_TIME_MAX);
        current.map(|(applicant, _)| applicant.clone()).collect()
    }
}

struct Desk {
    agreement: Agreement,
    credentials: Arc<CredentialStore>,
    waiting: Arc<Waiting>,
}

/// The one path that strangers reach.
pub fn router(
    agreement: Agreement,
    credentials: Arc<CredentialStore>,
    waiting: Arc<Waiting>,
) -> Router {
    let desk = Desk { agreement, credentials, waiting };
    Router::new().route(ENROLL, post(enroll)).with_state(Arc::new(desk))
}

async fn enroll(
    State(desk): State<Arc<Desk>>,
    Extension(caller): Extension<Caller>,
    Json(request): Json<Request>,
) -> Result<Json<Answer>, Rejection> {
    desk.answer(caller, request).await.map(Json)
}

fn failed(reason: impl std::fmt::Display) -> Rejection {
    Rejection::Failed { reason: reason.to_string() }
}

fn not_now(reason: impl std::fmt::Display) -> Rejection {
    Rejection::Busy { reason: reason.to_string() }
}

fn not_let_in(caller: Caller, refusal: &Refusal) -> Rejection {
    warn!(host = %caller.host, address = %caller.address, "a host was not let in: {refusal}");
    failed(refusal)
}

impl Desk {
    async fn answer(&self, caller: Caller, request: Request) -> Result<Answer, Rejection> {
        if self.agreement.membership() != Membership::Member {
            return Err(not_now("it belongs to no cluster yet"));
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
        self.certify(caller, &authority)
    }

    /// The authority, opened. A member that cannot open it is told of here and nowhere else.
    fn authority(&self) -> Result<Authority, Rejection> {
        let cluster = self.agreement.cluster();
        let credentials = self.credentials.credentials();
        let (Some(agreed), Some(id), Some(credentials)) =
            (&cluster.admissions.authority, cluster.id, credentials)
        else {
            return Err(not_now("its cluster is only just being founded"));
        };
        Authority::unseal(agreed, credentials.seal_key(), id).map_err(|error| {
            warn!("cannot let hosts in: {error}");
            not_now("it cannot certify hosts; ask another member")
        })
    }

    /// A secret that nobody was given costs the cluster no agreement.
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
            .is_some_and(|until| *until > leases::now())
    }

    async fn agree(&self, caller: Caller, pass: Pass) -> Result<(), Rejection> {
        let command = Command::Enroll { host: caller.host, pass, now: leases::now() };
        // What this host can refuse by itself costs the cluster no agreement, however often it is
        // asked for.
        if let Err(refusal) = Cluster::clone(&self.agreement.cluster()).apply(&command) {
            return Err(not_let_in(caller, &refusal));
        }
        match self.agreement.propose(command).await {
            Ok(_) => Ok(()),
            Err(AgreementError::Propose(ProposeError::Refused(refusal))) => {
                Err(not_let_in(caller, &refusal))
            }
            Err(error) => Err(not_now(error)),
        }
    }

    fn certify(&self, caller: Caller, authority: &Authority) -> Result<Answer, Rejection> {
        let Some(credentials) = self.credentials.credentials() else {
            return Err(not_now("it belongs to no cluster yet"));
        };
        let issued = authority.issue(&caller.key, credentials.cluster(), SystemTime::now());
        let certificate = issued.map_err(not_now)?;
        info!(host = %caller.host, address = %caller.address, "a host was let in");
        Ok(Answer::Certified {
            certificate,
            authority: authority.certificate().clone(),
            seal_key: credentials.seal_key().clone(),
        })
    }
}
