//! The client: requests to peers.

use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::http::{HeaderValue, Method, Request, Response, StatusCode, header};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use serde::Serialize;
use serde::de::DeserializeOwned;
use shoutd_core::HostId;
use tokio::time::timeout;

use crate::connection::{Connection, Connections};
use crate::limits::BODY_BYTES_MAX;
use crate::{Connector, Distrust, Identity, Rejection};

/// Sends requests to peers. Clones share the connections.
#[derive(Debug, Clone)]
pub struct Client {
    identity: Identity,
    connections: Arc<Connections>,
}

/// Why a call failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CallError {
    /// No connection could be made, or it broke. If it broke, the peer may have carried out the
    /// request.
    #[error("{address} cannot be reached: {}", innermost(.source))]
    Unreachable {
        /// The peer.
        address: SocketAddr,
        /// The cause.
        source: Arc<io::Error>,
    },
    /// No answer came in time. The peer may have carried out the request.
    #[error("{address} did not answer within {} ms", .after.as_millis())]
    TimedOut {
        /// The peer.
        address: SocketAddr,
        /// The deadline that the caller gave.
        after: Duration,
    },
    /// The peer refused the request.
    #[error("{address} refused: {rejection}")]
    Refused {
        /// The peer.
        address: SocketAddr,
        /// Its reason.
        rejection: Rejection,
    },
    /// We do not trust the peer's certificate. No request was sent.
    #[error("{address} is not trusted: {distrust}")]
    Untrusted {
        /// The peer.
        address: SocketAddr,
        /// Why.
        distrust: Distrust,
    },
    /// The request or the answer is malformed.
    #[error("malformed exchange with {address}: {reason}")]
    Malformed {
        /// The peer.
        address: SocketAddr,
        /// What is wrong.
        reason: String,
    },
}

