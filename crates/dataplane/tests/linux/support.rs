//! Whole hosts for tests: network namespaces on one underlay, each with the daemon's kernel
//! interface, and containers connected as Docker connects them. All of it lives in a mount
//! namespace of the test's thread and ends with it.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, setsockopt, socket,
    sockopt,
};
use nix::sys::time::TimeVal;
use shoutd_core::multicast::{Remote, Replication, replication};
use shoutd_core::plane::{
    ALL_MULTICAST, Action, Desired, DeviceName, INTERFACE_PREFIX, InterfaceName, Observed, Port,
    Segment, Tier, Vtep, WAY_OUT_BRIDGE, diff,
};
use shoutd_core::{EndpointId, MacAddress, NetworkId, Vni};
use shoutd_dataplane::{
    Kernel, LinuxKernel, Reconciler, ReconcilerHandle, Report, Scope, reconcile,
};
use shoutd_netlink::{NamedNamespaces, Namespace};
use tempfile::TempDir;

/// Time limit for what takes milliseconds on an idle machine.
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

/// Hosts on one underlay. The calling thread is moved to namespaces of its own for good.
pub struct World {
    pub hosts: Vec<Host>,
    directory: TempDir,
}

impl World {
    /// This many hosts, with the underlay addresses 192.0.2.1 and up.
    pub fn new(hosts: u8) -> Self {
        enter_own_namespaces();
        let directory = tempfile::tempdir().unwrap();
        // Namespaces are mounted over files in it. One unmount removes all of them.
        mount(Some("tests"), directory.path(), Some("tmpfs"), MsFlags::empty(), None::<&str>)
            .unwrap();
        ip(&["link", "add", "underlay", "type", "bridge", "mcast_snooping", "0"]);
        ip(&["link", "set", "underlay", "up"]);
        let hosts = (1..=hosts)
            .map(|number| Host::new(number, &directory.path().join(number.to_string())))
            .collect();
        Self { hosts, directory }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = umount2(self.directory.path(), MntFlags::MNT_DETACH);
    }
}

/// Moves the calling thread to its own network and mount namespace.
pub fn enter_own_namespaces() {
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS)
        .expect("these tests need root: they make network namespaces");
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
        .unwrap();
}

/// A host's IPv6 address on the underlay.
pub fn ipv6_address(number: u8) -> IpAddr {
    Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::from(number)).into()
}

/// The replication before any advertisement: everything to all hosts.
pub fn flood(remotes: &[IpAddr]) -> Replication {
    let unheard: Vec<_> = remotes
        .iter()
        .map(|address| Remote { address: *address, advertised: None, in_sync: false })
        .collect();
    replication(&unheard)
}

