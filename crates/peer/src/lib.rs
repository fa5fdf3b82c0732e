//! Messages between hosts: the one HTTP/2 server and client that all of them go through.
//!
//! Every request is a `POST` of JSON and carries three headers of [`identity`]: which protocol the
//! caller speaks, which host it is, and to which cluster it belongs; the server answers a request
//! that is not for it with a typed [`Rejection`] before any handler sees it.
//!
//! The bytes travel over whatever a [`Connector`] and an [`Acceptor`] make of a TCP connection,
//! which is TLS with a certificate on both sides ([`TlsConnector`], [`TlsAcceptor`]): who a caller
//! is, is known from its key and not from what it says. What this host proves itself with is in a
//! [`CredentialStore`]; a [`Token`] and an [`Authority`] are what makes a host a member of a
//! cluster. Whoever is none reaches one path, [`identity::ENROLL`].

mod authority;
mod bind;
mod body_budget;
mod certificate;
mod client;
mod connection;
mod connection_slots;
mod credentials;
#[cfg(test)]
mod fuzz;
mod hex;
pub mod identity;
mod key;
pub mod limits;
mod rate;
mod rejection;
mod server;
mod tls;
mod token;
mod transport;

pub use authority::{Authority, AuthorityError, Prepared, RENEWAL, SealKey, VALIDITY};
pub use bind::BindError;
pub use certificate::{AuthorityCertificate, Certificate, Distrust};
pub use client::{CallError, Client};
pub use credentials::{CredentialError, CredentialStore, Credentials};
pub use identity::{Caller, Identity};
pub use key::{HostKey, KeyError, PublicKey};
pub use rejection::Rejection;
pub use server::Server;
pub use tls::{TlsAcceptor, TlsConnector, TlsError, Trust};
pub use token::{Secret, Token, TokenError};
pub use transport::{Acceptor, Connecting, Connector, Established, Peer, Stream};
