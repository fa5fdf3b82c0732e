//! Named namespaces, compatible with `ip netns` (`ip/ipnetns.c` of iproute2). Each is bind-mounted
//! over a file of its name in one directory. The directory is a shared mount, so a namespace is
//! visible in every mount namespace and can be deleted from each.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

use crate::error::{Error, Fault};
use crate::namespace::{Namespace, OWN, on_own_thread};

/// The directory of the namespaces.
#[derive(Debug, Clone)]
pub struct NamedNamespaces {
    directory: PathBuf,
}

impl NamedNamespaces {
    /// Where `ip netns` looks.
    pub const DEFAULT_DIRECTORY: &str = "/run/netns";

    /// The namespaces in this directory, which need not exist yet.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self { directory: directory.into() }
    }

    /// The directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The path of the namespace with this name.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// The names, including those of files without a mounted namespace.
    pub fn list(&self) -> Result<Vec<String>, Error> {
        self.try_list().map_err(|error| {
            Fault::from(error).during(format_args!("list {}", self.directory.display()))
        })
    }

    fn try_list(&self) -> io::Result<Vec<String>> {
        let entries = match fs::read_dir(&self.directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut names = Vec::new();
        for entry in entries {
            names.extend(entry?.file_name().into_string());
        }
        Ok(names)
    }

    /// Opens the namespace with this name; `None` if there is none, or only a plain file.
    pub fn open(&self, name: &str) -> Result<Option<Namespace>, Error> {
        match Namespace::from_path(&self.path(name)) {
            Ok(namespace) => Ok(Some(namespace)),
            Err(Fault::System(error))
                if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidData) =>
            {
                Ok(None)
            }
            Err(fault) => Err(fault.during(format_args!("open the network namespace {name}"))),
        }
    }

    /// Creates a namespace and names it after `prepare` has run inside it. Before that it cannot be
    /// found, and if anything fails it is gone. An existing namespace of this name is returned
    /// unchanged.
    pub fn create(
        &self,
        name: &str,
        prepare: impl FnOnce() -> io::Result<()> + Send,
    ) -> Result<Namespace, Error> {
        if let Some(namespace) = self.open(name)? {
            return Ok(namespace);
        }
        let path = self.path(name);
        self.try_create(&path, prepare).map_err(|fault| {
            let _ = fs::remove_file(&path);
            fault.during(format_args!("make the network namespace {name}"))
        })
    }

    fn try_create(
        &self,
        path: &Path,
        prepare: impl FnOnce() -> io::Result<()> + Send,
    ) -> Result<Namespace, Fault> {
        self.prepare_directory()?;
        // A crash between creation and mount leaves the file behind.
        File::options().write(true).create(true).truncate(false).mode(0o444).open(path)?;
        on_own_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET)?;
            prepare()?;
            mount(Some(OWN), path, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
            Namespace::from_path(path)
        })?
    }

    /// Removes the name, and with it the namespace unless something else holds it. A missing one is
    /// not an error.
    pub fn delete(&self, name: &str) -> Result<(), Error> {
        unmount_and_remove(&self.path(name)).map_err(|error| {
            Fault::from(error).during(format_args!("delete the network namespace {name}"))
        })
    }

    /// Makes the directory a shared mount if it is not one.
    fn prepare_directory(&self) -> Result<(), Fault> {
        fs::create_dir_all(&self.directory)?;
        match share(&self.directory) {
            // It is not a mount point.
            Err(Errno::EINVAL) => {
                mount(
                    Some(&self.directory),
                    &self.directory,
                    None::<&str>,
                    MsFlags::MS_BIND | MsFlags::MS_REC,
                    None::<&str>,
                )?;
                share(&self.directory)?;
            }
            result => result?,
        }
        Ok(())
    }
}

/// Makes mounts below a mount point visible in other mount namespaces.
fn share(directory: &Path) -> nix::Result<()> {
    let flags = MsFlags::MS_SHARED | MsFlags::MS_REC;
    mount(None::<&str>, directory, None::<&str>, flags, None::<&str>)
}

/// Removes a name. Several namespaces can be mounted over each other.
fn unmount_and_remove(path: &Path) -> io::Result<()> {
    loop {
        match umount2(path, MntFlags::MNT_DETACH) {
            Ok(()) => {}
            Err(Errno::EINVAL | Errno::ENOENT) => break,
            Err(errno) => return Err(errno.into()),
        }
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