/// The gateways of the network.
pub const GATEWAYS: [&str; 2] = ["10.7.7.1/24", "fd00:7::1/64"];
/// The address of the way-out bridge of every host.
pub const WAY_OUT: &str = "10.99.0.1/24";

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
        let namespace =
            NamedNamespaces::new(directory.join("hosts")).create("self", || Ok(())).unwrap();
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
                ip(&[
                    "address",
                    "add",
                    &format!("{}/64", ipv6_address(number)),
                    "dev",
                    &inside,
                    "nodad",
                ]);
                ip(&["link", "set", &inside, "up"]);
                // As Docker makes it.
                ip(&["link", "add", WAY_OUT_BRIDGE, "type", "bridge"]);
                ip(&["address", "add", WAY_OUT, "dev", WAY_OUT_BRIDGE]);
                ip(&["link", "set", WAY_OUT_BRIDGE, "up"]);
            })
            .unwrap();
        let kernel = namespace.run(|| LinuxKernel::new(directory.join("netns"))).unwrap().unwrap();
        let containers = NamedNamespaces::new(directory.join("containers"));
        let (address, directory) = (address.into(), directory.to_owned());
        Self {
            address,
            namespace,
            kernel,
            desired: Desired::default(),
            directory,
            containers,
            number,
        }
    }

    /// The kernel interface of a daemon that was just started.
    pub fn fresh_kernel(&self) -> LinuxKernel {
        self.namespace.run(|| LinuxKernel::new(self.directory.join("netns"))).unwrap().unwrap()
    }

    /// The namespace of the segment, opened by name.
    pub fn segment(&self) -> Namespace {
        Namespace::open(&self.segment_path()).unwrap()
    }

    pub fn segment_path(&self) -> PathBuf {
        self.directory.join("netns").join(format!("shout-{}", vni()))
    }

    /// Desires the network with these remotes.
    pub fn want_segment(&mut self, remotes: &[IpAddr]) {
        let vtep = Vtep { address: self.address, port: VXLAN_PORT, encrypted: false };
        self.want_segment_at(vtep, remotes);
    }

    /// The same, with this VTEP.
    pub fn want_segment_at(&mut self, vtep: Vtep, remotes: &[IpAddr]) {
        let segment = Segment {
            remotes: remotes.iter().copied().collect(),
            replication: Arc::new(flood(remotes)),
            gateways: GATEWAYS.map(|gateway| gateway.parse().unwrap()).into(),
            ..Segment::empty(network(), MTU, vtep)
        };
        self.desired.segments.insert(vni(), segment);
    }

    /// Desires the endpoint of this host's n-th container.
    pub fn want_endpoint(&mut self, container: u8) -> EndpointId {
        let endpoint = self.endpoint(container);
        let address = self.container_address(container);
        let port = Port {
            endpoint: endpoint.clone(),
            container_name: DeviceName::container(&endpoint),
            mac: MacAddress::for_ipv4(address),
            addresses: BTreeSet::from([format!("{address}/24").parse().unwrap()]),
            multicast_routes: BTreeSet::from([ALL_MULTICAST]),
            default_route: None,
            name: InterfaceName::numbered(INTERFACE_PREFIX),
            sandbox: None,
        };
        self.segment_mut().ports.insert(DeviceName::port(&endpoint), port);
        endpoint
    }

    pub fn segment_mut(&mut self) -> &mut Segment {
        self.desired.segments.get_mut(&vni()).unwrap()
    }

    pub fn endpoint(&self, container: u8) -> EndpointId {
        format!("{:012x}{}", u32::from(self.number) << 8 | u32::from(container), "e".repeat(52))
            .parse()
            .unwrap()
    }

    pub fn container_address(&self, container: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 7, 7, self.number * 16 + container)
    }

    /// Makes the namespace of a container.
    pub fn make_container(&self, container: u8) -> Namespace {
        self.containers.create(&format!("c{container}"), || Ok(())).unwrap()
    }

    /// Sets the sandbox of the container's endpoint in the desired state.
    pub fn set_sandbox(&mut self, container: u8) {
        let (port, path) =
            (DeviceName::port(&self.endpoint(container)), self.sandbox_path(container));
        self.segment_mut().ports.get_mut(&port).unwrap().sandbox = Some(path);
    }

    /// Does what Docker does between Join and the container's start, and sets the sandbox in the
    /// desired state.
    pub fn start_container(&mut self, container: u8) -> Namespace {
        let namespace = self.make_container(container);
        let endpoint = self.endpoint(container);
        let device = DeviceName::container(&endpoint);
        let (device, path) = (device.as_str(), self.sandbox_path(container));
        self.namespace
            .run(|| ip(&["link", "set", device, "netns", path.to_str().unwrap()]))
            .unwrap();
        let address = self.container_address(container);
        namespace
            .run(|| {
                ip(&["link", "set", "lo", "up"]);
                ip(&["link", "set", device, "name", "eth0"]);
                ip(&["address", "add", &format!("{address}/24"), "dev", "eth0"]);
                ip(&["link", "set", "eth0", "up"]);
                ip(&["route", "add", "224.0.0.0/4", "dev", "eth0"]);
            })
            .unwrap();
        self.set_sandbox(container);
        namespace
    }

    pub fn sandbox_path(&self, container: u8) -> PathBuf {
        self.containers.path(&format!("c{container}"))
    }

    pub fn observe(&mut self) -> Observed {
        let sandboxes = self
            .desired
            .segments
            .values()
            .flat_map(|s| s.ports.values())
            .filter_map(|p| p.sandbox.clone())
            .collect();
        self.kernel.observe(&sandboxes).unwrap()
    }

    /// Does one round and checks that nothing failed and nothing is left to do.
    pub fn settle(&mut self) -> Report {
        let mut report = reconcile(&mut self.kernel, &self.desired).unwrap();
        assert!(report.failures.is_empty(), "{:?}", report.failures);
        let observed = self.observe();
        let mut plan = diff(&self.desired, &observed);
        // The kernel adds link-local addresses asynchronously after an interface comes up.
        let is_link_local =
            |action: &Action| matches!(action, Action::EndDuplicateDetection { .. });
        plan.retain(|action| !is_link_local(action));
        report.done.retain(|action| !is_link_local(action));
        assert!(plan.is_empty(), "still to do: {plan:?}, for there is {observed:?}");
        report
    }
}