/// The text of the innermost cause: hyper's own errors say little more than that there was one.
fn innermost(error: &Arc<io::Error>) -> String {
    let mut cause: &dyn Error = &**error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

impl Client {
    /// A client that identifies itself as this host, over connections that the connector makes.
    pub fn new(identity: Identity, connector: impl Connector) -> Self {
        Self { identity, connections: Arc::new(Connections::new(Arc::new(connector))) }
    }

    /// Who this host is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Calls the host at this address, whichever it is. The path starts with a slash.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn call<Q: Serialize + Sync, A: DeserializeOwned>(
        &self,
        address: SocketAddr,
        path: &str,
        request: &Q,
        deadline: Duration,
    ) -> Result<A, CallError> {
        self.call_within(None, address, path, request, deadline).await
    }

    /// Calls the host with this id, and no other host that may have taken over its address.
    ///
    /// # Errors
    /// See [`CallError`]; another host answers [`Rejection::OtherHost`].
    pub async fn call_host<Q: Serialize + Sync, A: DeserializeOwned>(
        &self,
        host: HostId,
        address: SocketAddr,
        path: &str,
        request: &Q,
        deadline: Duration,
    ) -> Result<A, CallError> {
        self.call_within(Some(host), address, path, request, deadline).await
    }

    async fn call_within<Q: Serialize + Sync, A: DeserializeOwned>(
        &self,
        host: Option<HostId>,
        address: SocketAddr,
        path: &str,
        request: &Q,
        deadline: Duration,
    ) -> Result<A, CallError> {
        let body = serde_json::to_vec(request).map_err(|error| CallError::Malformed {
            address,
            reason: format!("the request cannot be written as JSON: {error}"),
        })?;
        if body.len() > BODY_BYTES_MAX {
            let reason =
                format!("the request has {} bytes; {BODY_BYTES_MAX} is the limit", body.len());
            return Err(CallError::Malformed { address, reason });
        }
        let exchange = async {
            let (response, connection) = self.send(host, address, path, Bytes::from(body)).await?;
            let status = response.status();
            let body = read(address, response.into_body()).await?;
            let answer = parse(address, status, &body);
            // TLS authenticates both ends only when a connection is made. Certificates and clocks
            // may have changed since, so the next call makes a new connection.
            if let Err(CallError::Refused {
                rejection: Rejection::Unauthenticated { .. }, ..
            }) = &answer
            {
                self.connections.leave(address, &connection);
            }
            answer
        };
        timeout(deadline, exchange)
            .await
            .map_err(|_| CallError::TimedOut { address, after: deadline })?
    }

    /// Sends the request, and sends it again if a reused connection turned out to be dead.
    async fn send(
        &self,
        host: Option<HostId>,
        address: SocketAddr,
        path: &str,
        body: Bytes,
    ) -> Result<(Response<Incoming>, Connection), CallError> {
        loop {
            let mut connection =
                self.connections.get(address).await.map_err(|source| {
                    match source.get_ref().and_then(|inner| inner.downcast_ref::<Distrust>()) {
                        Some(distrust) => {
                            CallError::Untrusted { address, distrust: distrust.clone() }
                        }
                        None => CallError::Unreachable { address, source },
                    }
                })?;
            // A request for one host must not be sent to another: it may carry secrets.
            let is = connection.host;
            if let Some(wanted) = host.filter(|wanted| *wanted != is) {
                return Err(CallError::Refused {
                    address,
                    rejection: Rejection::OtherHost { is, wanted },
                });
            }
            let request = self.request(host, address, path, body.clone())?;
            let sent = match connection.sender.ready().await {
                Ok(()) => connection.sender.send_request(request).await,
                Err(error) => Err(error),
            };
            match sent {
                Ok(response) => return Ok((response, connection)),
                Err(error) => {
                    self.connections.forget(address, &connection);
                    // Retry only after a reused connection died; each round removes one. A live
                    // connection that fails does not justify a retry.
                    if !connection.reused || !connection.sender.is_closed() {
                        let source = Arc::new(io::Error::other(error));
                        return Err(CallError::Unreachable { address, source });
                    }
                }
            }
        }
    }

    fn request(
        &self,
        host: Option<HostId>,
        address: SocketAddr,
        path: &str,
        body: Bytes,
    ) -> Result<Request<Full<Bytes>>, CallError> {
        // Without the zone of an IPv6 link-local address, which means nothing to the peer (RFC
        // 6874, section 4). The connection uses it.
        let authority = SocketAddr::new(address.ip(), address.port());
        let request =
            Request::builder().method(Method::POST).uri(format!("https://{authority}{path}"));
        let mut request = request.body(Full::new(body)).map_err(|error| CallError::Malformed {
            address,
            reason: format!("path {path}: {error}"),
        })?;
        request
            .headers_mut()
            .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        self.identity.write_headers(host, request.headers_mut());
        Ok(request)
    }
}

async fn read(address: SocketAddr, body: Incoming) -> Result<Bytes, CallError> {
    match Limited::new(body, BODY_BYTES_MAX).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(CallError::Malformed {
            address,
            reason: format!("the answer has more than {BODY_BYTES_MAX} bytes"),
        }),
        Err(error) => {
            Err(CallError::Unreachable { address, source: Arc::new(io::Error::other(error)) })
        }
    }
}

fn parse<A: DeserializeOwned>(
    address: SocketAddr,
    status: StatusCode,
    body: &[u8],
) -> Result<A, CallError> {
    if status.is_success() {
        return serde_json::from_slice(body).map_err(|error| CallError::Malformed {
            address,
            reason: format!("the answer is not the expected JSON: {error}"),
        });
    }
    let rejection = serde_json::from_slice(body).unwrap_or_else(|_| {
        // Not from one of our handlers: the router's own text, or another server's.
        let text: String = String::from_utf8_lossy(body).chars().take(200).collect();
        Rejection::Failed { reason: format!("{status} {}", text.trim()).trim_end().to_owned() }
    });
    Err(CallError::Refused { address, rejection })
}
