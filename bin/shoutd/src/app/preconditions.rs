//! What must be so before a daemon begins: each thing that is not is refused in one line.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::path::Path;

use anyhow::{Context, Result, bail};
use nix::sys::statvfs::statvfs;
use shoutd_consensus::{FILES, remedy};
use shoutd_core::limits::PORT;
use shoutd_core::plane::namespace_vni;

use crate::app::daemon::NAMESPACES;

/// Octets that a host needs for its files when it begins: several times what they have on a cluster
/// of a few hosts and networks.
const ROOM_MIN: u64 = 16 << 20;

/// A host that belongs to a cluster has its state on disk from before it joined. Without it, it
/// would forget its vote, and take every network of its engine for one that is gone.
pub fn refuse_missing(directory: &Path) -> Result<()> {
    for file in FILES {
        let path = directory.join(file);
        let problem = match fs::metadata(&path) {
            Ok(metadata) if metadata.len() > 0 => continue,
            Ok(_) => "is empty",
            Err(error) if error.kind() == io::ErrorKind::NotFound => "is missing",
            Err(error) => {
                return Err(error).with_context(|| format!("cannot look at {}", path.display()));
            }
        };
        bail!(
            "{} {problem}, though this host belongs to a cluster: {}",
            path.display(),
            remedy(directory)
        );
    }
    Ok(())
}

/// A host that begins on a disk with too little room would agree to things that it cannot keep. One
/// that has its data already can serve its containers however full the disk is.
pub fn refuse_little_room(directory: &Path) -> Result<()> {
    if FILES.iter().all(|file| directory.join(file).exists()) {
        return Ok(());
    }
    let disk = statvfs(directory)
        .with_context(|| format!("cannot look at the disk of {}", directory.display()))?;
    let free = disk.blocks_available().saturating_mul(disk.fragment_size());
    if free < ROOM_MIN {
        bail!(
            "the disk of {} has only {} KiB left, and a host needs {} MiB to begin with: make \
             room, or choose another place with --data-dir",
            directory.display(),
            free >> 10,
            ROOM_MIN >> 20
        );
    }
    Ok(())
}

/// Somebody else's socket on VXLAN's port would show only when the first container starts. Our own
/// tunnels from before have it rightly.
pub fn refuse_occupied_tunnel_port() -> Result<()> {
    let has_tunnels = fs::read_dir(NAMESPACES).is_ok_and(|entries| {
        entries.flatten().any(|entry| entry.file_name().to_str().and_then(namespace_vni).is_some())
    });
    match UdpSocket::bind((Ipv4Addr::UNSPECIFIED, PORT)) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && !has_tunnels => {
            bail!(
                "UDP port {PORT} is in use by another program, and VXLAN needs it (ss -ulnp \
                 'sport = :{PORT}' tells which)"
            )
        }
        _ => Ok(()),
    }
}
