//! The UDP socket, which is in the namespace of the process.
//!
//! gotatun closes and opens its socket whenever the private key changes, and drops all packets of
//! a batch if the kernel refuses one. Here the socket stays while the port does, so that nothing
//! in its queue is lost, and a packet to a peer that cannot be reached costs no other peer one.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::time::Duration;

use gotatun::packet::{Packet, PacketBufPool};
use gotatun::udp::socket::{UdpSocket, UdpSocketFactory};
use gotatun::udp::{UdpRecv, UdpSend, UdpTransportFactory, UdpTransportFactoryParams};
use nix::sys::socket::sockopt::{RcvBufForce, SndBufForce};
use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrStorage, sendmmsg, setsockopt};
use tokio::io::Interest;
use tracing::debug;

/// The size of the socket's buffers, in octets. The kernel counts about 2.3 KiB for a packet of a
/// usual MTU, so this is a burst of about 1,800 packets, where the default has space for 90.
const BUFFER_SIZE: usize = 4 << 20;

/// How many packets are sent at once.
const BATCH_MAX: usize = 64;

/// How long it takes to receive again after an error.
const PAUSE: Duration = Duration::from_millis(10);

/// Makes the sockets.
#[derive(Default)]
pub(crate) struct Sockets {
    factory: UdpSocketFactory,
    /// The socket, and its port.
    bound: Option<(u16, UdpSocket)>,
}

impl Sockets {
    /// Binds a socket to this port, or to any if it is 0. Returns its port.
    pub(crate) async fn bind_port(&mut self, port: u16) -> io::Result<u16> {
        let params = UdpTransportFactoryParams { addr: None, port, fwmark: None };
        let (socket, _) = self.factory.bind(&params).await?;
        let port = socket.local_addr()?.port();
        // Takes CAP_NET_ADMIN, which the process has when it starts.
        let forced = setsockopt(&socket, RcvBufForce, &BUFFER_SIZE)
            .and_then(|()| setsockopt(&socket, SndBufForce, &BUFFER_SIZE));
        if let Err(error) = forced {
            debug!("the UDP socket has buffers of the usual size: {error}");
        }
        self.bound = Some((port, socket));
        Ok(port)
    }
}

impl UdpTransportFactory for Sockets {
    type Send = Sender;
    type Recv = Receiver;

    async fn bind(
        &mut self,
        params: &UdpTransportFactoryParams,
    ) -> io::Result<(Self::Send, Self::Recv)> {
        let is_other = self.bound.as_ref().is_none_or(|(port, _)| *port != params.port);
        if is_other {
            self.bind_port(params.port).await?;
        }
        let (_, socket) = self.bound.as_ref().ok_or(io::ErrorKind::NotConnected)?;
        Ok((Sender(socket.clone()), Receiver(socket.clone())))
    }
}

/// Sends datagrams.
#[derive(Clone)]
pub(crate) struct Sender(UdpSocket);

impl UdpSend for Sender {
    type SendManyBuf = Vec<Option<SockaddrStorage>>;

    async fn send_to(&self, packet: Packet, destination: SocketAddr) -> io::Result<()> {
        self.0.send_to(packet, destination).await
    }

    fn max_number_of_packets_to_send(&self) -> usize {
        BATCH_MAX
    }

    /// Sends all packets but those that the kernel refuses. Never fails.
    async fn send_many_to(
        &self,
        destinations: &mut Self::SendManyBuf,
        packets: &mut Vec<(Packet, SocketAddr)>,
    ) -> io::Result<()> {
        destinations.clear();
        destinations.extend(packets.iter().map(|(_, to)| Some(SockaddrStorage::from(*to))));
        let mut sent = 0;
        while sent < packets.len() {
            let rest = packets.get(sent..).unwrap_or_default();
            let to = destinations.get(sent..).unwrap_or_default();
            let result =
                self.0.socket().async_io(Interest::WRITABLE, || self.send_now(rest, to)).await;
            sent += match result {
                // As it is not zero, the loop ends.
                Ok(count) => count.max(1),
                // The error is that of the first: if packets were sent before it, the kernel
                // returns their number.
                Err(error) => {
                    debug!("a packet is not sent: {error}");
                    1
                }
            };
        }
        packets.clear();
        Ok(())
    }

