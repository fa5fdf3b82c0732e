//! A kernel in memory for tests, with strict checks and injected faults.

use std::collections::{BTreeSet, VecDeque};
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use shoutd_core::limits::LEARNED_MAX;
use shoutd_core::plane::{
    Action, BRIDGE, ContainerEnd, DeviceName, Dropped, GATEWAY_MAC, GROUPS_MAX, IGMP_VERSION,
    Learned, MEMBERSHIP_INTERVAL, MEMBERSHIP_INTERVAL_OF_KERNEL, MLD_VERSION,
    MULTICAST_ROUTER_ALWAYS, Observed, ObservedBridge, ObservedPort, ObservedSegment,
    ObservedTunnel, ObservedUnderlayFilter, OwnerTag, Place, Port, TUNNEL, Vtep, namespace_name,
};
use shoutd_core::{MacAddress, Vni};

use crate::forwarding::{ForwardingTables, MembershipSource};
use crate::kernel::Kernel;
use crate::kernel_error::KernelError;
use crate::testing::FakeForwarding;

/// The limit of groups of a port.
const GROUPS_PER_PORT: Option<u32> = Some(8192);

/// How an action fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Before it does anything.
    Before,
    /// Between making a device and tagging it, if it does that; otherwise like [`Fault::Before`].
    Halfway,
    /// After everything is done.
    After,
}

/// A kernel in memory.
#[derive(Debug, Clone, Default)]
pub struct FakeKernel {
    /// The state, including container ends in every sandbox. Tests may change it, as users and
    /// Docker would.
    pub state: Observed,
    /// The existing sandboxes.
    pub sandboxes: BTreeSet<PathBuf>,
    /// The results of the next actions, in order. Later ones succeed.
    pub faults: VecDeque<Option<Fault>>,
    /// The requests that must never happen.
    pub violations: Vec<String>,
    /// Its replication, pins and memberships.
    pub forwarding: FakeForwarding,
}

impl Kernel for FakeKernel {
    fn observe(&mut self, sandboxes: &BTreeSet<PathBuf>) -> Result<Observed, KernelError> {
        let mut observed = self.state.clone();
        let unreadable = &observed.unreadable_segments;
        observed.segments.retain(|vni, _| !unreadable.contains_key(vni));
        observed.missing_sandboxes = sandboxes.difference(&self.sandboxes).cloned().collect();
        for port in observed.segments.values_mut().flat_map(|segment| segment.ports.values_mut()) {
            let seen = port.container_end.take().filter(|end| match &end.place {
                Place::Host => true,
                Place::Sandbox(path) => sandboxes.contains(path),
            });
            port.container_end = seen;
        }
        Ok(observed)
    }

    fn execute(&mut self, action: &Action) -> Result<(), KernelError> {
        let fault = self.faults.pop_front().flatten();
        if fault == Some(Fault::Before) {
            return Err(KernelError::Injected("before"));
        }
        let whole = fault != Some(Fault::Halfway);
        self.apply(action, whole)?;
        match fault {
            Some(Fault::After) => Err(KernelError::Injected("after")),
            Some(_) => Err(KernelError::Injected("halfway")),
            None => Ok(()),
        }
    }

    fn forwarding(&self) -> Box<dyn ForwardingTables> {
        Box::new(self.forwarding.clone())
    }

    fn memberships(&self) -> Box<dyn MembershipSource> {
        Box::new(self.forwarding.clone())
    }

    fn wait(&mut self, wake: BorrowedFd<'_>, timeout: Duration) {
        let timeout = PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX);
        let _ = poll(&mut [PollFd::new(wake, PollFlags::POLLIN)], timeout);
    }
}

