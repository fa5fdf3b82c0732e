//! Serves the metrics by HTTP/1.1.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::fmt::Debug;
use std::future::pending;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ACCEPT, ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use shoutd_core::metrics_address::MetricsAddress;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, watch};
use tokio::task::{AbortHandle, JoinSet, spawn_blocking};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::format::{Format, prometheus_text};

/// The only path.
const PATH: &str = "/metrics";

/// Connections at a time. There are few scrapers, and a connection serves one request. When all are
/// taken, the oldest is closed: a scrape takes some milliseconds, so silent connections cannot keep
/// it out.
const CONNECTIONS_MAX: usize = 16;

/// How long a connection may last, including the time to write an answer of 2 MiB.
const CONNECTION_DEADLINE: Duration = Duration::from_secs(10);

/// How long a request may take to arrive.
const REQUEST_DEADLINE: Duration = Duration::from_secs(5);

/// Octets of a request's head.
const HEAD_BYTES_MAX: usize = 16 << 10;

/// How old an answer may be: several scrapers cost as much as one.
const ANSWER_AGE_MAX: Duration = Duration::from_secs(1);

/// How often it is tried to bind an address that is taken.
const BIND_PERIOD: Duration = Duration::from_secs(1);

/// Pause after a failed `accept`, which means that file descriptors or memory ran out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long the first answer waits for the data plane to have read the kernel.
const FIRST_READING: Duration = Duration::from_secs(10);

/// Where the metrics come from. The functions block.
pub trait Source: Debug + Send + Sync + 'static {
    /// All counts begin now.
    fn begin(&self);

    /// All metrics as OpenMetrics text; `None` if they cannot be written.
    fn collect(&self) -> Option<String>;
}

/// What is served, and where.
#[derive(Debug)]
pub struct Served {
    /// The address.
    pub address: watch::Receiver<MetricsAddress>,
    /// Reads the metrics.
    pub source: Arc<dyn Source>,
    /// Why they are not served, if they should be.
    pub problem: watch::Sender<Option<String>>,
}

/// An answer and its age.
#[derive(Debug, Default)]
struct Cache {
    answer: Option<(Instant, Arc<str>)>,
}

#[derive(Debug)]
struct State {
    source: Arc<dyn Source>,
    /// Held while an answer is made, so that requests at the same time share it.
    cache: Mutex<Cache>,
}

impl State {
    fn new(source: Arc<dyn Source>) -> Self {
        Self { source, cache: Mutex::default() }
    }
}

/// Serves until `stop`, at the address that is set. If the address is taken, everything else goes
/// on, and it is tried again.
pub async fn serve(
    mut served: Served,
    observed: impl Future<Output = ()>,
    stop: CancellationToken,
) {
    let serving = async {
        // Before the first scrape: the counts begin now.
        let _ = timeout(FIRST_READING, observed).await;
        let source = served.source.clone();
        let _ = spawn_blocking(move || source.begin()).await;
        loop {
            let address = *served.address.borrow_and_update();
            tokio::select! {
                () = serve_at(address, &served.source, &served.problem) => {}
                changed = served.address.changed() => if changed.is_err() { return },
            }
        }
    };
    stop.run_until_cancelled(serving).await;
    stop.cancelled().await;
}

/// Serves at this address, forever.
async fn serve_at(
    address: MetricsAddress,
    source: &Arc<dyn Source>,
    problem: &watch::Sender<Option<String>>,
) {
    let MetricsAddress::At(address) = address else {
        problem.send_replace(None);
        return pending().await;
    };
    let listener = bind(address, problem).await;
    info!("metrics are served at http://{address}{PATH}");
    accept(&listener, &Arc::new(State::new(source.clone()))).await;
}

/// Binds the address as soon as that is possible.
async fn bind(address: SocketAddr, problem: &watch::Sender<Option<String>>) -> TcpListener {
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => {
                problem.send_replace(None);
                return listener;
            }
            Err(error) => {
                let text = format!(
                    "metrics cannot be served at {address}: {error}; stop what uses it, or start \
                     shoutd with another --metrics-address"
                );
                let is_news = problem.send_replace(Some(text.clone())).as_ref() != Some(&text);
                if is_news {
                    warn!("{text}");
                }
                sleep(BIND_PERIOD).await;
            }
        }
    }
}