/// Two or more hosts with one network and one started container each.
pub fn connected(hosts: u8) -> (World, Vec<Namespace>) {
    connect(World::new(hosts))
}

/// The same, with the tunnel over IPv6.
pub fn connected_over_ipv6(hosts: u8) -> (World, Vec<Namespace>) {
    let mut world = World::new(hosts);
    world.hosts.iter_mut().for_each(|host| host.address = ipv6_address(host.number));
    connect(world)
}

fn connect(world: World) -> (World, Vec<Namespace>) {
    let addresses: Vec<IpAddr> = world.hosts.iter().map(|host| host.address).collect();
    connect_by(world, &addresses, false)
}

/// Connects hosts whose VTEPs have these addresses.
pub fn connect_by(
    mut world: World,
    addresses: &[IpAddr],
    encrypted: bool,
) -> (World, Vec<Namespace>) {
    let mut containers = Vec::new();
    for (host, own) in world.hosts.iter_mut().zip(addresses) {
        let others: Vec<IpAddr> =
            addresses.iter().copied().filter(|address| address != own).collect();
        host.want_segment_at(Vtep { address: *own, port: VXLAN_PORT, encrypted }, &others);
        host.want_endpoint(1);
        host.settle();
        containers.push(host.start_container(1));
        host.settle();
    }
    world.hosts.iter().for_each(await_forwarding);
    (world, containers)
}

/// Waits until a host's bridge forwards at all its ports. The kernel enables them asynchronously
/// after their other ends are up (`net/core/link_watch.c`).
fn await_forwarding(host: &Host) {
    let segment = host.segment();
    eventually("all ports forward", || {
        let ports = segment.run(|| run("bridge", &["link", "show"])).unwrap();
        ports.lines().count() > 1 && ports.lines().all(|port| port.contains("state forwarding"))
    });
}

/// Runs `ip` in the namespaces of the calling thread.
pub fn ip(arguments: &[&str]) {
    run("ip", arguments);
}

pub fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {complaint}");
    String::from_utf8(output.stdout).unwrap()
}

/// A UDP socket in a container. A socket that was just closed may still occupy the address: a child
/// of another test has copies of all descriptors between its fork and its exec.
pub fn udp(container: &Namespace, bind: impl Into<SocketAddr>) -> UdpSocket {
    let address = bind.into();
    let until = Instant::now() + PATIENCE;
    let socket = loop {
        match container.run(|| UdpSocket::bind(address)).unwrap() {
            Err(error) if error.kind() == ErrorKind::AddrInUse && Instant::now() < until => {
                thread::sleep(Duration::from_millis(1));
            }
            result => break result.unwrap(),
        }
    };
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

/// A reconciler with a host's kernel, and a runtime to wait on it.
pub struct Running {
    pub handle: ReconcilerHandle,
    runtime: tokio::runtime::Runtime,
}

impl Running {
    /// Starts one, as the daemon does, and waits until all is as desired. The host's own kernel
    /// interface closes what it has open, which would keep devices alive that must vanish.
    pub fn start(host: &mut Host) -> Self {
        Self::start_with(host, Tier::VxlanMdb)
    }

    /// The same, with this tier.
    pub fn start_with(host: &mut Host, tier: Tier) -> Self {
        host.kernel = host.fresh_kernel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let running =
            Self { handle: Reconciler::spawn(host.fresh_kernel(), tier).unwrap(), runtime };
        running.apply(host);
        running
    }

    /// Waits for something.
    pub fn wait<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(work)
    }

    /// Applies what is desired now.
    pub fn apply(&self, host: &Host) {
        self.apply_this(host.desired.clone());
    }

    /// Applies this.
    pub fn apply_this(&self, desired: Desired) {
        let generation = self.handle.apply(desired);
        self.runtime
            .block_on(self.handle.settled(generation, &Scope::Everything, PATIENCE))
            .unwrap();
    }
}

