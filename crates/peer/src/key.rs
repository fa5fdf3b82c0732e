//! Host keys, and the host id that follows from the public key.
//!
//! All keys are Ed25519 (RFC 8032), those of authorities too. So no caller can make this host
//! verify signatures of another algorithm.

use std::fmt;
use std::sync::Arc;

use ring::digest::{SHA256, digest};
use ring::rand::{SecureRandom, SystemRandom};
use ring::signature::{Ed25519KeyPair, KeyPair};
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::sign::SigningKey;
use shoutd_core::{Fingerprint, HostId};
use zeroize::Zeroizing;

/// Bytes of a private key's seed, and of a public key.
pub(crate) const KEY_BYTES: usize = 32;

/// What precedes an Ed25519 public key in a `SubjectPublicKeyInfo` (RFC 8410, section 4).
const SPKI_PREFIX: [u8; 12] =
    [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// What precedes the seed of an Ed25519 private key in a `OneAsymmetricKey` of version 1 (RFC 8410,
/// section 7).
const PKCS8_PREFIX: [u8; 16] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];

/// Why a key cannot be generated or read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The kernel returns no random numbers.
    #[error("the kernel returned no random numbers")]
    NoRandomness,
    /// The bytes are not an Ed25519 private key.
    #[error("it is not an Ed25519 private key in PKCS #8")]
    NotAKey,
    /// The cryptographic library does not accept it.
    #[error("the key cannot be used: {0}")]
    Unusable(String),
}

/// Random bytes from the kernel.
pub(crate) fn random<const N: usize>() -> Result<Zeroizing<[u8; N]>, KeyError> {
    let mut octets = Zeroizing::new([0; N]);
    SystemRandom::new().fill(&mut *octets).map_err(|_| KeyError::NoRandomness)?;
    Ok(octets)
}

pub(crate) fn sha256(octets: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, octets).as_ref());
    hash
}

/// A host's public key. A peer that proves possession of the private key is that host.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct PublicKey([u8; KEY_BYTES]);

impl PublicKey {
    /// The key in this `SubjectPublicKeyInfo` (DER); `None` for anything but an Ed25519 key.
    pub fn from_spki(spki: &[u8]) -> Option<Self> {
        spki.strip_prefix(&SPKI_PREFIX)?.try_into().ok().map(Self)
    }

    /// Its `SubjectPublicKeyInfo` (DER).
    pub fn spki(&self) -> Vec<u8> {
        [&SPKI_PREFIX[..], &self.0].concat()
    }

    /// The SHA-256 of its `SubjectPublicKeyInfo`, by which users identify it.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint(sha256(&self.spki()))
    }

    /// The host's id: the first 64 bits of the fingerprint. `None` if these are no valid id, which
    /// happens to one key in 2^64.
    pub fn host(&self) -> Option<HostId> {
        let [a, b, c, d, e, f, g, h, ..] = self.fingerprint().0;
        HostId::new(u64::from_be_bytes([a, b, c, d, e, f, g, h]))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({})", self.fingerprint())
    }
}

impl rcgen::PublicKeyData for PublicKey {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_ED25519
    }
}

/// The key pair of a host or an authority.
pub(crate) struct PrivateKey {
    seed: Zeroizing<[u8; KEY_BYTES]>,
    pair: Ed25519KeyPair,
    public: PublicKey,
}

impl PrivateKey {
    pub fn draw() -> Result<Self, KeyError> {
        Self::from_seed(random()?)
    }

    /// The key pair of this seed.
    pub fn from_seed(seed: Zeroizing<[u8; KEY_BYTES]>) -> Result<Self, KeyError> {
        let pair = Ed25519KeyPair::from_seed_unchecked(&*seed)
            .map_err(|error| KeyError::Unusable(error.to_string()))?;
        let public = pair.public_key().as_ref().try_into().map_err(|_| KeyError::NotAKey)?;
        Ok(Self { seed, pair, public: PublicKey(public) })
    }

    pub fn from_pkcs8(der: &[u8]) -> Result<Self, KeyError> {
        let seed = der.strip_prefix(&PKCS8_PREFIX).and_then(|seed| seed.try_into().ok());
        Self::from_seed(Zeroizing::new(seed.ok_or(KeyError::NotAKey)?))
    }

