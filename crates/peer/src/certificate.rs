//! Certificates: what they say, and whether it may be believed.
//!
//! A host's certificate binds its key to its id and its cluster's by one name, `<host id>.<cluster
//! id>.shoutd`. The host id in it must follow from the key, too: an authority cannot give one
//! host's id to another's key by mistake.

use std::fmt;
use std::time::Duration;

use rustls::pki_types::{CertificateDer, UnixTime};
use shoutd_core::{ClusterId, Fingerprint, HostId};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};

use crate::hex;
use crate::key::{PublicKey, sha256};

/// The last label of every host's name: it is under no domain, and means nothing to anybody else.
const DOMAIN: &str = "shoutd";

/// Octets of the largest certificate that is looked at. Ours have about 400.
pub(crate) const CERTIFICATE_BYTES_MAX: usize = 4096;

/// Why a certificate is not believed, as the end of a sentence about whoever shows it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Distrust {
    /// The other end has only the certificate that a host makes for itself.
    #[error("it belongs to no cluster yet")]
    NoCluster,
    /// This host has no authority to judge by.
    #[error("this host belongs to no cluster yet")]
    NotEnrolled,
    /// Another authority signed it.
    #[error(
        "its certificate is not of the authority that this host trusts: it belongs to another \
         cluster"
    )]
    OtherAuthority,
    /// It proves to be of a cluster, and not of the one that this host's token is for.
    #[error(
        "this host's token is for the cluster with fingerprint {token}, but it belongs to the one \
         with fingerprint {cluster}: take a token that `shoutdctl token show` prints on a host of \
         the cluster that this host is to join"
    )]
    OtherToken {
        /// The fingerprint in the token.
        token: Fingerprint,
        /// The fingerprint of its own cluster's authority.
        cluster: Fingerprint,
    },
    /// The authority signed it for another cluster.
    #[error("its certificate is for cluster {0}")]
    OtherCluster(ClusterId),
    /// It is too old.
    #[error("its certificate expired {} ago; check the clocks of both hosts", days(.0))]
    Expired(Duration),
    /// It is too new.
    #[error("its certificate is not valid for another {}; check the clocks of both hosts", days(.0))]
    NotYetValid(Duration),
    /// Its name is another host's.
    #[error("its certificate names host {names}, but its key is that of host {is}")]
    OtherName {
        /// The host that the certificate names.
        names: HostId,
        /// The host that the key belongs to.
        is: HostId,
    },
    /// It is not one that a shoutd makes.
    #[error("its certificate is not one of shoutd's: {0}")]
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

/// The name in the certificate of this host of this cluster.
pub(crate) fn member_name(host: HostId, cluster: ClusterId) -> String {
    format!("{host}.{cluster}.{DOMAIN}")
}

/// The name in the certificate that this host makes for itself.
pub(crate) fn own_name(host: HostId) -> String {
    format!("{host}.{DOMAIN}")
}

/// The certificate of an authority. To know it is to be able to check certificates, not to make
/// them.
#[derive(Clone, PartialEq, Eq)]
pub struct AuthorityCertificate {
    der: CertificateDer<'static>,
    key: PublicKey,
}

impl AuthorityCertificate {
    /// The certificate in these bytes (DER). Whether it is the right one is to be told by its
    /// fingerprint.
    ///
    /// # Errors
    /// They are no certificate, or it has no Ed25519 key.
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

    /// What tokens know it by: its SHA-256.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint(sha256(&self.der))
    }

    pub(crate) fn key(&self) -> &PublicKey {
        &self.key
    }

    pub(crate) fn chain_link(&self) -> CertificateDer<'static> {
        self.der.clone()
    }
}

impl fmt::Debug for AuthorityCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AuthorityCertificate({})", self.fingerprint())
    }
}

/// The certificate of a member of a cluster, or what is said to be one: what it says is to be
/// believed only once it was checked with the authority's.
#[derive(Clone, PartialEq, Eq)]
pub struct Certificate {
    der: CertificateDer<'static>,
    key: PublicKey,
    host: HostId,
    cluster: ClusterId,
}

/// What a certificate is shown for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Usage {
    Client,
    Server,
}

impl Certificate {
    /// Reads a certificate (DER).
    ///
    /// # Errors
    /// It is not of the form that members' certificates have.
    pub fn from_der(der: &[u8]) -> Result<Self, Distrust> {
        let der = bounded(der)?;
        let parsed = EndEntityCert::try_from(&der).map_err(malformed)?;
        let key = key_of(&parsed)?;
        let mut names = parsed.valid_dns_names();
        let (Some(name), None) = (names.next(), names.next()) else {
            return Err(malformed("it does not have just one name"));
        };
        let (names, cluster) =
            read_name(name).ok_or_else(|| malformed("its name is not that of a host"))?;
        let is = key.host().ok_or_else(|| malformed("its key is that of no host"))?;
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

    /// The host that it is for.
    pub fn host(&self) -> HostId {
        self.host
    }

    /// The cluster that it is for.
    pub fn cluster(&self) -> ClusterId {
        self.cluster
    }

    pub(crate) fn chain_link(&self) -> CertificateDer<'static> {
        self.der.clone()
    }

    /// Whether this authority signed it, it is valid at this time, and good for this.
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

    /// Whether this authority signed it, even if it is not valid now.
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

/// The key in any certificate, even one that nobody should believe: the handshake proves who has
/// its private half.
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

/// The host in a name, and the cluster unless it is a host's own.
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

/// Certificates travel and are kept as hexadecimal digits (DER).
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
