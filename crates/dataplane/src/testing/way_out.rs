//! Gateways and uplinks of the kernel in memory.

use std::collections::BTreeSet;

use shoutd_core::Vni;
use shoutd_core::plane::{Action, BRIDGE, ObservedUplink, OwnerTag, UPLINK, UplinkFar};

use super::kernel::{FakeKernel, device, refuse_foreign};
use crate::kernel_error::KernelError;

impl FakeKernel {
    pub(super) fn create_uplink(
        &mut self,
        vni: Vni,
        mark: Option<OwnerTag>,
    ) -> Result<(), KernelError> {
        let segment = self.segment(vni)?;
        refuse_foreign(segment, vni, UPLINK)?;
        if segment.uplink.is_some() {
            return Err(KernelError::Injected("the uplink exists already"));
        }
        segment.uplink = Some(ObservedUplink {
            mark,
            mtu: 1500,
            up: false,
            forwards: false,
            addresses: BTreeSet::new(),
            router: None,
            far: Some(UplinkFar { mtu: 1500, up: false, attached: false }),
        });
        Ok(())
    }

    /// The other actions about the way out of a segment.
    pub(super) fn apply_to_way_out(&mut self, action: &Action) -> Result<(), KernelError> {
        match action {
            Action::TuneGateways { vni, addresses } => {
                let segment = self.segment(*vni)?;
                let is_protected = segment.igmp_mld_filter
                    && addresses.iter().all(|address| segment.gateways.contains(&address.addr()));
                let bridge = device(&mut segment.bridge, *vni, BRIDGE)?;
                (bridge.addresses, bridge.forwards) = (addresses.clone(), !addresses.is_empty());
                if !is_protected {
                    self.violations.push(format!(
                        "the bridge of VNI {vni} got gateways that its filter does not protect"
                    ));
                }
            }
            Action::InstallWayOutFilter { vni } => self.segment(*vni)?.way_out_filter = true,
            Action::TuneUplink { vni, address, router, mtu } => {
                if self.state.way_out.is_none() {
                    return Err(KernelError::Injected("there is no way-out bridge"));
                }
                let segment = self.segment(*vni)?;
                let is_filtered = segment.way_out_filter;
                let uplink = device(&mut segment.uplink, *vni, UPLINK)?;
                uplink.addresses = BTreeSet::from([*address]);
                (uplink.router, uplink.mtu) = (Some(*router), *mtu);
                (uplink.up, uplink.forwards) = (true, true);
                uplink.far = Some(UplinkFar { mtu: *mtu, up: true, attached: true });
                if !is_filtered {
                    self.violations.push(format!("the uplink of VNI {vni} came up unfiltered"));
                }
            }
            Action::DeleteUplink { vni } => self.segment(*vni)?.uplink = None,
            _ => {}
        }
        Ok(())
    }
}
