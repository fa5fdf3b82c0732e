//! Whole hosts for tests: network namespaces of their own on one underlay, each with a kernel as the daemon has it, and containers that are
//! connected the way Docker connects them. All of it lives in a mount namespace of the test's thread, and ends with it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use shoutd_core::plane::{Desired, DeviceName, Observed, Port, Segment, Vtep, diff};
use shoutd_core::{EndpointId, MacAddress, NetworkId, Vni};
use shoutd_dataplane::{Kernel, LinuxKernel, Report, reconcile};
use shoutd_netlink::{NamedNamespaces, Namespace};
use tempfile::TempDir;

/// How long something may take that takes milliseconds when nothing else runs.
pub const PATIENCE: Duration = Duration::from_secs(20);
/// The UDP port that VXLAN uses in these tests.
pub const VXLAN_PORT: u16 = 7789;
pub const MTU: u16 = 1450;

pub fn vni() -> Vni {
    Vni::new(0x10_0001).unwrap()
}

pub fn network() -> NetworkId {
    "a".repeat(64).parse().unwrap()
}

/// Hosts on one underlay. The calling thread is moved to namespaces of its own, for good.
pub struct World {
    pub hosts: Vec<Host>,
    _directory: TempDir,
}

impl World {
    /// As many hosts as this, with the addresses 192.0.2.1 and up on the underlay.
    pub fn new(hosts: u8) -> Self {
        enter_own_namespaces();
        let directory = tempfile::tempdir().unwrap();
        ip(&["link", "add", "underlay", "type", "bridge", "mcast_snooping", "0"]);
        ip(&["link", "set", "underlay", "up"]);
        let hosts = (1..=hosts).map(|number| Host::new(number, &directory.path().join(number.to_string()))).collect();
        Self { hosts, _directory: directory }
    }
}

/// Moves the calling thread to a network and a mount namespace of its own.
pub fn enter_own_namespaces() {
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS)
        .expect("these tests need root: they make network namespaces");
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
}

/// One host.
pub struct Host {
    pub address: IpAddr,
    pub namespace: Namespace,
    pub kernel: LinuxKernel,
    pub desired: Desired,
    directory: PathBuf,
    containers: NamedNamespaces,
    number: u8,
}

impl Host {
    fn new(number: u8, directory: &Path) -> Self {
        std::fs::create_dir_all(directory).unwrap();
        let namespace = NamedNamespaces::new(directory.join("hosts")).create("self", || Ok(())).unwrap();
        let (inside, outside) = (format!("eth{number}"), format!("host{number}"));
        let path = directory.join("hosts/self");
        ip(&[
            "link",
            "add",
            &outside,
            "master",
            "underlay",
            "type",
            "veth",
            "peer",
            "name",
            &inside,
            "netns",
            path.to_str().unwrap(),
        ]);
        ip(&["link", "set", &outside, "up"]);
        let address = Ipv4Addr::new(192, 0, 2, number);
        namespace
            .run(|| {
                ip(&["link", "set", "lo", "up"]);
                ip(&["address", "add", &format!("{address}/24"), "dev", &inside]);
                ip(&["link", "set", &inside, "up"]);
            })
            .unwrap();
        let kernel = namespace.run(|| LinuxKernel::new(directory.join("netns"))).unwrap().unwrap();
        let containers = NamedNamespaces::new(directory.join("containers"));
        let (address, directory) = (address.into(), directory.to_owned());
        Self { address, namespace, kernel, desired: Desired::default(), directory, containers, number }
    }

    /// A kernel as a daemon has it that was just started.
    pub fn fresh_kernel(&self) -> LinuxKernel {
        self.namespace.run(|| LinuxKernel::new(self.directory.join("netns"))).unwrap().unwrap()
    }

    /// The name that `ip netns` would show of the segment.
    pub fn segment(&self) -> Namespace {
        Namespace::open(&self.segment_path()).unwrap()
    }

    pub fn segment_path(&self) -> PathBuf {
        self.directory.join("netns").join(format!("shout-{}", vni()))
    }

    /// Wants the network, with these other hosts.
    pub fn want_segment(&mut self, remotes: &[IpAddr]) {
        let segment = Segment {
            network: network(),
            mtu: MTU,
            vtep: Vtep { address: self.address, port: VXLAN_PORT },
            remotes: remotes.iter().copied().collect(),
            ports: BTreeMap::new(),
        };
        self.desired.segments.insert(vni(), segment);
    }

