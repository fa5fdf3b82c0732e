//! Properties of every plan, for any desired and any observed state.

#![expect(clippy::unwrap_used, reason = "a test says what it expects by failing")]

mod strategies;

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::path::PathBuf;

use proptest::collection::{btree_set, vec};
use proptest::prelude::*;
use shoutd_core::limits::LEARNED_MAX;
use shoutd_core::plane::EncryptionWanted;
use shoutd_core::plane::{
    ALL_MULTICAST, Action, ContainerEnd, Desired, DeviceName, GATEWAY_MAC, INTERFACE_PREFIX,
    InterfaceName, Learned, Observed, ObservedBridge, ObservedPort, ObservedSegment,
    ObservedTunnel, ObservedUnderlayFilter, ObservedUplink, OwnerTag, Place, Port, Segment,
    UplinkFar, Vtep, diff,
};
use shoutd_core::{EndpointId, MacAddress, Vni};
use shoutd_dataplane::testing::{FakeKernel, Fault};
use shoutd_dataplane::{Kernel, reconcile};
use strategies::{desired, fault, kernel, sandbox, way_out, whole};

fn sandboxes(desired: &Desired) -> BTreeSet<PathBuf> {
    desired
        .segments
        .values()
        .flat_map(|segment| segment.ports.values())
        .filter_map(|port| port.sandbox.clone())
        .collect()
}

fn plan(kernel: &mut FakeKernel, desired: &Desired) -> Vec<Action> {
    let observed = kernel.observe(&sandboxes(desired)).unwrap();
    diff(desired, &observed)
}

/// The observed state after all of the desired state and nothing else was programmed, computed
/// independently of the actions.
fn as_observed(desired: &Desired, there: &BTreeSet<PathBuf>) -> Observed {
    let segments: BTreeMap<Vni, ObservedSegment> = desired
        .segments
        .iter()
        .map(|(&vni, wanted)| (vni, segment_as_observed(vni, wanted, there)))
        .collect();
    let missing_sandboxes = sandboxes(desired).difference(there).cloned().collect();
    let underlay_filter =
        desired.underlay_filter.clone().map_or(ObservedUnderlayFilter::Absent, whole);
    let way_out = Some(way_out());
    let encryption = match &desired.encryption {
        EncryptionWanted::Present(wanted) => Some(wanted.into()),
        _ => None,
    };
    let observed = Observed { underlay_filter, way_out, segments, ..Observed::default() };
    Observed { encryption, missing_sandboxes, ..observed }
}

/// The uplink of a segment, with an address that no other segment's has.
fn uplink_as_observed(vni: Vni, wanted: &Segment) -> Option<ObservedUplink> {
    wanted.has_way_out().then(|| ObservedUplink {
        mark: Some(OwnerTag::Network(wanted.network.clone())),
        mtu: 1500,
        up: true,
        forwards: true,
        addresses: [format!("10.255.0.{vni}/28").parse().unwrap()].into(),
        router: Some(way_out().address.addr()),
        far: Some(UplinkFar { mtu: 1500, up: true, attached: true }),
    })
}

/// Checks the addresses of all uplinks: each has one of the way-out bridge's subnet, and its own.
/// Then replaces them by those of [`uplink_as_observed`].
fn check_uplinks(observed: &mut Observed) {
    let mut addresses = BTreeSet::from([way_out().address.addr()]);
    for (vni, segment) in &mut observed.segments {
        if let Some(uplink) = &mut segment.uplink {
            assert_eq!(uplink.addresses.len(), 1, "{uplink:?}");
            let address = *uplink.addresses.first().unwrap();
            assert_eq!(address.trunc(), way_out().address.trunc());
            assert!(addresses.insert(address.addr()), "{address} twice");
            uplink.addresses = [format!("10.255.0.{vni}/28").parse().unwrap()].into();
        }
    }
}

