//! The Unix socket that Docker finds the plugin by, and that stays where Docker looks for it.

use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::time::timeout;
use tracing::warn;

/// How long another process may take to show that it answers on the socket.
const PROBE_DEADLINE: Duration = Duration::from_secs(1);

/// The mode of a directory that is made for a socket, as the engine makes its own.
const DIRECTORY_MODE: u32 = 0o755;

/// The socket cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Somebody answers there.
    #[error("another process already serves {}; is shoutd running? (\"shoutdctl status\")", path.display())]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// Something that is no socket has its name.
    #[error("{} is in the way: it is not a socket; move it elsewhere", path.display())]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// The system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was being done.
        action: &'static str,
        /// To what.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
}

impl BindError {
    fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }
}

/// A socket that is kept where it was bound: what removes it ends no service.
#[derive(Debug)]
pub struct Socket {
    path: PathBuf,
    listener: UnixListener,
    /// The file that the listener was bound to: its device and inode.
    file: (u64, u64),
    /// The mode of its directory, with which that is made again.
    directory_mode: u32,
    state: watch::Sender<SocketState>,
}

/// How it is with a socket.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SocketState {
    /// How often it was removed, and put back.
    pub put_back: u64,
    /// Why it cannot be put back, in one line; nobody finds shoutd there meanwhile.
    pub problem: Option<String>,
}

/// Binds the socket `path`, for root alone (mode 0600), making its directory if need be. A dead
/// socket is replaced.
///
/// The socket is bound and given its mode under another name first, and renamed then: nobody ever
/// finds it half made. It is not removed at the end. Docker fails and retries either way, but with
/// the socket there it says "connection refused" instead of "plugin not found", and a daemon that
/// is going cannot remove the socket of the one that comes.
///
/// Two daemons that bind at the same instant are told apart elsewhere (by the lock on their data
/// directory).
///
/// # Errors
/// [`BindError::InUse`] if a living process listens there; see the others. Must be called within a
/// tokio runtime.
pub async fn bind(path: &Path) -> Result<Socket, BindError> {
    let listener = listen(path, DIRECTORY_MODE).await?;
    let file = identity(path).await.map_err(BindError::io("look at", path))?;
    let directory = path.parent().unwrap_or(Path::new("/"));
    let metadata =
        tokio::fs::metadata(directory).await.map_err(BindError::io("look at", directory))?;
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
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Follows how it is with it.
    pub fn watch(&self) -> watch::Receiver<SocketState> {
        self.state.subscribe()
    }

    /// The next connection. May be dropped without losing one.
    pub(super) async fn accept(&self) -> io::Result<UnixStream> {
        self.listener.accept().await.map(|(stream, _)| stream)
    }

    /// Puts the socket back if it is not there any more.
    pub(super) async fn keep(&mut self) {
        if identity(&self.path).await.is_ok_and(|found| found == self.file) {
            self.state.send_if_modified(|state| state.problem.take().is_some());
            return;
        }
        match self.put_back().await {
            Ok(()) => {
                warn!("{} was removed; shoutd serves there again", self.path.display());
                self.state.send_modify(|state| {
                    state.put_back = state.put_back.saturating_add(1);
                    state.problem = None;
                });
            }
            Err(error) => {
                let text = format!(
                    "{} was removed, and shoutd cannot serve there again: {error}",
                    self.path.display()
                );
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
        self.file = identity(&self.path).await.map_err(BindError::io("look at", &self.path))?;
        self.listener = listener;
        Ok(())
    }
}

/// What tells a file from another one of its name.
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

/// Makes sure that nothing living, and no file of somebody else's, is at `path`.
async fn refuse_occupied(path: &Path) -> Result<(), BindError> {
    match tokio::fs::symlink_metadata(path).await {
        Ok(found) if !found.file_type().is_socket() => {
            return Err(BindError::NotASocket { path: path.to_owned() });
        }
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(BindError::io("look at", path)(error)),
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
        // One whose queue is full (EAGAIN) or that hangs is alive too.
        _ => Err(BindError::InUse { path: path.to_owned() }),
    }
}
