//! This host's credentials: its key, and what its cluster issued to it. Kept in files, used by all
//! connections.

mod files;
mod pair_keys;
mod replaced;
#[cfg(test)]
mod tests;
mod tunnel;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

pub use pair_keys::{PairKeyFiles, RevealedKey, draw_pair_key};
use parking_lot::RwLock;
use pem::{EncodeConfig, LineEnding, Pem};
use rustls::pki_types::UnixTime;
use rustls::sign::CertifiedKey;
use shoutd_core::trust::Agreed;
use shoutd_core::{ClusterId, HostId};
use zeroize::Zeroizing;

pub use self::replaced::NextCredentials;
use self::replaced::{FORMER_FILE, Former, NEXT_FILE};
use crate::authority::{Authority, AuthorityError, RENEWAL, SealKey, VALID_FROM, own_certificate};
use crate::certificate::{AuthorityCertificate, Certificate, Distrust, Usage};
use crate::key::{HostKey, KeyError, PublicKey};

/// The subdirectory of the data directory.
const DIRECTORY: &str = "identity";
const KEY_FILE: &str = "key.pem";
const CERTIFICATE_FILE: &str = "certificate.pem";
const AUTHORITY_FILE: &str = "authority.pem";
const SEAL_KEY_FILE: &str = "seal.key";

const KEY_LABEL: &str = "PRIVATE KEY";
const CERTIFICATE_LABEL: &str = "CERTIFICATE";

/// Why the credentials cannot be used. One line for the user, which says what to do.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    /// A file operation failed.
    #[error("cannot {operation} {}: {source}", .path.display())]
    Io {
        /// The operation.
        operation: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// Other users can read it.
    #[error(
        "{} has mode {mode:04o}, so that other users can access it: if none has done so, type \
         `chmod {wanted:04o} {}`",
        .path.display(), .path.display()
    )]
    Exposed {
        /// The file or directory.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
        /// What they should be.
        wanted: u32,
    },
    /// Another user can change it.
    #[error(
        "{} belongs to user {owner} and not to the user that runs shoutd: if it was not tampered \
         with, type `chown root {}`",
        .path.display(),
        .path.display()
    )]
    OtherOwner {
        /// The file or directory.
        path: PathBuf,
        /// The owner's user id.
        owner: u32,
    },
    /// It is damaged.
    #[error(
        "{} is damaged: {reason}; restore it from a copy, or let this host join again: type \
         shoutdctl remove with its name on another host, remove its data directory here, and start \
         it with its address, --peer-addresses and a token",
        .path.display()
    )]
    Damaged {
        /// The file or directory.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The key of the encrypted underlay is damaged. A new one does no harm.
    #[error("{} is damaged: remove it; shoutd then makes another", .path.display())]
    DamagedTunnelKey {
        /// The file.
        path: PathBuf,
    },
    /// The issued credentials are not for this host.
    #[error("the credentials that the cluster issued to this host cannot be used: {0}")]
    Unusable(String),
    /// There is no key.
    #[error("this host has no key: {0}")]
    Key(#[from] KeyError),
    /// The authority failed.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// There is nothing to renew.
    #[error("this host belongs to no cluster yet")]
    NotEnrolled,
}

/// What a cluster issues to a host that it admits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    certificate: Certificate,
    authority: AuthorityCertificate,
    seal_key: SealKey,
}

impl Credentials {
    /// Checks that the parts fit together: the certificate is for this key and from this authority.
    ///
    /// # Errors
    /// They do not fit. An expired certificate is no error: it must be renewed.
    pub fn new(
        key: &PublicKey,
        certificate: Certificate,
        authority: AuthorityCertificate,
        seal_key: SealKey,
    ) -> Result<Self, CredentialError> {
        if certificate.key() != key {
            return Err(CredentialError::Unusable("the certificate is for another key".to_owned()));
        }
        let checked = certificate.check_at_any_time(&authority, UnixTime::now());
        checked.map_err(|_| {
            CredentialError::Unusable("the certificate is not from the given authority".to_owned())
        })?;
        Ok(Self { certificate, authority, seal_key })
    }

    /// The credentials that a host with the authority issues to itself: the founder, and hosts with
    /// a prepared token.
    ///
    /// # Errors
    /// The certificate cannot be issued.
    pub fn issue(
        key: &PublicKey,
        authority: &Authority,
        cluster: ClusterId,
        seal_key: SealKey,
        now: SystemTime,
    ) -> Result<Self, CredentialError> {
        let certificate = authority.issue(key, cluster, now)?;
        Ok(Self { certificate, authority: authority.certificate().clone(), seal_key })
    }

    /// The cluster that this host belongs to.
    pub fn cluster(&self) -> ClusterId {
        self.certificate.cluster()
    }

    /// This host's certificate.
    pub fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    /// The certificate of the cluster's authority.
    pub fn authority(&self) -> &AuthorityCertificate {
        &self.authority
    }

