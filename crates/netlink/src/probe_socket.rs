//! Frames of an experimental protocol between the VXLAN devices of a network.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::libc::{self, sock_filter};
use nix::sys::socket::sockopt::RcvBufForce;
use nix::sys::socket::{MsgFlags, recv, send, setsockopt};

use crate::error::{Error, Fault};
use crate::link::Mac;
use crate::namespace::Namespace;
use crate::packet::{self, ETHERNET};

/// The protocol: IEEE 802, local experimental EtherType 1.
pub(crate) const ETHERTYPE_PROBE: u16 = 0x88b5;

/// What the frames are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProbeUse {
    /// Probes that the daemons send all the time.
    Tunnel,
    /// Requests and answers of a ping.
    Ping,
}

impl ProbeUse {
    /// A group address that bridges do not forward (IEEE 802.1Q, table 8-1). `br_handle_frame`
    /// passes such a frame up at the port where it came in. A frame from the tunnel therefore
    /// reaches only sockets on the VXLAN device. A frame from a container stays on the container's
    /// port. Each use has its own address, so that a ping does not fill the queue of the probes.
    const fn destination(self) -> Mac {
        match self {
            Self::Tunnel => [0x01, 0x80, 0xc2, 0x00, 0x00, 0x0b],
            Self::Ping => [0x01, 0x80, 0xc2, 0x00, 0x00, 0x0c],
        }
    }

    /// Selects the frames to this address. A container can send frames of the protocol to other
    /// addresses, and then they cross the tunnel.
    fn filter(self) -> [sock_filter; 6] {
        let [a, b, c, d, e, f] = self.destination();
        let load = |width, offset| instruction(libc::BPF_LD | width | libc::BPF_ABS, offset, 0);
        let equals = |value, otherwise| {
            instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, value, otherwise)
        };
        [
            load(libc::BPF_W, 0),
            equals(u32::from_be_bytes([a, b, c, d]), 3),
            load(libc::BPF_H, 4),
            equals(u32::from_be_bytes([0, 0, e, f]), 1),
            instruction(libc::BPF_RET | libc::BPF_K, u32::MAX, 0),
            instruction(libc::BPF_RET | libc::BPF_K, 0, 0),
        ]
    }
}

/// An instruction of classic BPF, which skips so many if it compares and finds no equality.
fn instruction(code: u32, k: u32, otherwise: u8) -> sock_filter {
    sock_filter { code: u16::try_from(code).unwrap_or_default(), jt: 0, jf: otherwise, k }
}

/// Octets of the longest content that is read.
const BUFFER: usize = 2048;
/// Octets of frames that wait to be read: two of each of some hundred hosts, with the kernel's
/// overhead.
const QUEUE: usize = 2 << 20;
/// Frames read at once.
const FRAMES_MAX: usize = 1024;

/// A socket for frames of one use on one VXLAN device. The kernel copies no other frames to it.
#[derive(Debug)]
pub struct ProbeSocket {
    fd: OwnedFd,
    purpose: ProbeUse,
}

impl AsFd for ProbeSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl ProbeSocket {
    /// Opens a socket on the device with this index.
    pub fn open(namespace: &Namespace, device: u32, purpose: ProbeUse) -> Result<Self, Error> {
        Self::try_open(namespace, device, purpose)
            .map_err(|fault| fault.during(format_args!("open a probe socket on device {device}")))
    }

    fn try_open(namespace: &Namespace, device: u32, purpose: ProbeUse) -> Result<Self, Fault> {
        // Without a protocol, the socket receives nothing until it has its filter.
        let fd = packet::open(namespace)?;
        packet::attach(&fd, &purpose.filter())?;
        packet::bind(&fd, device, ETHERTYPE_PROBE.to_be())?;
        // If this fails, a busy host may count some probes as lost.
        let _ = setsockopt(&fd, RcvBufForce, &QUEUE);
        Ok(Self { fd, purpose })
    }

    /// Sends this content to the VXLAN devices of all other hosts that have the network, with zeros
    /// up to `length` octets. `from` is the source address of the frame.
    pub fn send(&self, from: Mac, content: &[u8], length: usize) -> Result<(), Error> {
        let to = self.purpose.destination();
        let mut frame = [&to[..], &from, &ETHERTYPE_PROBE.to_be_bytes(), content].concat();
        frame.resize(frame.len().max(ETHERNET + length), 0);
        send(self.fd.as_raw_fd(), &frame, MsgFlags::MSG_DONTWAIT)
            .map_err(|errno| Fault::from(io::Error::from(errno)).during("send a probe"))
            .map(drop)
    }

    /// The contents of the frames that came since the last call, with the zeros behind them, at
    /// most 2,048 octets of each.
    pub fn received(&self) -> Vec<Vec<u8>> {
        let mut buffer = [0; BUFFER];
        let mut contents = Vec::new();
        for _ in 0..FRAMES_MAX {
            match recv(self.fd.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
                Ok(length) => contents.extend(buffer.get(ETHERNET..length).map(<[u8]>::to_vec)),
                Err(nix::errno::Errno::EINTR) => {}
                // Nothing is left, or the device is gone or down, which the reconciler mends.
                Err(_) => break,
            }
        }
        contents
    }
}
