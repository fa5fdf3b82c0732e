//! Messages of enrollment.

use std::fmt;

use serde::{Deserialize, Serialize};
use shoutd_core::Fingerprint;
use shoutd_peer::{AuthorityCertificate, Certificate, SealKey, SwarmProof};

/// Request to enroll. The connection proves the host's key.
#[derive(Serialize, Deserialize)]
pub struct Request {
    /// The host's name, for the administrator who approves it.
    pub name: String,
    /// The secret of its token, in hexadecimal digits. It is only sent to a host that has proved to
    /// belong to the token's cluster.
    pub secret: Option<String>,
    /// Without a token: the proof that the host is on a node of a Swarm.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub swarm: Option<SwarmProof>,
}

/// Without the secret.
impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Answer to [`Request`].
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// The host is enrolled.
    Certified {
        /// Its certificate.
        certificate: Certificate,
        /// The authority's certificate.
        authority: AuthorityCertificate,
        /// The key that unseals the authority's private key.
        seal_key: SealKey,
        /// If the Swarm's node was accepted: the proof that a manager of the same Swarm did it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        swarm: Option<Box<SwarmProof>>,
    },
    /// The host needs an administrator's approval.
    Waiting {
        /// The fingerprint of the authority's certificate, which the administrator compares.
        authority: Fingerprint,
    },
}

#[cfg(test)]
mod tests {
    use shoutd_fuzz::fuzz;
    use shoutd_peer::{Credentials, Secret};

    use super::*;

    /// Parses the input as a request and as an answer.
    #[test]
    fn fuzz_enroll() {
        fuzz("enroll", env!("CARGO_MANIFEST_DIR"), |body| {
            let request = serde_json::from_slice::<Request>(body);
            let answer = serde_json::from_slice::<Answer>(body);
            if let Ok(Answer::Certified { certificate, authority, seal_key, .. }) = &answer {
                // As on the enrolled host. The parts need not belong together.
                drop(Credentials::new(
                    certificate.key(),
                    certificate.clone(),
                    authority.clone(),
                    seal_key.clone(),
                ));
            }
            (
                request.map(|request| request.secret.map(|secret| Secret::from_digits(&secret))),
                answer,
            )
        });
    }
}
