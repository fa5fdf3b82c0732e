//! The control socket: JSON over HTTP/1.1, only for root. It shows the state of the cluster, and
//! changes its membership.

use std::sync::Arc;

use anyhow::anyhow;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::Value;
use shoutd_core::configuration::{Reloaded, Settings};
use shoutd_core::doctor::ClockFacts;
use shoutd_core::encryption::SetEncrypt;
use shoutd_core::events::Event;
use shoutd_core::explain::{AskCounts, AskFacts, AskTrace, AskWhy, Explanation, HostFacts, Trace};
use shoutd_core::health::HostHealth;
use shoutd_core::host_view::{AskHost, HostView};
use shoutd_core::joining::PeerCheck;
use shoutd_core::limits::{EVENTS_MAX, WATCHERS_MAX};
use shoutd_core::ping::{AskEchoes, AskPing, Echoes, Ping};
use shoutd_core::rates::{AskRates, AskTop, HostRates, Top};
use shoutd_core::tunnel_keys::{AskRotation, KeyRotation};
use shoutd_core::view::{
    Applicant, Approve, AwaitNetwork, CheckPeers, Done, EndpointRow, Endpoints, Failure,
    ForgetNetwork, GroupMemberRow, GroupRow, HostRow, Membership, NetworkRow, NetworkStanding,
    OfferToken, RemoveHost, RotateToken, Status, TokenView,
};
use shoutd_core::watch::AskWatch;

use crate::api::clocks::{CLOCK, milliseconds};
use crate::api::elsewhere::VIEW;
use crate::api::group_members::GROUP_MEMBERS;
use crate::api::ping::ECHOES;
use crate::api::rates::RATES;
use crate::api::rollout::Rollouts;
use crate::api::trace::COUNTS;
use crate::api::views::{ENDPOINTS, HEALTH, HELLO, Views};
use crate::api::watch::Scenes;
use crate::api::why::FACTS;
use crate::app::clock::now;
use crate::membership::enrollment::{HeldToken, Waiting};
use crate::membership::leaving::Leaving;
use crate::membership::tokens::Tokens;
use crate::swarm::orphans;

/// State of the control socket's handlers.
#[derive(Debug)]
pub struct Control {
    /// Rows and tables to show.
    pub views: Views,
    /// This host's tokens.
    pub tokens: Tokens,
    /// The token with which this host asks to join.
    pub held_token: HeldToken,
    /// Hosts that wait for approval.
    pub waiting: Arc<Waiting>,
    /// Rollouts of networks.
    pub rollouts: Arc<Rollouts>,
    /// Makes this host leave the cluster.
    pub leaving: Arc<Leaving>,
    /// What watchers see.
    pub scenes: Arc<Scenes>,
}

/// An error as `shoutdctl` prints it.
struct Refused(anyhow::Error);

impl<E: Into<anyhow::Error>> From<E> for Refused {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        (StatusCode::CONFLICT, Json(Failure { error: format!("{:#}", self.0) })).into_response()
    }
}

type Answer<T> = Result<Json<T>, Refused>;

/// The routes for `shoutdctl`.
pub fn router(control: Arc<Control>) -> Router {
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/settings", get(settings))
        .route("/v1/settings/reload", post(reload_settings))
        .route("/v1/health", get(health))
        .route("/v1/hosts", get(hosts))
        .route("/v1/host", post(host_view))
        .route("/v1/networks", get(networks))
        .route("/v1/networks/wait", post(await_network))
        .route("/v1/networks/forget", post(forget_network))
        .route("/v1/endpoints", get(endpoints))
        .route("/v1/groups", get(groups))
        .route("/v1/why", post(why))
        .route("/v1/trace", post(trace))
        .route("/v1/ping", post(ping))
        .route("/v1/top", post(top))
        .route("/v1/events", get(events))
        .route("/v1/clocks", get(clocks))
        .route("/v1/watch", post(watch))
        .route("/v1/token", get(show_token).post(rotate_token))
        .route("/v1/token/offer", post(offer_token))
        .route("/v1/peers/check", post(check_peers))
        .route("/v1/encrypt", post(set_encrypt))
        .route("/v1/approve", get(waiting).post(approve))
        .route("/v1/keys/rotate", post(rotate_keys))
        .route("/v1/keys/rotation", post(key_rotation))
        .route("/v1/remove", post(remove_host))
        .route("/v1/leave", post(leave))
        .route("/v1/backup", get(backup))
        .with_state(control)
}

