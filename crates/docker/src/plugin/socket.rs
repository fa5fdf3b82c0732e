//! The plugin's Unix socket, which is restored if it is removed.

use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::time::timeout;
use tracing::warn;

/// How long another process may take to accept a connection on the socket.
const PROBE_DEADLINE: Duration = Duration::from_secs(1);

/// Mode of a directory that we create for a socket; the engine uses the same.
const DIRECTORY_MODE: u32 = 0o755;

/// Why the socket cannot be bound.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Another process listens there.
    #[error(
        "another process already serves {}: stop it (`ss -xlp src {}` names it)",
        path.display(),
        path.display()
    )]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// A file that is not a socket has its path.
    #[error("{} is not a socket; move it elsewhere", path.display())]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// The system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// The failed operation.
        action: &'static str,
        /// Its path.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
}

impl BindError {
    fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }
}

/// A socket that is restored if it is removed.
#[derive(Debug)]
pub struct Socket {
    path: PathBuf,
    listener: UnixListener,
    /// Device and inode of the file that the listener was bound to.
    file: (u64, u64),
    /// Mode of its directory, to create it again.
    directory_mode: u32,
    state: watch::Sender<SocketState>,
}

/// State of a socket.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SocketState {
    /// How often it was removed and restored.
    pub put_back: u64,
    /// Why it cannot be restored, in one line.
    pub problem: Option<String>,
}

/// Binds the socket `path` with mode 0600, and creates its directory if necessary. Replaces a dead
/// socket. Must be called within a tokio runtime.
///
/// The socket is bound and gets its mode under a temporary name, and is then renamed, so that it
/// never has a wrong mode. A daemon that ends leaves its socket: Docker retries in any case, but
/// reports "connection refused" if the socket exists, and not "plugin not found". So no daemon can
/// remove the socket of its successor either.
///
/// The lock on the data directory prevents that two daemons bind at the same time.
///
/// # Errors
/// [`BindError::InUse`] if a running process listens there; see the others.
pub async fn bind(path: &Path) -> Result<Socket, BindError> {
    let listener = listen(path, DIRECTORY_MODE).await?;
    let file = identity(path).await.map_err(BindError::io("access", path))?;
    let directory = path.parent().unwrap_or(Path::new("/"));
    let metadata =
        tokio::fs::metadata(directory).await.map_err(BindError::io("access", directory))?;
    let (state, _) = watch::channel(SocketState::default());
    Ok(Socket {
        path: path.to_owned(),
        listener,
        file,
        directory_mode: metadata.mode() & 0o7777,
        state,
    })
}

impl Socket {
    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Follows its state.
    pub fn watch(&self) -> watch::Receiver<SocketState> {
        self.state.subscribe()
    }

    /// The next connection. Cancel safe.
    pub(super) async fn accept(&self) -> io::Result<UnixStream> {
        self.listener.accept().await.map(|(stream, _)| stream)
    }

    /// Restores the socket if it was removed.
    pub(super) async fn keep(&mut self) {
        if identity(&self.path).await.is_ok_and(|found| found == self.file) {
            self.state.send_if_modified(|state| state.problem.take().is_some());
            return;
        }
        match self.put_back().await {
            Ok(()) => {
                warn!("{} was removed and is restored", self.path.display());
                self.state.send_modify(|state| {
                    state.put_back = state.put_back.saturating_add(1);
                    state.problem = None;
                });
            }
            Err(error) => {
                let text =
                    format!("{} was removed and cannot be restored: {error}", self.path.display());
                let is_news = self.state.send_if_modified(|state| {
                    let is_news = state.problem.as_ref() != Some(&text);
                    state.problem = Some(text.clone());
                    is_news
                });
                if is_news {
                    warn!("{text}");
                }
            }
        }
    }

    async fn put_back(&mut self) -> Result<(), BindError> {
        let listener = listen(&self.path, self.directory_mode).await?;
        self.file = identity(&self.path).await.map_err(BindError::io("access", &self.path))?;
        self.listener = listener;
        Ok(())
    }
}

/// Device and inode of a file.
async fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let found = tokio::fs::symlink_metadata(path).await?;
    Ok((found.dev(), found.ino()))
}

async fn listen(path: &Path, directory_mode: u32) -> Result<UnixListener, BindError> {
    if let Some(directory) = path.parent() {
        let made = tokio::fs::DirBuilder::new()
            .recursive(true)
            .mode(directory_mode)
            .create(directory)
            .await;
        made.map_err(BindError::io("create the directory", directory))?;
    }
    refuse_occupied(path).await?;
    let mut provisional = path.as_os_str().to_owned();
    provisional.push(".new");
    let provisional = PathBuf::from(provisional);
    match tokio::fs::remove_file(&provisional).await {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(BindError::io("remove", &provisional)(error));
        }
        _ => {}
    }
    let listener =
        UnixListener::bind(&provisional).map_err(BindError::io("bind the socket", &provisional))?;
    let mode = std::fs::Permissions::from_mode(0o600);
    tokio::fs::set_permissions(&provisional, mode)
        .await
        .map_err(BindError::io("set the mode of", &provisional))?;
    tokio::fs::rename(&provisional, path)
        .await
        .map_err(BindError::io("put the socket at", path))?;
    Ok(listener)
}

/// Checks that no running process listens at `path`, and that it is not another kind of file.
async fn refuse_occupied(path: &Path) -> Result<(), BindError> {
    match tokio::fs::symlink_metadata(path).await {
        Ok(found) if !found.file_type().is_socket() => {
            return Err(BindError::NotASocket { path: path.to_owned() });
        }
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(BindError::io("access", path)(error)),
    }
    match timeout(PROBE_DEADLINE, UnixStream::connect(path)).await {
        Ok(Err(error))
            if matches!(
                error.kind(),
                io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound
            ) =>
        {
            Ok(())
        }
        // A process whose accept queue is full (EAGAIN), or that hangs, is running, too.
        _ => Err(BindError::InUse { path: path.to_owned() }),
    }
}