fn segment_as_observed(vni: Vni, wanted: &Segment, there: &BTreeSet<PathBuf>) -> ObservedSegment {
    let mark = Some(OwnerTag::Network(wanted.network.clone()));
    ObservedSegment {
        bridge: Some(ObservedBridge {
            mark: mark.clone(),
            mac: GATEWAY_MAC,
            addresses: wanted.gateways.clone(),
            forwards: !wanted.gateways.is_empty(),
            mtu: wanted.mtu,
            up: true,
            snooping: true,
            querier: true,
            igmp_version: 3,
            mld_version: 2,
            groups_max: 65_536,
            multicast_router: 2,
            learned_max: u32::try_from(LEARNED_MAX).ok(),
            membership_interval: 51_000,
            link_local: true,
        }),
        tunnel: Some(ObservedTunnel {
            mark,
            vni: Some(vni),
            local: Some(wanted.vtep.address),
            port: wanted.vtep.port,
            learning: wanted.learning,
            port_learning: wanted.learning,
            mtu: wanted.mtu,
            up: true,
            enslaved: true,
            multicast_router: 2,
        }),
        igmp_mld_filter: true,
        max_rate: wanted.max_rate,
        gateways: wanted.gateway_addresses(),
        way_out_filter: true,
        uplink: uplink_as_observed(vni, wanted),
        flood: wanted.remotes.clone(),
        learned: Learned::default(),
        ports: wanted
            .ports
            .iter()
            .filter(|(_, port)| port.sandbox.as_ref().is_none_or(|path| there.contains(path)))
            .map(|(name, port)| (name.clone(), port_as_observed(port, wanted)))
            .collect(),
        foreign: BTreeSet::new(),
    }
}

fn port_as_observed(port: &Port, segment: &Segment) -> ObservedPort {
    let mut end = ContainerEnd {
        place: port.sandbox.clone().map_or(Place::Host, Place::Sandbox),
        name: port.container_name.clone(),
        mac: port.mac,
        mtu: segment.mtu,
        up: port.sandbox.is_some(),
        detects_duplicates: false,
        addresses: BTreeSet::new(),
        multicast_routes: BTreeSet::new(),
    };
    if port.sandbox.is_some() {
        end.addresses.clone_from(&port.addresses);
        end.multicast_routes.clone_from(&port.multicast_routes);
    }
    ObservedPort {
        mark: Some(OwnerTag::Endpoint(port.endpoint.clone())),
        mtu: segment.mtu,
        up: true,
        enslaved: true,
        learning: segment.learning,
        groups_max: Some(8192),
        container_end: Some(end),
    }
}

/// Whether all is as desired, except foreign devices; judged without the planning code.
fn check(kernel: &mut FakeKernel, desired: &Desired) -> Result<(), TestCaseError> {
    let there = kernel.sandboxes.clone();
    let mut found = kernel.observe(&sandboxes(desired)).unwrap();
    let mut expected = as_observed(desired, &there);
    for (vni, segment) in &mut found.segments {
        if segment.foreign.is_empty() || desired.segments.contains_key(vni) {
            segment.foreign.clear();
            continue;
        }
        // Only foreign devices may remain of an undesired segment.
        let rest =
            ObservedSegment { foreign: segment.foreign.clone(), ..ObservedSegment::default() };
        expected.segments.insert(*vni, rest);
    }
    for (vni, wanted) in &desired.segments {
        let (Some(segment), Some(expected)) =
            (found.segments.get_mut(vni), expected.segments.get_mut(vni))
        else {
            continue;
        };
        for (name, port) in &wanted.ports {
            let found_end = segment.ports.get_mut(name).and_then(|port| port.container_end.take());
            let expected_end =
                expected.ports.get_mut(name).and_then(|port| port.container_end.take());
            let place = port.sandbox.clone().map(Place::Sandbox);
            if let (Some(mut found), Some(expected)) = (found_end, expected_end)
                && Some(&found.place) == place.as_ref()
                // A container may take its interface down.
                && found.up
            {
                prop_assert!(found.addresses.is_superset(&expected.addresses));
                prop_assert!(found.multicast_routes.is_superset(&expected.multicast_routes));
                found.name.clone_from(&expected.name);
                found.addresses.clone_from(&expected.addresses);
                found.multicast_routes.clone_from(&expected.multicast_routes);
                prop_assert_eq!(found, expected);
            }
        }
        // Some kernels do not count a port's groups.
        for (name, port) in &mut expected.ports {
            if segment.ports.get(name).is_some_and(|found| found.groups_max.is_none()) {
                port.groups_max = None;
            }
        }
        // A container that is gone takes its port along, but a fake one does not.
        segment.ports.retain(|name, _| {
            let sandbox = wanted.ports.get(name).and_then(|port| port.sandbox.as_ref());
            sandbox.is_none_or(|path| there.contains(path))
        });
        // Learned entries stay within their limit.
        if wanted.learning {
            segment.learned = Learned::default();
        }
    }
    check_uplinks(&mut found);
    prop_assert_eq!(found, expected);
    prop_assert_eq!(&kernel.violations, &Vec::<String>::new());
    Ok(())
}

fn foreign(kernel: &FakeKernel) -> BTreeMap<Vni, BTreeSet<DeviceName>> {
    let segments = kernel.state.segments.iter();
    segments
        .filter(|(_, segment)| !segment.foreign.is_empty())
        .map(|(&vni, segment)| (vni, segment.foreign.clone()))
        .collect()
}