    /// The key that opens the authority's private key.
    pub fn seal_key(&self) -> &SealKey {
        &self.seal_key
    }

    /// Whether the certificate expires within [`RENEWAL`] or has expired. `false` if the clock is
    /// before `VALID_FROM`: it was never set, and says nothing about the certificate.
    pub fn needs_renewal(&self, now: SystemTime) -> bool {
        let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        now >= VALID_FROM
            && [now, now.saturating_add(RENEWAL)].into_iter().any(|at| self.check(at).is_err())
    }

    fn check(&self, at: Duration) -> Result<(), Distrust> {
        self.certificate.check(&self.authority, Usage::Client, UnixTime::since_unix_epoch(at))
    }
}

/// This host's key and credentials: loaded at start, changed when it joins and when its certificate
/// is renewed, and used by every new connection.
pub struct CredentialStore {
    directory: PathBuf,
    key: HostKey,
    /// The certificate to show while the host belongs to no cluster.
    own: Arc<CertifiedKey>,
    held: RwLock<Option<Held>>,
    /// Certificates from authorities that were replaced, newest first.
    former: RwLock<Vec<Former>>,
    /// The authorities that the cluster has agreed on, as far as this host knows.
    agreed: RwLock<Agreed<AuthorityCertificate>>,
}

#[derive(Clone)]
struct Held {
    credentials: Arc<Credentials>,
    certified: Arc<CertifiedKey>,
}

impl CredentialStore {
    /// Loads the data directory. A host that starts for the first time generates its key.
    ///
    /// # Errors
    /// Files are damaged, do not fit together, or can be read by other users; or the file system
    /// fails.
    pub fn open(data_directory: &Path) -> Result<Arc<Self>, CredentialError> {
        let directory = data_directory.join(DIRECTORY);
        files::prepare_directory(&directory)?;
        let key = match read_pem(&directory.join(KEY_FILE), KEY_LABEL)? {
            Some(pkcs8) => HostKey::from_pkcs8(&pkcs8)
                .map_err(|error| damaged(&directory.join(KEY_FILE), error))?,
            // With another key it would be another host.
            None if directory.join(CERTIFICATE_FILE).exists() => {
                return Err(damaged(&directory.join(KEY_FILE), "it is missing"));
            }
            None => {
                let key = HostKey::draw()?;
                files::write(&directory, KEY_FILE, pem(KEY_LABEL, &key.pkcs8()).as_bytes())?;
                key
            }
        };
        let own = own_certificate(&key)?.der().clone();
        let own = Arc::new(CertifiedKey::new(vec![own], key.signer()));
        let (held, former, agreed) = (RwLock::new(None), RwLock::default(), RwLock::default());
        let store = Self { own, held, former, agreed, key, directory };
        store.load_replaced()?;
        if let Some(credentials) = store.load()? {
            store.hold(credentials);
        }
        Ok(Arc::new(store))
    }

    /// This host's key.
    pub fn key(&self) -> &HostKey {
        &self.key
    }

    /// This host's id.
    pub fn host(&self) -> HostId {
        self.key.host()
    }

    /// What its cluster issued to it; `None` while it belongs to no cluster.
    pub fn credentials(&self) -> Option<Arc<Credentials>> {
        self.held().map(|held| held.credentials)
    }

    /// Stores issued credentials. New connections use them when this returns.
    ///
    /// # Errors
    /// They are for another host, or cannot be written. Connections then use the old ones.
    pub fn enroll(&self, credentials: Credentials) -> Result<(), CredentialError> {
        self.check_own(&credentials)?;
        // We remove the certificate first and write it last. A host without it has not joined yet,
        // so a crash in between leaves no mixture of two clusters.
        let had = self.credentials();
        if had.is_none_or(|had| {
            had.authority != credentials.authority || had.seal_key != credentials.seal_key
        }) {
            files::remove(&self.directory, CERTIFICATE_FILE)?;
            let seal_key = Zeroizing::new(format!("{}\n", credentials.seal_key.reveal().as_str()));
            files::write(&self.directory, SEAL_KEY_FILE, seal_key.as_bytes())?;
            let authority = pem(CERTIFICATE_LABEL, credentials.authority.der());
            files::write(&self.directory, AUTHORITY_FILE, authority.as_bytes())?;
        }
        let certificate = pem(CERTIFICATE_LABEL, credentials.certificate.der());
        files::write(&self.directory, CERTIFICATE_FILE, certificate.as_bytes())?;
        self.hold(credentials);
        Ok(())
    }

    fn check_own(&self, credentials: &Credentials) -> Result<(), CredentialError> {
        if credentials.certificate.key() == self.key.public() {
            Ok(())
        } else {
            Err(CredentialError::Unusable("the certificate is for another key".to_owned()))
        }
    }

