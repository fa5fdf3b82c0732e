//! The preshared keys of the pairs that this host forms with the others, a file for each.
//!
//! A file that is lost, damaged or readable by others does no harm: the two hosts agree on another
//! key at their next call.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use shoutd_core::HostId;
use shoutd_core::limits::HOSTS_MAX;
use shoutd_core::tunnel_keys::{KeyDigest, OCTETS, PairKey, PairKeys, PresharedKey};
use zeroize::Zeroizing;

use super::{CredentialError, CredentialStore, files};
use crate::hex;
use crate::key::{KeyError, random, sha256};

/// The subdirectory, in that of the credentials.
const DIRECTORY: &str = "preshared";

/// How the name of a file ends, after the other host's id.
const SUFFIX: &str = ".json";

/// What is hashed before a key, so that no other hash of it can be the same.
const DIGEST_OF: &[u8] = b"shoutd preshared key\0";

/// Octets of a file at most, so that it is written without a copy in a buffer that grew.
const FILE_OCTETS: usize = 1024;

/// A preshared key as text, for this host's disk and for the other host of the pair. It must go
/// nowhere else.
#[derive(Serialize, Deserialize)]
pub struct RevealedKey {
    rotation: u64,
    /// In seconds since 1970.
    drawn: u64,
    key: Digits,
}

/// A secret key, as hexadecimal digits.
struct Digits(Zeroizing<String>);

impl Serialize for Digits {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Digits {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self(Zeroizing::new(String::deserialize(deserializer)?)))
    }
}

impl fmt::Debug for RevealedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RevealedKey").field("rotation", &self.rotation).finish_non_exhaustive()
    }
}

impl RevealedKey {
    /// The text of a key.
    pub fn of(key: &PairKey) -> Self {
        let digits = Zeroizing::new(hex::encode(key.key.octets()));
        Self { rotation: key.rotation, drawn: key.drawn.as_secs(), key: Digits(digits) }
    }

    /// The key; `None` if the text is not one.
    pub fn key(&self) -> Option<PairKey> {
        let octets = Zeroizing::new(hex::decode_array::<OCTETS>(&self.key.0)?);
        pair_key(&octets, self.rotation, Duration::from_secs(self.drawn))
    }
}

fn pair_key(octets: &[u8; OCTETS], rotation: u64, drawn: Duration) -> Option<PairKey> {
    let key = PresharedKey::new(octets)?;
    let hashed = Zeroizing::new([DIGEST_OF, octets.as_slice()].concat());
    let hash = sha256(&hashed);
    let (digest, _) = hash.split_first_chunk::<16>()?;
    Some(PairKey { rotation, drawn, digest: KeyDigest::new(u128::from_be_bytes(*digest)), key })
}

/// Draws a key. `now` is the time since 1970.
///
/// # Errors
/// The system has no random numbers.
pub fn draw_pair_key(rotation: u64, now: Duration) -> Result<PairKey, KeyError> {
    loop {
        // One in 2^256 is no key.
        if let Some(key) = pair_key(&*random()?, rotation, now) {
            return Ok(key);
        }
    }
}

/// A file.
#[derive(Debug, Serialize, Deserialize)]
struct Stored {
    current: Option<RevealedKey>,
    other: Option<RevealedKey>,
}

/// The files.
#[derive(Debug)]
pub struct PairKeyFiles {
    directory: PathBuf,
}

impl CredentialStore {
    /// The files of preshared keys. Their directory is made with the first one.
    pub fn pair_keys(&self) -> PairKeyFiles {
        PairKeyFiles { directory: self.directory.join(DIRECTORY) }
    }
}

impl PairKeyFiles {
    /// All keys, and a line for each file that cannot be used.
    pub fn load(&self) -> (BTreeMap<HostId, PairKeys>, Vec<String>) {
        let (mut keys, mut problems) = (BTreeMap::new(), Vec::new());
        let entries = fs::read_dir(&self.directory).into_iter().flatten().flatten();
        // Twice as many as hosts: those of removed ones may be left, and unfinished ones.
        for entry in entries.take(2 * HOSTS_MAX) {
            let name = entry.file_name();
            let host = name.to_str().and_then(|name| name.strip_suffix(SUFFIX));
            let Some(host) = host.and_then(|host| host.parse().ok()) else { continue };
            match self.read(host) {
                Ok(found) => {
                    keys.extend(found.map(|found| (host, found)));
                }
                Err(error) => problems.push(format!(
                    "{error}; the hosts agree on another preshared key at their next contact"
                )),
            }
        }
        (keys, problems)
    }

