//! The daemon's Unix sockets: served until the end, and put back when somebody removes them.

use std::sync::Arc;

use axum::Router;
use shoutd_core::events::EventKind;
use shoutd_docker::plugin::{self, Socket, SocketState};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::api::events::Events;

/// Serves a router on a socket until it is told to stop.
pub async fn serve(socket: Socket, router: Router, events: Arc<Events>, stop: CancellationToken) {
    let (path, state) = (socket.path().display().to_string(), socket.watch());
    tokio::join!(
        plugin::serve(socket, router, stop.clone().cancelled_owned()),
        tell(&path, state, &events)
    );
}

/// Takes down each time that the socket was put back, until nobody serves on it any more.
async fn tell(path: &str, mut state: watch::Receiver<SocketState>, events: &Events) {
    let mut told = 0;
    while state.changed().await.is_ok() {
        let put_back = state.borrow_and_update().put_back;
        if put_back != told {
            told = put_back;
            events.note(
                EventKind::SocketRestored,
                path,
                "something removed it; shoutd serves there again",
            );
        }
    }
}
