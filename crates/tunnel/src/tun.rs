//! The TUN device (`Documentation/networking/tuntap.rst` of Linux), which is in another network
//! namespace than the process.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use gotatun::packet::{Ip, Packet, PacketBufPool};
use gotatun::tun::{IpRecv, IpSend, MtuWatcher};
use nix::errno::Errno;
use nix::libc::{self, c_int, c_short, c_uint};
use nix::{
    ioctl_read_bad, ioctl_write_int_bad, ioctl_write_ptr_bad, request_code_read,
    request_code_write, unistd,
};
use shoutd_netlink::{Link, Namespace, Route};
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;
use tracing::debug;

/// How often the device is looked at: whether it exists, and its MTU, which limits the padding of
/// packets.
const WATCH_PERIOD: Duration = Duration::from_secs(1);

/// The length of the largest packet, in octets: a device's MTU has 16 bits.
const PACKET_MAX: usize = 65_535;

/// The device from which TUN devices come.
const CLONE_DEVICE: &str = "/dev/net/tun";

ioctl_read_bad!(
    /// What the kernel's TUN devices can do.
    tun_features,
    request_code_read!(b'T', 207, size_of::<c_uint>()),
    c_uint
);
ioctl_write_ptr_bad!(
    /// Attaches a file to a device, which it creates if necessary.
    tun_set_interface,
    request_code_write!(b'T', 202, size_of::<c_int>()),
    libc::ifreq
);
ioctl_write_int_bad!(
    /// Whether the device stays when its file is closed.
    tun_set_persistent,
    request_code_write!(b'T', 203, size_of::<c_int>())
);

/// A TUN device that is not yet served.
#[derive(Debug)]
pub(crate) struct OpenTun {
    file: OwnedFd,
    /// Looks at the device in its namespace.
    route: Route,
    link: Link,
}

/// Checks that this machine has TUN devices. It makes none.
///
/// # Errors
/// `/dev/net/tun` cannot be opened, or is something else.
pub fn check_tun() -> io::Result<()> {
    let file = File::options().read(true).write(true).open(CLONE_DEVICE)?;
    let mut features = 0;
    // SAFETY: the descriptor is open, and the number lives until the call has returned.
    unsafe { tun_features(file.as_raw_fd(), &raw mut features) }?;
    Ok(())
}

/// Opens the device in the namespace whose file is `namespace`, and creates it if there is none.
/// It stays when the process ends, with its addresses and routes.
///
/// A thread of its own enters the namespace, and ends.
pub(crate) fn open(namespace: &Path, name: &str) -> io::Result<OpenTun> {
    let namespace = Namespace::open(namespace).map_err(io::Error::other)?;
    let file = namespace.run(|| attach(name)).map_err(io::Error::other)??;
    let mut route = Route::open(&namespace).map_err(io::Error::other)?;
    let link = route.link(name).map_err(io::Error::other)?;
    let link = link.ok_or(io::Error::from(Errno::ENODEV))?;
    Ok(OpenTun { file, route, link })
}

fn attach(name: &str) -> io::Result<OwnedFd> {
    let file = File::options().read(true).write(true).open(CLONE_DEVICE)?;
    // SAFETY: all zeros are a valid ifreq, a struct of integers and of a union with pointers.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // The last octet stays zero.
    if name.is_empty() || name.len() >= request.ifr_name.len() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a name of a device"));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed() as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = flags(libc::IFF_TUN | libc::IFF_NO_PI)?;
    // SAFETY: the descriptor is open, and the request lives until the call has returned.
    unsafe { tun_set_interface(file.as_raw_fd(), &raw const request) }?;
    // SAFETY: the descriptor is open; the argument is a number.
    unsafe { tun_set_persistent(file.as_raw_fd(), 1) }?;
    let file = OwnedFd::from(file);
    rustix::io::ioctl_fionbio(&file, true)?;
    Ok(file)
}

