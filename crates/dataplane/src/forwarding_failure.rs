//! What the replicator could not do.

use std::fmt;
use std::sync::Arc;

use shoutd_core::Vni;
use shoutd_core::plane::Change;

use crate::kernel_error::KernelError;

/// A change of replication or pins that failed.
#[derive(Debug, Clone)]
pub struct ForwardingFailure {
    /// The segment.
    pub vni: Vni,
    /// The change; `None` if the tables could not be read.
    pub change: Option<Change>,
    /// The cause.
    pub error: Arc<KernelError>,
}

impl fmt::Display for ForwardingFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "network with VNI {}, programming replication and pins: {}", self.vni, self.error)
    }
}

impl ForwardingFailure {
    /// Whether only a device is missing. The reconciler is about to make it, or reports why it
    /// cannot.
    pub(crate) fn is_early(&self) -> bool {
        matches!(*self.error, KernelError::NoDevice { .. } | KernelError::NoNamespace { .. })
    }
}
