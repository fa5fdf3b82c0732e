//! The certificate authority of a cluster: certifies its members.
//!
//! The founder makes it, and every member can use it: its private key is part of agreed state,
//! sealed with a key that members keep in a file. The seal key is in no log, snapshot or backup of
//! agreed state.

use std::fmt;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyUsagePurpose, SerialNumber, date_time_ymd,
};
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, KeyType, Salt};
use shoutd_core::trust::Agreed;
use shoutd_core::{ClusterId, cluster};
use zeroize::Zeroizing;

use crate::certificate::{AuthorityCertificate, Certificate, member_name, own_name};
use crate::hex;
use crate::key::{HostKey, KEY_BYTES, KeyError, PrivateKey, PublicKey, random};
use crate::token::{Secret, Token};

/// How long a host's certificate is valid.
pub const VALIDITY: Duration = Duration::from_secs(90 * 86_400);

/// How long before its expiry a host renews its certificate: a host can be off for a month and come
/// back with a valid one.
pub const RENEWAL: Duration = Duration::from_secs(30 * 86_400);

/// 2020-01-01, the `notBefore` of all certificates: it is before the first shoutd, and after the
/// time of a clock that was never set. The time of issue does not matter, and hosts whose clocks
/// differ by days must be able to connect.
pub(crate) const VALID_FROM: Duration = Duration::from_secs(1_577_836_800);

/// 9999-12-31: the last day that a certificate can name (RFC 5280, section 4.1.2.5).
const SECONDS_MAX: u64 = 253_402_214_400;

/// HKDF salt: separates these derivations from any other use of a secret.
const DERIVATION: &[u8] = b"shoutd prepared cluster 1";

/// Associated data: separates sealed authorities from anything else that a key seals.
const SEALED: &[u8] = b"shoutd sealed authority 1";

/// Why an authority cannot be made, opened or used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuthorityError {
    /// There is no key.
    #[error("the authority has no key: {0}")]
    Key(#[from] KeyError),
    /// The sealed authority or this host's seal key is damaged, or belongs to another cluster.
    #[error(
        "the cluster's authority cannot be opened with this host's seal key: one of the two \
         belongs to another cluster, or is damaged"
    )]
    WrongSeal,
    /// Certificate and key are damaged, or do not belong together.
    #[error("the cluster's authority is damaged: {0}")]
    Damaged(String),
    /// A certificate cannot be issued.
    #[error("the certificate cannot be issued: {0}")]
    Issue(String),
}

/// An authority with its private key.
pub struct Authority {
    key: PrivateKey,
    certificate: AuthorityCertificate,
}

/// The key that opens a sealed authority. Members keep it in a file that only its owner can read.
#[derive(Clone, PartialEq, Eq)]
pub struct SealKey(Zeroizing<[u8; 32]>);

/// A cluster that is derived from a secret alone: hosts that start at the same time with the same
/// prepared token can form it without another host to admit them. Such a token can certify hosts
/// for as long as the cluster exists.
#[derive(Debug)]
pub struct Prepared {
    /// Certifies its hosts.
    pub authority: Authority,
    /// Its id.
    pub cluster: ClusterId,
    /// The key with which its members seal the authority.
    pub seal_key: SealKey,
}

impl SealKey {
    /// Generates a new key.
    ///
    /// # Errors
    /// The kernel returns no random numbers.
    pub fn draw() -> Result<Self, KeyError> {
        random().map(Self)
    }

    /// Its digits, to keep in a file or to give to an admitted host.
    pub fn reveal(&self) -> Zeroizing<String> {
        Zeroizing::new(hex::encode(&*self.0))
    }

    /// The key with these digits; `None` if they are not 64 hexadecimal digits.
    pub fn from_digits(digits: &str) -> Option<Self> {
        hex::decode_array(digits).map(|octets| Self(Zeroizing::new(octets)))
    }

    fn cipher(&self) -> Result<LessSafeKey, KeyError> {
        let key = UnboundKey::new(&CHACHA20_POLY1305, &*self.0);
        key.map(LessSafeKey::new).map_err(|error| KeyError::Unusable(error.to_string()))
    }
}

impl fmt::Debug for SealKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SealKey(..)")
    }
}

/// As its digits; sent over encrypted connections only.
impl serde::Serialize for SealKey {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.reveal())
    }
}

impl<'de> serde::Deserialize<'de> for SealKey {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let digits = Zeroizing::new(String::deserialize(deserializer)?);
        Self::from_digits(&digits)
            .ok_or_else(|| serde::de::Error::custom("not a seal key (64 hexadecimal digits)"))
    }
}

impl Authority {
    /// Generates a new key and its certificate.
    ///
    /// # Errors
    /// The kernel returns no random numbers.
    pub fn draw() -> Result<Self, AuthorityError> {
        Self::of(PrivateKey::draw()?)
    }

