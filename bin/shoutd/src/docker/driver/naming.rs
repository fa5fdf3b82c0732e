//! No container starts on a network whose name is not agreed on: another host may have created one
//! of the same name in the same instant.
//!
//! The name of a network is told by the engine's API alone, some milliseconds after `CreateNetwork`
//! was answered, and then agreed on. A container can be quicker than that.

use std::sync::Arc;

use shoutd_core::NetworkId;
use shoutd_core::cluster::{Cluster, Naming};
use shoutd_core::limits::AGREEMENT_DEADLINE;
use shoutd_docker::plugin::DriverError;

use super::Driver;

/// Begins what is said where a name could not be agreed on in time.
pub const NOT_AGREED: &str = "the hosts have not agreed on the name of this network";

/// Waits until the name of a network is agreed on. The engine's API answers meanwhile, but for an
/// engine that boots: there it fails after a while, and the container is started later, as one that
/// its engine could not start without shoutd.
///
/// # Errors
/// If another network has the name, or this is not known in time.
pub async fn settle(driver: &Driver, network: &NetworkId) -> Result<(), DriverError> {
    let is_known = |cluster: &Arc<Cluster>| cluster.naming(network) != Naming::Open;
    let mut agreed = driver.services.agreement.watch();
    // Whatever comes of the wait, what counts is what is agreed then.
    _ = tokio::time::timeout(AGREEMENT_DEADLINE, agreed.wait_for(is_known)).await;
    match driver.services.agreement.cluster().naming(network) {
        Naming::Settled => Ok(()),
        Naming::Open => Err(DriverError::new(format!(
            "{NOT_AGREED} within {} s: a majority of them must be reachable (shoutdctl hosts), \
             then start the container again",
            AGREEMENT_DEADLINE.as_secs()
        ))),
        Naming::Lost => Err(lost(driver, network)),
    }
}

fn lost(driver: &Driver, network: &NetworkId) -> DriverError {
    DriverError::new(match driver.services.in_flight.yielded(network) {
        Some(why) => format!(
            "{why} in the same instant; the one of this host makes room for that one: start the \
             container again in a moment"
        ),
        None => format!(
            "network {} is not known to the cluster any more: if another one of its name is \
             there, start the container again in a moment",
            network.short()
        ),
    })
}
