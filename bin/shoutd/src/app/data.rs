//! The data of a host that leaves its cluster.

use std::path::Path;
use std::{fs, io};

use anyhow::{Context, Result};
use shoutd_consensus::FILES;
use shoutd_core::{swarm, view};
use shoutd_peer::CredentialStore;

use crate::api::events;
use crate::membership::tokens;

/// Deletes the data of a host that has left its cluster, except its log. Its next start is then
/// like its first.
pub(super) fn forget(
    credentials: &CredentialStore,
    data_directory: &Path,
    plugin_socket: &Path,
) -> Result<()> {
    let kept = FILES
        .into_iter()
        .chain([tokens::FILE, events::FILE, view::START_FILE])
        .map(|file| data_directory.join(file));
    // Without the socket, an engine reports a missing plugin at once, and does not wait for it.
    let swarm_socket = data_directory.join(swarm::SOCKET_DIRECTORY).join(swarm::SOCKET);
    for path in kept.chain([plugin_socket.to_owned(), swarm_socket]) {
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot remove {}", path.display()));
            }
            _ => {}
        }
    }
    Ok(credentials.leave()?)
}
