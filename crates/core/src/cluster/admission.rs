//! Admission and removal of hosts: the certificate authority, tokens, approvals, and the hosts that
//! were removed.
//!
//! A state machine must not read a clock. Commands carry the time, as the time since 1970 by the
//! proposer's clock.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Cluster, Outcome, Refusal};
use crate::limits::{
    APPROVALS_MAX, AUTHORITY_BYTES_MAX, ENROLLED_MAX, FORMER_AUTHORITIES_MAX, REMOVED_HOSTS_MAX,
    TOKENS_MAX,
};
use crate::{Fingerprint, HostId, TokenHash};

/// Who may join, and who was removed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Admissions {
    /// The certificate authority; `None` until the founder has published it.
    pub authority: Option<Authority>,
    /// The certificates of authorities that were replaced, oldest first: DER in hexadecimal digits.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub former_authorities: Vec<String>,
    /// The tokens that admit hosts.
    pub tokens: BTreeMap<TokenHash, Token>,
    /// The hosts that an administrator admits without a token, by the fingerprint of their key.
    /// Each approval has an expiry time.
    pub approvals: BTreeMap<Fingerprint, Duration>,
    /// Hosts that were enrolled and are not admitted yet, with the time of their enrollment. To
    /// enroll such a host again, as after a timeout, does not use up a token.
    pub enrolled: BTreeMap<HostId, Duration>,
    /// Hosts that were removed. Their ids are never used again.
    pub removed: BTreeMap<HostId, RemovedHost>,
}

/// The certificate authority: its certificate, and its private key in a form that only members can
/// decrypt.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Authority {
    /// The certificate: DER in hexadecimal digits.
    pub certificate: String,
    /// The private key: encrypted with a key that members keep outside of agreed state, in
    /// hexadecimal digits.
    pub sealed_key: String,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").finish_non_exhaustive()
    }
}

/// What the cluster knows of a token. It does not know the secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// The expiry time, as the time since 1970; `None` means that the token does not expire.
    pub expires: Option<Duration>,
    /// How many more hosts it admits; `None` means that there is no limit.
    pub uses: Option<u32>,
}

/// A host that was removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemovedHost {
    /// The name it had.
    pub name: String,
    /// When it was removed, as the time since 1970.
    pub at: Duration,
}

/// By what right a host is enrolled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Pass {
    /// A token.
    Token(TokenHash),
    /// An administrator's approval.
    Approval(Fingerprint),
}

impl Cluster {
    pub(super) fn set_authority(&mut self, authority: &Authority) -> Result<Outcome, Refusal> {
        check_size(authority)?;
        match &self.admissions.authority {
            Some(known) if known.certificate != authority.certificate => {
                Err(Refusal::OtherAuthority)
            }
            Some(_) => Ok(Outcome::Done),
            None => {
                self.admissions.authority = Some(authority.clone());
                Ok(Outcome::Done)
            }
        }
    }

    /// Replaces the authority. Whoever has the former one's key can make tokens of it and certify
    /// hosts, so those that are enrolled and not yet admitted must enroll again.
    pub(super) fn replace_authority(
        &mut self,
        former: &str,
        authority: &Authority,
    ) -> Result<Outcome, Refusal> {
        check_size(authority)?;
        let admissions = &mut self.admissions;
        match &mut admissions.authority {
            Some(known) if known.certificate == authority.certificate => Ok(Outcome::Done),
            Some(known) if known.certificate == former => {
                admissions.former_authorities.push(former.to_owned());
                let surplus =
                    admissions.former_authorities.len().saturating_sub(FORMER_AUTHORITIES_MAX);
                admissions.former_authorities.drain(..surplus);
                known.clone_from(authority);
                admissions.tokens.clear();
                admissions.enrolled.clear();
                Ok(Outcome::Done)
            }
            _ => Err(Refusal::OtherAuthority),
        }
    }

    pub(super) fn add_token(
        &mut self,
        hash: TokenHash,
        token: Token,
        now: Duration,
    ) -> Result<Outcome, Refusal> {
        let tokens = &mut self.admissions.tokens;
        tokens.retain(|_, token| !token.is_spent(now));
        if !tokens.contains_key(&hash) && tokens.len() >= TOKENS_MAX {
            return Err(Refusal::Full { what: "tokens".to_owned(), count: TOKENS_MAX });
        }
        tokens.insert(hash, token);
        Ok(Outcome::Done)
    }

    pub(super) fn revoke_tokens(&mut self) -> Outcome {
        self.admissions.tokens.clear();
        Outcome::Done
    }

