//! The reconciler's thread: waiting, retries, and the scope of failures.

#![expect(clippy::unwrap_used, reason = "a test says what it expects by failing")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use shoutd_core::plane::{
    Action, Desired, DeviceName, INTERFACE_PREFIX, InterfaceName, Observed, Port, Segment, Tier,
    Vtep, diff,
};
use shoutd_core::{EndpointId, MacAddress, Vni};
use shoutd_dataplane::testing::{FakeKernel, Fault};
use shoutd_dataplane::{
    ForwardingTables, Kernel, KernelError, MembershipSource, Reconciler, Scope, Unsettled,
};
use tokio::sync::watch;
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(20);

/// A fake kernel that tests can read and change while a reconciler owns it.
#[derive(Clone, Default)]
struct SharedKernel {
    inner: Arc<Mutex<FakeKernel>>,
    /// Endpoints whose interface cannot be made.
    cursed: Arc<Mutex<BTreeSet<EndpointId>>>,
    unreadable: Arc<Mutex<bool>>,
    /// How often it failed because of `cursed` or `blind`.
    failures: Arc<watch::Sender<u32>>,
    /// If set, waits ignore their timeout and end only when woken.
    timeless: Arc<AtomicBool>,
    /// Whether it is in such a wait.
    idle: Arc<watch::Sender<bool>>,
}

impl SharedKernel {
    fn fail<T>(&self, reason: &'static str) -> Result<T, KernelError> {
        self.failures.send_modify(|failures| *failures += 1);
        Err(KernelError::Injected(reason))
    }

    /// Waits until it has failed this many more times.
    async fn await_failures(&self, more: u32) {
        let mut failures = self.failures.subscribe();
        let wanted = *failures.borrow() + more;
        timeout(PATIENCE, failures.wait_for(|failures| *failures >= wanted))
            .await
            .unwrap()
            .unwrap();
    }

    /// From now on, only a wake-up starts a round.
    async fn stop_the_clock(&self) {
        self.timeless.store(true, Ordering::SeqCst);
        timeout(PATIENCE, self.idle.subscribe().wait_for(|idle| *idle)).await.unwrap().unwrap();
    }
}

impl Kernel for SharedKernel {
    fn observe(&mut self, sandboxes: &BTreeSet<PathBuf>) -> Result<Observed, KernelError> {
        if *self.unreadable.lock().unwrap() {
            return self.fail("unreadable");
        }
        self.inner.lock().unwrap().observe(sandboxes)
    }

    fn execute(&mut self, action: &Action) -> Result<(), KernelError> {
        match action {
            Action::CreatePort { port, .. }
                if self.cursed.lock().unwrap().contains(&port.endpoint) =>
            {
                self.fail("cursed")
            }
            _ => self.inner.lock().unwrap().execute(action),
        }
    }

    fn forwarding(&self) -> Box<dyn ForwardingTables> {
        self.inner.lock().unwrap().forwarding()
    }

    fn memberships(&self) -> Box<dyn MembershipSource> {
        self.inner.lock().unwrap().memberships()
    }

    fn wait(&mut self, wake: BorrowedFd<'_>, timeout: Duration) {
        if !self.timeless.load(Ordering::SeqCst) {
            return FakeKernel::default().wait(wake, timeout);
        }
        self.idle.send_replace(true);
        FakeKernel::default().wait(wake, Duration::MAX);
        self.idle.send_replace(false);
    }
}

fn vni() -> Vni {
    Vni::new(7).unwrap()
}

fn endpoint(number: u8) -> EndpointId {
    format!("{number:012}").parse().unwrap()
}

fn desired(endpoints: u8) -> Desired {
    let vtep = Vtep { address: Ipv4Addr::LOCALHOST.into(), port: 7789, encrypted: false };
    let mut segment = Segment::empty("a".repeat(64).parse().unwrap(), 1450, vtep);
    for number in 0..endpoints {
        let port = Port {
            endpoint: endpoint(number),
            container_name: DeviceName::container(&endpoint(number)),
            mac: MacAddress([2, 0, 0, 0, 0, number]),
            addresses: BTreeSet::new(),
            multicast_routes: BTreeSet::new(),
            default_route: None,
            name: InterfaceName::numbered(INTERFACE_PREFIX),
            sandbox: None,
        };
        segment.ports.insert(DeviceName::port(&endpoint(number)), port);
    }
    Desired { segments: BTreeMap::from([(vni(), segment)]), ..Desired::default() }
}

fn port_scope(number: u8) -> Scope {
    Scope::Port { vni: vni(), name: DeviceName::port(&endpoint(number)) }
}

#[tokio::test]
async fn an_applied_state_settles() {
    let kernel = SharedKernel::default();
    let handle = Reconciler::spawn(kernel.clone(), Tier::VxlanMdb).unwrap();
    for endpoints in 0..20 {
        let generation = handle.apply(desired(endpoints));
        handle.settled(generation, &Scope::Everything, PATIENCE).await.unwrap();
        assert!(diff(&desired(endpoints), &kernel.inner.lock().unwrap().state).is_empty());
    }
}

