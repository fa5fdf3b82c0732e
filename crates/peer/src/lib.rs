//! Messages between hosts: the HTTP/2 server and client that carry all of them.
//!
//! Every request is a `POST` of JSON. Its headers ([`identity`]) name the caller's protocol, host
//! and cluster. The server answers a request that is not meant for it with a typed [`Rejection`],
//! before any handler sees it.
//!
//! A [`Connector`] and an [`Acceptor`] make streams of TCP connections: in the daemon TLS with a
//! certificate on both sides ([`TlsConnector`], [`TlsAcceptor`]). A caller is identified by its key
//! and not by what it claims. A [`CredentialStore`] holds what this host authenticates itself with;
//! a [`Token`] and an [`Authority`] make a host a member of a cluster. A caller that is not a
//! member, called a stranger here, reaches one path only, [`identity::ENROLL`].

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
mod swarm;
mod tls;
mod token;
mod transport;

pub use authority::{
    Authority, AuthorityError, Prepared, RENEWAL, SealKey, VALIDITY, agreed_authorities,
};
pub use bind::BindError;
pub use certificate::{AuthorityCertificate, Certificate, Distrust};
pub use client::{CallError, Client};
pub use credentials::{
    CredentialError, CredentialStore, Credentials, NextCredentials, PairKeyFiles, RevealedKey,
    draw_pair_key,
};
pub use identity::{Caller, Identity};
pub use key::{HostKey, KeyError, PublicKey};
pub use rejection::Rejection;
pub use server::Server;
pub use swarm::{Statement, SwarmError, SwarmIdentity, SwarmProof};
pub use tls::{TlsAcceptor, TlsConnector, TlsError, Trust};
pub use token::{Secret, Token, TokenError};
pub use transport::{Acceptor, Connecting, Connector, Established, Peer, Stream};
