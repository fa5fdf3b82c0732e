//! Network namespaces: opening them, and running code inside.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::thread;

use nix::libc;
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::statfs::{FsType, fstatfs};

use crate::error::{Error, Fault};

/// `NSFS_MAGIC`: the file system of a namespace's file. The plain file it is mounted over has
/// another.
const NSFS_MAGIC: FsType = FsType(0x6e73_6673);

/// The file of the calling thread's network namespace.
pub(crate) const OWN: &str = "/proc/thread-self/ns/net";

/// The identity of a namespace: device and inode of its file, whatever its names. An inode number
/// can be reused, but not while the namespace is held open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NamespaceId {
    device: u64,
    inode: u64,
}

impl NamespaceId {
    pub(crate) fn new(device: u64, inode: u64) -> Self {
        Self { device, inode }
    }
}

/// An open network namespace. It lives at least as long as this value.
#[derive(Debug, Clone)]
pub struct Namespace {
    file: Arc<File>,
    id: NamespaceId,
}

impl Namespace {
    /// The namespace of the calling thread.
    pub fn current() -> Result<Self, Error> {
        Self::from_path(Path::new(OWN))
            .map_err(|fault| fault.during("open this thread's network namespace"))
    }

    /// Creates a namespace without a name. It is gone when this value and everything opened in it
    /// are dropped.
    pub fn anonymous() -> Result<Self, Error> {
        on_own_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET)?;
            Self::from_path(Path::new(OWN))
        })
        .flatten()
        .map_err(|fault| fault.during("make a network namespace"))
    }

    /// Opens the namespace whose file has this path.
    pub fn open(path: &Path) -> Result<Self, Error> {
        Self::from_path(path).map_err(|fault| {
            fault.during(format_args!("open the network namespace {}", path.display()))
        })
    }

    pub(crate) fn from_path(path: &Path) -> Result<Self, Fault> {
        // Non-blocking, in case the path is a FIFO.
        let file = File::options()
            .read(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
            .open(path)?;
        let system = fstatfs(&file).map_err(io::Error::from)?;
        if system.filesystem_type() != NSFS_MAGIC {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "not a namespace").into());
        }
        let metadata = file.metadata()?;
        Ok(Self { file: Arc::new(file), id: NamespaceId::new(metadata.dev(), metadata.ino()) })
    }

    /// Its identity.
    pub fn id(&self) -> NamespaceId {
        self.id
    }

    /// Runs `work` inside, on a thread made for it. A thread that lives on never changes its
    /// namespace.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, Error> {
        self.enter(work).map_err(|fault| fault.during("enter a network namespace"))
    }

    pub(crate) fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, Fault> {
        on_own_thread(|| {
            setns(self.file.as_fd(), CloneFlags::CLONE_NEWNET).map_err(io::Error::from)?;
            Ok(work())
        })?
    }

    /// The descriptor for `IFLA_NET_NS_FD`.
    pub(crate) fn raw(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

impl AsFd for Namespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Runs `work` on its own thread, which ends with it.
pub(crate) fn on_own_thread<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T, Fault> {
    thread::scope(|scope| {
        let thread =
            thread::Builder::new().name("namespace".to_owned()).spawn_scoped(scope, work)?;
        thread.join().map_err(|_| io::Error::other("the thread in the namespace panicked").into())
    })
}