impl FakeKernel {
    fn apply(&mut self, action: &Action, whole: bool) -> Result<(), KernelError> {
        match action {
            Action::InstallUnderlayFilter { filter } => {
                if whole {
                    let filter = filter.clone();
                    self.state.underlay_filter = ObservedUnderlayFilter::Whole {
                        filter,
                        complete: true,
                        dropped: Dropped::default(),
                    };
                }
                Ok(())
            }
            Action::RemoveUnderlayFilter => {
                self.state.underlay_filter = ObservedUnderlayFilter::Absent;
                Ok(())
            }
            Action::SetEncryptedUnderlay { wanted } => {
                if whole {
                    self.state.encryption = Some(wanted.into());
                }
                Ok(())
            }
            Action::DeleteEncryptedUnderlay => {
                self.delete_encrypted_underlay();
                Ok(())
            }
            Action::CreateSegment { vni } => {
                if whole {
                    self.state.segments.entry(*vni).or_default();
                }
                Ok(())
            }
            Action::DeleteSegment { vni } => self.delete_segment(*vni, whole),
            Action::CreatePort { vni, port, mtu, learning, place } => {
                self.create_port(*vni, port, (*mtu, *learning), place, whole)
            }
            Action::TuneContainerEnd { vni, port, mtu, sandbox, name } => {
                if whole {
                    self.tune_end(*vni, port, *mtu, (sandbox, name))
                } else {
                    Ok(())
                }
            }
            Action::CreateBridge { vni, network } => {
                self.create_bridge(*vni, whole.then(|| OwnerTag::Network(network.clone())))
            }
            Action::CreateTunnel { vni, network, vtep } => {
                self.create_tunnel(*vni, *vtep, whole.then(|| OwnerTag::Network(network.clone())))
            }
            Action::CreateUplink { vni, network } => {
                self.create_uplink(*vni, whole.then(|| OwnerTag::Network(network.clone())))
            }
            _ if !whole => Ok(()),
            _ if action.is_of_way_out() => self.apply_to_way_out(action),
            _ => self.apply_to_segment(action),
        }
    }

    /// The kernel deletes VXLAN devices with the namespace of their socket.
    fn delete_encrypted_underlay(&mut self) {
        let address = self.state.encryption.take().and_then(|there| there.address);
        for segment in self.state.segments.values_mut() {
            let is_in_it = |tunnel: &ObservedTunnel| address.is_some() && tunnel.local == address;
            if segment.tunnel.as_ref().is_some_and(is_in_it) {
                segment.tunnel = None;
                segment.flood.clear();
            }
        }
    }

    /// The actions that change one thing in an existing segment.
    fn apply_to_segment(&mut self, action: &Action) -> Result<(), KernelError> {
        match action {
            Action::TuneBridge { vni, mtu } => {
                tune_bridge(device(&mut self.segment(*vni)?.bridge, *vni, BRIDGE)?, *mtu);
            }
            Action::InstallIgmpMldFilter { vni, max_rate, gateways } => {
                let segment = self.segment(*vni)?;
                (segment.igmp_mld_filter, segment.max_rate) = (true, *max_rate);
                segment.gateways.clone_from(gateways);
            }
            Action::DeleteTunnel { vni } => {
                let segment = self.segment(*vni)?;
                segment.tunnel = None;
                segment.flood.clear();
                segment.learned = Learned::default();
            }
            Action::TuneTunnel { vni, mtu, learning } => self.tune_tunnel(*vni, *mtu, *learning)?,
            Action::AddFlood { vni, remote } => {
                let segment = self.segment(*vni)?;
                device(&mut segment.tunnel, *vni, TUNNEL)?;
                segment.flood.insert(*remote);
            }
            Action::RemoveFlood { vni, remote } => {
                self.segment(*vni)?.flood.remove(remote);
            }
            Action::TunePort { vni, name, mtu, learning } => {
                let segment = self.segment(*vni)?;
                device(&mut segment.bridge, *vni, BRIDGE)?;
                let port =
                    segment.ports.get_mut(name).ok_or_else(|| no_device(*vni, name.as_str()))?;
                (port.mtu, port.up, port.enslaved) = (*mtu, true, true);
                (port.learning, port.groups_max) = (*learning, GROUPS_PER_PORT);
            }
            Action::EndDuplicateDetection { vni, port, .. } => {
                let port = self.segment(*vni)?.ports.get_mut(port);
                port.and_then(|port| port.container_end.as_mut())
                    .into_iter()
                    .for_each(|end| end.detects_duplicates = false);
            }
            Action::ForgetLearned { vni } => self.segment(*vni)?.learned = Learned::default(),
            Action::DeletePort { vni, name } => {
                let segment = self.segment(*vni)?;
                let is_foreign = segment.foreign.contains(name);
                segment.ports.remove(name);
                if is_foreign {
                    self.violations.push(format!("deletion of {name}, which is foreign"));
                }
            }
            _ => {}
        }
        Ok(())
    }

