//! Serves the daemon's Unix sockets, and reports when one was removed and restored.

use std::sync::Arc;

use axum::Router;
use shoutd_core::events::EventKind;
use shoutd_docker::plugin::{self, Socket, SocketState};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::api::events::Events;

/// Serves a router on a socket until `stop`.
pub async fn serve(socket: Socket, router: Router, events: Arc<Events>, stop: CancellationToken) {
    let (path, state) = (socket.path().display().to_string(), socket.watch());
    tokio::join!(
        plugin::serve(socket, router, stop.clone().cancelled_owned()),
        report_restored(&path, state, &events)
    );
}

/// Reports each restored socket as an event, until the socket is closed.
async fn report_restored(path: &str, mut state: watch::Receiver<SocketState>, events: &Events) {
    let mut reported = 0;
    while state.changed().await.is_ok() {
        let put_back = state.borrow_and_update().put_back;
        if put_back != reported {
            reported = put_back;
            events.note(EventKind::SocketRestored, path, "the socket was removed and is restored");
        }
    }
}
