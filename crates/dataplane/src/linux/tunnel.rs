//! Creating VXLAN devices.

use shoutd_core::limits::TUNNEL_ADDRESSES_MAX;
use shoutd_core::plane::{OwnerTag, TUNNEL, Vtep};
use shoutd_core::{NetworkId, Vni};
use shoutd_netlink::NewVxlan;

use super::execute::limit;
use super::{GROUP, LinuxKernel};
use crate::kernel_error::KernelError;

/// TTL of VXLAN packets, as of the host's own packets: enough for any underlay.
const TTL: u8 = 64;

impl LinuxKernel {
    /// Its socket is in the host's namespace, or in that of the encrypted underlay.
    pub(super) fn create_tunnel(
        &mut self,
        vni: Vni,
        network: &NetworkId,
        vtep: Vtep,
    ) -> Result<(), KernelError> {
        let segment = self.segment(vni)?;
        segment.refuse_foreign(vni, TUNNEL)?;
        let into = segment.namespace.clone();
        let new = NewVxlan {
            name: TUNNEL,
            group: GROUP,
            vni: vni.get(),
            local: vtep.address,
            port: vtep.port,
            ttl: TTL,
            addresses_max: limit(TUNNEL_ADDRESSES_MAX),
        };
        if vtep.encrypted {
            self.encrypted_route()?.create_vxlan(&new, &into)?;
        } else {
            self.host_route.create_vxlan(&new, &into)?;
        }
        self.segment(vni)?.set_owner_tag(vni, TUNNEL, &OwnerTag::Network(network.clone()), None)
    }
}
