//! The underlay filter in the host's namespace.

use shoutd_core::limits::PORT;
use shoutd_core::plane::{DeviceName, Dropped, ObservedUnderlayFilter, UnderlayFilter as Wanted};
use shoutd_netlink::{
    DroppedPackets, Error, InstalledUnderlayFilter as Installed, Monitor, Namespace,
    UnderlayAccess, UnderlayFilter,
};

use super::handle::{Reading, Watch, is_old};

/// The filter and its last reading.
#[derive(Debug)]
pub(super) struct UnderlayFilterHandle {
    filter: UnderlayFilter,
    pub(super) watch: Watch,
    reading: Option<Reading<ObservedUnderlayFilter>>,
}

impl UnderlayFilterHandle {
    pub(super) fn open(host: &Namespace) -> Result<Self, Error> {
        let (filter, watch) =
            (UnderlayFilter::open(host)?, Watch::new(Monitor::underlay_filter(host)?));
        Ok(Self { filter, watch, reading: None })
    }

    pub(super) fn observe(&mut self) -> ObservedUnderlayFilter {
        if !self.watch.take()
            && let Some(known) = self.reading.as_ref().filter(|known| !is_old(Some(known)))
        {
            return known.content.clone();
        }
        let found = match self.filter.read() {
            Ok(Installed::Absent) => ObservedUnderlayFilter::Absent,
            Ok(Installed::Broken) => ObservedUnderlayFilter::Broken,
            Ok(Installed::Whole { access, complete, dropped }) => {
                as_observed(access, complete, dropped)
            }
            Err(error) => ObservedUnderlayFilter::Unreadable(error.to_string()),
        };
        self.reading.insert(Reading::new(found)).content.clone()
    }

    pub(super) fn install(&mut self, wanted: &Wanted) -> Result<(), Error> {
        self.reading = None;
        self.filter.install(&UnderlayAccess {
            vxlan_port: PORT,
            address: wanted.address,
            interface: wanted.interface.as_str().to_owned(),
            agreement_ports: wanted.agreement_ports.clone(),
            members: wanted.members.clone(),
        })
    }

    pub(super) fn remove(&mut self) -> Result<(), Error> {
        self.reading = None;
        self.filter.remove()
    }
}

fn as_observed(
    access: UnderlayAccess,
    complete: bool,
    dropped: DroppedPackets,
) -> ObservedUnderlayFilter {
    let UnderlayAccess { vxlan_port, address, interface, agreement_ports, members } = access;
    let interface = interface.parse::<DeviceName>();
    match interface {
        Ok(interface) if vxlan_port == PORT => {
            let filter = Wanted { address, interface, agreement_ports, members };
            let DroppedPackets { input, forward, output } = dropped;
            ObservedUnderlayFilter::Whole {
                filter,
                complete,
                dropped: Dropped { input, forward, output },
            }
        }
        _ => ObservedUnderlayFilter::Broken,
    }
}