/// The routes for peers, except those of Raft.
pub fn peer_router(control: Arc<Control>) -> Router {
    Router::new()
        .route(HELLO, post(async || Json(())))
        .route(HEALTH, post(own_health))
        .route(CLOCK, post(async || Json(milliseconds())))
        .route(ENDPOINTS, post(own_endpoints))
        .route(GROUP_MEMBERS, post(own_group_members))
        .route(FACTS, post(own_facts))
        .route(VIEW, post(own_view))
        .route(COUNTS, post(own_counts))
        .route(ECHOES, post(own_echoes))
        .route(RATES, post(own_rates))
        .with_state(control)
}

async fn own_endpoints(State(control): State<Arc<Control>>) -> Json<Vec<EndpointRow>> {
    Json(control.views.own_endpoints().await)
}

async fn status(State(control): State<Arc<Control>>) -> Json<Status> {
    Json(control.views.status())
}

async fn settings(State(control): State<Arc<Control>>) -> Json<Settings> {
    Json(Settings { running: true, settings: control.views.live.current() })
}

async fn reload_settings(State(control): State<Arc<Control>>) -> Answer<Reloaded> {
    Ok(Json(control.views.live.reload()?))
}

async fn own_group_members(State(control): State<Arc<Control>>) -> Json<Vec<GroupMemberRow>> {
    Json(control.views.own_group_members().await)
}

async fn own_health(State(control): State<Arc<Control>>) -> Json<Vec<String>> {
    Json(control.views.status().faults())
}

async fn health(State(control): State<Arc<Control>>) -> Json<Vec<HostHealth>> {
    Json(control.views.health().await)
}

async fn clocks(State(control): State<Arc<Control>>) -> Json<Vec<ClockFacts>> {
    Json(control.views.clocks().await)
}

async fn hosts(State(control): State<Arc<Control>>) -> Json<Vec<HostRow>> {
    Json(control.views.hosts().await)
}

async fn host_view(
    State(control): State<Arc<Control>>,
    Json(asked): Json<AskHost>,
) -> Answer<Value> {
    Ok(Json(control.views.of_host(&asked).await?))
}

async fn own_view(
    State(control): State<Arc<Control>>,
    Json(view): Json<HostView>,
) -> Answer<Value> {
    Ok(Json(control.views.own_view(view).await?))
}

async fn networks(State(control): State<Arc<Control>>) -> Json<Vec<NetworkRow>> {
    Json(control.views.networks())
}

async fn await_network(
    State(control): State<Arc<Control>>,
    Json(asked): Json<AwaitNetwork>,
) -> Json<NetworkStanding> {
    Json(control.rollouts.of(&asked).await)
}

async fn forget_network(
    State(control): State<Arc<Control>>,
    Json(wanted): Json<ForgetNetwork>,
) -> Answer<Done> {
    Ok(Json(Done { message: orphans::forget(&control.views.services, &wanted.network).await? }))
}

async fn endpoints(State(control): State<Arc<Control>>) -> Json<Endpoints> {
    Json(control.views.endpoints().await)
}

async fn groups(State(control): State<Arc<Control>>) -> Json<Vec<GroupRow>> {
    Json(control.views.groups().await)
}

async fn why(
    State(control): State<Arc<Control>>,
    Json(asked): Json<AskWhy>,
) -> Answer<Explanation> {
    Ok(Json(control.views.why(&asked).await?))
}

async fn own_facts(
    State(control): State<Arc<Control>>,
    Json(asked): Json<AskFacts>,
) -> Json<HostFacts> {
    Json(control.views.own_facts(&asked).await)
}

async fn trace(State(control): State<Arc<Control>>, Json(asked): Json<AskTrace>) -> Answer<Trace> {
    Ok(Json(control.views.trace(&asked).await?))
}

async fn own_counts(
    State(control): State<Arc<Control>>,
    Json(asked): Json<AskCounts>,
) -> Json<HostFacts> {
    Json(control.views.own_counts(&asked).await)
}

