//! Follows the interface that has the advertise address: people change its MTU while containers run.

use std::time::Duration;

use shoutd_dataplane::{UnderlayInterface, underlay_interface};
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// How often the interface is looked at. Reading all links and addresses takes well under a millisecond, and people change an MTU once in years.
const PERIOD: Duration = Duration::from_secs(2);

/// Tells of every change of the interface until it is told to stop. While no interface has the address, what was last known stays: containers on
/// this host still reach each other.
pub async fn follow(underlay: watch::Sender<UnderlayInterface>, stop: CancellationToken) {
    let mut tick = tokio::time::interval(PERIOD);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut problem = String::new();
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = stop.cancelled() => return,
        }
        let address = underlay.borrow().network.addr();
        let found = match tokio::task::spawn_blocking(move || underlay_interface(address)).await {
            Ok(Ok(found)) => found,
            Ok(Err(error)) => {
                let text = error.to_string();
                if text != problem {
                    warn!("cannot see the underlay: {text}");
                    problem = text;
                }
                continue;
            }
            // Only when the runtime is shutting down.
            Err(_) => return,
        };
        problem.clear();
        underlay.send_if_modified(|known| {
            let is_news = *known != found;
            if is_news {
                info!(interface = %found.name, mtu = found.mtu, network = %found.network, "the underlay has changed");
                *known = found;
            }
            is_news
        });
    }
}