    /// Wants the endpoint of this host's n-th container.
    pub fn want_endpoint(&mut self, container: u8) -> EndpointId {
        let endpoint = self.endpoint(container);
        let address = self.container_address(container);
        let port = Port {
            endpoint: endpoint.clone(),
            container_name: DeviceName::container(&endpoint),
            mac: MacAddress::for_ipv4(address),
            addresses: BTreeSet::from([format!("{address}/24").parse().unwrap()]),
            multicast_route: true,
            sandbox: None,
        };
        self.segment_mut().ports.insert(DeviceName::port(&endpoint), port);
        endpoint
    }

    pub fn segment_mut(&mut self) -> &mut Segment {
        self.desired.segments.get_mut(&vni()).unwrap()
    }

    pub fn endpoint(&self, container: u8) -> EndpointId {
        format!("{:012x}{}", u32::from(self.number) << 8 | u32::from(container), "e".repeat(52)).parse().unwrap()
    }

    pub fn container_address(&self, container: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 7, 7, self.number * 16 + container)
    }

    /// Does what Docker does between Join and the container's start, and tells the desired state of it.
    pub fn start_container(&mut self, container: u8) -> Namespace {
        let name = format!("c{container}");
        let namespace = self.containers.create(&name, || Ok(())).unwrap();
        let endpoint = self.endpoint(container);
        let device = DeviceName::container(&endpoint);
        let (device, path) = (device.as_str(), self.containers.path(&name));
        self.namespace.run(|| ip(&["link", "set", device, "netns", path.to_str().unwrap()])).unwrap();
        let address = self.container_address(container);
        namespace
            .run(|| {
                ip(&["link", "set", "lo", "up"]);
                ip(&["link", "set", device, "name", "shout0"]);
                ip(&["address", "add", &format!("{address}/24"), "dev", "shout0"]);
                ip(&["link", "set", "shout0", "up"]);
                ip(&["route", "add", "224.0.0.0/4", "dev", "shout0"]);
            })
            .unwrap();
        let port = self.segment_mut().ports.get_mut(&DeviceName::port(&endpoint)).unwrap();
        port.sandbox = Some(path);
        namespace
    }

    pub fn sandbox_path(&self, container: u8) -> PathBuf {
        self.containers.path(&format!("c{container}"))
    }

    pub fn observe(&mut self) -> Observed {
        let sandboxes =
            self.desired.segments.values().flat_map(|s| s.ports.values()).filter_map(|p| p.sandbox.clone()).collect();
        self.kernel.observe(&sandboxes).unwrap()
    }

    /// Reconciles, and insists that nothing failed and that then there is nothing left to do.
    pub fn settle(&mut self) -> Report {
        let report = reconcile(&mut self.kernel, &self.desired).unwrap();
        assert!(report.failures.is_empty(), "{:?}", report.failures);
        let observed = self.observe();
        let plan = diff(&self.desired, &observed);
        assert!(plan.is_empty(), "still to do: {plan:?}, for there is {observed:?}");
        report
    }
}

/// Two or more hosts with one network and one started container each.
pub fn connected(hosts: u8) -> (World, Vec<Namespace>) {
    let mut world = World::new(hosts);
    let addresses: Vec<IpAddr> = world.hosts.iter().map(|host| host.address).collect();
    let mut containers = Vec::new();
    for host in &mut world.hosts {
        let others: Vec<IpAddr> = addresses.iter().copied().filter(|address| *address != host.address).collect();
        host.want_segment(&others);
        host.want_endpoint(1);
        host.settle();
        containers.push(host.start_container(1));
        host.settle();
    }
    (world, containers)
}

/// Runs `ip` in the namespaces of the calling thread.
pub fn ip(arguments: &[&str]) {
    run("ip", arguments);
}

pub fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap_or_else(|error| panic!("{program}: {error}"));
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {complaint}");
    String::from_utf8(output.stdout).unwrap()
}

/// A UDP socket in a container.
pub fn udp(container: &Namespace, bind: impl Into<SocketAddr>) -> UdpSocket {
    let address = bind.into();
    let socket = container.run(|| UdpSocket::bind(address)).unwrap().unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.set_broadcast(true).unwrap();
    socket
}

/// Waits until something holds.
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
