//! The certificate checks of handshakes.
//!
//! A server lets every key finish the handshake and decides afterwards what its owner may do: a
//! stranger reaches only the enrollment path, and on any other path it is told why. A client
//! decides during the handshake, before it sends a request.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError,
    PeerIncompatible, SignatureScheme,
};
use shoutd_core::Fingerprint;
use shoutd_core::trust::Authorities;

use crate::certificate::{AuthorityCertificate, Certificate, Distrust, Usage, key_in};
use crate::credentials::CredentialStore;
use crate::transport::Peer;

/// Certificates that a peer may send: its own and its authority's.
const CHAIN_MAX: usize = 2;

/// The only signature algorithm is that of our keys.
pub(super) static ALGORITHMS: WebPkiSupportedAlgorithms = WebPkiSupportedAlgorithms {
    all: &[webpki::ring::ED25519],
    mapping: &[(SignatureScheme::ED25519, &[webpki::ring::ED25519])],
};

/// Which servers a client trusts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// Members of this host's cluster.
    Cluster,
    /// Members of the cluster whose authority's certificate has this SHA-256. A joining host has it
    /// from its token.
    Pinned(Fingerprint),
    /// Any host whose certificate has the form of a member's; its issuer is not checked. For a
    /// joining host without a token, which must not send a secret: an administrator compares
    /// fingerprints.
    Anybody,
}

/// Checks that this chain is that of a member of the store's cluster, and returns the fingerprint
/// of the authority that says so.
pub(super) fn check_member(
    store: &CredentialStore,
    chain: &[CertificateDer<'_>],
    usage: Usage,
    now: UnixTime,
) -> Result<Fingerprint, Distrust> {
    let credentials = store.credentials().ok_or(Distrust::NotEnrolled)?;
    let authorities = store.authorities().ok_or(Distrust::NotEnrolled)?;
    let certificate = Certificate::from_der(first(chain)?)?;
    for authority in authorities.named() {
        match certificate.check(authority, usage, now) {
            Err(Distrust::OtherAuthority) => {}
            Err(other) => return Err(other),
            Ok(()) if !authorities.accepts(authority, certificate.host()) => {
                return Err(Distrust::FormerAuthority);
            }
            Ok(()) if certificate.cluster() != credentials.cluster() => {
                return Err(Distrust::OtherCluster(certificate.cluster()));
            }
            Ok(()) => return Ok(authority.fingerprint()),
        }
    }
    Err(Distrust::OtherAuthority)
}

/// Checks again that this peer is a member.
pub(super) fn check_again(store: &CredentialStore, peer: &Peer) -> Result<(), Distrust> {
    let issuer = peer.membership.clone()?;
    let authorities = store.authorities().ok_or(Distrust::NotEnrolled)?;
    let authority = authorities.named().find(|authority| authority.fingerprint() == issuer);
    match authority {
        Some(authority) if authorities.accepts(authority, peer.host) => Ok(()),
        Some(_) => Err(Distrust::FormerAuthority),
        None => Err(Distrust::OtherAuthority),
    }
}

/// The names of the authorities that this host trusts (RFC 8446, section 4.2.4). With them, the
/// peer chooses its certificate.
pub(super) fn names(store: &CredentialStore) -> Vec<DistinguishedName> {
    let authorities = store.authorities();
    authorities.iter().flat_map(Authorities::named).filter_map(AuthorityCertificate::name).collect()
}

fn first<'a>(chain: &'a [CertificateDer<'_>]) -> Result<&'a [u8], Distrust> {
    chain
        .first()
        .map(|first| &**first)
        .ok_or_else(|| Distrust::Malformed("there is none".to_owned()))
}

fn check_pinned(
    chain: &[CertificateDer<'_>],
    authority: Fingerprint,
    now: UnixTime,
) -> Result<(), Distrust> {
    // Before the authority's: a host that belongs to no cluster shows no authority.
    let certificate = Certificate::from_der(first(chain)?)?;
    let shown = chain.get(1).ok_or(Distrust::OtherAuthority)?;
    let shown = AuthorityCertificate::from_der(shown)?;
    let cluster = shown.fingerprint();
    if cluster == authority {
        return certificate.check(&shown, Usage::Server, now);
    }
    // The message names the other cluster's fingerprint, so we verify it: any host can send another
    // cluster's authority certificate.
    certificate.check_at_any_time(&shown, now)?;
    Err(Distrust::OtherToken { token: authority, cluster })
}

fn chain<'a>(
    end: &CertificateDer<'a>,
    rest: &[CertificateDer<'a>],
) -> Result<Vec<CertificateDer<'a>>, CertificateError> {
    if rest.len() >= CHAIN_MAX {
        return Err(CertificateError::BadEncoding);
    }
    Ok([std::slice::from_ref(end), rest].concat())
}

fn untrusted(distrust: Distrust) -> Error {
    CertificateError::Other(OtherError(Arc::new(distrust))).into()
}

/// The reason that our check gave, if the handshake failed by it.
pub(super) fn distrust_in(error: &Error) -> Option<&Distrust> {
    match error {
        Error::InvalidCertificate(CertificateError::Other(OtherError(reason))) => {
            reason.downcast_ref()
        }
        _ => None,
    }
}

/// The client's check of a server.
#[derive(Debug)]
pub(super) struct ServerCheck {
    pub store: Arc<CredentialStore>,
    pub trust: Trust,
    pub names: Vec<DistinguishedName>,
}

impl ServerCertVerifier for ServerCheck {
    fn verify_server_cert(
        &self,
        end: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let chain = chain(end, rest)?;
        let checked = match self.trust {
            Trust::Cluster => check_member(&self.store, &chain, Usage::Server, now).map(drop),
            Trust::Pinned(authority) => check_pinned(&chain, authority, now),
            Trust::Anybody => first(&chain).and_then(Certificate::from_der).map(drop),
        };
        checked.map(|()| ServerCertVerified::assertion()).map_err(untrusted)
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::PeerIncompatible(PeerIncompatible::Tls12NotOfferedOrEnabled))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &ALGORITHMS)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ALGORITHMS.supported_schemes()
    }

    fn root_hint_subjects(&self) -> Option<&[DistinguishedName]> {
        // The extension must not be empty.
        (!self.names.is_empty()).then_some(&self.names)
    }
}

/// The server's check of a client: only that it has a key.
#[derive(Debug)]
pub(super) struct ClientCheck {
    pub names: Vec<DistinguishedName>,
}

impl ClientCertVerifier for ClientCheck {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.names
    }

    fn verify_client_cert(
        &self,
        end: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        chain(end, rest)?;
        key_in(end).map(|_| ClientCertVerified::assertion()).map_err(untrusted)
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::PeerIncompatible(PeerIncompatible::Tls12NotOffered))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &ALGORITHMS)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ALGORITHMS.supported_schemes()
    }
}