/// One round, which must repair everything and leave foreign devices unchanged.
fn repair(
    kernel: &mut FakeKernel,
    desired: &Desired,
    before: &BTreeMap<Vni, BTreeSet<DeviceName>>,
) -> Result<(), TestCaseError> {
    let report = reconcile(kernel, desired).unwrap();
    prop_assert!(report.failures.is_empty(), "{:?}", report.failures);
    prop_assert_eq!(plan(kernel, desired), vec![]);
    prop_assert_eq!(&foreign(kernel), before);
    check(kernel, desired)
}

/// Whether the plan does all that must precede the use of each segment's tunnel.
fn is_in_order(plan: &[Action]) -> bool {
    let mut ranks: BTreeMap<Vni, Vec<u8>> = BTreeMap::new();
    for action in plan {
        if let Some(vni) = action.vni() {
            ranks.entry(vni).or_default().push(rank(action));
        }
    }
    // The underlay filter and the encrypted underlay precede all tunnels, and the latter goes last.
    let common = plan.iter().enumerate().filter(|(_, action)| action.vni().is_none());
    let is_filter_first = common.clone().all(|(at, action)| match action {
        Action::SetEncryptedUnderlay { .. } => at <= 1,
        Action::DeleteEncryptedUnderlay => at + 1 == plan.len(),
        _ => at == 0,
    });
    is_filter_first && ranks.values().all(|ranks| ranks.is_sorted())
}

fn rank(action: &Action) -> u8 {
    match action {
        Action::InstallUnderlayFilter { .. } | Action::RemoveUnderlayFilter => 0,
        Action::SetEncryptedUnderlay { .. } => 0,
        Action::DeleteEncryptedUnderlay => 17,
        Action::DeleteSegment { .. } => 0,
        Action::CreateSegment { .. } => 1,
        Action::CreateBridge { .. } => 2,
        Action::TuneBridge { .. } => 3,
        Action::InstallIgmpMldFilter { .. } => 4,
        Action::InstallWayOutFilter { .. } => 5,
        Action::TuneGateways { .. } => 6,
        Action::DeleteUplink { .. } => 7,
        Action::CreateUplink { .. } => 8,
        Action::TuneUplink { .. } => 9,
        Action::DeleteTunnel { .. } => 10,
        Action::CreateTunnel { .. } => 11,
        Action::AddFlood { .. } | Action::RemoveFlood { .. } => 12,
        Action::TuneTunnel { .. } => 13,
        Action::DeletePort { .. } => 14,
        Action::CreatePort { .. }
        | Action::TunePort { .. }
        | Action::TuneContainerEnd { .. }
        | Action::EndDuplicateDetection { .. } => 15,
        Action::ForgetLearned { .. } => 16,
    }
}

/// A kernel with these sandboxes, and nothing of shoutd.
fn empty_kernel(sandboxes: BTreeSet<PathBuf>) -> FakeKernel {
    let state = Observed { way_out: Some(way_out()), ..Observed::default() };
    FakeKernel { state, sandboxes, ..FakeKernel::default() }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn a_desired_state_needs_no_action(desired in desired(), there in btree_set(sandbox(), 0..4)) {
        prop_assert_eq!(diff(&desired, &as_observed(&desired, &there)), vec![]);
    }

    #[test]
    fn an_empty_kernel_gets_exactly_the_desired_state(
        desired in desired(),
        there in btree_set(sandbox(), 0..4),
    ) {
        let mut kernel = empty_kernel(there.clone());
        let report = reconcile(&mut kernel, &desired).unwrap();
        prop_assert!(report.failures.is_empty(), "{:?}", report.failures);
        let mut observed = kernel.observe(&sandboxes(&desired)).unwrap();
        check_uplinks(&mut observed);
        prop_assert_eq!(observed, as_observed(&desired, &there));
    }

    #[test]
    fn one_round_repairs_any_state(desired in desired(), mut kernel in kernel()) {
        let before = foreign(&kernel);
        let planned = plan(&mut kernel, &desired);
        prop_assert!(is_in_order(&planned), "{:?}", planned);
        repair(&mut kernel, &desired, &before)?;
    }

    #[test]
    fn undesired_objects_are_removed(
        first in desired(),
        second in desired(),
        there in btree_set(sandbox(), 0..4),
    ) {
        let mut kernel = empty_kernel(there);
        reconcile(&mut kernel, &first).unwrap();
        reconcile(&mut kernel, &second).unwrap();
        check(&mut kernel, &second)?;
    }

    #[test]
    fn a_crash_anywhere_is_repaired(
        desired in desired(),
        mut kernel in kernel(),
        at: prop::sample::Index,
        halfway: bool,
    ) {
        let before = foreign(&kernel);
        let planned = plan(&mut kernel, &desired);
        let reached = at.index(planned.len() + 1);
        for action in &planned[..reached] {
            kernel.execute(action).unwrap();
        }
        if let Some(action) = planned.get(reached).filter(|_| halfway) {
            kernel.faults.push_back(Some(Fault::Halfway));
            kernel.execute(action).unwrap_err();
        }
        repair(&mut kernel, &desired, &before)?;
    }

    #[test]
    fn all_is_repaired_after_the_faults_end(
        desired in desired(),
        mut kernel in kernel(),
        faults in vec(fault(), 0..40),
    ) {
        let before = foreign(&kernel);
        kernel.faults = faults.into();
        let mut rounds = 0;
        while !kernel.faults.is_empty() && !plan(&mut kernel, &desired).is_empty() {
            reconcile(&mut kernel, &desired).unwrap();
            rounds += 1;
            prop_assert!(rounds <= 100);
        }
        kernel.faults.clear();
        repair(&mut kernel, &desired, &before)?;
    }
}