fn flags(flags: c_int) -> io::Result<c_short> {
    flags.try_into().map_err(io::Error::other)
}

/// The MTU, of which gotatun takes 16 bits.
fn mtu(link: &Link) -> u16 {
    link.mtu.try_into().unwrap_or(u16::MAX)
}

impl OpenTun {
    /// Serves the device. The future follows its MTU, and ends when the device was deleted or moved
    /// to another namespace.
    pub(crate) fn serve(self) -> io::Result<(Tun, impl Future<Output = ()>)> {
        let (sender, receiver) = watch::channel(mtu(&self.link));
        // SAFETY: an OwnedFd stays the same open descriptor until it is dropped, which is after the
        // AsyncFd has removed it from the reactor.
        let file = Arc::new(unsafe { AsyncFd::register(self.file) }?);
        let tun = Tun {
            file,
            mtu: MtuWatcher::from(receiver),
            scratch: vec![0; PACKET_MAX].into_boxed_slice(),
        };
        let (mut route, index) = (self.route, self.link.index);
        let follow = async move {
            loop {
                tokio::time::sleep(WATCH_PERIOD).await;
                match route.link_at(index) {
                    Ok(Some(link)) => {
                        let mtu = mtu(&link);
                        sender.send_if_modified(|old| std::mem::replace(old, mtu) != mtu);
                    }
                    Ok(None) => return,
                    Err(error) => debug!("cannot look at the TUN device: {error}"),
                }
            }
        };
        Ok((tun, follow))
    }
}

/// A TUN device that is served.
#[derive(Clone)]
pub(crate) struct Tun {
    file: Arc<AsyncFd<OwnedFd>>,
    mtu: MtuWatcher,
    /// Where a packet is read before its length is known.
    scratch: Box<[u8]>,
}

impl IpSend for Tun {
    async fn send(&mut self, packet: Packet<Ip>) -> io::Result<()> {
        let packet = packet.into_bytes();
        loop {
            let mut ready = self.file.writable().await?;
            let written = ready.try_io(|file| Ok(unistd::write(file.as_fd(), &packet)?));
            return match written {
                Err(_not_ready) => continue,
                Ok(Ok(_)) => Ok(()),
                Ok(Err(error)) => unless_dropped(error),
            };
        }
    }
}

/// A packet that the kernel does not take is dropped, as on any network: the device is down
/// (`EIO`), the packet is malformed (`EINVAL`), or memory is short. gotatun would end the device
/// at `EINVAL`, which a peer could provoke.
fn unless_dropped(error: io::Error) -> io::Result<()> {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EIO | Errno::EINVAL | Errno::ENOMEM | Errno::ENOBUFS) => Ok(()),
        _ => Err(error),
    }
}

impl IpRecv for Tun {
    async fn recv<'a>(
        &'a mut self,
        pool: &mut PacketBufPool,
    ) -> io::Result<impl Iterator<Item = Packet<Ip>> + Send + 'a> {
        loop {
            let mut ready = self.file.readable().await?;
            let read = ready.try_io(|file| Ok(unistd::read(file.as_fd(), &mut self.scratch)?));
            let length = match read {
                Err(_not_ready) => continue,
                Ok(length) => length?,
            };
            let Some(octets) = self.scratch.get(..length) else { continue };
            // What is no IP packet is dropped.
            if let Ok(packet) = pooled(octets, pool).try_into_ip() {
                return Ok(std::iter::once(packet));
            }
        }
    }

    fn mtu(&self) -> MtuWatcher {
        self.mtu.clone()
    }
}

/// A copy of a packet, in a buffer of the pool if it fits.
fn pooled(octets: &[u8], pool: &PacketBufPool) -> Packet {
    let mut packet = pool.get();
    match packet.get_mut(..octets.len()) {
        Some(space) => {
            space.copy_from_slice(octets);
            packet.truncate(octets.len());
            packet
        }
        None => Packet::from_bytes(octets.into()),
    }
}
