//! Certificates: how they are read and checked.
//!
//! A host's certificate binds its key to a host id and a cluster id by one DNS name, `<host
//! id>.<cluster id>.shoutd`. The host id must also follow from the key: an authority cannot give
//! one host's id to another host's key by mistake.

use std::fmt;
use std::time::Duration;

use rustls::DistinguishedName;
use rustls::pki_types::{CertificateDer, UnixTime};
use shoutd_core::{ClusterId, Fingerprint, HostId};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};

use crate::hex;
use crate::key::{PublicKey, sha256};

/// The last label of every host's name. The names are not in any DNS zone.
const DOMAIN: &str = "shoutd";

/// Bytes of the largest certificate that we parse. Ours have about 400.
pub(crate) const CERTIFICATE_BYTES_MAX: usize = 4096;

/// Why a certificate is not trusted. The texts complete a sentence about the peer that shows it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Distrust {
    /// The other end has only the certificate that a host makes for itself.
    #[error("it belongs to no cluster yet")]
    NoCluster,
    /// This host has no authority to check certificates with.
    #[error("this host belongs to no cluster yet")]
    NotEnrolled,
    /// Another authority signed it.
    #[error(
        "its certificate is not from the authority that this host trusts: it belongs to another \
         cluster"
    )]
    OtherAuthority,
    /// It proved to be a member of another cluster than this host's token is for.
    #[error(
        "this host's token is for the cluster with fingerprint {token}, but it belongs to the one \
         with fingerprint {cluster}: use the token that `shoutdctl token show` prints on a member \
         of the cluster to join"
    )]
    OtherToken {
        /// The fingerprint in the token.
        token: Fingerprint,
        /// The fingerprint of the peer's cluster's authority.
        cluster: Fingerprint,
    },
    /// Its authority was replaced, and it is not a member's.
    #[error(
        "its certificate is from an authority that the cluster has replaced, and it is not a \
         member: it must join again, with a token that was made since then"
    )]
    FormerAuthority,
    /// The authority signed it for another cluster.
    #[error("its certificate is for cluster {0}")]
    OtherCluster(ClusterId),
    /// It has expired.
    #[error("its certificate expired {} ago; check the clocks of both hosts", days(.0))]
    Expired(Duration),
    /// It is not valid yet.
    #[error(
        "its certificate will not be valid for another {}; check the clocks of both hosts",
        days(.0)
    )]
    NotYetValid(Duration),
    /// It names another host than its key's.
    #[error("its certificate names host {names}, but its key is that of host {is}")]
    OtherName {
        /// The host that the certificate names.
        names: HostId,
        /// The host that the key belongs to.
        is: HostId,
    },
    /// It is not a certificate that shoutd makes.
    #[error("its certificate is not a shoutd certificate: {0}")]
    Malformed(String),
}

fn days(duration: &Duration) -> String {
    match duration.as_secs() {
        seconds @ 172_800.. => format!("{} days", seconds / 86_400),
        seconds @ 7200.. => format!("{} hours", seconds / 3600),
        seconds => format!("{seconds} seconds"),
    }
}

fn malformed(reason: impl fmt::Display) -> Distrust {
    Distrust::Malformed(reason.to_string())
}

/// The name in a member's certificate.
pub(crate) fn member_name(host: HostId, cluster: ClusterId) -> String {
    format!("{host}.{cluster}.{DOMAIN}")
}

/// The name in the certificate that a host makes for itself.
pub(crate) fn own_name(host: HostId) -> String {
    format!("{host}.{DOMAIN}")
}

/// The certificate of an authority. It serves to check certificates, not to issue them.
#[derive(Clone, PartialEq, Eq)]
pub struct AuthorityCertificate {
    der: CertificateDer<'static>,
    key: PublicKey,
}

impl AuthorityCertificate {
    /// Reads a certificate (DER). The caller must check the fingerprint.
    ///
    /// # Errors
    /// The bytes are not a certificate with an Ed25519 key.
    pub fn from_der(der: &[u8]) -> Result<Self, Distrust> {
        let der = bounded(der)?;
        anchor_from_trusted_cert(&der).map_err(malformed)?;
        let key = key_of(&EndEntityCert::try_from(&der).map_err(malformed)?)?;
        Ok(Self { key, der: der.into_owned() })
    }

    /// Its bytes (DER).
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// Its bytes in hexadecimal digits, as in agreed state.
    pub fn digits(&self) -> String {
        hex::encode(&self.der)
    }

    /// Its SHA-256, by which tokens identify it.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint(sha256(&self.der))
    }

    pub(crate) fn key(&self) -> &PublicKey {
        &self.key
    }

    pub(crate) fn chain_link(&self) -> CertificateDer<'static> {
        self.der.clone()
    }

    /// Its name, by which hosts name the authorities that they trust (RFC 8446, section 4.2.4).
    pub(crate) fn name(&self) -> Option<DistinguishedName> {
        let anchor = anchor_from_trusted_cert(&self.der).ok()?;
        Some(DistinguishedName::in_sequence(&anchor.subject))
    }
}

impl fmt::Debug for AuthorityCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AuthorityCertificate({})", self.fingerprint())
    }
}

/// The certificate of a member, as read. It is trusted only after `Certificate::check`.
#[derive(Clone, PartialEq, Eq)]
pub struct Certificate {
    der: CertificateDer<'static>,
    key: PublicKey,
    host: HostId,
    cluster: ClusterId,
}

/// The role in which a peer shows a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Usage {
    Client,
    Server,
}

