//! Credentials while the cluster replaces its authority: former certificates, for members that do
//! not know of it yet, and the next credentials, which count once the cluster has agreed.

use std::sync::Arc;

use rustls::sign::CertifiedKey;
use shoutd_core::limits::FORMER_AUTHORITIES_MAX;
use shoutd_core::trust::{Agreed, Authorities};
use zeroize::Zeroizing;

use super::{
    CERTIFICATE_FILE, CERTIFICATE_LABEL, CredentialError, CredentialStore, Credentials, damaged,
    files, pem, seal_key_in, sections,
};
use crate::certificate::{AuthorityCertificate, Certificate};

/// Former certificates, newest first, each with its authority's.
pub(super) const FORMER_FILE: &str = "former.pem";

/// The next certificate, its authority's, the seal key, and on the host that proposes the authority
/// its sealed key. One file, so that it is whole.
pub(super) const NEXT_FILE: &str = "next.pem";

const SEAL_KEY_LABEL: &str = "SHOUTD SEAL KEY";

const SEALED_LABEL: &str = "SHOUTD SEALED AUTHORITY";

/// Credentials from an authority that the cluster is about to have, or has already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NextCredentials {
    /// The credentials.
    pub credentials: Credentials,
    /// The sealed key of the authority, if this host proposes it. After a timeout, it must propose
    /// the same one: the first proposal may still be committed.
    pub sealed_key: Option<String>,
}

/// A certificate from an authority that was replaced.
#[derive(Clone)]
pub(super) struct Former {
    certificate: Certificate,
    authority: AuthorityCertificate,
    certified: Arc<CertifiedKey>,
}

impl CredentialStore {
    /// The authorities that this host knows; `None` while it belongs to no cluster.
    pub(crate) fn authorities(&self) -> Option<Authorities<AuthorityCertificate>> {
        let own = self.credentials()?.authority.clone();
        let former = self.former.read().iter().map(|one| one.authority.clone()).collect();
        Some(Authorities { own, own_former: former, agreed: self.agreed.read().clone() })
    }

    /// Tells which authorities and hosts the cluster has agreed on. New handshakes, and requests on
    /// open connections, are checked against them.
    pub fn trust(&self, agreed: Agreed<AuthorityCertificate>) {
        *self.agreed.write() = agreed;
    }

    /// Whether this host needs a certificate from the authority that its cluster has now.
    pub fn needs_certificate(&self) -> bool {
        self.authorities().is_some_and(|authorities| authorities.needs_certificate())
    }

    /// The certificate chain and key to show to a peer that names these authorities.
    pub(crate) fn certified_for(
        &self,
        named: impl Fn(&AuthorityCertificate) -> bool,
    ) -> Arc<CertifiedKey> {
        let current = self.certified();
        let Some(authorities) = self.authorities() else { return current };
        let former = authorities.shown(named).checked_sub(1);
        let former = former.and_then(|index| self.former.read().get(index).cloned());
        former.map_or(current, |former| former.certified)
    }

    /// Keeps credentials from an authority that is about to become the cluster's.
    ///
    /// # Errors
    /// They are for another host, or cannot be written.
    pub fn prepare_next(&self, next: &NextCredentials) -> Result<(), CredentialError> {
        let NextCredentials { credentials, sealed_key } = next;
        self.check_own(credentials)?;
        let seal_key = Zeroizing::new(credentials.seal_key.reveal().as_bytes().to_vec());
        let sealed = sealed_key.as_ref().map(|sealed| pem(SEALED_LABEL, sealed.as_bytes()));
        let text = Zeroizing::new(
            [
                pem(CERTIFICATE_LABEL, credentials.certificate.der()).as_str(),
                &pem(CERTIFICATE_LABEL, credentials.authority.der()),
                &pem(SEAL_KEY_LABEL, &seal_key),
                sealed.as_ref().map_or("", |sealed| sealed.as_str()),
            ]
            .concat(),
        );
        files::write(&self.directory, NEXT_FILE, text.as_bytes())
    }