    pub(super) fn segment(&mut self, vni: Vni) -> Result<&mut ObservedSegment, KernelError> {
        self.state
            .segments
            .get_mut(&vni)
            .ok_or_else(|| KernelError::NoNamespace { namespace: namespace_name(vni) })
    }

    fn delete_segment(&mut self, vni: Vni, whole: bool) -> Result<(), KernelError> {
        let segment = self.segment(vni)?;
        segment.tunnel = None;
        segment.flood.clear();
        segment.learned = Learned::default();
        if whole {
            *segment = ObservedSegment {
                foreign: std::mem::take(&mut segment.foreign),
                ..ObservedSegment::default()
            };
            if segment.foreign.is_empty() {
                self.state.segments.remove(&vni);
            }
        }
        Ok(())
    }

    fn create_bridge(&mut self, vni: Vni, mark: Option<OwnerTag>) -> Result<(), KernelError> {
        let segment = self.segment(vni)?;
        refuse_foreign(segment, vni, BRIDGE)?;
        let fresh = ObservedBridge {
            mark: None,
            mac: MacAddress([0x06, 0, 0, 0, 0, 1]),
            addresses: BTreeSet::new(),
            forwards: false,
            mtu: 1500,
            up: false,
            snooping: true,
            querier: false,
            igmp_version: 2,
            mld_version: 1,
            groups_max: 4096,
            multicast_router: 1,
            membership_interval: MEMBERSHIP_INTERVAL_OF_KERNEL,
            learned_max: Some(0),
            link_local: false,
        };
        segment.bridge.get_or_insert(fresh).mark = mark;
        Ok(())
    }

    fn create_tunnel(
        &mut self,
        vni: Vni,
        vtep: Vtep,
        mark: Option<OwnerTag>,
    ) -> Result<(), KernelError> {
        if vtep.encrypted && self.state.encryption.is_none() {
            return Err(KernelError::Injected("there is no encrypted underlay"));
        }
        let segment = self.segment(vni)?;
        refuse_foreign(segment, vni, TUNNEL)?;
        if segment.tunnel.is_some() {
            return Err(KernelError::Injected("the tunnel exists already"));
        }
        segment.tunnel = Some(ObservedTunnel {
            mark,
            vni: Some(vni),
            local: Some(vtep.address),
            port: vtep.port,
            learning: true,
            port_learning: true,
            mtu: 1450,
            up: false,
            enslaved: false,
            multicast_router: 0,
        });
        Ok(())
    }

    fn tune_tunnel(&mut self, vni: Vni, mtu: u16, learning: bool) -> Result<(), KernelError> {
        let segment = self.segment(vni)?;
        device(&mut segment.bridge, vni, BRIDGE)?;
        let tunnel = device(&mut segment.tunnel, vni, TUNNEL)?;
        (tunnel.mtu, tunnel.up, tunnel.enslaved) = (mtu, true, true);
        (tunnel.learning, tunnel.port_learning) = (learning, learning);
        tunnel.multicast_router = MULTICAST_ROUTER_ALWAYS;
        if !segment.igmp_mld_filter {
            self.violations.push(format!(
                "the tunnel of VNI {vni} was attached to its bridge without an IGMP/MLD filter"
            ));
        }
        Ok(())
    }

