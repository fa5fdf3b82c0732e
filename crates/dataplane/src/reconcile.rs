//! One round of mending.

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use shoutd_core::plane::{Action, Desired, DeviceName, diff};

use crate::kernel::{Kernel, KernelError};

/// What one round came to.
#[derive(Debug, Default)]
pub struct Report {
    /// What was done, in this order.
    pub done: Vec<Action>,
    /// What was not.
    pub failures: Vec<ActionFailure>,
}

/// An action that was planned and failed.
#[derive(Debug, Clone)]
pub struct ActionFailure {
    /// The action.
    pub action: Action,
    /// Why.
    pub error: Arc<KernelError>,
}

impl fmt::Display for ActionFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(vni) = self.action.vni() {
            write!(f, "network with VNI {vni}, ")?;
        }
        write!(f, "{}: {}", describe(&self.action), self.error)
    }
}

/// What was being done, for people.
fn describe(action: &Action) -> String {
    match action {
        Action::InstallUnderlayFilter { .. } => "keeping strangers off the VXLAN port".to_owned(),
        Action::RemoveUnderlayFilter => "opening the VXLAN port".to_owned(),
        Action::CreateSegment { .. } => "making its namespace".to_owned(),
        Action::DeleteSegment { .. } => "deleting its namespace".to_owned(),
        Action::CreateBridge { .. } => "making its bridge".to_owned(),
        Action::TuneBridge { .. } => "setting up its bridge".to_owned(),
        Action::InstallIgmpMldFilter { .. } => "keeping IGMP and MLD off its tunnel".to_owned(),
        Action::CreateTunnel { .. } => "making its VXLAN device".to_owned(),
        Action::DeleteTunnel { .. } => "deleting its VXLAN device".to_owned(),
        Action::TuneTunnel { .. } => "setting up its VXLAN device".to_owned(),
        Action::AddFlood { remote, .. } => format!("adding host {remote}"),
        Action::RemoveFlood { remote, .. } => format!("removing host {remote}"),
        Action::CreatePort { port, .. } => {
            format!("making the interface of endpoint {}", port.endpoint.short())
        }
        Action::TunePort { name, .. } => format!("setting up port {name}"),
        Action::EndDuplicateDetection { port, .. } => {
            format!(
                "ending the search for duplicates of the IPv6 link-local address behind port \
                 {port}"
            )
        }
        Action::TuneContainerEnd { port, .. } => {
            format!("setting up the interface of endpoint {}", port.endpoint.short())
        }
        Action::ForgetLearned { .. } => "forgetting the MAC addresses it learnt".to_owned(),
        Action::DeletePort { name, .. } => format!("deleting port {name}"),
    }
}

/// Observes, compares, and does what there is to do. What fails does not keep the rest from being
/// done, except what rests on it.
pub fn reconcile(kernel: &mut dyn Kernel, desired: &Desired) -> Result<Report, KernelError> {
    let observed = kernel.observe(&sandboxes(desired))?;
    Ok(execute_all(kernel, diff(desired, &observed), |_| None))
}

/// The containers' namespaces in which there is something to see to.
pub(crate) fn sandboxes(desired: &Desired) -> BTreeSet<PathBuf> {
    desired
        .segments
        .values()
        .flat_map(|segment| segment.ports.values())
        .filter_map(|port| port.sandbox.clone())
        .collect()
}

/// Does all of a plan that can be done. What is `held` counts as failed without being tried.
pub(crate) fn execute_all(
    kernel: &mut dyn Kernel,
    plan: Vec<Action>,
    held: impl Fn(&Action) -> Option<ActionFailure>,
) -> Report {
    let mut report = Report::default();
    for action in plan {
        if report.failures.iter().any(|failure| rests_on(&action, &failure.action)) {
            continue;
        }
        if let Some(failure) = held(&action) {
            report.failures.push(failure);
            continue;
        }
        match kernel.execute(&action) {
            Ok(()) => report.done.push(action),
            Err(error) => report.failures.push(ActionFailure { action, error: Arc::new(error) }),
        }
    }
    report
}

/// Whether an action must not be tried when an earlier one of its plan has failed: it could only
/// fail for want of what that should have made or, as a tunnel without its guard, do harm.
fn rests_on(action: &Action, failed: &Action) -> bool {
    action.vni() == failed.vni()
        && match failed {
            Action::CreateSegment { .. }
            | Action::DeleteSegment { .. }
            | Action::CreateBridge { .. } => true,
            Action::InstallIgmpMldFilter { .. } => matches!(action, Action::TuneTunnel { .. }),
            Action::CreateTunnel { .. } | Action::DeleteTunnel { .. } => concerns_tunnel(action),
            Action::DeletePort { name, .. } => port_of(action).as_ref() == Some(name),
            _ => false,
        }
}

fn concerns_tunnel(action: &Action) -> bool {
    matches!(
        action,
        Action::CreateTunnel { .. }
            | Action::TuneTunnel { .. }
            | Action::AddFlood { .. }
            | Action::RemoveFlood { .. }
    )
}

/// The port that an action is about, if it is about one.
pub(crate) fn port_of(action: &Action) -> Option<DeviceName> {
    match action {
        Action::CreatePort { port, .. } | Action::TuneContainerEnd { port, .. } => {
            Some(DeviceName::port(&port.endpoint))
        }
        Action::TunePort { name, .. } | Action::DeletePort { name, .. } => Some(name.clone()),
        Action::EndDuplicateDetection { port, .. } => Some(port.clone()),
        _ => None,
    }
}