/// Numbered datagrams, one per millisecond, from one socket to another.
pub struct Stream {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU32>,
    sender: JoinHandle<()>,
    receiver: JoinHandle<Vec<u32>>,
}

impl Stream {
    /// Starts sending, and returns when the first datagram has arrived.
    pub fn start(from: UdpSocket, to: impl Into<SocketAddr>, at: UdpSocket) -> Self {
        let to = to.into();
        let stop = Arc::new(AtomicBool::new(false));
        let sent = Arc::new(AtomicU32::new(0));
        let (stopped, count) = (stop.clone(), sent.clone());
        let mut first = [0; 4];
        from.send_to(&u32::MAX.to_be_bytes(), to).unwrap();
        at.recv(&mut first).unwrap();
        let sender = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                // Without a tunnel, sending can fail; that counts as a loss.
                let _ = from.send_to(&count.load(Ordering::Relaxed).to_be_bytes(), to);
                count.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        let receiver = std::thread::spawn(move || {
            at.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
            let mut received = Vec::new();
            let mut datagram = [0; 4];
            while at.recv(&mut datagram).is_ok() {
                received.push(u32::from_be_bytes(datagram));
            }
            received
        });
        Self { stop, sent, sender, receiver }
    }

    /// The number of datagrams sent so far.
    pub fn sent(&self) -> u32 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Stops and returns the number of datagrams sent and the lost ones.
    pub fn stop(self) -> (u32, Vec<u32>) {
        self.stop.store(true, Ordering::Relaxed);
        self.sender.join().unwrap();
        let sent = self.sent.load(Ordering::Relaxed);
        let received: BTreeSet<u32> = self.receiver.join().unwrap().into_iter().collect();
        (sent, (0..sent).filter(|number| !received.contains(number)).collect())
    }
}

/// A packet socket on one device: captures its frames and sends raw ones.
pub struct Capture {
    socket: OwnedFd,
}

impl Capture {
    pub fn open(namespace: &Namespace, device: &str) -> Self {
        let socket = namespace
            .run(|| {
                let all = SockProtocol::EthAll;
                let socket =
                    socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, all)
                        .unwrap();
                let index = i32::try_from(nix::net::if_::if_nametoindex(device).unwrap()).unwrap();
                bind_to_device(&socket, index);
                socket
            })
            .unwrap();
        setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::new(20, 0)).unwrap();
        // Frames between opening and binding came from any device.
        let capture = Self { socket };
        capture.pending();
        capture
    }

    pub fn send(&self, frame: &[u8]) {
        send(self.socket.as_raw_fd(), frame, MsgFlags::empty()).unwrap();
    }

    /// The next frame, without a time limit.
    pub fn receive(&mut self) -> Vec<u8> {
        let mut buffer = [0; 4096];
        loop {
            match recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                Ok(length) => return buffer[..length].to_vec(),
                // As when the machine was suspended.
                Err(Errno::EINTR) => {}
                Err(error) => panic!("no frame came: {error}"),
            }
        }
    }

    /// All frames received.
    pub fn pending(&self) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        let mut buffer = [0; 4096];
        while let Ok(length) = recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
            frames.push(buffer[..length].to_vec());
        }
        frames
    }
}

fn bind_to_device(socket: &OwnedFd, index: i32) {
    let address = libc::sockaddr_ll {
        sll_family: u16::try_from(libc::AF_PACKET).unwrap(),
        sll_protocol: u16::try_from(libc::ETH_P_ALL).unwrap().to_be(),
        sll_ifindex: index,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    let length = u32::try_from(size_of::<libc::sockaddr_ll>()).unwrap();
    // SAFETY: the pointer is to an address of that length, which outlives the call.
    let result = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}
