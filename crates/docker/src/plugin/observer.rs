//! Observation of Docker's calls, for metrics.

use std::fmt::Debug;
use std::time::Duration;

/// Is told of each call that the driver answered. It must not block.
pub trait CallObserver: Debug + Send + Sync + 'static {
    /// Docker called this method, such as `NetworkDriver.Join`. There are thirteen of them.
    fn answered(&self, method: &'static str, succeeded: bool, took: Duration);
}

/// Counts nothing.
impl CallObserver for () {
    fn answered(&self, _: &'static str, _: bool, _: Duration) {}
}