async fn ping(State(control): State<Arc<Control>>, Json(asked): Json<AskPing>) -> Answer<Ping> {
    Ok(Json(control.views.ping(&asked).await?))
}

async fn own_echoes(
    State(control): State<Arc<Control>>,
    Json(asked): Json<AskEchoes>,
) -> Json<Result<Echoes, String>> {
    Json(control.views.own_echoes(&asked).await)
}

async fn top(State(control): State<Arc<Control>>, Json(asked): Json<AskTop>) -> Answer<Top> {
    Ok(Json(control.views.top(&asked).await?))
}

async fn own_rates(
    State(control): State<Arc<Control>>,
    Json(asked): Json<AskRates>,
) -> Json<Result<HostRates, String>> {
    Json(control.views.own_rates(&asked).await)
}

async fn events(State(control): State<Arc<Control>>) -> Json<Vec<Event>> {
    Json(control.views.services.events.newest(EVENTS_MAX))
}

async fn watch(
    State(control): State<Arc<Control>>,
    Json(asked): Json<AskWatch>,
) -> Result<Response, Refused> {
    let body = control.scenes.body(asked.after).ok_or_else(|| {
        anyhow!(
            "{WATCHERS_MAX} commands watch this host already; end one (`pgrep -a shoutdctl` lists \
             them)"
        )
    })?;
    Ok(body.into_response())
}

async fn show_token(State(control): State<Arc<Control>>) -> Answer<TokenView> {
    Ok(Json(control.tokens.show(control.views.address)?))
}

async fn rotate_token(
    State(control): State<Arc<Control>>,
    Json(wanted): Json<RotateToken>,
) -> Answer<TokenView> {
    control.tokens.rotate(wanted).await?;
    show_token(State(control)).await
}

async fn offer_token(
    State(control): State<Arc<Control>>,
    Json(offered): Json<OfferToken>,
) -> Answer<Done> {
    if control.views.services.agreement.membership() == Membership::Member {
        return Err(anyhow!("this host already belongs to a cluster and needs no token").into());
    }
    control.held_token.offer(offered.token.parse()?).await?;
    Ok(Json(Done { message: "this host asks to join with the token".to_owned() }))
}

async fn set_encrypt(
    State(control): State<Arc<Control>>,
    Json(wanted): Json<SetEncrypt>,
) -> Answer<Done> {
    control.views.services.encrypt.set(wanted.encrypt).await?;
    Ok(Json(Done { message: format!("the cluster has agreed on --encrypt={}", wanted.encrypt) }))
}

async fn check_peers(
    State(control): State<Arc<Control>>,
    Json(asked): Json<CheckPeers>,
) -> Json<Vec<PeerCheck>> {
    Json(control.views.check_peers(&asked.addresses).await)
}

async fn waiting(State(control): State<Arc<Control>>) -> Json<Vec<Applicant>> {
    Json(control.waiting.list())
}

async fn approve(State(control): State<Arc<Control>>, Json(wanted): Json<Approve>) -> Answer<Done> {
    control.tokens.approve(wanted.fingerprint).await?;
    Ok(Json(Done {
        message: "approved: the host can join within one hour, when it asks again".to_owned(),
    }))
}

async fn rotate_keys(State(control): State<Arc<Control>>) -> Answer<KeyRotation> {
    Ok(Json(control.views.services.tunnel_keys.rotate().await?))
}

async fn key_rotation(
    State(control): State<Arc<Control>>,
    Json(asked): Json<AskRotation>,
) -> Json<KeyRotation> {
    Json(control.views.services.tunnel_keys.rotation(&asked).await)
}

async fn remove_host(
    State(control): State<Arc<Control>>,
    Json(wanted): Json<RemoveHost>,
) -> Answer<Done> {
    Ok(Json(Done { message: control.views.remove_host(&wanted).await? }))
}

async fn leave(State(control): State<Arc<Control>>) -> Answer<Done> {
    control.leaving.leave().await?;
    Ok(Json(Done { message: "this host has left the cluster".to_owned() }))
}

async fn backup(State(control): State<Arc<Control>>) -> Result<Vec<u8>, Refused> {
    let mut file = Vec::new();
    control.views.services.agreement.consensus().backup(&mut file, now())?;
    Ok(file)
}