    fn local_addr(&self) -> io::Result<Option<SocketAddr>> {
        self.0.local_addr().map(Some)
    }
}

impl Sender {
    /// Sends as many as the kernel takes, and returns their number (sendmmsg(2)).
    fn send_now(
        &self,
        packets: &[(Packet, SocketAddr)],
        destinations: &[Option<SockaddrStorage>],
    ) -> io::Result<usize> {
        let slices: Vec<_> = packets.iter().map(|(packet, _)| [io::IoSlice::new(packet)]).collect();
        let mut headers = MultiHeaders::preallocate(slices.len(), None);
        let sent = sendmmsg(
            self.0.socket().as_raw_fd(),
            &mut headers,
            &slices,
            destinations,
            [],
            MsgFlags::MSG_DONTWAIT,
        )?;
        Ok(sent.count())
    }
}

/// Receives datagrams.
pub(crate) struct Receiver(UdpSocket);

impl UdpRecv for Receiver {
    type RecvManyBuf = <UdpSocket as UdpRecv>::RecvManyBuf;

    /// Never fails: gotatun would not receive again.
    async fn recv_from(&mut self, pool: &mut PacketBufPool) -> io::Result<(Packet, SocketAddr)> {
        loop {
            match self.0.recv_from(pool).await {
                Ok(received) => return Ok(received),
                Err(error) => pause(&error).await,
            }
        }
    }

    /// Never fails either.
    async fn recv_many_from(
        &mut self,
        buffers: &mut Self::RecvManyBuf,
        pool: &mut PacketBufPool,
        packets: &mut Vec<(Packet, SocketAddr)>,
    ) -> io::Result<()> {
        while let Err(error) = self.0.recv_many_from(buffers, pool, packets).await {
            pause(&error).await;
        }
        Ok(())
    }
}

async fn pause(error: &io::Error) {
    debug!("cannot receive datagrams now: {error}");
    tokio::time::sleep(PAUSE).await;
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, UdpSocket};

    use super::*;

    /// The kernel refuses the address of broadcasts (`EACCES`, ip(7)).
    #[tokio::test]
    async fn a_refused_packet_costs_no_other_one() {
        let receiver = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        receiver.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let good = receiver.local_addr().unwrap();
        let bad = SocketAddr::from((Ipv4Addr::BROADCAST, good.port()));
        let mut sockets = Sockets::default();
        let port = sockets.bind_port(0).await.unwrap();
        let params = UdpTransportFactoryParams { addr: None, port, fwmark: None };
        let (sender, _receiver) = sockets.bind(&params).await.unwrap();
        let destinations = [bad, good, bad, bad, good, good, bad];
        let packet = |number: u8| Packet::from_bytes([number].as_slice().into());
        let mut packets: Vec<_> = (0..).map(packet).zip(destinations).collect();
        sender.send_many_to(&mut Vec::new(), &mut packets).await.unwrap();
        assert!(packets.is_empty());
        let mut buffer = [0; 8];
        for expected in [1, 4, 5] {
            assert_eq!(receiver.recv(&mut buffer).unwrap(), 1);
            assert_eq!(buffer[0], expected);
        }
    }

    #[tokio::test]
    async fn the_socket_stays_while_its_port_does() {
        let mut sockets = Sockets::default();
        let port = sockets.bind_port(0).await.unwrap();
        let mut params = UdpTransportFactoryParams { addr: None, port, fwmark: None };
        let number = |sender: &Sender| sender.0.socket().as_raw_fd();
        let (first, _receiver) = sockets.bind(&params).await.unwrap();
        let (second, _receiver) = sockets.bind(&params).await.unwrap();
        assert_eq!(number(&first), number(&second));
        params.port = 0;
        let (third, _receiver) = sockets.bind(&params).await.unwrap();
        assert_ne!(number(&first), number(&third));
    }
}
