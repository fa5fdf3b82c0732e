//! Follows the interface with the advertise address, whose MTU or network may change while
//! containers run.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use shoutd_dataplane::{NoInterface, UnderlayInterface, underlay_interface};
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// Interval of checks. Reading all links and addresses takes well under a millisecond, and an MTU
/// rarely changes.
const PERIOD: Duration = Duration::from_secs(2);

/// How long duplicate address detection may take. By default it takes about two seconds after an
/// interface is up.
const DETECTION_TIME_MAX: Duration = Duration::from_secs(10);

/// How long the address of the last start may take to appear, for example from DHCP at boot. Docker
/// waits 30 s for a starting shoutd.
const LATE_TIME_MAX: Duration = Duration::from_secs(20);

/// Interval of checks while we wait for the address.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Waits for the interface with the advertise address. `is_remembered` says that the address is
/// that of the last start: it is then correct, and may only be late.
///
/// # Errors
/// No interface has the address in time, or waiting does not help.
pub async fn await_interface(
    address: IpAddr,
    is_remembered: bool,
) -> Result<UnderlayInterface, NoInterface> {
    let begin = Instant::now();
    let mut is_logged = false;
    loop {
        let error = match underlay_interface(address) {
            Ok(found) => return Ok(found),
            Err(error) => error,
        };
        if patience(&error, is_remembered).is_none_or(|patience| begin.elapsed() >= patience) {
            return Err(error);
        }
        if !std::mem::replace(&mut is_logged, true) {
            info!("waiting for the advertise address: {error}");
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// How long to wait for an address that cannot be used; `None` if that does not help.
fn patience(error: &NoInterface, is_remembered: bool) -> Option<Duration> {
    match error {
        NoInterface::Tentative { .. } => Some(DETECTION_TIME_MAX),
        NoInterface::None { .. } => is_remembered.then_some(LATE_TIME_MAX),
        NoInterface::Duplicate { .. } | NoInterface::Kernel(_) => None,
    }
}

/// Publishes every change of the interface until `stop`, and its problem. While no interface has
/// the address, the last known state stays: containers on this host still reach each other, and
/// other hosts do again when the address is back.
pub async fn follow(
    underlay: watch::Sender<UnderlayInterface>,
    problem: watch::Sender<Option<String>>,
    stop: CancellationToken,
) {
    let mut tick = tokio::time::interval(PERIOD);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = stop.cancelled() => return,
        }
        let address = underlay.borrow().network.addr();
        let found = match tokio::task::spawn_blocking(move || underlay_interface(address)).await {
            Ok(Ok(found)) => found,
            Ok(Err(error)) => {
                let text = without_address(address, &error);
                if problem.send_if_modified(|known| {
                    known.replace(text.clone()).is_none_or(|known| known != text)
                }) {
                    warn!("{text}");
                }
                continue;
            }
            // Only while the runtime shuts down.
            Err(_) => return,
        };
        if problem.send_replace(None).is_some() {
            info!(%address, "this host has its address again");
        }
        underlay.send_if_modified(|known| {
            let is_news = *known != found;
            if is_news {
                info!(
                    interface = %found.name,
                    mtu = found.mtu,
                    network = %found.network,
                    "the underlay has changed"
                );
                *known = found;
            }
            is_news
        });
    }
}

/// The problem while the address is missing.
fn without_address(address: IpAddr, error: &NoInterface) -> String {
    match error {
        NoInterface::None { .. } => format!(
            "other hosts cannot reach this one: {error}; it recovers by itself when {address} is \
             back; to use another address: shoutdctl stop, shoutdctl start <address>"
        ),
        NoInterface::Tentative { .. } | NoInterface::Duplicate { .. } | NoInterface::Kernel(_) => {
            format!("other hosts may be unable to reach this one: {error}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn we_wait_only_for_an_address_that_may_appear() {
        let address: IpAddr = "fd00::3".parse().unwrap();
        let name = || "eth0".to_owned();
        assert_eq!(
            patience(&NoInterface::Tentative { address, name: name() }, false),
            Some(DETECTION_TIME_MAX)
        );
        let missing = NoInterface::None { address, available: Vec::new() };
        assert_eq!(patience(&missing, false), None, "a typing error is reported at once");
        assert_eq!(patience(&missing, true), Some(LATE_TIME_MAX));
        assert_eq!(patience(&NoInterface::Duplicate { address, name: name() }, true), None);
    }
}
