//! Serves the page: HTML, and its changes as server-sent events.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Query, Request, State};
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, HeaderValue, LOCATION,
    REFERRER_POLICY, SET_COOKIE, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{Method, StatusCode};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use futures::{Stream, StreamExt, stream};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use serde::Deserialize;
use shoutd_core::explain::{AskWhy, Explanation};
use shoutd_core::host_view::{AskHost, HostView};
use shoutd_core::view::{HostRow, Status};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

use super::access::Access;
use super::page::{self, Regions};
use super::watch::Watcher;
use crate::control;

/// Connections at a time. A browser has up to six.
const CONNECTIONS_MAX: usize = 128;

/// How long a request's head and a TLS handshake may take.
const HEAD_DEADLINE: Duration = Duration::from_secs(10);

/// Pause after a failed `accept`: file descriptors or memory ran out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The page loads what is its own, and nothing else may show it in a frame.
const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; \
                      connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; \
                      frame-ancestors 'none'";

/// State of the handlers.
#[derive(Debug)]
struct Served {
    watcher: Arc<Watcher>,
    access: Access,
}

/// Serves until it is dropped.
pub async fn serve(
    listener: TcpListener,
    acceptor: Option<TlsAcceptor>,
    watcher: Arc<Watcher>,
    access: Access,
) {
    let router = router(Arc::new(Served { watcher, access }));
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(slot) = slots.clone().acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else {
            sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let (router, acceptor) = (router.clone(), acceptor.clone());
        tokio::spawn(async move {
            let _slot = slot;
            match acceptor {
                None => connection(stream, router).await,
                Some(acceptor) => {
                    let accepted = timeout(HEAD_DEADLINE, acceptor.accept(stream)).await;
                    if let Ok(Ok(stream)) = accepted {
                        connection(stream, router).await;
                    }
                }
            }
        });
    }
}

async fn connection(stream: impl AsyncRead + AsyncWrite + Unpin, router: Router) {
    let service = TowerToHyperService::new(router);
    // A browser that goes away is no error.
    let _ = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_DEADLINE)
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

fn router(served: Arc<Served>) -> Router {
    Router::new()
        .route("/", get(whole))
        .route("/changes", get(changes))
        .route("/group", get(group))
        .route("/host", get(host))
        .route("/page.css", get(async || asset("text/css", include_str!("page.css"))))
        .route("/page.js", get(async || asset("text/javascript", include_str!("page.js"))))
        .layer(from_fn_with_state(served.clone(), guard))
        .with_state(served)
}

/// Lets only requests with the token pass, and adds the headers that every answer has.
async fn guard(State(served): State<Arc<Served>>, request: Request, next: Next) -> Response {
    let token = request.uri().query().and_then(|query| query.strip_prefix("token="));
    let mut response = if request.method() != Method::GET {
        StatusCode::METHOD_NOT_ALLOWED.into_response()
    } else if served.access.admits(request.headers()) && token.is_none() {
        next.run(request).await
    } else if token.is_some_and(|token| served.access.knows(token)) {
        // Without the token in it, the address may be shown to others.
        let cookie = [(SET_COOKIE, served.access.cookie()), (LOCATION, "/".to_owned())];
        (StatusCode::SEE_OTHER, cookie).into_response()
    } else {
        (StatusCode::FORBIDDEN, Html(page::denied())).into_response()
    };
    let headers: [(HeaderName, &str); 4] = [
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
        (CACHE_CONTROL, "no-store"),
    ];
    for (name, value) in headers {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

fn asset(kind: &'static str, content: &'static str) -> Response {
    ([(CONTENT_TYPE, kind)], content).into_response()
}

async fn whole(State(served): State<Arc<Served>>) -> Html<String> {
    let first = served.watcher.first().await;
    Html(page::page(&first))
}

/// The regions that changed, as long as the browser listens.
async fn changes(
    State(served): State<Arc<Served>>,
) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let mut receiver = served.watcher.watch();
    receiver.mark_changed();
    let events = stream::unfold((receiver, Regions::default()), async |(mut receiver, shown)| {
        receiver.changed().await.ok()?;
        let newest = receiver.borrow_and_update().clone();
        let newest = newest.unwrap_or_default();
        let (events, shown) = differences(&shown, &newest);
        Some((stream::iter(events.into_iter().map(Ok)), (receiver, shown)))
    });
    Sse::new(events.flatten()).keep_alive(KeepAlive::default())
}

/// The events for what changed, and what the page then shows.
pub(super) fn differences(shown: &Regions, newest: &Regions) -> (Vec<Event>, Regions) {
    let event = |name: &str, html: &str| Event::default().event(name).data(html);
    if newest.hosts.is_empty() {
        // If the daemon does not answer, the page keeps its other regions.
        let silent = (!newest.summary.is_empty()).then(|| event("silent", &newest.summary));
        let shown = Regions { summary: String::new(), ..shown.clone() };
        return (silent.into_iter().collect(), shown);
    }
    let both = shown.named().into_iter().zip(newest.named());
    let changed = both.filter(|((_, before), (_, now))| before != now);
    let events = changed.map(|(_, (name, html))| event(name, html)).collect();
    (events, newest.clone())
}

#[derive(Debug, Deserialize)]
struct AskedGroup {
    network: String,
    group: String,
}

async fn group(
    State(served): State<Arc<Served>>,
    Query(AskedGroup { network, group }): Query<AskedGroup>,
) -> Html<String> {
    let found = why(&served, &network, &group).await;
    Html(page::group_panel(&network, &group, &found))
}

async fn why(served: &Served, network: &str, group: &str) -> Result<Explanation, String> {
    let group = group.parse().map_err(|_| format!("{group} is not an address"))?;
    let asked = AskWhy {
        network: network.to_owned(),
        group: Some(group),
        port: None,
        from: None,
        to: None,
    };
    let found = control::post(served.watcher.directories(), "/v1/why", &asked).await;
    found.map_err(|error| error.to_string())
}

#[derive(Debug, Deserialize)]
struct AskedHost {
    name: String,
}

async fn host(
    State(served): State<Arc<Served>>,
    Query(AskedHost { name }): Query<AskedHost>,
) -> Html<String> {
    let directories = served.watcher.directories();
    let ask = |view| AskHost { host: name.clone(), view };
    let (status, hosts) = (ask(HostView::Status), ask(HostView::Hosts));
    let found = tokio::try_join!(
        control::post::<_, Status>(directories, "/v1/host", &status),
        control::post::<_, Vec<HostRow>>(directories, "/v1/host", &hosts),
    );
    Html(page::host_panel(&name, &found.map_err(|error| error.to_string())))
}