#[tokio::test]
async fn nothing_is_changed_before_the_first_desired_state() {
    let kernel = SharedKernel::default();
    let first = Reconciler::spawn(kernel.clone(), Tier::VxlanMdb).unwrap();
    let generation = first.apply(desired(1));
    first.settled(generation, &Scope::Everything, PATIENCE).await.unwrap();
    drop(first);

    let handle = Reconciler::spawn(kernel.clone(), Tier::VxlanMdb).unwrap();
    let mut observed = handle.watch_observed();
    for _ in 0..3 {
        handle.poke();
        timeout(PATIENCE, observed.changed()).await.unwrap().unwrap();
        assert!(diff(&desired(1), &handle.observed()).is_empty());
    }
}

#[tokio::test]
async fn a_failed_action_is_retried_until_it_succeeds() {
    let kernel = SharedKernel::default();
    kernel.inner.lock().unwrap().faults =
        [Fault::Before, Fault::Halfway, Fault::After, Fault::Before].map(Some).into();
    let handle = Reconciler::spawn(kernel.clone(), Tier::VxlanMdb).unwrap();
    let generation = handle.apply(desired(3));
    handle.settled(generation, &Scope::Everything, PATIENCE).await.unwrap();
    assert!(diff(&desired(3), &kernel.inner.lock().unwrap().state).is_empty());
    assert!(handle.failures().is_empty());
}

#[tokio::test]
async fn an_endpoints_failure_does_not_affect_others() {
    let kernel = SharedKernel::default();
    kernel.cursed.lock().unwrap().insert(endpoint(0));
    let handle = Reconciler::spawn(kernel.clone(), Tier::VxlanMdb).unwrap();
    let generation = handle.apply(desired(2));
    handle.settled(generation, &port_scope(1), PATIENCE).await.unwrap();

    let refusal =
        handle.settled(generation, &port_scope(0), Duration::from_millis(1)).await.unwrap_err();
    assert!(matches!(&refusal, Unsettled::Failed(failures) if failures.len() == 1), "{refusal:?}");
    assert_eq!(
        refusal.to_string(),
        "network with VNI 7, creating the interface of endpoint 000000000000: injected fault: \
         cursed"
    );

    // By now the retries have slowed down to one in a second or two. A new desired state is tried
    // at once.
    kernel.await_failures(4).await;
    kernel.stop_the_clock().await;
    kernel.cursed.lock().unwrap().clear();
    let generation = handle.apply(desired(2));
    handle.settled(generation, &port_scope(0), PATIENCE).await.unwrap();
}

#[tokio::test]
async fn waiting_for_advertisements_needs_no_container_and_no_observation() {
    let kernel = SharedKernel::default();
    kernel.cursed.lock().unwrap().insert(endpoint(0));
    let handle = Reconciler::spawn(kernel.clone(), Tier::VxlanMdb).unwrap();
    let scope = Scope::Advertised { vni: vni() };
    let mut wanted = desired(2);
    let generation = handle.apply(wanted.clone());
    handle.settled(generation, &scope, PATIENCE).await.unwrap();

    *kernel.unreadable.lock().unwrap() = true;
    kernel.await_failures(2).await;
    for number in 1..4 {
        let group = (None, Ipv4Addr::new(239, 0, 0, number).into());
        Arc::make_mut(&mut wanted.segments.get_mut(&vni()).unwrap().replication)
            .groups
            .insert(group, BTreeSet::new());
        let generation = handle.apply(wanted.clone());
        handle.settled(generation, &scope, PATIENCE).await.unwrap();
        let tables = kernel.inner.lock().unwrap().forwarding.content().tables[&vni()].clone();
        assert!(tables.groups.contains_key(&group));
    }
    // A new remote must be added to the tunnel.
    wanted.segments.get_mut(&vni()).unwrap().remotes.insert(Ipv4Addr::new(192, 0, 2, 2).into());
    let generation = handle.apply(wanted.clone());
    let refusal = handle.settled(generation, &scope, Duration::from_millis(50)).await.unwrap_err();
    assert!(matches!(&refusal, Unsettled::Late { .. }), "{refusal:?}");
    *kernel.unreadable.lock().unwrap() = false;
    handle.settled(generation, &scope, PATIENCE).await.unwrap();
    assert_eq!(kernel.inner.lock().unwrap().state.segments[&vni()].flood.len(), 1);
}

