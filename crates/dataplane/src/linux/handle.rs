//! Open namespaces with the sockets in them, kept from round to round.

use shoutd_netlink::{Error, Guard, Monitor, Namespace, Route};

/// A segment's namespace.
#[derive(Debug)]
pub(super) struct SegmentHandle {
    pub(super) namespace: Namespace,
    pub(super) route: Route,
    pub(super) guard: Guard,
    monitors: [Monitor; 2],
}

impl SegmentHandle {
    pub(super) fn open(namespace: Namespace) -> Result<Self, Error> {
        Ok(Self {
            // Watched first, so that nothing changes unnoticed between reading and watching.
            monitors: [Monitor::segment(&namespace)?, Monitor::filters(&namespace)?],
            route: Route::open(&namespace)?,
            guard: Guard::open(&namespace)?,
            namespace,
        })
    }

    pub(super) fn monitors(&self) -> impl Iterator<Item = &Monitor> {
        self.monitors.iter()
    }
}

/// A container's namespace. Its sockets keep it alive, so it must not be kept once its path is gone.
#[derive(Debug)]
pub(super) struct SandboxHandle {
    pub(super) namespace: Namespace,
    pub(super) route: Route,
    monitor: Monitor,
}

impl SandboxHandle {
    pub(super) fn open(namespace: Namespace) -> Result<Self, Error> {
        Ok(Self { monitor: Monitor::sandbox(&namespace)?, route: Route::open(&namespace)?, namespace })
    }

    pub(super) fn monitor(&self) -> &Monitor {
        &self.monitor
    }
}