    fn read(&self, host: HostId) -> Result<Option<PairKeys>, String> {
        let path = self.directory.join(name(host));
        let Some(text) = files::read(&path).map_err(|error| error.to_string())? else {
            return Ok(None);
        };
        let damaged = || format!("{} is damaged", path.display());
        // The text of the error could be of the key.
        let stored: Stored = serde_json::from_slice(&text).map_err(|_| damaged())?;
        let key = |stored: Option<RevealedKey>| {
            stored.map(|stored| stored.key().ok_or_else(damaged)).transpose()
        };
        Ok(Some(PairKeys { current: key(stored.current)?, other: key(stored.other)? }))
    }

    /// Writes the keys of a pair durably and atomically.
    ///
    /// # Errors
    /// The file cannot be written, or other users can read its directory. The former one stays.
    pub fn save(&self, host: HostId, keys: &PairKeys) -> Result<(), CredentialError> {
        files::prepare_directory(&self.directory)?;
        let reveal = |key: &Option<PairKey>| key.as_ref().map(RevealedKey::of);
        let stored = Stored { current: reveal(&keys.current), other: reveal(&keys.other) };
        let mut text = Zeroizing::new(Vec::with_capacity(FILE_OCTETS));
        let written = serde_json::to_writer(&mut *text, &stored);
        written.map_err(|error| CredentialError::Io {
            operation: "write",
            path: self.directory.join(name(host)),
            source: error.into(),
        })?;
        files::write(&self.directory, &name(host), &text)
    }

    /// Removes the keys of a pair.
    ///
    /// # Errors
    /// The file cannot be removed.
    pub fn remove(&self, host: HostId) -> Result<(), CredentialError> {
        match self.directory.exists() {
            true => files::remove(&self.directory, &name(host)),
            false => Ok(()),
        }
    }

    /// Removes the keys of all pairs.
    pub(super) fn remove_all(directory: &Path) -> Result<(), CredentialError> {
        let path = directory.join(DIRECTORY);
        match fs::remove_dir_all(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(CredentialError::Io { operation: "remove", path, source })
            }
            _ => Ok(()),
        }
    }
}

fn name(host: HostId) -> String {
    format!("{host}{SUFFIX}")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn host(id: u64) -> HostId {
        HostId::new(id).unwrap()
    }

    #[test]
    fn keys_read_back_and_are_removed_with_the_credentials() {
        let directory = tempfile::tempdir().unwrap();
        let store = CredentialStore::open(directory.path()).unwrap();
        let files = store.pair_keys();
        let draw = |rotation| draw_pair_key(rotation, Duration::from_secs(9)).unwrap();
        let one = PairKeys { current: Some(draw(1)), other: None };
        let two = PairKeys { current: Some(draw(2)), other: Some(draw(3)) };
        assert_ne!(one.digest(), two.digest());
        files.save(host(1), &one).unwrap();
        files.save(host(2), &one).unwrap();
        files.save(host(2), &two).unwrap();
        let path = directory.path().join("identity/preshared/0000000000000002.json");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(fs::metadata(&path).unwrap().len() <= FILE_OCTETS as u64);
        let (keys, problems) = files.load();
        assert_eq!(keys, [(host(1), one), (host(2), two)].into());
        assert!(problems.is_empty());
        files.remove(host(1)).unwrap();
        assert_eq!(files.load().0.len(), 1);
        store.leave().unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn a_file_that_cannot_be_used_is_named_without_its_text() {
        let directory = tempfile::tempdir().unwrap();
        let store = CredentialStore::open(directory.path()).unwrap();
        let files = store.pair_keys();
        let key = draw_pair_key(1, Duration::ZERO).unwrap();
        let keys = PairKeys { current: Some(key.clone()), other: None };
        let digits = hex::encode(key.key.octets());
        let path = files.directory.join(name(host(1)));
        for (from, to) in [(digits.as_str(), &digits[..62]), ("\"drawn\":0", "\"drawn\":-1")] {
            files.save(host(1), &keys).unwrap();
            let text = fs::read_to_string(&path).unwrap();
            fs::write(&path, text.replace(from, to)).unwrap();
            let (found, problems) = files.load();
            assert!(found.is_empty());
            assert!(problems[0].contains("0000000000000001.json is damaged"), "{problems:?}");
            assert!(!problems[0].contains(&digits[..8]));
        }
        files.save(host(1), &keys).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(files.load().1[0].contains("0644"));
        // Unfinished and foreign files.
        fs::write(files.directory.join("0000000000000003.json.new"), "{").unwrap();
        fs::write(files.directory.join("0000000000000000.json"), "{").unwrap();
        assert_eq!(files.load().1.len(), 1);
    }

    #[test]
    fn a_key_is_not_shown_by_chance() {
        let key = draw_pair_key(1, Duration::ZERO).unwrap();
        let digits = hex::encode(key.key.octets());
        let revealed = RevealedKey::of(&key);
        let shown = format!("{revealed:?} {key:?}");
        assert!(!shown.contains(&digits[..6]), "{shown}");
        assert_eq!(revealed.key(), Some(key));
    }
}