#[tokio::test]
async fn a_persistent_failure_does_not_delay_other_actions() {
    let kernel = SharedKernel::default();
    kernel.cursed.lock().unwrap().insert(endpoint(0));
    let handle = Reconciler::spawn(kernel.clone(), Tier::VxlanMdb).unwrap();
    let generation = handle.apply(desired(2));
    handle.settled(generation, &port_scope(1), PATIENCE).await.unwrap();
    // By now it is retried about once a second.
    kernel.await_failures(4).await;
    kernel.stop_the_clock().await;

    // One round detects and repairs damage.
    let mut rested = kernel.idle.subscribe();
    kernel.inner.lock().unwrap().state.segments.get_mut(&vni()).unwrap().igmp_mld_filter = false;
    handle.poke();
    let repaired =
        rested.wait_for(|_| kernel.inner.lock().unwrap().state.segments[&vni()].igmp_mld_filter);
    timeout(PATIENCE, repaired).await.unwrap().unwrap();
    assert_eq!(handle.failures().len(), 1);
}

#[tokio::test]
async fn an_unreadable_kernel_is_reported_as_such() {
    let kernel = SharedKernel::default();
    *kernel.unreadable.lock().unwrap() = true;
    let handle = Reconciler::spawn(kernel.clone(), Tier::VxlanMdb).unwrap();
    let generation = handle.apply(desired(1));
    // The first failure may have been under way already. By the third, the second was published.
    kernel.await_failures(3).await;
    let refusal =
        handle.settled(generation, &Scope::Everything, Duration::from_millis(1)).await.unwrap_err();
    assert!(matches!(refusal, Unsettled::Unreadable(_)), "{refusal:?}");
    *kernel.unreadable.lock().unwrap() = false;
    handle.settled(generation, &Scope::Everything, PATIENCE).await.unwrap();
}

#[tokio::test]
async fn damage_without_an_event_is_repaired() {
    let kernel = SharedKernel::default();
    let handle = Reconciler::spawn(kernel.clone(), Tier::VxlanMdb).unwrap();
    let generation = handle.apply(desired(1));
    handle.settled(generation, &Scope::Everything, PATIENCE).await.unwrap();
    kernel.inner.lock().unwrap().state.segments.clear();
    let mut observed = handle.watch_observed();
    let whole = observed.wait_for(|observed| diff(&desired(1), observed).is_empty());
    timeout(PATIENCE, whole).await.unwrap().unwrap();
}

#[tokio::test]
async fn an_unreadable_network_does_not_affect_others() {
    let kernel = SharedKernel::default();
    let handle = Reconciler::spawn(kernel.clone(), Tier::VxlanMdb).unwrap();
    let generation = handle.apply(desired(1));
    handle.settled(generation, &Scope::Everything, PATIENCE).await.unwrap();
    let unread = BTreeMap::from([(vni(), "too slow".to_owned())]);
    kernel.inner.lock().unwrap().state.unreadable_segments = unread;

    let mut wanted = desired(2);
    let other = Vni::new(8).unwrap();
    wanted
        .segments
        .insert(other, Segment { ports: BTreeMap::new(), ..wanted.segments[&vni()].clone() });
    let generation = handle.apply(wanted.clone());
    handle.settled(generation, &Scope::Segment { vni: other }, PATIENCE).await.unwrap();
    let refusal =
        handle.settled(generation, &port_scope(1), Duration::from_millis(1)).await.unwrap_err();
    assert_eq!(refusal.to_string(), "cannot read what the network has in the kernel: too slow");
    assert!(
        handle
            .observed()
            .problems()
            .any(|line| line.contains("VNI 7") && line.ends_with("too slow"))
    );
    // An unreadable segment is left alone, even if it is not desired.
    let generation = handle.apply(Desired::default());
    assert!(
        handle.settled(generation, &Scope::Everything, Duration::from_millis(1)).await.is_err()
    );
    let mut observed = handle.watch_observed();
    let gone = observed.wait_for(|observed| observed.segments.is_empty());
    timeout(PATIENCE, gone).await.unwrap().unwrap();
    assert!(kernel.inner.lock().unwrap().state.segments.contains_key(&vni()));

    kernel.inner.lock().unwrap().state.unreadable_segments.clear();
    let generation = handle.apply(wanted);
    handle.settled(generation, &Scope::Everything, PATIENCE).await.unwrap();
}

#[tokio::test]
async fn dropping_the_last_handle_ends_the_thread_and_leaves_everything() {
    let kernel = SharedKernel::default();
    let handle = Reconciler::spawn(kernel.clone(), Tier::VxlanMdb).unwrap();
    let generation = handle.apply(desired(1));
    handle.settled(generation, &Scope::Everything, PATIENCE).await.unwrap();
    let other = handle.clone();
    drop(handle);
    let generation = other.apply(desired(2));
    other.settled(generation, &Scope::Everything, PATIENCE).await.unwrap();
    let mut observed = other.watch_observed();
    drop(other);
    timeout(PATIENCE, async { while observed.changed().await.is_ok() {} }).await.unwrap();
    assert!(diff(&desired(2), &kernel.inner.lock().unwrap().state).is_empty());
}
