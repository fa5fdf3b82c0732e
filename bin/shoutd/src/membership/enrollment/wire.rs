//! What a host that wants in and a member that lets it in say to each other.

use std::fmt;

use serde::{Deserialize, Serialize};
use shoutd_core::Fingerprint;
use shoutd_peer::{AuthorityCertificate, Certificate, SealKey};

/// "Let me in." Who asks is known by the key that the connection proves.
#[derive(Serialize, Deserialize)]
pub struct Request {
    /// The host's name, for whoever approves.
    pub name: String,
    /// The secret of its token, as hexadecimal digits; only ever sent to a host that has proved to
    /// be of the token's cluster.
    pub secret: Option<String>,
}

/// Without the secret.
impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request").field("name", &self.name).finish_non_exhaustive()
    }
}

/// The answer.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// It is in.
    Certified {
        /// Its certificate.
        certificate: Certificate,
        /// The authority's certificate.
        authority: AuthorityCertificate,
        /// What opens the authority's private key.
        seal_key: SealKey,
    },
    /// Somebody must approve of it first.
    Waiting {
        /// The fingerprint of the authority's certificate, to be compared by whoever approves.
        authority: Fingerprint,
    },
}

#[cfg(test)]
mod tests {
    use shoutd_fuzz::fuzz;
    use shoutd_peer::{Credentials, Secret};

    use super::*;

    /// What either side makes of one body.
    #[test]
    fn fuzz_enroll() {
        fuzz("enroll", env!("CARGO_MANIFEST_DIR"), |body| {
            let request = serde_json::from_slice::<Request>(body);
            let answer = serde_json::from_slice::<Answer>(body);
            if let Ok(Answer::Certified { certificate, authority, seal_key }) = &answer {
                // As by the host that was let in: it is given what may not fit.
                let services = (certificate.clone(), authority.clone(), seal_key.clone());
                drop(Credentials::new(certificate.key(), services.0, services.1, services.2));
            }
            (
                request.map(|request| request.secret.map(|secret| Secret::from_digits(&secret))),
                answer,
            )
        });
    }
}