    pub fn pkcs8(&self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new([&PKCS8_PREFIX[..], &*self.seed].concat())
    }

    pub fn seed(&self) -> &[u8; KEY_BYTES] {
        &self.seed
    }

    pub fn public(&self) -> &PublicKey {
        &self.public
    }
}

impl rcgen::PublicKeyData for PrivateKey {
    fn der_bytes(&self) -> &[u8] {
        self.public.der_bytes()
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        self.public.algorithm()
    }
}

impl rcgen::SigningKey for PrivateKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        Ok(self.pair.sign(message).as_ref().to_vec())
    }
}

/// The key pair of a host. The host's id follows from it: another key is another host.
pub struct HostKey {
    private: PrivateKey,
    host: HostId,
    signer: Arc<dyn SigningKey>,
}

impl HostKey {
    /// Generates a new key.
    ///
    /// # Errors
    /// The kernel returns no random numbers.
    pub fn draw() -> Result<Self, KeyError> {
        loop {
            let private = PrivateKey::draw()?;
            // One key in 2^64 has no valid id.
            if private.public().host().is_some() {
                return Self::new(private);
            }
        }
    }

    /// The key in this PKCS #8 structure (DER).
    ///
    /// # Errors
    /// The bytes are not an Ed25519 key.
    pub fn from_pkcs8(der: &[u8]) -> Result<Self, KeyError> {
        Self::new(PrivateKey::from_pkcs8(der)?)
    }

    fn new(private: PrivateKey) -> Result<Self, KeyError> {
        let host = private.public().host().ok_or(KeyError::NotAKey)?;
        let pkcs8 = private.pkcs8();
        let signer =
            rustls::crypto::ring::sign::any_eddsa_type(&PrivatePkcs8KeyDer::from(pkcs8.as_slice()))
                .map_err(|error| KeyError::Unusable(error.to_string()))?;
        Ok(Self { private, host, signer })
    }

    /// Its PKCS #8 structure (DER), which OpenSSL reads too.
    pub fn pkcs8(&self) -> Zeroizing<Vec<u8>> {
        self.private.pkcs8()
    }

    /// The public key.
    pub fn public(&self) -> &PublicKey {
        self.private.public()
    }

    /// The host's id.
    pub fn host(&self) -> HostId {
        self.host
    }

    pub(crate) fn private(&self) -> &PrivateKey {
        &self.private
    }

    /// The key that signs handshakes.
    pub(crate) fn signer(&self) -> Arc<dyn SigningKey> {
        Arc::clone(&self.signer)
    }
}

impl fmt::Debug for HostKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostKey").field("host", &self.host).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_hosts_id_follows_from_its_key() {
        let key = HostKey::draw().unwrap();
        let again = HostKey::from_pkcs8(&key.pkcs8()).unwrap();
        assert_eq!(again.host(), key.host());
        assert_eq!(again.public(), key.public());
        assert!(key.public().fingerprint().to_string().starts_with(&key.host().to_string()));
        assert_eq!(PublicKey::from_spki(&key.public().spki()), Some(*key.public()));
        assert_ne!(HostKey::draw().unwrap().host(), key.host());
    }

    #[test]
    fn the_public_key_of_a_seed_is_that_of_rfc_8410() {
        // From RFC 8410, section 10.3.
        let seed = "d4ee72dbf913584ad5b6d8f1f769f8ad3afe7c28cbf1d4fbe097a88f44755842";
        let public = "19bf44096984cdfe8541bac167dc3b96c85086aa30b6b6cb0c5c38ad703166e1";
        let mut octets = Zeroizing::new([0; 32]);
        octets.copy_from_slice(&crate::hex::decode(seed).unwrap());
        assert_eq!(crate::hex::encode(&PrivateKey::from_seed(octets).unwrap().public().0), public);
    }

    #[test]
    fn debug_output_contains_no_secret() {
        let key = HostKey::draw().unwrap();
        let seed = crate::hex::encode(key.private().seed());
        assert!(!format!("{key:?} {:?}", key.public()).contains(&seed));
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_key_or_an_error(bytes: Vec<u8>) {
            prop_assert!(HostKey::from_pkcs8(&bytes).is_err());
            prop_assert_eq!(PublicKey::from_spki(&bytes), None);
        }
    }
}
