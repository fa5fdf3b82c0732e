//! Follows the interface with the advertise address, whose MTU or network may change while
//! containers run.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use shoutd_core::own_address::{AddressChoice, AddressRule, NoAddress};
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

/// Checks in a row that must find another address before this host moves there. DHCP clients may
/// take an address away for a moment when they renew it.
const CHECKS_BEFORE_MOVE: u8 = 2;

/// Waits for the interface with the advertise address. `is_remembered` says that the last start had
/// the same rule: it is then correct, and the address may only be late.
///
/// # Errors
/// No interface has the address in time, or waiting does not help.
pub async fn await_interface(
    choice: &AddressChoice,
    is_remembered: bool,
) -> Result<UnderlayInterface, NoInterface> {
    let begin = Instant::now();
    let mut is_logged = false;
    loop {
        let error = match underlay_interface(choice) {
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
        NoInterface::Address(NoAddress::Tentative { .. }) => Some(DETECTION_TIME_MAX),
        NoInterface::Address(NoAddress::None { .. }) => is_remembered.then_some(LATE_TIME_MAX),
        NoInterface::Address(NoAddress::Duplicate { .. }) | NoInterface::Kernel(_) => None,
    }
}

/// What the follower of the underlay publishes.
#[derive(Debug)]
pub struct Published {
    /// The interface with the advertise address.
    pub underlay: watch::Sender<UnderlayInterface>,
    /// The problem with it, if there is one.
    pub problem: watch::Sender<Option<String>>,
    /// The address to which this host must move: its rule no longer finds the one that it
    /// advertises, but this one.
    pub moved: watch::Sender<Option<IpAddr>>,
}

/// Publishes every change of the interface until `stop`, and its problem. While no interface has
/// the address, the last known state stays: containers on this host still reach each other, and
/// other hosts do again when the address is back.
pub async fn follow(rule: AddressRule, published: Published, stop: CancellationToken) {
    let Published { underlay, problem, moved } = published;
    let address = underlay.borrow().network.addr();
    let choice = AddressChoice { rule, before: Some(address), is_ipv4: Some(address.is_ipv4()) };
    let mut moves = 0_u8;
    let mut tick = tokio::time::interval(PERIOD);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = stop.cancelled() => return,
        }
        let asked = choice.clone();
        let found = match tokio::task::spawn_blocking(move || underlay_interface(&asked)).await {
            Ok(Ok(found)) => found,
            Ok(Err(error)) => {
                moves = 0;
                let text = without_address(&choice.rule, address, &error);
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
        let other = found.network.addr();
        if other != address {
            moves = moves.saturating_add(1);
            if moves == CHECKS_BEFORE_MOVE {
                info!("{address} is gone, and {} has {other}: this host moves there", choice.rule);
                moved.send_replace(Some(other));
            }
            continue;
        }
        moves = 0;
        if problem.send_replace(None).is_some() {
            info!(%address, "this host has its address again");
        }
        publish(&underlay, found);
    }
}

/// Publishes the interface if it has changed.
fn publish(underlay: &watch::Sender<UnderlayInterface>, found: UnderlayInterface) {
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

/// The problem while the address is missing.
fn without_address(rule: &AddressRule, address: IpAddr, error: &NoInterface) -> String {
    match error {
        NoInterface::Address(NoAddress::None { .. }) if rule.can_move() => format!(
            "other hosts cannot reach this one: {error}; it goes on by itself when {rule} has an \
             address again"
        ),
        NoInterface::Address(NoAddress::None { .. }) => format!(
            "other hosts cannot reach this one: {error}; it recovers by itself when {address} is \
             back; to use another address: shoutdctl stop, shoutdctl start <address>"
        ),
        NoInterface::Address(_) | NoInterface::Kernel(_) => {
            format!("other hosts may be unable to reach this one: {error}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn we_wait_only_for_an_address_that_may_appear() {
        let (address, name) = ("fd00::3".parse().unwrap(), "eth0".to_owned());
        let tentative = NoAddress::Tentative { address, name: name.clone() };
        assert_eq!(patience(&tentative.into(), false), Some(DETECTION_TIME_MAX));
        let missing: NoInterface =
            NoAddress::None { wanted: String::new(), available: String::new() }.into();
        assert_eq!(patience(&missing, false), None, "a typing error is reported at once");
        assert_eq!(patience(&missing, true), Some(LATE_TIME_MAX));
        assert_eq!(patience(&NoAddress::Duplicate { address, name }.into(), true), None);
    }
}
