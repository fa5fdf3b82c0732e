//! A proxy between an engine and shoutd, on the plugin socket, that ends shoutd in the middle of
//! calls.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::net::UnixListener as StdListener;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use parking_lot::Mutex;
use shoutd_lab::Host;
use tokio::net::{UnixListener, UnixStream};
use tokio::runtime::Runtime;
use tokio::sync::Mutex as AsyncMutex;
use tokio::time::sleep;

/// The engine's plugin socket.
const SOCKET: &str = "/run/docker/plugins/shoutd.sock";

/// Where shoutd's own socket is moved; not in a directory that the engine searches.
const ASIDE: &str = "/run/shoutd-aside.sock";

/// The moment of a call at which shoutd is ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// The engine has sent the call, and shoutd has not read it.
    Asked,
    /// shoutd has worked on it for this long.
    Underway(Duration),
    /// shoutd has answered, and the engine does not have the answer.
    Answered,
    /// The engine has the answer.
    Told,
}

/// How shoutd is ended.
#[derive(Debug, Clone, Copy)]
pub enum End {
    /// With `SIGKILL`.
    Killed,
    /// As for an upgrade: cleanly, by `shoutdctl stop`.
    Stopped,
}

/// Ends shoutd once in each kind of call, and starts it again at once. In place until dropped.
pub struct Interposer {
    shared: Arc<Shared>,
    runtime: Option<Runtime>,
}

struct Shared {
    host: Host,
    moment: Moment,
    end: End,
    /// The kinds of calls in which shoutd was ended.
    struck: Mutex<BTreeSet<String>>,
    /// One at a time.
    striking: Arc<AsyncMutex<()>>,
    /// The first error of the interposer.
    fault: Mutex<Option<String>>,
}

impl Interposer {
    /// Puts an interposer in place.
    pub fn between(host: &Host, moment: Moment, end: End) -> Result<Self> {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let shared = Arc::new(Shared {
            host: host.clone(),
            moment,
            end,
            struck: Mutex::default(),
            striking: Arc::default(),
            fault: Mutex::default(),
        });
        let _entered = runtime.enter();
        // The engine keeps its connections to a running shoutd.
        shared.replace_shoutd()?;
        Ok(Self { shared, runtime: Some(runtime) })
    }

    /// Removes it, and returns the kinds of calls in which shoutd was ended.
    pub fn end(mut self) -> Result<BTreeSet<String>> {
        self.withdraw()?;
        if let Some(fault) = self.shared.fault.lock().take() {
            bail!("while standing between Docker and shoutd: {fault}");
        }
        Ok(self.shared.struck.lock().clone())
    }

    /// Moves shoutd's socket back.
    fn withdraw(&mut self) -> Result<()> {
        let Some(runtime) = self.runtime.take() else { return Ok(()) };
        // Waits for a strike in progress.
        let _striking = runtime.block_on(Arc::clone(&self.shared.striking).lock_owned());
        let (aside, socket) = (self.shared.host.file(ASIDE)?, self.shared.host.file(SOCKET)?);
        let renamed = if aside.exists() { fs::rename(aside, socket) } else { Ok(()) };
        runtime.shutdown_background();
        renamed.context("put shoutd's socket back in its place")
    }
}

impl Drop for Interposer {
    fn drop(&mut self) {
        _ = self.withdraw();
    }
}

impl Shared {
    /// Ends shoutd and starts it again; its new socket is moved aside.
    fn replace_shoutd(self: &Arc<Self>) -> Result<()> {
        match self.end {
            End::Killed => self.host.kill_shoutd()?,
            End::Stopped => self.host.sh("shoutdctl stop").map(drop)?,
        }
        // shoutd would not serve a socket on which another process answers.
        fs::remove_file(self.host.file(SOCKET)?).context("leave the place of shoutd's socket")?;
        self.host.start_shoutd(&[])?;
        self.interpose()
    }

    /// Moves shoutd's socket aside and listens in its place.
    fn interpose(self: &Arc<Self>) -> Result<()> {
        let (aside, socket) = (self.host.file(ASIDE)?, self.host.file(SOCKET)?);
        if aside.exists() {
            fs::remove_file(&aside).context("remove the socket of a shoutd that has ended")?;
        }
        let listener =
            StdListener::bind(&aside).with_context(|| format!("listen on {}", aside.display()))?;
        listener.set_nonblocking(true)?;
        // In one step: shoutd restores a missing socket.
        let exchanged =
            renameat2(AT_FDCWD, &aside, AT_FDCWD, &socket, RenameFlags::RENAME_EXCHANGE);
        exchanged.context("put shoutd's socket aside")?;
        let listener = UnixListener::from_std(listener)?;
        let shared = Arc::clone(self);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(Arc::clone(&shared).serve(stream));
            }
        });
        Ok(())
    }

    /// Serves a connection of the engine. An error closes it without an answer, as the end of
    /// shoutd does.
    async fn serve(self: Arc<Self>, stream: UnixStream) {
        let service = service_fn(|request| {
            let shared = Arc::clone(&self);
            async move { shared.answer(request).await }
        });
        _ = hyper::server::conn::http1::Builder::new()
            .serve_connection(TokioIo::new(stream), service)
            .await;
    }

    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>> {
        let path = request.uri().path().to_owned();
        let body = request.into_body().collect().await?.to_bytes();
        let striking = Arc::clone(&self.striking).lock_owned().await;
        let is_new = self.struck.lock().insert(path.clone());
        if !is_new {
            return hand_on(&self.host.file(ASIDE)?, &path, body).await;
        }
        let answer = match self.moment {
            Moment::Asked => None,
            Moment::Underway(time) => {
                let aside = self.host.file(ASIDE)?;
                tokio::spawn(async move { hand_on(&aside, &path, body).await });
                sleep(time).await;
                None
            }
            Moment::Answered | Moment::Told => {
                Some(hand_on(&self.host.file(ASIDE)?, &path, body).await?)
            }
        };
        match answer.filter(|_| self.moment == Moment::Told) {
            Some(answer) => {
                // The engine gets the answer before or just after shoutd is gone; it cannot tell.
                let shared = Arc::clone(&self);
                tokio::spawn(async move {
                    shared.strike().await;
                    drop(striking);
                });
                Ok(answer)
            }
            None => {
                self.strike().await;
                bail!("shoutd was ended")
            }
        }
    }

    async fn strike(self: &Arc<Self>) {
        let shared = Arc::clone(self);
        let fault = match tokio::task::spawn_blocking(move || shared.replace_shoutd()).await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => format!("{error:#}"),
            Err(error) => error.to_string(),
        };
        self.fault.lock().get_or_insert(fault);
    }
}

/// Passes the engine's call on to shoutd.
async fn hand_on(socket: &Path, path: &str, body: Bytes) -> Result<Response<Full<Bytes>>> {
    let stream = UnixStream::connect(socket).await.context("connect to shoutd")?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let driving = tokio::spawn(connection);
    let request =
        Request::post(path).header(hyper::header::HOST, "shoutd").body(Full::new(body))?;
    let (head, body) = sender.send_request(request).await?.into_parts();
    let body = body.collect().await?.to_bytes();
    driving.abort();
    Ok(Response::from_parts(head, Full::new(body)))
}
