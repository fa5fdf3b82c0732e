//! Two hosts, each with a WireGuard process, in namespaces that end with the test.

pub mod stream;

use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::num::NonZeroU16;
use std::os::fd::{AsFd, AsRawFd};
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use shoutd_netlink::wireguard::{
    Change, Device, Peer, PeerChange, PeerUpdate, PresharedKey, PrivateKey, PublicKey,
};
use shoutd_netlink::{LinkChange, Namespace, NewVeth, Route, VethEnd};
use shoutd_tunnel::{Arguments, Client, ClientError, Tuning, public_key};
use tempfile::TempDir;

/// How long a test waits for anything.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The UDP port of WireGuard.
pub const PORT: u16 = 7789;

/// The name of the TUN device.
pub const DEVICE: &str = "wg";

/// Milliseconds after which the process renews sessions.
pub const REKEY_VARIABLE: &str = "SHOUTD_TUNNEL_TEST_REKEY_MS";

const REQUEST_DEADLINE: Duration = Duration::from_secs(20);

/// One host.
pub struct Host {
    pub number: u8,
    /// Where its UDP socket is.
    pub outside: Namespace,
    /// Where its TUN device is.
    pub tunnel: Namespace,
    pub private_key: PrivateKey,
    directory: TempDir,
    rekey_after: Duration,
    process: Option<Child>,
}

/// Two hosts with a cable between them.
pub struct Lab {
    pub hosts: [Host; 2],
}

/// A secret that no other test has.
pub fn secret() -> [u8; 32] {
    static NEXT: AtomicU16 = AtomicU16::new(1);
    let mut octets = [0x42; 32];
    octets[..2].copy_from_slice(&NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes());
    octets
}

/// A preshared key that no other test has.
pub fn preshared_key() -> PresharedKey {
    PresharedKey::new(&secret()).unwrap()
}

impl Lab {
    /// Hosts whose processes serve, and have each other as peer.
    pub fn up(rekey_after: Duration) -> Self {
        let hosts = [1, 2].map(|number| Host::new(number, rekey_after));
        let mut lab = Self { hosts };
        lab.cable();
        for host in &mut lab.hosts {
            host.start();
            host.bring_up();
        }
        lab.configure(&preshared_key());
        lab
    }

    pub fn one(&self) -> &Host {
        &self.hosts[0]
    }

    pub fn two(&self) -> &Host {
        &self.hosts[1]
    }

    fn cable(&self) {
        let [one, two] = &self.hosts;
        let end = |name| VethEnd { name, group: 0, mtu: 1500, mac: None };
        let mut route = Route::open(&one.outside).unwrap();
        route
            .create_veth(&NewVeth {
                master: None,
                near: end("eth"),
                far: end("eth"),
                far_namespace: &two.outside,
            })
            .unwrap();
        for host in &self.hosts {
            let mut route = Route::open(&host.outside).unwrap();
            let link = route.link("eth").unwrap().unwrap().index;
            let net = IpNet::new(host.underlay(), 24).unwrap();
            route.add_address(link, net).unwrap();
            route
                .change_link(link, &LinkChange { up: Some(true), ..LinkChange::default() })
                .unwrap();
        }
    }

    /// Tells each host its key and the other as peer.
    pub fn configure(&self, preshared_key: &PresharedKey) {
        for (host, other) in [(self.one(), self.two()), (self.two(), self.one())] {
            host.configure(other, preshared_key);
        }
    }
}

impl Host {
    fn new(number: u8, rekey_after: Duration) -> Self {
        let namespace =
            || Namespace::anonymous().expect("this test needs root: it makes namespaces");
        Self {
            number,
            outside: namespace(),
            tunnel: namespace(),
            private_key: PrivateKey::new(&secret()),
            directory: tempfile::tempdir().unwrap(),
            rekey_after,
            process: None,
        }
    }

    pub fn public_key(&self) -> PublicKey {
        public_key(&self.private_key)
    }

    /// Its address on the cable.
    pub fn underlay(&self) -> IpAddr {
        Ipv4Addr::new(192, 0, 2, self.number).into()
    }

    pub fn endpoint(&self) -> SocketAddr {
        SocketAddr::new(self.underlay(), PORT)
    }

