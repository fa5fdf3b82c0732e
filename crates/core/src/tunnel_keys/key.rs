//! A preshared key, and what may be told of it.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::InvalidId;

/// Octets of a preshared key of WireGuard.
pub const OCTETS: usize = 32;

/// A preshared key. It has no text form. Clones share the octets, which are overwritten with zeros
/// when the last one is dropped.
#[derive(Clone)]
pub struct PresharedKey(Arc<Zeroizing<[u8; OCTETS]>>);

impl PresharedKey {
    /// The key of these octets; `None` if all are zero, which means "no preshared key" to
    /// WireGuard.
    pub fn new(octets: &[u8; OCTETS]) -> Option<Self> {
        let is_none = bool::from(octets.ct_eq(&[0; OCTETS]));
        (!is_none).then(|| Self(Arc::new(Zeroizing::new(*octets))))
    }

    /// The octets.
    pub fn octets(&self) -> &[u8; OCTETS] {
        &self.0
    }
}

impl PartialEq for PresharedKey {
    fn eq(&self, other: &Self) -> bool {
        self.octets().ct_eq(other.octets()).into()
    }
}

impl Eq for PresharedKey {}

impl fmt::Debug for PresharedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PresharedKey(…)")
    }
}

/// The digest of a preshared key, by which two hosts learn whether they have the same one. It tells
/// nothing else: keys are random.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct KeyDigest(u128);

impl KeyDigest {
    /// The digest with this value.
    pub fn new(value: u128) -> Self {
        Self(value)
    }
}

impl fmt::Display for KeyDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl FromStr for KeyDigest {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let is_hexadecimal = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let value = u128::from_str_radix(text, 16).ok().filter(|_| is_hexadecimal);
        value.map(Self).ok_or_else(|| InvalidId::new(text, "a digest (32 hexadecimal digits)"))
    }
}

impl TryFrom<String> for KeyDigest {
    type Error = InvalidId;

    fn try_from(text: String) -> Result<Self, InvalidId> {
        text.parse()
    }
}

impl From<KeyDigest> for String {
    fn from(digest: KeyDigest) -> Self {
        digest.to_string()
    }
}

/// The preshared key of a pair of hosts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PairKey {
    /// The rotation for which it was drawn.
    pub rotation: u64,
    /// When it was drawn, as the time since 1970 by the clock of the host that drew it.
    pub drawn: Duration,
    /// Its digest.
    pub digest: KeyDigest,
    /// The key.
    pub key: PresharedKey,
}

/// What a host has on disk of the pair that it forms with another host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PairKeys {
    /// The key that this host has in WireGuard.
    pub current: Option<PairKey>,
    /// A second one, which the other host may have in WireGuard: a key that was offered and not
    /// confirmed, or the former key.
    pub other: Option<PairKey>,
}

impl PairKeys {
    /// The digest of the current key.
    pub fn digest(&self) -> Option<KeyDigest> {
        self.current.as_ref().map(|key| key.digest)
    }

    /// The keys after `current` and `other` have changed places.
    #[must_use]
    pub fn swapped(&self) -> Self {
        Self { current: self.other.clone(), other: self.current.clone() }
    }

    /// The keys without the second one.
    #[must_use]
    pub fn settled(&self) -> Self {
        Self { current: self.current.clone(), other: None }
    }

    /// The keys with an offer to the other host, which may take it without this host learning of
    /// it.
    #[must_use]
    pub fn offering(&self, offer: PairKey) -> Self {
        Self { current: self.current.clone(), other: Some(offer) }
    }

    /// The keys of the host that takes an offer. The second one is the key that the other host has
    /// in WireGuard until it learns that the offer was taken.
    #[must_use]
    pub fn taking(&self, offer: PairKey, others: Option<KeyDigest>) -> Self {
        if self.digest() == Some(offer.digest) {
            return self.clone();
        }
        let is_others = |key: &PairKey| Some(key.digest) == others && key.digest != offer.digest;
        let kept = self.other.clone().filter(is_others).or_else(|| self.current.clone());
        Self { current: Some(offer), other: kept }
    }

    fn is_other(&self, digest: Option<KeyDigest>) -> bool {
        self.other.as_ref().is_some_and(|other| Some(other.digest) == digest)
    }

    /// Whether this host has the other's key as its second one.
    pub fn has_as_other(&self, claim: &Claim) -> bool {
        self.is_other(claim.current)
    }
}

/// What a host tells the other of a pair about its key.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// The digest of its current key.
    pub current: Option<KeyDigest>,
    /// Whether its WireGuard has that key.
    pub programmed: bool,
}
