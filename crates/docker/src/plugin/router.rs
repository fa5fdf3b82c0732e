//! Routes HTTP requests to a driver.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Body as _;
use serde_json::{Value, json};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};
use tracing::{debug, warn};

use super::call::{Call, DriverCall, IpamCall, NetworkCall};
use super::driver::{IpamDriver, NetworkDriver};
use super::error::DriverError;
use super::ipam::{self, PoolId, ReleaseAddress, RequestAddress, RequestPool};
use super::network::{AllocateNetwork, CreateEndpoint, CreateNetwork, EndpointKey, Join};
use super::observer::CallObserver;
use super::scope::Scope;
use super::wire::FromBody;
use crate::one_line;

/// Limits of one call, and of all calls together.
#[derive(Debug, Clone, Copy)]
pub struct PluginLimits {
    /// Deadline of a call. Docker itself would wait forever, and hold the container's lock.
    pub call: Duration,
    /// Deadline for the call's body to arrive.
    pub body: Duration,
    /// Size limit of a call's body, in bytes. Docker's have a few hundred, plus the user's options.
    pub body_bytes: usize,
    /// How many calls the driver handles at a time; others wait within their deadline.
    pub in_flight: usize,
}

impl Default for PluginLimits {
    fn default() -> Self {
        Self {
            call: Duration::from_secs(30),
            body: Duration::from_secs(10),
            body_bytes: 1 << 20,
            in_flight: 64,
        }
    }
}

/// The HTTP service of a driver, with the default limits.
pub fn router<D: NetworkDriver + IpamDriver>(driver: Arc<D>, scope: Scope) -> Router {
    router_with_limits(driver, scope, PluginLimits::default())
}

/// The HTTP service of a driver. Calls need a tokio runtime.
pub fn router_with_limits<D: NetworkDriver + IpamDriver>(
    driver: Arc<D>,
    scope: Scope,
    limits: PluginLimits,
) -> Router {
    make_router(driver, scope, limits, Arc::new(()))
}

/// As [`router`], with an observer of the calls.
pub fn observed_router<D: NetworkDriver + IpamDriver>(
    driver: Arc<D>,
    scope: Scope,
    observer: Arc<dyn CallObserver>,
) -> Router {
    make_router(driver, scope, PluginLimits::default(), observer)
}

fn make_router<D: NetworkDriver + IpamDriver>(
    driver: Arc<D>,
    scope: Scope,
    limits: PluginLimits,
    observer: Arc<dyn CallObserver>,
) -> Router {
    let permits = Arc::new(Semaphore::new(limits.in_flight));
    let plugin = Plugin { driver, scope, limits, permits, observer };
    Router::new().fallback(answer::<D>).with_state(Arc::new(plugin))
}

struct Plugin<D> {
    driver: Arc<D>,
    scope: Scope,
    limits: PluginLimits,
    permits: Arc<Semaphore>,
    observer: Arc<dyn CallObserver>,
}

/// Answers every request. It reads raw bytes because axum's `Json` requires a `Content-Type`, which
/// Docker does not send.
async fn answer<D: NetworkDriver + IpamDriver>(
    State(plugin): State<Arc<Plugin<D>>>,
    request: Request,
) -> Response {
    let (head, body) = request.into_parts();
    let path = head.uri.path();
    if head.method != Method::POST {
        return refuse(
            StatusCode::METHOD_NOT_ALLOWED,
            &format!("Docker calls plugins with POST, not {}", head.method),
        );
    }
    let Some(call) = Call::from_path(path, plugin.scope) else {
        let path = one_line(path, 200);
        warn!(call = path, "Docker called an unknown method");
        return refuse(StatusCode::NOT_FOUND, &format!("the shoutd plugin has no method {path}"));
    };
    let outcome = match call {
        Call::Fixed(outcome) => {
            debug!(call = path, "plugin call answered at once");
            outcome
        }
        Call::Driver(call) => plugin.run(call, path, body).await,
    };
    match outcome {
        Ok(value) => reply(StatusCode::OK, &value),
        // Failures also have status 200: with any other, Docker's IPAM client shows the raw body.
        Err(error) if path.starts_with("/IpamDriver.") => {
            reply(StatusCode::OK, &json!({ "Error": error.message() }))
        }
        Err(error) => reply(StatusCode::OK, &json!({ "Err": error.message() })),
    }
}

pub(super) fn reply(status: StatusCode, value: &Value) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], value.to_string()).into_response()
}

/// The answer to a request that no version of Docker sends. If the status is not 200, Docker reads
/// only the member `Err`.
pub(super) fn refuse(status: StatusCode, message: &str) -> Response {
    reply(status, &json!({ "Err": message }))
}

/// Reads a call's body, within its limits.
pub(super) async fn read_body(body: Body, limits: &PluginLimits) -> Result<Bytes, DriverError> {
    let too_long =
        || DriverError::new(format!("the call's body is longer than {} bytes", limits.body_bytes));
    // If Content-Length is too large, we need not read the body.
    if body.size_hint().lower() > limits.body_bytes as u64 {
        return Err(too_long());
    }
    match tokio::time::timeout(limits.body, Limited::new(body, limits.body_bytes).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_long()),
        Ok(Err(error)) => Err(DriverError::new(format!("cannot read the call's body: {error}"))),
        Err(_) => Err(DriverError::new(format!(
            "the call's body did not arrive within {:?}",
            limits.body
        ))),
    }
}