    /// The authority of this key. The same key gives the same certificate, byte for byte: prepared
    /// tokens of other versions depend on that, so its contents must never change.
    fn of(key: PrivateKey) -> Result<Self, AuthorityError> {
        let certificate = authority_parameters(key.public())
            .self_signed(&key)
            .map_err(|error| not_issued(&error))?;
        let certificate =
            AuthorityCertificate::from_der(certificate.der()).map_err(|error| damaged(&error))?;
        Ok(Self { key, certificate })
    }

    /// The certificate with which hosts check each other's certificates.
    pub fn certificate(&self) -> &AuthorityCertificate {
        &self.certificate
    }

    /// Certifies that the host with this key is a member of this cluster, for [`VALIDITY`] from
    /// now.
    ///
    /// # Errors
    /// No valid host id follows from the key, or the clock is beyond the year 9999.
    pub fn issue(
        &self,
        key: &PublicKey,
        cluster: ClusterId,
        now: SystemTime,
    ) -> Result<Certificate, AuthorityError> {
        let host = key
            .host()
            .ok_or_else(|| AuthorityError::Issue("the key has no valid host id".to_owned()))?;
        let mut parameters = host_parameters(member_name(host, cluster))?;
        let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        if now.as_secs() > SECONDS_MAX - VALIDITY.as_secs() {
            return Err(AuthorityError::Issue(
                "this host's clock is beyond the year 9999".to_owned(),
            ));
        }
        let epoch = date_time_ymd(1970, 1, 1);
        parameters.not_before = epoch + VALID_FROM;
        parameters.not_after = epoch + now.max(VALID_FROM) + VALIDITY;
        parameters.use_authority_key_identifier_extension = true;
        parameters.serial_number = Some(serial(*random()?));
        let issuer = Issuer::new(authority_parameters(self.key.public()), &self.key);
        let certificate = parameters.signed_by(key, &issuer).map_err(|error| not_issued(&error))?;
        Certificate::from_der(certificate.der())
            .map_err(|error| AuthorityError::Issue(error.to_string()))
    }

    /// Its form in agreed state. The private key can be read only with this seal key and for this
    /// cluster.
    ///
    /// # Errors
    /// The kernel returns no random numbers.
    pub fn seal(
        &self,
        with: &SealKey,
        of: ClusterId,
    ) -> Result<cluster::Authority, AuthorityError> {
        let nonce = *random::<NONCE_LEN>()?;
        let mut sealed = self.key.seed().to_vec();
        let nonce_used = Nonce::assume_unique_for_key(nonce);
        let done = with.cipher()?.seal_in_place_append_tag(
            nonce_used,
            Aad::from(associated(of)),
            &mut sealed,
        );
        done.map_err(|error| AuthorityError::Issue(error.to_string()))?;
        let sealed_key = hex::encode(&[&nonce[..], &sealed].concat());
        Ok(cluster::Authority { certificate: hex::encode(self.certificate.der()), sealed_key })
    }

    /// Reads it from agreed state.
    ///
    /// # Errors
    /// It was sealed with another key or for another cluster, or is damaged.
    pub fn unseal(
        agreed: &cluster::Authority,
        with: &SealKey,
        of: ClusterId,
    ) -> Result<Self, AuthorityError> {
        let certificate = AuthorityCertificate::from_der(&from_hex(&agreed.certificate)?)
            .map_err(|error| damaged(&error))?;
        let sealed = from_hex(&agreed.sealed_key)?;
        let (nonce, sealed) =
            sealed.split_first_chunk().ok_or_else(|| damaged(&"the sealed key is too short"))?;
        let mut opened = Zeroizing::new(sealed.to_vec());
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let seed = with.cipher()?.open_in_place(nonce, Aad::from(associated(of)), &mut opened);
        let seed: [u8; KEY_BYTES] =
            seed.map_err(|_| AuthorityError::WrongSeal).and_then(|seed| {
                (&*seed).try_into().map_err(|_| damaged(&"the key has the wrong length"))
            })?;
        let key = PrivateKey::from_seed(Zeroizing::new(seed))?;
        if key.public() != certificate.key() {
            return Err(damaged(&"its certificate is not that of its key"));
        }
        Ok(Self { key, certificate })
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}

impl Prepared {
    /// The cluster that is derived from this secret.
    ///
    /// # Errors
    /// The cryptographic library fails.
    pub fn from_secret(secret: &Secret) -> Result<Self, AuthorityError> {
        let cluster = ClusterId::new(u128::from_be_bytes(*derive(secret, b"cluster id")?));
        let authority = Authority::of(PrivateKey::from_seed(derive(secret, b"authority")?)?)?;
        Ok(Self { authority, cluster, seal_key: SealKey(derive(secret, b"seal key")?) })
    }

