//! Attributes of WireGuard (`include/uapi/linux/wireguard.h`). Lists have elements of type 0.

pub(super) const GET_DEVICE: u8 = 0;
pub(super) const SET_DEVICE: u8 = 1;

pub(super) const DEVICE_INDEX: u16 = 1;
pub(super) const DEVICE_NAME: u16 = 2;
pub(super) const DEVICE_PRIVATE_KEY: u16 = 3;
pub(super) const DEVICE_PUBLIC_KEY: u16 = 4;
pub(super) const DEVICE_FLAGS: u16 = 5;
pub(super) const DEVICE_LISTEN_PORT: u16 = 6;
pub(super) const DEVICE_FWMARK: u16 = 7;
pub(super) const DEVICE_PEERS: u16 = 8;
pub(super) const REPLACE_PEERS: u32 = 1;

pub(super) const PEER_PUBLIC_KEY: u16 = 1;
pub(super) const PEER_PRESHARED_KEY: u16 = 2;
pub(super) const PEER_FLAGS: u16 = 3;
pub(super) const PEER_ENDPOINT: u16 = 4;
pub(super) const PEER_KEEPALIVE: u16 = 5;
pub(super) const PEER_LAST_HANDSHAKE: u16 = 6;
pub(super) const PEER_RECEIVED: u16 = 7;
pub(super) const PEER_SENT: u16 = 8;
pub(super) const PEER_ALLOWED_IPS: u16 = 9;
pub(super) const REMOVE_ME: u32 = 1;
pub(super) const REPLACE_ALLOWED_IPS: u32 = 1 << 1;
pub(super) const UPDATE_ONLY: u32 = 1 << 2;

pub(super) const ALLOWED_FAMILY: u16 = 1;
pub(super) const ALLOWED_ADDRESS: u16 = 2;
pub(super) const ALLOWED_PREFIX: u16 = 3;

pub(super) const ELEMENT: u16 = 0;

/// Octets of `struct sockaddr_in`.
pub(super) const ENDPOINT_V4: usize = 16;
/// Octets of `struct sockaddr_in6`.
pub(super) const ENDPOINT_V6: usize = 28;