    fn create_port(
        &mut self,
        vni: Vni,
        port: &Port,
        (mtu, learning): (u16, bool),
        place: &Place,
        whole: bool,
    ) -> Result<(), KernelError> {
        let name = DeviceName::port(&port.endpoint);
        let in_sandbox = match place {
            Place::Host => false,
            Place::Sandbox(path) if self.sandboxes.contains(path) => true,
            Place::Sandbox(path) => {
                return Err(KernelError::NoNamespace { namespace: path.display().to_string() });
            }
        };
        let segment = self.segment(vni)?;
        device(&mut segment.bridge, vni, BRIDGE)?;
        refuse_foreign(segment, vni, name.as_str())?;
        if segment.ports.contains_key(&name) {
            return Err(KernelError::Injected("the port exists already"));
        }
        let end = ContainerEnd {
            place: place.clone(),
            name: port.container_name.clone(),
            mac: port.mac,
            mtu,
            up: in_sandbox && whole,
            addresses: if in_sandbox && whole { port.addresses.clone() } else { BTreeSet::new() },
            detects_duplicates: false,
            multicast_routes: if in_sandbox && whole {
                port.multicast_routes.clone()
            } else {
                BTreeSet::new()
            },
        };
        let mark = whole.then(|| OwnerTag::Endpoint(port.endpoint.clone()));
        let made = ObservedPort {
            mark,
            mtu,
            up: whole,
            enslaved: true,
            learning,
            groups_max: GROUPS_PER_PORT,
            container_end: Some(end),
        };
        segment.ports.insert(name, made);
        Ok(())
    }

    fn tune_end(
        &mut self,
        vni: Vni,
        port: &Port,
        mtu: u16,
        (sandbox, name): (&PathBuf, &DeviceName),
    ) -> Result<(), KernelError> {
        let ports = &mut self.segment(vni)?.ports;
        let end = ports
            .get_mut(&DeviceName::port(&port.endpoint))
            .and_then(|port| port.container_end.as_mut());
        let place = Place::Sandbox(sandbox.clone());
        let end = end
            .filter(|end| end.place == place && end.name == *name)
            .ok_or_else(|| no_device(vni, name.as_str()))?;
        (end.mtu, end.mac) = (mtu, port.mac);
        end.addresses.extend(&port.addresses);
        end.multicast_routes.extend(&port.multicast_routes);
        Ok(())
    }
}

fn tune_bridge(bridge: &mut ObservedBridge, mtu: u16) {
    *bridge = ObservedBridge {
        mark: bridge.mark.clone(),
        mac: GATEWAY_MAC,
        addresses: bridge.addresses.clone(),
        forwards: bridge.forwards,
        mtu,
        up: true,
        snooping: true,
        querier: true,
        igmp_version: IGMP_VERSION,
        mld_version: MLD_VERSION,
        groups_max: GROUPS_MAX,
        multicast_router: MULTICAST_ROUTER_ALWAYS,
        membership_interval: match bridge.membership_interval {
            MEMBERSHIP_INTERVAL_OF_KERNEL => MEMBERSHIP_INTERVAL,
            other => other,
        },
        learned_max: u32::try_from(LEARNED_MAX).ok(),
        link_local: true,
    };
}

pub(super) fn device<'a, T>(
    device: &'a mut Option<T>,
    vni: Vni,
    name: &str,
) -> Result<&'a mut T, KernelError> {
    device.as_mut().ok_or_else(|| no_device(vni, name))
}

pub(super) fn no_device(vni: Vni, name: &str) -> KernelError {
    KernelError::NoDevice { device: name.to_owned(), namespace: namespace_name(vni) }
}

pub(super) fn refuse_foreign(
    segment: &ObservedSegment,
    vni: Vni,
    name: &str,
) -> Result<(), KernelError> {
    if segment.foreign.iter().any(|foreign| foreign.as_str() == name) {
        return Err(KernelError::Foreign {
            device: name.to_owned(),
            namespace: namespace_name(vni),
        });
    }
    Ok(())
}
