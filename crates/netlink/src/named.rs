//! Namespaces with names, kept as `ip netns` keeps them (`ip/ipnetns.c` of iproute2): each is
//! mounted over a file of its name in one directory, which is a shared mount so that it is seen,
//! and can be deleted, in every mount namespace.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

use crate::error::{Error, Fault};
use crate::namespace::{Namespace, OWN, on_own_thread};

/// The directory they are kept in.
#[derive(Debug, Clone)]
pub struct NamedNamespaces {
    directory: PathBuf,
}

impl NamedNamespaces {
    /// Where `ip netns` looks.
    pub const DEFAULT_DIRECTORY: &str = "/run/netns";

    /// Those in this directory, which need not be there yet.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self { directory: directory.into() }
    }

    /// The directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The path of the namespace of this name.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Their names; also those of files over which no namespace is mounted (any more).
    pub fn list(&self) -> Result<Vec<String>, Error> {
        let fail = |error: io::Error| {
            Fault::from(error).during(format_args!("list {}", self.directory.display()))
        };
        let entries = match fs::read_dir(&self.directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(fail(error)),
        };
        let mut names = Vec::new();
        for entry in entries {
            names.extend(entry.map_err(fail)?.file_name().into_string());
        }
        Ok(names)
    }

    /// Opens the one of this name; `None` if there is none, or only a file that is no namespace.
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

    /// Makes a namespace and gives it this name once `prepare` has run inside it: before that
    /// nobody can find it, and if anything fails it is gone. If there is one of this name it is
    /// left as it is.
    pub fn create(
        &self,
        name: &str,
        prepare: impl FnOnce() -> io::Result<()> + Send,
    ) -> Result<Namespace, Error> {
        if let Some(namespace) = self.open(name)? {
            return Ok(namespace);
        }
        let path = self.path(name);
        let attempt = || -> Result<Namespace, Fault> {
            self.prepare_directory()?;
            // A file that is there is what a crash left between making and mounting.
            File::options().write(true).create(true).truncate(false).mode(0o444).open(&path)?;
            on_own_thread(|| {
                unshare(CloneFlags::CLONE_NEWNET)?;
                prepare()?;
                mount(Some(OWN), &path, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
                Namespace::from_path(&path)
            })?
        };
        attempt().map_err(|fault| {
            let _ = fs::remove_file(&path);
            fault.during(format_args!("make the network namespace {name}"))
        })
    }

    /// Takes the name away, and with it the namespace unless somebody else holds it. One that is
    /// not there is no error.
    pub fn delete(&self, name: &str) -> Result<(), Error> {
        let path = self.path(name);
        let attempt = || -> io::Result<()> {
            loop {
                // More than one can be mounted over the other.
                match umount2(&path, MntFlags::MNT_DETACH) {
                    Ok(()) => {}
                    Err(Errno::EINVAL | Errno::ENOENT) => break,
                    Err(errno) => return Err(errno.into()),
                }
            }
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            }
        };
        attempt().map_err(|error| {
            Fault::from(error).during(format_args!("delete the network namespace {name}"))
        })
    }

    /// Makes the directory a shared mount, if it is not one.
    fn prepare_directory(&self) -> Result<(), Fault> {
        fs::create_dir_all(&self.directory)?;
        let share = || {
            mount(
                None::<&str>,
                &self.directory,
                None::<&str>,
                MsFlags::MS_SHARED | MsFlags::MS_REC,
                None::<&str>,
            )
        };
        match share() {
            // It is no mount point.
            Err(Errno::EINVAL) => {
                mount(
                    Some(&self.directory),
                    &self.directory,
                    None::<&str>,
                    MsFlags::MS_BIND | MsFlags::MS_REC,
                    None::<&str>,
                )?;
                share()?;
            }
            result => result?,
        }
        Ok(())
    }
}
