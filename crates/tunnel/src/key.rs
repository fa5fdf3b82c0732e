//! Public keys.

use gotatun::x25519;
use shoutd_netlink::wireguard::{PrivateKey, PublicKey};

/// The public key that belongs to a private key (RFC 7748, section 6.1).
pub fn public_key(private_key: &PrivateKey) -> PublicKey {
    let secret = x25519::StaticSecret::from(*private_key.octets());
    PublicKey(*x25519::PublicKey::from(&secret).as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::uapi::hex;

    /// The key pairs of RFC 7748, section 6.1.
    #[test]
    fn public_keys_are_those_of_the_rfc() {
        for (private, public) in [
            (
                "77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a",
                "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a",
            ),
            (
                "5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb",
                "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f",
            ),
        ] {
            let private_key = PrivateKey::new(&hex::parse(private).unwrap());
            assert_eq!(public_key(&private_key).0, *hex::parse(public).unwrap());
        }
    }
}