/// Accepts connections forever.
async fn accept(listener: &TcpListener, state: &Arc<State>) {
    let mut connections = JoinSet::new();
    let mut oldest_first: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        tokio::select! {
            Some(_) = connections.join_next() => {
                oldest_first.retain(|connection| !connection.is_finished());
            }
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    if oldest_first.len() >= CONNECTIONS_MAX
                        && let Some(oldest) = oldest_first.pop_front()
                    {
                        oldest.abort();
                    }
                    oldest_first.push_back(connections.spawn(answer_one(stream, state.clone())));
                }
                Err(error) => {
                    warn!(%error, "cannot accept a connection for metrics");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

/// Answers one request.
async fn answer_one(stream: TcpStream, state: Arc<State>) {
    let service = service_fn(move |request| {
        let state = state.clone();
        async move { Ok::<_, Infallible>(answer(&state, &request).await) }
    });
    let mut server = http1::Builder::new();
    server.keep_alive(false).timer(TokioTimer::new()).header_read_timeout(REQUEST_DEADLINE);
    server.max_buf_size(HEAD_BYTES_MAX);
    let served = server.serve_connection(TokioIo::new(stream), service);
    match timeout(CONNECTION_DEADLINE, served).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!("a connection for metrics failed: {error}"),
        Err(_) => debug!("a connection for metrics took too long"),
    }
}

async fn answer(state: &State, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    if request.uri().path() != PATH {
        return refuse(StatusCode::NOT_FOUND, "the metrics are at /metrics\n");
    }
    if ![Method::GET, Method::HEAD].contains(request.method()) {
        let mut response = refuse(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    let Some(text) = current(state).await else {
        return refuse(StatusCode::INTERNAL_SERVER_ERROR, "the metrics cannot be read\n");
    };
    let accept = request.headers().get_all(ACCEPT).iter().filter_map(|one| one.to_str().ok());
    let format = Format::negotiate(&accept.collect::<Vec<_>>().join(","));
    let text = match format {
        Format::OpenMetrics => text.to_string(),
        Format::Text => prometheus_text(&text),
    };
    let mut response = Response::new(Full::new(Bytes::from(text)));
    let content_type = HeaderValue::from_static(format.content_type());
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}

fn refuse(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
    *response.status_mut() = status;
    response
}

/// The metrics as OpenMetrics text, at most [`ANSWER_AGE_MAX`] old.
async fn current(state: &State) -> Option<Arc<str>> {
    let mut cache = state.cache.lock().await;
    if let Some((at, text)) = &cache.answer
        && at.elapsed() < ANSWER_AGE_MAX
    {
        return Some(text.clone());
    }
    let source = state.source.clone();
    let text: Arc<str> = spawn_blocking(move || source.collect()).await.ok()??.into();
    cache.answer = Some((Instant::now(), text.clone()));
    Some(text)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    const TEXT: &str = "# HELP a Counted\n# TYPE a counter\na_total 1\n# EOF\n";

    /// Counts how often it is asked.
    #[derive(Debug, Default)]
    struct Counted(AtomicUsize);

    impl Source for Counted {
        fn begin(&self) {}

        fn collect(&self) -> Option<String> {
            self.0.fetch_add(1, Ordering::Relaxed);
            Some(TEXT.to_owned())
        }
    }

    /// A server on a free port, and its source.
    async fn server() -> (SocketAddr, Arc<Counted>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, source) = (listener.local_addr().unwrap(), Arc::new(Counted::default()));
        let state = Arc::new(State::new(source.clone()));
        drop(tokio::spawn(async move { accept(&listener, &state).await }));
        (address, source)
    }

    /// The whole answer to this request.
    async fn ask(address: SocketAddr, head: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(format!("{head}\r\nHost: x\r\n\r\n").as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn only_get_and_head_of_one_path_are_answered() {
        let (address, source) = server().await;
        for (head, status, end) in [
            ("GET /metrics HTTP/1.1", "200 OK", "# TYPE a_total counter\na_total 1\n"),
            ("GET /metrics?x=1 HTTP/1.1", "200 OK", "a_total 1\n"),
            ("HEAD /metrics HTTP/1.1", "200 OK", "\r\n\r\n"),
            (
                "GET /metrics HTTP/1.1\r\nAccept: application/openmetrics-text",
                "200 OK",
                "a_total 1\n# EOF\n",
            ),
            ("GET / HTTP/1.1", "404 Not Found", "at /metrics\n"),
            ("GET /metrics/ HTTP/1.1", "404 Not Found", "at /metrics\n"),
            ("POST /metrics HTTP/1.1", "405 Method Not Allowed", "GET and HEAD\n"),
            ("nonsense", "400 Bad Request", "\r\n\r\n"),
        ] {
            let answer = ask(address, head).await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{head}: {answer}");
            assert!(answer.ends_with(end), "{head}: {answer}");
        }
        let asked = source.0.load(Ordering::Relaxed);
        assert!((1..4).contains(&asked), "answers are shared: asked {asked} times");
    }

    #[tokio::test]
    async fn silent_connections_do_not_keep_a_scrape_out() {
        let (address, _source) = server().await;
        let mut silent = Vec::new();
        for _ in 0..4 * CONNECTIONS_MAX {
            silent.push(TcpStream::connect(address).await.unwrap());
        }
        let answer = ask(address, "GET /metrics HTTP/1.1").await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        // All but the newest were closed.
        let mut closed = 0;
        for stream in silent.iter_mut().take(3 * CONNECTIONS_MAX) {
            closed += usize::from(matches!(stream.read(&mut [0]).await, Ok(0) | Err(_)));
        }
        assert_eq!(closed, 3 * CONNECTIONS_MAX);
    }

    #[tokio::test]
    async fn an_address_that_is_taken_is_a_problem_until_it_is_free() {
        let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = taken.local_addr().unwrap();
        let (problem, mut seen) = watch::channel(None);
        let (setting, followed) = watch::channel(MetricsAddress::At(address));
        let served = Served { address: followed, source: Arc::new(Counted::default()), problem };
        let stop = CancellationToken::new();
        let serving = tokio::spawn(serve(served, async {}, stop.clone()));
        let text = seen.wait_for(Option::is_some).await.unwrap().clone().unwrap();
        assert!(
            text.contains(&address.to_string()) && text.contains("--metrics-address"),
            "{text}"
        );
        drop(taken);
        seen.wait_for(Option::is_none).await.unwrap();
        let answer = ask(address, "GET /metrics HTTP/1.1").await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        // The address is free again as soon as another is set.
        setting.send_replace(MetricsAddress::Off);
        timeout(Duration::from_secs(20), async {
            while TcpListener::bind(address).await.is_err() {
                tokio::task::yield_now().await;
            }
        })
        .await
        .unwrap();
        stop.cancel();
        serving.await.unwrap();
    }
}
