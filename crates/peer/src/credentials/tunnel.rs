//! The private key of this host's end of the encrypted underlay. It never leaves the host: the
//! cluster agrees on its public key.

use zeroize::Zeroizing;

use super::{CredentialError, CredentialStore, files};
use crate::key::random;

/// 32 octets of Curve25519 (RFC 7748), as they are.
pub(super) const TUNNEL_KEY_FILE: &str = "tunnel.key";

impl CredentialStore {
    /// The key, which is made at the first call.
    ///
    /// # Errors
    /// The file cannot be read or written, or is damaged, or the system has no random numbers.
    pub fn tunnel_key(&self) -> Result<Zeroizing<[u8; 32]>, CredentialError> {
        let path = self.directory.join(TUNNEL_KEY_FILE);
        if let Some(found) = files::read(&path)? {
            let key = <[u8; 32]>::try_from(found.as_slice());
            let damaged = |_| CredentialError::DamagedTunnelKey { path };
            return key.map(Zeroizing::new).map_err(damaged);
        }
        let key = random::<32>()?;
        files::write(&self.directory, TUNNEL_KEY_FILE, key.as_slice())?;
        Ok(key)
    }
}