    /// The credentials that [`CredentialStore::prepare_next`] has kept.
    ///
    /// # Errors
    /// They cannot be read, or are damaged.
    pub fn next(&self) -> Result<Option<NextCredentials>, CredentialError> {
        let path = self.directory.join(NEXT_FILE);
        let Some(sections) = sections(&path)? else { return Ok(None) };
        let (certificate, authority, seal_key, sealed) = match sections.as_slice() {
            [certificate, authority, seal_key] => (certificate, authority, seal_key, None),
            [certificate, authority, seal_key, sealed] => {
                (certificate, authority, seal_key, Some(sealed))
            }
            _ => return Err(damaged(&path, "it does not have three or four PEM sections")),
        };
        let sealed_key = sealed.map(|sealed| String::from_utf8(sealed.contents().to_vec()));
        let sealed_key = sealed_key.transpose().map_err(|error| damaged(&path, error))?;
        let seal_key = seal_key_in(seal_key.contents())
            .ok_or_else(|| damaged(&path, "its seal key is not 64 hexadecimal digits"))?;
        let certificate =
            Certificate::from_der(certificate.contents()).map_err(|error| damaged(&path, error))?;
        let authority = AuthorityCertificate::from_der(authority.contents())
            .map_err(|error| damaged(&path, error))?;
        let next = Credentials::new(self.key.public(), certificate, authority, seal_key);
        let credentials = next.map_err(|error| damaged(&path, error))?;
        Ok(Some(NextCredentials { credentials, sealed_key }))
    }

    /// Makes the next credentials this host's own, and its own former ones. A crash at any moment
    /// leaves one or the other.
    ///
    /// # Errors
    /// There are none, or the files cannot be read or written.
    pub fn adopt_next(&self) -> Result<(), CredentialError> {
        let next = self.next()?.ok_or(CredentialError::NotEnrolled)?.credentials;
        if let Some(own) = self.credentials()
            && own.authority != next.authority
        {
            let mut former = self.former.read().clone();
            former.retain(|one| one.authority != own.authority && one.authority != next.authority);
            former.insert(0, self.former_of(own.certificate.clone(), own.authority.clone()));
            former.truncate(FORMER_AUTHORITIES_MAX);
            let texts = former.iter().map(|one| {
                let [certificate, authority] = [one.certificate.der(), one.authority.der()]
                    .map(|der| pem(CERTIFICATE_LABEL, der));
                [certificate.as_str(), &authority].concat()
            });
            files::write(&self.directory, FORMER_FILE, texts.collect::<String>().as_bytes())?;
            *self.former.write() = former;
        }
        self.enroll(next)?;
        files::remove(&self.directory, NEXT_FILE)
    }

    /// Completes what a crash has interrupted, and reads former certificates.
    pub(super) fn load_replaced(&self) -> Result<(), CredentialError> {
        if !self.directory.join(CERTIFICATE_FILE).exists() && self.next()?.is_some() {
            self.adopt_next()?;
        }
        let path = self.directory.join(FORMER_FILE);
        let Some(sections) = sections(&path)? else { return Ok(()) };
        if sections.is_empty() {
            return Err(damaged(&path, "it has no PEM section"));
        }
        let mut former = Vec::new();
        for pair in sections.chunks(2).take(FORMER_AUTHORITIES_MAX) {
            let [certificate, authority] = pair else {
                return Err(damaged(&path, "a certificate has no authority"));
            };
            let certificate = Certificate::from_der(certificate.contents())
                .map_err(|error| damaged(&path, error))?;
            let authority = AuthorityCertificate::from_der(authority.contents())
                .map_err(|error| damaged(&path, error))?;
            former.push(self.former_of(certificate, authority));
        }
        *self.former.write() = former;
        Ok(())
    }

    fn former_of(&self, certificate: Certificate, authority: AuthorityCertificate) -> Former {
        let chain = vec![certificate.chain_link(), authority.chain_link()];
        let certified = Arc::new(CertifiedKey::new(chain, self.key.signer()));
        Former { certificate, authority, certified }
    }
}