impl<D: NetworkDriver + IpamDriver> Plugin<D> {
    /// Runs one call within its deadlines, from the body to the driver's answer.
    async fn run(&self, call: DriverCall, path: &str, body: Body) -> Result<Value, DriverError> {
        let started = Instant::now();
        let name = path.trim_start_matches('/').to_owned();
        let outcome = async {
            let body = read_body(body, &self.limits).await?;
            let permit = self.admit(started + self.limits.call).await?;
            self.dispatch(
                call,
                &body,
                Slot { permit, deadline: started + self.limits.call, limit: self.limits.call },
            )
            .await
        }
        .await;
        let duration = started.elapsed();
        self.observer.answered(call.name(), outcome.is_ok(), duration);
        match outcome {
            Ok(value) => {
                debug!(call = name, ?duration, "plugin call done");
                Ok(value)
            }
            Err(error) => {
                warn!(call = name, ?duration, %error, "plugin call failed");
                Err(error)
            }
        }
    }

    async fn admit(&self, deadline: Instant) -> Result<OwnedSemaphorePermit, DriverError> {
        match timeout_at(deadline, Arc::clone(&self.permits).acquire_owned()).await {
            Ok(Ok(permit)) => Ok(permit),
            _ => Err(DriverError::new(format!(
                "shoutd is busy with {} other calls of Docker and could not start this one within \
                 {:?}",
                self.limits.in_flight, self.limits.call
            ))),
        }
    }

    async fn dispatch(
        &self,
        call: DriverCall,
        body: &[u8],
        slot: Slot,
    ) -> Result<Value, DriverError> {
        match call {
            DriverCall::Network(call) => self.call_network_driver(call, body, slot).await,
            DriverCall::Ipam(call) => self.call_ipam_driver(call, body, slot).await,
        }
    }

    async fn call_network_driver(
        &self,
        call: NetworkCall,
        body: &[u8],
        slot: Slot,
    ) -> Result<Value, DriverError> {
        let driver = Arc::clone(&self.driver);
        match call {
            NetworkCall::AllocateNetwork => {
                let request: AllocateNetwork = parse(body)?;
                let work = async move {
                    driver.allocate_network(request).await.map(|kept| json!({ "Options": kept }))
                };
                slot.run(work).await
            }
            NetworkCall::FreeNetwork => {
                let request = parse(body)?;
                slot.run(async move { driver.free_network(request).await.map(empty) }).await
            }
            NetworkCall::CreateNetwork => {
                let request = CreateNetwork { scope: self.scope, ..parse(body)? };
                slot.run(async move { driver.create_network(request).await.map(empty) }).await
            }
            NetworkCall::DeleteNetwork => {
                let request = parse(body)?;
                slot.run(async move { driver.delete_network(request).await.map(empty) }).await
            }
            NetworkCall::CreateEndpoint => {
                let request: CreateEndpoint = parse(body)?;
                let requested = request.mac;
                let work = async move {
                    driver.create_endpoint(request).await.map(|made| made.to_wire(requested))
                };
                slot.run(work).await
            }
            NetworkCall::DeleteEndpoint => {
                let request: EndpointKey = parse(body)?;
                slot.run(async move { driver.delete_endpoint(request).await.map(empty) }).await
            }
            NetworkCall::Join => {
                let request: Join = parse(body)?;
                slot.run(async move { driver.join(request).await.map(|reply| reply.to_wire()) })
                    .await
            }
            NetworkCall::Leave => {
                let request: EndpointKey = parse(body)?;
                slot.run(async move { driver.leave(request).await.map(empty) }).await
            }
            NetworkCall::EndpointInfo => {
                let request: EndpointKey = parse(body)?;
                slot.run(async move {
                    driver.endpoint_info(request).await.map(|info| json!({ "Value": info }))
                })
                .await
            }
        }
    }

    async fn call_ipam_driver(
        &self,
        call: IpamCall,
        body: &[u8],
        slot: Slot,
    ) -> Result<Value, DriverError> {
        let driver = Arc::clone(&self.driver);
        match call {
            IpamCall::RequestPool => {
                let request: RequestPool = parse(body)?;
                slot.run(
                    async move { driver.request_pool(request).await.map(|pool| pool.to_wire()) },
                )
                .await
            }
            IpamCall::ReleasePool => {
                let request: PoolId = parse(body)?;
                slot.run(async move { driver.release_pool(request).await.map(empty) }).await
            }
            IpamCall::RequestAddress => {
                let request: RequestAddress = parse(body)?;
                slot.run(
                    async move { driver.request_address(request).await.map(ipam::address_to_wire) },
                )
                .await
            }
            IpamCall::ReleaseAddress => {
                let request: ReleaseAddress = parse(body)?;
                slot.run(async move { driver.release_address(request).await.map(empty) }).await
            }
        }
    }
}

fn empty((): ()) -> Value {
    json!({})
}

fn parse<T: FromBody>(body: &[u8]) -> Result<T, DriverError> {
    T::from_body(body).map_err(|error| DriverError::new(error.to_string()))
}

/// Permission of one call to run until its deadline.
struct Slot {
    permit: OwnedSemaphorePermit,
    deadline: Instant,
    limit: Duration,
}

impl Slot {
    /// Runs the driver in its own task. If Docker closes the connection, the work continues:
    /// stopping it at an arbitrary point would do more harm. A panic fails only this call.
    async fn run<F>(self, work: F) -> Result<Value, DriverError>
    where
        F: Future<Output = Result<Value, DriverError>> + Send + 'static,
    {
        let Self { permit, deadline, limit } = self;
        let task = tokio::spawn(async move {
            let outcome = timeout_at(deadline, work).await;
            drop(permit);
            outcome
        });
        match task.await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => Err(DriverError::new(format!(
                "shoutd did not finish within {limit:?}; see its log, and \"shoutdctl status\""
            ))),
            Err(_) => Err(DriverError::new("internal error in shoutd; see its log")),
        }
    }
}