impl Certificate {
    /// Reads a certificate (DER).
    ///
    /// # Errors
    /// It does not have the form of a member's certificate.
    pub fn from_der(der: &[u8]) -> Result<Self, Distrust> {
        let der = bounded(der)?;
        let parsed = EndEntityCert::try_from(&der).map_err(malformed)?;
        let key = key_of(&parsed)?;
        let mut names = parsed.valid_dns_names();
        let (Some(name), None) = (names.next(), names.next()) else {
            return Err(malformed("it does not have exactly one name"));
        };
        let (names, cluster) =
            read_name(name).ok_or_else(|| malformed("its name does not name a host"))?;
        let is = key.host().ok_or_else(|| malformed("its key has no valid host id"))?;
        if names != is {
            return Err(Distrust::OtherName { names, is });
        }
        let cluster = cluster.ok_or(Distrust::NoCluster)?;
        Ok(Self { key, host: is, cluster, der: der.clone().into_owned() })
    }

    /// Its bytes (DER).
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// The key that it certifies.
    pub fn key(&self) -> &PublicKey {
        &self.key
    }

    /// The host that it was issued to.
    pub fn host(&self) -> HostId {
        self.host
    }

    /// The cluster that it was issued for.
    pub fn cluster(&self) -> ClusterId {
        self.cluster
    }

    pub(crate) fn chain_link(&self) -> CertificateDer<'static> {
        self.der.clone()
    }

    /// Checks that this authority signed it, and that it is valid at this time and for this role.
    pub(crate) fn check(
        &self,
        authority: &AuthorityCertificate,
        usage: Usage,
        now: UnixTime,
    ) -> Result<(), Distrust> {
        let parsed = EndEntityCert::try_from(&self.der).map_err(malformed)?;
        let anchors = [anchor_from_trusted_cert(&authority.der).map_err(malformed)?];
        let usage = match usage {
            Usage::Client => KeyUsage::client_auth(),
            Usage::Server => KeyUsage::server_auth(),
        };
        let verified = parsed.verify_for_usage(
            &[webpki::ring::ED25519],
            &anchors,
            &[],
            now,
            usage,
            None,
            None,
        );
        verified.map(drop).map_err(|error| match error {
            webpki::Error::CertExpired { time, not_after } => {
                Distrust::Expired(between(not_after, time))
            }
            webpki::Error::CertNotValidYet { time, not_before } => {
                Distrust::NotYetValid(between(time, not_before))
            }
            webpki::Error::UnknownIssuer | webpki::Error::InvalidSignatureForPublicKey => {
                Distrust::OtherAuthority
            }
            other => malformed(other),
        })
    }

    /// Checks that this authority signed it, whether or not it is valid now.
    pub(crate) fn check_at_any_time(
        &self,
        authority: &AuthorityCertificate,
        now: UnixTime,
    ) -> Result<(), Distrust> {
        let at = match self.check(authority, Usage::Client, now) {
            Err(Distrust::Expired(since)) => now.as_secs().saturating_sub(since.as_secs()),
            Err(Distrust::NotYetValid(until)) => now.as_secs().saturating_add(until.as_secs()),
            other => return other,
        };
        self.check(authority, Usage::Client, UnixTime::since_unix_epoch(Duration::from_secs(at)))
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate")
            .field("host", &self.host)
            .field("cluster", &self.cluster)
            .finish_non_exhaustive()
    }
}

/// The key in any certificate, even an untrusted one: the handshake proves that the peer has the
/// private key.
pub(crate) fn key_in(certificate: &CertificateDer<'_>) -> Result<PublicKey, Distrust> {
    key_of(&EndEntityCert::try_from(&bounded(certificate)?).map_err(malformed)?)
}

fn key_of(certificate: &EndEntityCert<'_>) -> Result<PublicKey, Distrust> {
    PublicKey::from_spki(&certificate.subject_public_key_info())
        .ok_or_else(|| malformed("its key is not an Ed25519 key"))
}

fn bounded(der: &[u8]) -> Result<CertificateDer<'_>, Distrust> {
    if der.len() > CERTIFICATE_BYTES_MAX {
        return Err(malformed(format_args!("it has more than {CERTIFICATE_BYTES_MAX} bytes")));
    }
    Ok(CertificateDer::from(der))
}

/// The host in a name, and the cluster; `None` for the cluster if the host made the certificate.
fn read_name(name: &str) -> Option<(HostId, Option<ClusterId>)> {
    let (host, rest) = name.split_once('.')?;
    let host = host.parse().ok()?;
    if rest == DOMAIN {
        return Some((host, None));
    }
    let (cluster, domain) = rest.split_once('.')?;
    (domain == DOMAIN).then_some((host, Some(cluster.parse().ok()?)))
}

fn between(from: UnixTime, to: UnixTime) -> Duration {
    Duration::from_secs(to.as_secs().saturating_sub(from.as_secs()))
}

/// Certificates are serialized as the hexadecimal digits of their DER.
macro_rules! serde_as_digits {
    ($name:ty) => {
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&hex::encode(self.der()))
            }
        }
        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let digits = String::deserialize(deserializer)?;
                let der = hex::decode(&digits)
                    .ok_or_else(|| serde::de::Error::custom("not hexadecimal digits"))?;
                Self::from_der(&der).map_err(serde::de::Error::custom)
            }
        }
    };
}
serde_as_digits!(AuthorityCertificate);
serde_as_digits!(Certificate);
