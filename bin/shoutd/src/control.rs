//! The control socket: JSON over HTTP/1.1, root's alone. It shows; it changes nothing.

use std::sync::Arc;

use axum::extract::State;
use axum::routing::{get, post};
use axum::{Json, Router};
use shoutd_core::view::{EndpointRow, Endpoints, HostRow, NetworkRow, Status};

use crate::views::{ENDPOINTS, Views};

/// What `shoutdctl` asks for.
pub fn router(views: Arc<Views>) -> Router {
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/hosts", get(hosts))
        .route("/v1/networks", get(networks))
        .route("/v1/endpoints", get(endpoints))
        .with_state(views)
}

/// What peers ask of this host beside agreement.
pub fn peer_router(views: Arc<Views>) -> Router {
    Router::new().route(ENDPOINTS, post(own_endpoints)).with_state(views)
}

async fn own_endpoints(State(views): State<Arc<Views>>) -> Json<Vec<EndpointRow>> {
    Json(views.own_endpoints().await)
}

async fn status(State(views): State<Arc<Views>>) -> Json<Status> {
    Json(views.status())
}

async fn hosts(State(views): State<Arc<Views>>) -> Json<Vec<HostRow>> {
    Json(views.hosts().await)
}

async fn networks(State(views): State<Arc<Views>>) -> Json<Vec<NetworkRow>> {
    Json(views.networks())
}

async fn endpoints(State(views): State<Arc<Views>>) -> Json<Endpoints> {
    Json(views.endpoints().await)
}
