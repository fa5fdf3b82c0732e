//! Frames really pass between containers of different hosts.

mod support;

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};

use support::{connected, udp};

const PORT: u16 = 5000;
const GROUP: Ipv4Addr = Ipv4Addr::new(224, 1, 1, 1);

fn receive(socket: &UdpSocket) -> Vec<u8> {
    let mut buffer = [0; 2048];
    let length = socket.recv(&mut buffer).expect("nothing was received");
    buffer[..length].to_vec()
}

#[test]
fn unicast_broadcast_and_multicast_reach_containers_of_other_hosts() {
    let (world, containers) = connected(3);
    let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, PORT));
    let receivers: Vec<UdpSocket> = containers.iter().skip(1).map(|container| udp(container, any)).collect();
    for (host, receiver) in world.hosts.iter().skip(1).zip(&receivers) {
        receiver.join_multicast_v4(&GROUP, &host.container_address(1)).unwrap();
    }
    let sender = udp(&containers[0], (Ipv4Addr::UNSPECIFIED, 0));

    for (host, receiver) in world.hosts.iter().skip(1).zip(&receivers) {
        sender.send_to(b"unicast", (host.container_address(1), PORT)).unwrap();
        assert_eq!(receive(receiver), b"unicast");
    }
    for (to, what) in [
        (Ipv4Addr::new(10, 7, 7, 255), "broadcast"),
        (GROUP, "multicast"),
        (Ipv4Addr::new(224, 0, 0, 251), "link-local"),
    ] {
        for (host, receiver) in world.hosts.iter().skip(1).zip(&receivers) {
            if what == "link-local" {
                receiver.join_multicast_v4(&to, &host.container_address(1)).unwrap();
            }
        }
        sender.send_to(what.as_bytes(), (to, PORT)).unwrap();
        for receiver in &receivers {
            assert_eq!(receive(receiver), what.as_bytes());
        }
    }
}
