//! Files that only the daemon may read. A write is atomic: a crash leaves the old or the new file.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use zeroize::Zeroizing;

use super::CredentialError;

/// Bytes of the largest file that we read. Ours have less than 1000.
const FILE_BYTES_MAX: u64 = 64 << 10;

/// The permission bits of group and others.
const OTHERS: u32 = 0o077;

fn cannot(operation: &'static str, path: &Path) -> impl Fn(io::Error) -> CredentialError {
    move |source| CredentialError::Io { operation, path: path.to_owned(), source }
}

/// Makes the directory if it does not exist, and checks that no other user can read it.
pub(super) fn prepare_directory(path: &Path) -> Result<(), CredentialError> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(cannot("make", path)(error));
        }
        _ => {}
    }
    let metadata = fs::symlink_metadata(path).map_err(cannot("read", path))?;
    if !metadata.is_dir() {
        return Err(CredentialError::Damaged {
            path: path.to_owned(),
            reason: "it is not a directory".to_owned(),
        });
    }
    check_private(path, &metadata, 0o700)
}

fn check_private(path: &Path, metadata: &fs::Metadata, wanted: u32) -> Result<(), CredentialError> {
    let (mode, owner) = (metadata.mode() & 0o7777, metadata.uid());
    if mode & OTHERS != 0 {
        return Err(CredentialError::Exposed { path: path.to_owned(), mode, wanted });
    }
    if owner != nix::unistd::geteuid().as_raw() {
        return Err(CredentialError::OtherOwner { path: path.to_owned(), owner });
    }
    Ok(())
}

/// Reads a file that no other user may read; `None` if it does not exist.
pub(super) fn read(path: &Path) -> Result<Option<Zeroizing<Vec<u8>>>, CredentialError> {
    let cannot_read = cannot("read", path);
    // O_NOFOLLOW: the file that we check must be the one that we read. O_NONBLOCK: it may be a
    // pipe.
    let flags = nix::fcntl::OFlag::O_NOFOLLOW | nix::fcntl::OFlag::O_NONBLOCK;
    let file = match OpenOptions::new().read(true).custom_flags(flags.bits()).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(cannot_read(error)),
    };
    let metadata = file.metadata().map_err(&cannot_read)?;
    if !metadata.is_file() {
        return Err(CredentialError::Damaged {
            path: path.to_owned(),
            reason: "it is not a file".to_owned(),
        });
    }
    check_private(path, &metadata, 0o600)?;
    let mut bytes = Zeroizing::new(Vec::new());
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(&cannot_read)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(CredentialError::Damaged {
            path: path.to_owned(),
            reason: "it is far too large".to_owned(),
        });
    }
    Ok(Some(bytes))
}

/// Writes a file durably and atomically.
pub(super) fn write(directory: &Path, name: &str, bytes: &[u8]) -> Result<(), CredentialError> {
    let (path, temporary) = (directory.join(name), directory.join(format!("{name}.new")));
    let written = remove_if_exists(&temporary).and_then(|()| {
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, &path)?;
        sync_directory(directory)
    });
    written.map_err(cannot("write", &path))
}

/// Removes a file if it exists.
pub(super) fn remove(directory: &Path, name: &str) -> Result<(), CredentialError> {
    let path = directory.join(name);
    remove_if_exists(&path)
        .and_then(|()| sync_directory(directory))
        .map_err(cannot("remove", &path))
}

fn remove_if_exists(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}
