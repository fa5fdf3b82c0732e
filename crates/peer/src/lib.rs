//! Messages between hosts: the one HTTP/2 server and client that all of them go through.
//!
//! Every request is a `POST` of JSON and carries three headers of [`identity`]: which protocol the caller speaks, which
//! host it is, and to which cluster it belongs; the server answers a request that is not for it with a typed
//! [`Rejection`] before any handler sees it.
//!
//! The bytes travel over whatever a [`Connector`] and an [`Acceptor`] make of a TCP connection. [`Plain`] leaves it as it
//! is; encryption and proof of identity are one more implementation of these two traits.

mod bind;
mod client;
mod connection;
pub mod identity;
pub mod limits;
mod rejection;
mod server;
mod transport;

pub use bind::BindError;
pub use client::{CallError, Client};
pub use identity::{Caller, Identity};
pub use rejection::Rejection;
pub use server::Server;
pub use transport::{Acceptor, Connecting, Connector, Plain, Stream};
