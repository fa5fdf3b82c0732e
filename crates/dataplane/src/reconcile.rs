//! One round of the reconciler.

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use shoutd_core::plane::{Action, Desired, DeviceName, diff};

use crate::kernel::Kernel;
use crate::kernel_error::KernelError;

/// The result of a round.
#[derive(Debug, Default)]
pub struct Report {
    /// The actions that were done, in order.
    pub done: Vec<Action>,
    /// The actions that failed.
    pub failures: Vec<ActionFailure>,
}

/// A failed action.
#[derive(Debug, Clone)]
pub struct ActionFailure {
    /// The action.
    pub action: Action,
    /// The cause.
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

/// How the message begins that says why a host cannot encrypt.
pub const SETTING_UP_ENCRYPTION: &str = "setting up the encrypted underlay";

/// Describes an action in progress, for messages.
fn describe(action: &Action) -> String {
    match action {
        Action::InstallUnderlayFilter { .. } => "installing the underlay filter".to_owned(),
        Action::RemoveUnderlayFilter => "removing the underlay filter".to_owned(),
        Action::SetEncryptedUnderlay { .. } => SETTING_UP_ENCRYPTION.to_owned(),
        Action::DeleteEncryptedUnderlay => "deleting the encrypted underlay".to_owned(),
        Action::CreateSegment { .. } => "creating its namespace".to_owned(),
        Action::DeleteSegment { .. } => "deleting its namespace".to_owned(),
        Action::CreateBridge { .. } => "creating its bridge".to_owned(),
        Action::TuneBridge { .. } => "configuring its bridge".to_owned(),
        Action::InstallIgmpMldFilter { .. } => "installing its IGMP/MLD filter".to_owned(),
        Action::TuneGateways { .. } => "configuring its gateways".to_owned(),
        Action::InstallWayOutFilter { .. } => "installing the filter of its way out".to_owned(),
        Action::CreateUplink { .. } => "creating its uplink".to_owned(),
        Action::TuneUplink { .. } => "configuring its uplink".to_owned(),
        Action::DeleteUplink { .. } => "deleting its uplink".to_owned(),
        Action::CreateTunnel { .. } => "creating its VXLAN device".to_owned(),
        Action::DeleteTunnel { .. } => "deleting its VXLAN device".to_owned(),
        Action::TuneTunnel { .. } => "configuring its VXLAN device".to_owned(),
        Action::AddFlood { remote, .. } => format!("adding host {remote} to its flood entries"),
        Action::RemoveFlood { remote, .. } => {
            format!("removing host {remote} from its flood entries")
        }
        Action::CreatePort { port, .. } => {
            format!("creating the interface of endpoint {}", port.endpoint.short())
        }
        Action::TunePort { name, .. } => format!("configuring port {name}"),
        Action::EndDuplicateDetection { port, .. } => {
            format!("ending duplicate address detection of the interface behind port {port}")
        }
        Action::TuneContainerEnd { port, .. } => {
            format!("configuring the interface of endpoint {}", port.endpoint.short())
        }
        Action::ForgetLearned { .. } => "removing its learned MAC addresses".to_owned(),
        Action::DeletePort { name, .. } => format!("deleting port {name}"),
    }
}

/// Does one round: observe, diff, execute. A failed action blocks only the actions that depend on
/// it.
pub fn reconcile(kernel: &mut dyn Kernel, desired: &Desired) -> Result<Report, KernelError> {
    let observed = kernel.observe(&sandboxes(desired))?;
    Ok(execute_all(kernel, diff(desired, &observed), |_| None))
}

/// The sandboxes to observe: those of the ports.
pub(crate) fn sandboxes(desired: &Desired) -> BTreeSet<PathBuf> {
    desired
        .segments
        .values()
        .flat_map(|segment| segment.ports.values())
        .filter_map(|port| port.sandbox.clone())
        .collect()
}

/// Executes a plan as far as possible. An action for which `held` returns a failure is not tried.
pub(crate) fn execute_all(
    kernel: &mut dyn Kernel,
    plan: Vec<Action>,
    held: impl Fn(&Action) -> Option<ActionFailure>,
) -> Report {
    let mut report = Report::default();
    for action in plan {
        if report.failures.iter().any(|failure| depends_on(&action, &failure.action)) {
            continue;
        }
        if let Some(failure) = held(&action).or_else(|| without_encryption(&action, &report)) {
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

/// The failure of an encrypted network's VXLAN device if there is no encrypted underlay. A waiting
/// caller learns that its network lacks it.
fn without_encryption(action: &Action, report: &Report) -> Option<ActionFailure> {
    let is_encrypted = matches!(action, Action::CreateTunnel { vtep, .. } if vtep.encrypted);
    let is_cause =
        |failure: &&ActionFailure| matches!(failure.action, Action::SetEncryptedUnderlay { .. });
    let cause = report.failures.iter().find(is_cause).filter(|_| is_encrypted)?;
    Some(ActionFailure { action: action.clone(), error: cause.error.clone() })
}

/// Whether an action must be skipped after the failure of an earlier one: it would fail for lack of
/// what that one makes, or do harm, such as a tunnel without IGMP/MLD filter.
fn depends_on(action: &Action, failed: &Action) -> bool {
    action.vni() == failed.vni()
        && match failed {
            Action::CreateSegment { .. }
            | Action::DeleteSegment { .. }
            | Action::CreateBridge { .. } => true,
            Action::InstallIgmpMldFilter { .. } => {
                matches!(action, Action::TuneTunnel { .. } | Action::TuneGateways { .. })
            }
            Action::InstallWayOutFilter { .. }
            | Action::CreateUplink { .. }
            | Action::DeleteUplink { .. } => {
                matches!(action, Action::CreateUplink { .. } | Action::TuneUplink { .. })
            }
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

/// The port that an action is about, if any.
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