/// A network with one container on it.
fn one_container() -> (Desired, Observed) {
    let endpoint: EndpointId = "e".repeat(64).parse().unwrap();
    let wanted = Port {
        container_name: DeviceName::container(&endpoint),
        endpoint: endpoint.clone(),
        mac: MacAddress([2; 6]),
        addresses: BTreeSet::from(["10.0.0.2/24".parse().unwrap()]),
        multicast_routes: BTreeSet::from([ALL_MULTICAST]),
        default_route: None,
        name: InterfaceName::numbered(INTERFACE_PREFIX),
        sandbox: Some("/sandbox/0".into()),
    };
    let vtep = Vtep { address: Ipv4Addr::LOCALHOST.into(), port: 7789, encrypted: false };
    let segment = Segment {
        ports: BTreeMap::from([(DeviceName::port(&endpoint), wanted)]),
        ..Segment::empty("a".repeat(64).parse().unwrap(), 1450, vtep)
    };
    let desired = Desired {
        segments: BTreeMap::from([(Vni::new(7).unwrap(), segment)]),
        ..Desired::default()
    };
    let observed = as_observed(&desired, &BTreeSet::from([PathBuf::from("/sandbox/0")]));
    (desired, observed)
}

/// The plan for a container end that differs from the desired one.
fn plan_for(change: impl FnOnce(&mut Option<ContainerEnd>)) -> Vec<Action> {
    let (desired, mut observed) = one_container();
    let segment = observed.segments.values_mut().next().unwrap();
    change(&mut segment.ports.values_mut().next().unwrap().container_end);
    diff(&desired, &observed)
}

#[test]
fn a_container_end_in_dockers_hands_is_not_touched() {
    for place in [Place::Host, Place::Sandbox("/sandbox/other".into())] {
        let planned = plan_for(|end| {
            let end = end.as_mut().unwrap();
            (end.place, end.up, end.multicast_routes) = (place, false, BTreeSet::new());
        });
        assert_eq!(planned, vec![]);
    }
    assert_eq!(plan_for(|end| *end = None), vec![]);
}

#[test]
fn a_container_end_gets_what_it_lacks() {
    let damage: [fn(&mut ContainerEnd); 4] = [
        |end| end.mtu = 1500,
        |end| end.mac = MacAddress([4; 6]),
        |end| end.addresses.clear(),
        |end| end.multicast_routes.clear(),
    ];
    for damage in damage {
        let planned = plan_for(|end| damage(end.as_mut().unwrap()));
        assert!(matches!(planned[..], [Action::TuneContainerEnd { .. }]), "{planned:?}");
    }
    let detects_duplicates = plan_for(|end| end.as_mut().unwrap().detects_duplicates = true);
    assert!(
        matches!(detects_duplicates[..], [Action::EndDuplicateDetection { .. }]),
        "{detects_duplicates:?}"
    );
    // An interface that its container took down lacks its routes, and gets them when it is up.
    let down = plan_for(|end| {
        let end = end.as_mut().unwrap();
        (end.up, end.multicast_routes) = (false, BTreeSet::new());
    });
    assert_eq!(down, vec![]);
    let more =
        plan_for(|end| _ = end.as_mut().unwrap().addresses.insert("10.9.9.9/24".parse().unwrap()));
    assert_eq!(more, vec![]);
}
