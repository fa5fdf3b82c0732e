//! Checks before the daemon starts. Each failure is an error of one line.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::path::Path;

use anyhow::{Context, Result, bail};
use nix::sys::statvfs::statvfs;
use shoutd_consensus::{FILES, remedy};
use shoutd_core::limits::{FREE_SPACE_MIN, PORT};
use shoutd_core::plane::namespace_vni;

use crate::plane::NAMESPACES;

/// Checks that the state of a cluster member is on disk. Without it, the host would forget its Raft
/// vote, and treat every network of its engine as removed.
pub fn refuse_missing(directory: &Path) -> Result<()> {
    for file in FILES {
        let path = directory.join(file);
        let problem = match fs::metadata(&path) {
            Ok(metadata) if metadata.len() > 0 => continue,
            Ok(_) => "is empty",
            Err(error) if error.kind() == io::ErrorKind::NotFound => "is missing",
            Err(error) => {
                return Err(error).with_context(|| format!("cannot access {}", path.display()));
            }
        };
        bail!(
            "{} {problem}, although this host belongs to a cluster: {}",
            path.display(),
            remedy(directory)
        );
    }
    Ok(())
}

/// Checks that a new host has enough disk space: otherwise it would acknowledge Raft entries that
/// it cannot store. A host that already has its data can serve its containers even if the disk is
/// full.
pub fn refuse_little_room(directory: &Path) -> Result<()> {
    if FILES.iter().all(|file| directory.join(file).exists()) {
        return Ok(());
    }
    let disk = statvfs(directory)
        .with_context(|| format!("cannot read the free disk space of {}", directory.display()))?;
    let free = disk.blocks_available().saturating_mul(disk.fragment_size());
    if free < FREE_SPACE_MIN {
        bail!(
            "the disk of {} has only {} KiB left, and a new host needs {} MiB: free some space, \
             or choose another directory with --data-dir",
            directory.display(),
            free >> 10,
            FREE_SPACE_MIN >> 20
        );
    }
    Ok(())
}

/// Checks that no other program uses VXLAN's port; otherwise the error would only appear when the
/// first container starts. VXLAN devices of an earlier run may use it.
pub fn refuse_occupied_tunnel_port() -> Result<()> {
    let has_tunnels = fs::read_dir(NAMESPACES).is_ok_and(|entries| {
        entries.flatten().any(|entry| entry.file_name().to_str().and_then(namespace_vni).is_some())
    });
    match UdpSocket::bind((Ipv4Addr::UNSPECIFIED, PORT)) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && !has_tunnels => {
            bail!(
                "UDP port {PORT} is in use by another program, and VXLAN needs it: stop that one \
                 (`ss -ulnp sport = :{PORT}` names it)"
            )
        }
        _ => Ok(()),
    }
}