    /// Renews this host's certificate with the cluster's authority, which every member can use.
    /// Existing connections continue.
    ///
    /// # Errors
    /// The host belongs to no cluster, the authority is another cluster's, or the certificate
    /// cannot be issued or written.
    pub fn renew(&self, authority: &Authority, now: SystemTime) -> Result<(), CredentialError> {
        let had = self.credentials().ok_or(CredentialError::NotEnrolled)?;
        if *authority.certificate() != had.authority {
            return Err(CredentialError::Unusable(
                "the authority is that of another cluster".to_owned(),
            ));
        }
        let seal_key = had.seal_key.clone();
        self.enroll(Credentials::issue(self.key.public(), authority, had.cluster(), seal_key, now)?)
    }

    /// Deletes the credentials and, on disk, the keys: the next start generates others, as the id
    /// of a host that left never returns. Until then the host shows its self-signed certificate.
    ///
    /// # Errors
    /// The files cannot be removed.
    pub fn leave(&self) -> Result<(), CredentialError> {
        // The certificate first: without it the other files do not count.
        for file in [
            NEXT_FILE,
            CERTIFICATE_FILE,
            FORMER_FILE,
            SEAL_KEY_FILE,
            AUTHORITY_FILE,
            KEY_FILE,
            tunnel::TUNNEL_KEY_FILE,
        ] {
            files::remove(&self.directory, file)?;
        }
        PairKeyFiles::remove_all(&self.directory)?;
        *self.held.write() = None;
        self.former.write().clear();
        *self.agreed.write() = Agreed::default();
        Ok(())
    }

    /// The certificate chain and key for connections.
    pub(crate) fn certified(&self) -> Arc<CertifiedKey> {
        self.held().map_or_else(|| Arc::clone(&self.own), |held| held.certified)
    }

    fn held(&self) -> Option<Held> {
        self.held.read().clone()
    }

    fn hold(&self, credentials: Credentials) {
        // With the authority's certificate: a joining host knows only its hash.
        let chain = vec![credentials.certificate.chain_link(), credentials.authority.chain_link()];
        let certified = Arc::new(CertifiedKey::new(chain, self.key.signer()));
        let held = Held { credentials: Arc::new(credentials), certified };
        *self.held.write() = Some(held);
    }

    fn load(&self) -> Result<Option<Credentials>, CredentialError> {
        let [certificate_file, authority_file, seal_key_file] =
            [CERTIFICATE_FILE, AUTHORITY_FILE, SEAL_KEY_FILE].map(|name| self.directory.join(name));
        let Some(certificate) = read_pem(&certificate_file, CERTIFICATE_LABEL)? else {
            return Ok(None);
        };
        let authority = read_pem(&authority_file, CERTIFICATE_LABEL)?
            .ok_or_else(|| damaged(&authority_file, "it is missing"))?;
        let seal_key =
            files::read(&seal_key_file)?.ok_or_else(|| damaged(&seal_key_file, "it is missing"))?;
        let seal_key = seal_key_in(&seal_key)
            .ok_or_else(|| damaged(&seal_key_file, "it is not 64 hexadecimal digits"))?;
        let certificate = Certificate::from_der(&certificate)
            .map_err(|error| damaged(&certificate_file, error))?;
        let authority = AuthorityCertificate::from_der(&authority)
            .map_err(|error| damaged(&authority_file, error))?;
        Credentials::new(self.key.public(), certificate, authority, seal_key)
            .map(Some)
            .map_err(|error| damaged(&certificate_file, error))
    }
}

impl fmt::Debug for CredentialStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CredentialStore")
            .field("host", &self.host())
            .field("held", &self.credentials())
            .finish()
    }
}

fn damaged(path: &Path, reason: impl fmt::Display) -> CredentialError {
    CredentialError::Damaged { path: path.to_owned(), reason: reason.to_string() }
}

fn pem(label: &str, der: &[u8]) -> Zeroizing<String> {
    let config = EncodeConfig::new().set_line_ending(LineEnding::LF);
    Zeroizing::new(pem::encode_config(&Pem::new(label, der), config))
}

/// The seal key in a text.
fn seal_key_in(text: &[u8]) -> Option<SealKey> {
    std::str::from_utf8(text).ok().and_then(|text| SealKey::from_digits(text.trim()))
}

/// The sections of a PEM file; `None` if there is no file.
fn sections(path: &Path) -> Result<Option<Vec<Pem>>, CredentialError> {
    let Some(text) = files::read(path)? else {
        return Ok(None);
    };
    pem::parse_many(&*text).map(Some).map_err(|error| damaged(path, error))
}

/// The single section of a PEM file; `None` if there is no file.
fn read_pem(path: &Path, label: &str) -> Result<Option<Zeroizing<Vec<u8>>>, CredentialError> {
    let Some(sections) = sections(path)? else { return Ok(None) };
    match <[Pem; 1]>::try_from(sections) {
        Ok([section]) if section.tag() == label => {
            Ok(Some(Zeroizing::new(section.into_contents())))
        }
        _ => Err(damaged(path, format_args!("it is not one PEM section {label}"))),
    }
}
