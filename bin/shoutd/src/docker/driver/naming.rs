//! No container starts on a network before the cluster has agreed on its name: another host may
//! have created a network of the same name at the same time.
//!
//! Only the engine's API has the name of a network, some milliseconds after we answer
//! `CreateNetwork`; then it is proposed to the cluster. A container may start before that.

use ipnet::IpNet;
use shoutd_core::NetworkId;
use shoutd_core::cluster::Naming;
use shoutd_core::in_flight::Yielded;
use shoutd_core::limits::AGREEMENT_DEADLINE;
use shoutd_core::restarts::NOT_AGREED;
use shoutd_docker::plugin::DriverError;

use super::Driver;
use crate::app::condition::met;

/// Waits until the name of a network is agreed on. The engine's API answers during this call,
/// except while the engine boots. Then this fails after the deadline, and `docker::restarts` starts
/// the container later.
///
/// # Errors
/// Another network has the name, or there is no agreement in time.
pub async fn settle(driver: &Driver, network: &NetworkId) -> Result<(), DriverError> {
    let agreed = driver.services.agreement.watch();
    // After the deadline, too, the agreed state decides.
    _ = met(&agreed, AGREEMENT_DEADLINE, |cluster| cluster.naming(network) != Naming::Open).await;
    match driver.services.agreement.cluster().naming(network) {
        Naming::Settled => Ok(()),
        Naming::Open => Err(DriverError::new(format!(
            "{NOT_AGREED} within {} s; when a majority of them is reachable (shoutdctl hosts), \
             start the container again",
            AGREEMENT_DEADLINE.as_secs()
        ))),
        Naming::Lost => Err(lost(driver, network)),
    }
}

/// Why no network of the cluster has a subnet that Docker asks for an address of.
pub fn no_such_subnet(driver: &Driver, subnet: IpNet) -> DriverError {
    let why = driver.services.in_flight.yielded_with(subnet);
    DriverError::new(why.map_or_else(
        || format!("the cluster has no network with subnet {subnet}"),
        |why| yielded(&why),
    ))
}

fn yielded(why: &Yielded) -> String {
    format!(
        "{why} at the same time; it replaces the network of this host: start the container again \
         in a moment"
    )
}

fn lost(driver: &Driver, network: &NetworkId) -> DriverError {
    DriverError::new(match driver.services.in_flight.yielded(network) {
        Some(why) => yielded(&why),
        None => format!(
            "the cluster no longer has network {}: if it has another one of its name, start the \
             container again in a moment",
            network.short()
        ),
    })
}