    /// Its address in the tunnel.
    pub fn inside(&self) -> IpAddr {
        Ipv6Addr::new(0xfd00, 0x5117, 0, 0, 0, 0, 0, self.number.into()).into()
    }

    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("control.sock")
    }

    /// Runs the process, and waits until it serves. Returns how long that took.
    pub fn start(&mut self) -> Duration {
        let begin = Instant::now();
        let descriptor = self.tunnel.as_fd().as_raw_fd();
        let arguments = Arguments {
            namespace: format!("/proc/{}/fd/{descriptor}", std::process::id()).into(),
            device: DEVICE.to_owned(),
            port: PORT,
            socket: self.socket(),
        };
        let mut command = arguments.command(&std::env::current_exe().unwrap());
        command.env(REKEY_VARIABLE, self.rekey_after.as_millis().to_string());
        // It ends when this pipe closes, however this process ends.
        command.stdin(Stdio::piped());
        let child = self.outside.run(|| command.spawn()).unwrap().unwrap();
        self.process = Some(child);
        wait_until("the process serves", || self.state().is_ok());
        begin.elapsed()
    }

    pub fn process(&self) -> Pid {
        let child = self.process.as_ref().unwrap();
        Pid::from_raw(child.id().try_into().unwrap())
    }

    /// Ends the process by a signal. Returns whether it ended without an error.
    pub fn end(&mut self, signal: Signal) -> bool {
        kill(self.process(), signal).unwrap();
        self.await_end()
    }

    /// Waits for the end of the process. Returns whether it ended without an error.
    pub fn await_end(&mut self) -> bool {
        let mut child = self.process.take().unwrap();
        let mut ended = None;
        wait_until("the process ends", || {
            ended = child.try_wait().unwrap();
            ended.is_some()
        });
        ended.unwrap().success()
    }

    /// Gives the TUN device its address and a route to both hosts, and enables it.
    fn bring_up(&self) {
        let mut route = Route::open(&self.tunnel).unwrap();
        let link = route.link(DEVICE).unwrap().unwrap().index;
        let change = LinkChange { up: Some(true), mtu: Some(1440), ..LinkChange::default() };
        route.change_link(link, &change).unwrap();
        route.add_address(link, IpNet::new(self.inside(), 128).unwrap()).unwrap();
        route.add_connected_route(link, "fd00:5117::/64".parse().unwrap()).unwrap();
        // The kernel takes it for its own a moment later (`addrconf_dad_work`), and drops what
        // comes before (`Ip6InAddrErrors`).
        wait_until("the address is in use", || {
            let device = route.output_device(self.inside()).unwrap();
            device.is_some_and(|device| device != link)
        });
    }

    pub fn configure(&self, other: &Host, preshared_key: &PresharedKey) {
        self.set(&Change {
            private_key: Some(self.private_key.clone()),
            replaces_peers: true,
            peers: vec![other.as_peer(preshared_key, None)],
            ..Change::default()
        })
        .unwrap();
    }

    /// This host as a peer of another, with keepalives each so many seconds.
    pub fn as_peer(
        &self,
        preshared_key: &PresharedKey,
        keepalive: Option<u16>,
    ) -> (PublicKey, PeerChange) {
        let update = PeerUpdate {
            preshared_key: Some(Some(preshared_key.clone())),
            endpoint: Some(self.endpoint()),
            keepalive: Some(keepalive.and_then(NonZeroU16::new)),
            replaces_allowed_ips: true,
            allowed_ips: [IpNet::new(self.inside(), 128).unwrap()].into(),
        };
        (self.public_key(), PeerChange::Set(update))
    }

    /// Changes the preshared key with another host, and nothing else.
    pub fn change_preshared_key(&self, other: &Host, preshared_key: &PresharedKey) {
        let preshared_key = Some(Some(preshared_key.clone()));
        let update = PeerUpdate { preshared_key, ..PeerUpdate::default() };
        let peers = vec![(other.public_key(), PeerChange::Update(update))];
        self.set(&Change { peers, ..Change::default() }).unwrap();
    }

    pub fn state(&self) -> Result<Device, ClientError> {
        self.with_client(async |client| client.get().await)
    }

    /// What the process has of another host.
    pub fn peer(&self, other: &Host) -> Peer {
        self.state().unwrap().peers.remove(&other.public_key()).unwrap()
    }

    pub fn set(&self, change: &Change) -> Result<(), ClientError> {
        self.with_client(async |client| client.set(change).await)
    }

    pub fn with_client<T>(
        &self,
        work: impl AsyncFnOnce(&mut Client) -> Result<T, ClientError>,
    ) -> Result<T, ClientError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut client = Client::connect(&self.socket(), REQUEST_DEADLINE).await?;
            work(&mut client).await
        })
    }

    /// A UDP socket in the tunnel's namespace.
    pub fn udp(&self, port: u16) -> UdpSocket {
        let address = SocketAddr::new(self.inside(), port);
        self.tunnel.run(|| UdpSocket::bind(address)).unwrap().unwrap()
    }

    /// Resident memory of the process, now and at most, in KiB.
    pub fn memory(&self) -> (u64, u64) {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process())).unwrap();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.trim().trim_end_matches(" kB").parse().unwrap()
        };
        (field("VmRSS:"), field("VmHWM:"))
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Some(mut child) = self.process.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

pub fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !is_so() {
        assert!(begin.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// What the test program does if it is run as a WireGuard process.
pub fn serve() {
    let arguments = Arguments::parse(std::env::args_os().skip(2)).unwrap();
    let milliseconds = std::env::var(REKEY_VARIABLE).unwrap().parse().unwrap();
    let lifeline = || {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        std::process::abort();
    };
    thread::Builder::new().name("lifeline".to_owned()).spawn(lifeline).unwrap();
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    shoutd_tunnel::serve(&arguments, Tuning { rekey_after: Duration::from_millis(milliseconds) })
        .unwrap_or_else(|error| {
            eprintln!("the process ends: {error}");
            std::process::exit(1)
        });
}