    pub(super) fn approve(
        &mut self,
        key: Fingerprint,
        until: Duration,
        now: Duration,
    ) -> Result<Outcome, Refusal> {
        let approvals = &mut self.admissions.approvals;
        approvals.retain(|_, until| *until > now);
        if !approvals.contains_key(&key) && approvals.len() >= APPROVALS_MAX {
            return Err(Refusal::Full { what: "approvals".to_owned(), count: APPROVALS_MAX });
        }
        approvals.insert(key, until);
        Ok(Outcome::Done)
    }

    /// Enrolls a host. This takes one use from the token, or uses up the approval.
    pub(super) fn enroll(
        &mut self,
        host: HostId,
        pass: Pass,
        now: Duration,
    ) -> Result<Outcome, Refusal> {
        self.check_not_removed(host)?;
        if self.hosts.contains_key(&host) || self.admissions.enrolled.contains_key(&host) {
            return Ok(Outcome::Done);
        }
        match pass {
            Pass::Token(hash) => {
                let token = self.admissions.tokens.get_mut(&hash).ok_or(Refusal::UnknownToken)?;
                if token.expires.is_some_and(|expires| expires <= now) {
                    return Err(Refusal::TokenExpired);
                }
                match &mut token.uses {
                    Some(0) => return Err(Refusal::TokenUsedUp),
                    Some(uses) => *uses -= 1,
                    None => {}
                }
            }
            Pass::Approval(key) => match self.admissions.approvals.get(&key) {
                Some(until) if *until > now => {
                    self.admissions.approvals.remove(&key);
                }
                _ => return Err(Refusal::NotApproved),
            },
        }
        self.note_enrolled(host, now);
        Ok(Outcome::Done)
    }

    /// Notes an enrolled host, and drops the oldest ones over the limit. Those have had their
    /// certificates for a long time.
    fn note_enrolled(&mut self, host: HostId, now: Duration) {
        let enrolled = &mut self.admissions.enrolled;
        enrolled.insert(host, now);
        while enrolled.len() > ENROLLED_MAX {
            let oldest =
                enrolled.iter().min_by_key(|(id, since)| (**since, **id)).map(|(id, _)| *id);
            let Some(oldest) = oldest else { return };
            enrolled.remove(&oldest);
        }
    }

    pub(super) fn check_not_removed(&self, host: HostId) -> Result<(), Refusal> {
        match self.admissions.removed.get(&host) {
            Some(removed) => Err(Refusal::HostRemoved { host, name: removed.name.clone() }),
            None => Ok(()),
        }
    }

    /// Removes a host and all its leases. Removing it again is not an error: it frees what a lost
    /// host still held.
    pub(super) fn remove_host(&mut self, id: HostId, now: Duration) -> Result<Outcome, Refusal> {
        let Some(host) = self.hosts.get(&id) else {
            return match self.check_not_removed(id) {
                Ok(()) => Err(Refusal::UnknownHost(id)),
                Err(_) => Ok(self.free(id)),
            };
        };
        if self.hosts.len() == 1 {
            return Err(Refusal::LastHost);
        }
        let removed = RemovedHost { name: host.name.clone(), at: now };
        self.hosts.remove(&id);
        self.admissions.removed.insert(id, removed);
        self.forget_oldest_removed();
        Ok(self.free(id))
    }

    fn free(&mut self, id: HostId) -> Outcome {
        for network in self.networks.values_mut().filter(|network| network.is_held_by(id)) {
            let network = Arc::make_mut(network);
            network.leases.retain(|_, holder| *holder != id);
            network.claims.remove(&id);
            network.attached.remove(&id);
        }
        self.encryption.ends.remove(&id);
        self.finish_removals();
        Outcome::Done
    }

    /// Drops the oldest removed hosts over the limit. Their certificates have expired in the
    /// meantime. A host that still holds something stays, because it must be named to free that.
    pub(super) fn forget_oldest_removed(&mut self) {
        while self.admissions.removed.len() > REMOVED_HOSTS_MAX {
            let removed =
                self.admissions.removed.iter().filter(|(id, _)| !self.holds_anything(**id));
            let oldest = removed.min_by_key(|(id, host)| (host.at, **id)).map(|(id, _)| *id);
            let Some(oldest) = oldest else { return };
            self.admissions.removed.remove(&oldest);
        }
    }
}

fn check_size(authority: &Authority) -> Result<(), Refusal> {
    if authority.certificate.len() + authority.sealed_key.len() > AUTHORITY_BYTES_MAX {
        return Err(Refusal::TooLarge(format!(
            "the certificate authority has more than {AUTHORITY_BYTES_MAX} bytes"
        )));
    }
    Ok(())
}

impl Token {
    /// Whether the token no longer admits hosts.
    pub fn is_spent(&self, now: Duration) -> bool {
        self.uses == Some(0) || self.expires.is_some_and(|expires| expires <= now)
    }
}