    /// The cluster that this token was prepared for; `None` for a token of an existing cluster.
    ///
    /// # Errors
    /// The cryptographic library fails.
    pub fn from_token(token: &Token) -> Result<Option<Self>, AuthorityError> {
        let prepared = Self::from_secret(&token.secret)?;
        Ok(Some(prepared)
            .filter(|prepared| prepared.authority.certificate.fingerprint() == token.authority))
    }

    /// Generates a secret, and the token for the cluster that is derived from it.
    ///
    /// # Errors
    /// The kernel returns no random numbers.
    pub fn draw_token() -> Result<Token, AuthorityError> {
        let secret = Secret::draw()?;
        let authority = Self::from_secret(&secret)?.authority.certificate.fingerprint();
        Ok(Token { authority, secret })
    }
}

/// The authorities and hosts in agreed state. A damaged certificate is left out: nothing is
/// accepted from its authority.
pub fn agreed_authorities(cluster: &cluster::Cluster) -> Agreed<AuthorityCertificate> {
    let read = |digits: &String| {
        let certificate = from_hex(digits).ok()?;
        AuthorityCertificate::from_der(&certificate).ok()
    };
    let admissions = &cluster.admissions;
    Agreed {
        current: admissions.authority.as_ref().and_then(|known| read(&known.certificate)),
        former: admissions.former_authorities.iter().filter_map(read).collect(),
        members: cluster.hosts.keys().copied().collect(),
    }
}

/// The self-signed certificate that a host shows before it is enrolled. It only carries the host's
/// key: the handshake proves that the host has the private key.
pub(crate) fn own_certificate(key: &HostKey) -> Result<rcgen::Certificate, AuthorityError> {
    let mut parameters = host_parameters(own_name(key.host()))?;
    (parameters.not_before, parameters.not_after) =
        (date_time_ymd(2020, 1, 1), date_time_ymd(2120, 1, 1));
    parameters.serial_number = Some(serial(*random()?));
    parameters.self_signed(key.private()).map_err(|error| not_issued(&error))
}

fn not_issued(error: &rcgen::Error) -> AuthorityError {
    AuthorityError::Issue(error.to_string())
}

fn from_hex(digits: &str) -> Result<Vec<u8>, AuthorityError> {
    hex::decode(digits).ok_or_else(|| damaged(&"not hexadecimal digits"))
}

fn damaged(reason: &dyn fmt::Display) -> AuthorityError {
    AuthorityError::Damaged(reason.to_string())
}

fn authority_parameters(key: &PublicKey) -> CertificateParams {
    let fingerprint = key.fingerprint();
    let mut parameters = CertificateParams::default();
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, format!("shoutd authority {}", hex::encode(&fingerprint.0[..8])));
    parameters.distinguished_name = name;
    let mut number = [0; 16];
    number.copy_from_slice(&fingerprint.0[..16]);
    parameters.serial_number = Some(serial(number));
    (parameters.not_before, parameters.not_after) =
        (date_time_ymd(2020, 1, 1), date_time_ymd(2120, 1, 1));
    parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    parameters
}

fn host_parameters(name: String) -> Result<CertificateParams, AuthorityError> {
    let mut parameters = CertificateParams::new([name]).map_err(|error| not_issued(&error))?;
    parameters.distinguished_name = DistinguishedName::new();
    parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    parameters.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
    Ok(parameters)
}

/// A positive serial number of 16 octets (RFC 5280, section 4.1.2.2).
fn serial(mut number: [u8; 16]) -> SerialNumber {
    number[0] = number[0] & 0x7f | 0x40;
    SerialNumber::from_slice(&number)
}

fn associated(cluster: ClusterId) -> Vec<u8> {
    [SEALED, cluster.to_string().as_bytes()].concat()
}

fn derive<const N: usize>(secret: &Secret, purpose: &[u8]) -> Result<Zeroizing<[u8; N]>, KeyError> {
    struct Length(usize);
    impl KeyType for Length {
        fn len(&self) -> usize {
            self.0
        }
    }
    let mut octets = Zeroizing::new([0; N]);
    let derived = Salt::new(HKDF_SHA256, DERIVATION).extract(secret.octets());
    let filled = derived.expand(&[purpose], Length(N)).and_then(|okm| okm.fill(&mut *octets));
    filled.map_err(|error| KeyError::Unusable(error.to_string()))?;
    Ok(octets)
}

/// A signed certificate with any name, which [`Authority::issue`] would not make.
#[cfg(test)]
pub(crate) fn forge(
    authority: &Authority,
    key: &PublicKey,
    name: String,
) -> rustls::pki_types::CertificateDer<'static> {
    let issuer = Issuer::new(authority_parameters(authority.key.public()), &authority.key);
    host_parameters(name).unwrap().signed_by(key, &issuer).unwrap().der().clone()
}

#[cfg(test)]
mod tests;
