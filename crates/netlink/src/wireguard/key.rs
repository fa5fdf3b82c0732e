//! Keys of WireGuard.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// Octets of each key (`WG_KEY_LEN`).
pub const KEY_OCTETS: usize = 32;

/// A public key of Curve25519 (RFC 7748). As text it is base64, as in WireGuard's own tools.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey(pub [u8; KEY_OCTETS]);

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A private key of Curve25519 (RFC 7748), already clamped. It has no text form, and is overwritten
/// with zeros when it is dropped.
#[derive(Clone)]
pub struct PrivateKey(Secret);

impl PrivateKey {
    /// The key of these octets. They are clamped, as the kernel does with what it is given (RFC
    /// 7748, section 5), so that both can be compared.
    pub fn new(octets: &[u8; KEY_OCTETS]) -> Self {
        let mut secret = Secret::new(octets);
        secret.0[0] &= 0b1111_1000;
        secret.0[KEY_OCTETS - 1] &= 0b0111_1111;
        secret.0[KEY_OCTETS - 1] |= 0b0100_0000;
        Self(secret)
    }

    /// The octets, clamped.
    pub fn octets(&self) -> &[u8; KEY_OCTETS] {
        &self.0.0
    }
}

impl PartialEq for PrivateKey {
    fn eq(&self, other: &Self) -> bool {
        self.0.is(&other.0)
    }
}

impl Eq for PrivateKey {}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey(…)")
    }
}

/// A symmetric key that two peers share besides their key pairs. It has no text form, and is
/// overwritten with zeros when it is dropped.
#[derive(Clone)]
pub struct PresharedKey(Secret);

impl PresharedKey {
    /// The key of these octets; `None` if all are zero, which means "no preshared key" to the
    /// kernel.
    pub fn new(octets: &[u8; KEY_OCTETS]) -> Option<Self> {
        let is_none = bool::from(octets.ct_eq(&[0; KEY_OCTETS]));
        (!is_none).then(|| Self(Secret::new(octets)))
    }

    /// The octets.
    pub fn octets(&self) -> &[u8; KEY_OCTETS] {
        &self.0.0
    }
}

impl PartialEq for PresharedKey {
    fn eq(&self, other: &Self) -> bool {
        self.0.is(&other.0)
    }
}

impl Eq for PresharedKey {}

impl fmt::Debug for PresharedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PresharedKey(…)")
    }
}

/// The octets of a secret key. They are boxed, so that moving the key leaves no copy behind.
#[derive(Clone)]
struct Secret(Box<Zeroizing<[u8; KEY_OCTETS]>>);

impl Secret {
    fn new(octets: &[u8; KEY_OCTETS]) -> Self {
        let mut secret = Self(Box::new(Zeroizing::new([0; KEY_OCTETS])));
        secret.0.copy_from_slice(octets);
        secret
    }

    /// Whether both are the same, in constant time.
    fn is(&self, other: &Self) -> bool {
        self.0.as_slice().ct_eq(other.0.as_slice()).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_key_is_never_shown() {
        let (private, preshared) =
            (PrivateKey::new(&[0x5a; KEY_OCTETS]), PresharedKey::new(&[0x5a; KEY_OCTETS]).unwrap());
        let shown = format!("{private:?} {private:#?} {preshared:?} {preshared:#?}");
        assert!(!shown.contains("5a") && !shown.contains("90") && !shown.contains("Wlpa"));
    }

    #[test]
    fn a_private_key_is_clamped() {
        let key = PrivateKey::new(&[0xff; KEY_OCTETS]);
        assert_eq!((key.octets()[0], key.octets()[1], key.octets()[31]), (0xf8, 0xff, 0x7f));
        assert_eq!(PrivateKey::new(&[0; KEY_OCTETS]).octets()[31], 0x40);
        assert_eq!(PrivateKey::new(key.octets()), key);
        assert_ne!(PrivateKey::new(&[0; KEY_OCTETS]), key);
    }

    #[test]
    fn no_preshared_key_is_all_zeros() {
        assert_eq!(PresharedKey::new(&[0; KEY_OCTETS]), None);
        let (one, other) = (PresharedKey::new(&[1; KEY_OCTETS]), PresharedKey::new(&[2; 32]));
        assert!(one.is_some() && one != other && one == one.clone());
    }

    #[test]
    fn a_public_key_is_shown_as_wg_shows_it() {
        let mut octets = [0; KEY_OCTETS];
        octets[31] = 0x0f;
        let shown = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA8=";
        assert_eq!(PublicKey(octets).to_string(), shown);
        assert_eq!(format!("{:?}", PublicKey(octets)), shown);
    }
}
