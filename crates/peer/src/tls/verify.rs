//! Whom to believe: the checks that handshakes ask for.
//!
//! A server lets every key finish the handshake and tells afterwards what it may do: whoever is not
//! of the cluster gets to the one path that strangers have, and is told why not to any other. A
//! client decides before it sends its first byte.

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

use crate::certificate::{AuthorityCertificate, Certificate, Distrust, Usage, key_in};
use crate::credentials::CredentialStore;

/// Certificates that the other end may send: its own and its authority's.
const CHAIN_MAX: usize = 2;

/// The one algorithm of keys, and so of signatures.
pub(super) static ALGORITHMS: WebPkiSupportedAlgorithms = WebPkiSupportedAlgorithms {
    all: &[webpki::ring::ED25519],
    mapping: &[(SignatureScheme::ED25519, &[webpki::ring::ED25519])],
};

/// Which servers a client talks to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// Hosts of this host's cluster.
    Cluster,
    /// Hosts of the cluster whose authority's certificate has this SHA-256: a joiner knows it from
    /// its token.
    Pinned(Fingerprint),
    /// Any host that belongs to a cluster: for a joiner without a token, which must send no secret.
    /// An administrator compares fingerprints.
    Anybody,
}

/// Whether this chain is that of a host of the store's cluster.
pub(super) fn check_member(
    store: &CredentialStore,
    chain: &[CertificateDer<'_>],
    usage: Usage,
    now: UnixTime,
) -> Result<(), Distrust> {
    let credentials = store.credentials().ok_or(Distrust::NotEnrolled)?;
    let certificate = Certificate::from_der(first(chain)?)?;
    certificate.check(credentials.authority(), usage, now)?;
    if certificate.cluster() == credentials.cluster() {
        Ok(())
    } else {
        Err(Distrust::OtherCluster(certificate.cluster()))
    }
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
    // First: a host that belongs to no cluster yet has no authority's certificate to show.
    let certificate = Certificate::from_der(first(chain)?)?;
    let shown = chain.get(1).ok_or(Distrust::OtherAuthority)?;
    let shown = AuthorityCertificate::from_der(shown)?;
    let cluster = shown.fingerprint();
    if cluster == authority {
        return certificate.check(&shown, Usage::Server, now);
    }
    // What a person is told of the other cluster must be true: anybody can show somebody else's
    // authority.
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

/// The reason that a check of this module gave, if that is why the handshake failed.
pub(super) fn distrust_in(error: &Error) -> Option<&Distrust> {
    match error {
        Error::InvalidCertificate(CertificateError::Other(OtherError(reason))) => {
            reason.downcast_ref()
        }
        _ => None,
    }
}

/// What clients check of servers.
#[derive(Debug)]
pub(super) struct ServerCheck {
    pub store: Arc<CredentialStore>,
    pub trust: Trust,
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
            Trust::Cluster => check_member(&self.store, &chain, Usage::Server, now),
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
}

/// What servers check of clients: that they have a key.
#[derive(Debug)]
pub(super) struct ClientCheck;

impl ClientCertVerifier for ClientCheck {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
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
