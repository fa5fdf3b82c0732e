//! WireGuard (<https://www.wireguard.com/papers/wireguard.pdf>) where the kernel has none.
//!
//! * [`serve`] is a process of its own. Traffic flows while the daemon does not run, and the next
//!   daemon adopts the process. [`Arguments`] is what it is told.
//! * [`Client`] configures it over its Unix socket, by the cross-platform protocol
//!   (<https://www.wireguard.com/xplatform/>). What it tells and changes is as with the kernel's
//!   WireGuard ([`shoutd_netlink::wireguard`]).
//!
//! The TUN device is in a network namespace that holds nothing else; the UDP socket is in the
//! host's. So nothing but what the device has decrypted reaches that namespace.
//!
//! # Preshared keys
//!
//! A new preshared key does not touch sessions. The next handshake uses it, about 120 s after the
//! one before (`REKEY_AFTER_TIME`, WireGuard paper, section 6.1). If the two ends have different
//! keys then, the initiator rejects the answer and tries again each 5 s, while the session before
//! goes on. Neither order of the two changes costs a packet.
//!
//! It is lost when the keys differ for too long. The responder keeps eight sessions, and each
//! failed handshake takes the place of one. The eighth, 35 s after the first, takes that of the
//! session in use. (Linux keeps the session in use until its age is 180 s.) Both ends should have
//! the new key within 30 s. Once they have, the next handshake repairs what was lost.
//!
//! # After a crash
//!
//! The TUN device stays, with its address and its routes, and drops packets. The next process
//! serves within some 20 ms, and then needs its key and its peers. Sessions are lost. The other
//! host does not notice until 15 s after it has sent a packet without an answer. A peer that is set
//! with a keepalive gets a handshake at once, so traffic flows 0.3 s later in both directions:
//! always set one.
//!
//! The process holds the namespace of its device. End it before the namespace is deleted.
//!
//! # Log
//!
//! No key is logged. gotatun logs each peer that is added as information, and reports an error,
//! "channel closed", whenever the private key or the port changes: log its warnings and errors
//! only, and do not take this one seriously.
//!
//! # Cost
//!
//! Measured on two cores of a busy machine that ran both ends, with an MTU of 1440 octets: 550 to
//! 740 Mbit/s by TCP, where the veth pair below carried 12 Gbit/s; round trips of 0.4 ms at 100
//! packets per second; bursts of 1,000 packets without loss. The process took 6 MiB of memory when
//! idle, 14 MiB under load, and 27 KiB more for each peer. With 4,000 peers, all were added in
//! 0.5 s, and all preshared keys changed in 1 to 5 s: each change of a peer looks at all allowed
//! IPs.

mod arguments;
mod client;
mod engine;
mod key;
mod privileges;
mod renewal;
mod serve;
mod server;
mod tun;
mod uapi;
mod udp;

pub use arguments::{ArgumentError, Arguments, NAME, SUBCOMMAND};
pub use client::{Client, ClientError};
pub use key::public_key;
pub use serve::{ServeError, Tuning, serve};
pub use tun::check_tun;
pub use uapi::{ANSWER_MAX, REQUEST_MAX};
