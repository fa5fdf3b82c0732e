//! Sockets for probes through the tunnels of this host's segments.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use shoutd_core::plane::{TUNNEL, namespace_name};
use shoutd_core::{MacAddress, Vni};
use shoutd_netlink::{Namespace, ProbeSocket, ProbeUse, Route};

use crate::kernel_error::KernelError;

/// The sockets, by segment. A socket is opened at the first probe.
#[derive(Debug)]
pub struct TunnelProbes {
    directory: PathBuf,
    sockets: BTreeMap<Vni, Tunnel>,
}

#[derive(Debug)]
struct Tunnel {
    socket: ProbeSocket,
    /// MTU of the VXLAN device in octets.
    mtu: usize,
}

impl TunnelProbes {
    /// `directory` is that of the segments' namespaces.
    pub fn new(directory: &Path) -> Self {
        Self { directory: directory.to_owned(), sockets: BTreeMap::new() }
    }

    /// Closes the sockets of all other segments.
    pub fn retain(&mut self, segments: &BTreeSet<Vni>) {
        self.sockets.retain(|vni, _| segments.contains(vni));
    }

    /// Sends this content to all hosts that have the network. A full one is as long as the MTU of
    /// the VXLAN device. `source` is the source address, which the other hosts learn unless they
    /// have pinned it.
    ///
    /// # Errors
    /// The device does not exist, is down, or takes no frame of this length. The socket is then
    /// opened again for the next probe.
    pub fn send(
        &mut self,
        vni: Vni,
        source: MacAddress,
        content: &[u8],
        full: bool,
    ) -> Result<(), KernelError> {
        if !self.sockets.contains_key(&vni) {
            self.sockets.insert(vni, self.open(vni)?);
        }
        let Some(tunnel) = self.sockets.get(&vni) else { return Ok(()) };
        let length = if full { tunnel.mtu } else { 0 };
        let sent = tunnel.socket.send(source.0, content, length);
        if sent.is_err() {
            self.sockets.remove(&vni);
        }
        Ok(sent?)
    }

    fn open(&self, vni: Vni) -> Result<Tunnel, KernelError> {
        let name = namespace_name(vni);
        let namespace = Namespace::open(&self.directory.join(&name))?;
        let device = Route::open(&namespace)?.link(TUNNEL)?;
        let device = device
            .ok_or_else(|| KernelError::NoDevice { device: TUNNEL.to_owned(), namespace: name })?;
        let socket = ProbeSocket::open(&namespace, device.index, ProbeUse::Tunnel)?;
        Ok(Tunnel { socket, mtu: usize::try_from(device.mtu).unwrap_or_default() })
    }

    /// The contents of the probes that came since the last call, each with its segment.
    pub fn received(&self) -> Vec<(Vni, Vec<u8>)> {
        let received = self.sockets.iter().flat_map(|(vni, tunnel)| {
            tunnel.socket.received().into_iter().map(|content| (*vni, content))
        });
        received.collect()
    }
}
