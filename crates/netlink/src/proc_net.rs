//! Lists of a namespace that netlink does not give, or only in part: the groups that its interfaces
//! have joined, with any number of sockets, and its UDP sockets with their drops.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::error::{Error, Fault};
use crate::namespace::Namespace;

/// Octets read of a list: some 8,000 sockets, or 15,000 groups.
const LIST_MAX: u64 = 1 << 20;

/// A group that an interface has joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct JoinedGroup {
    /// Index of the interface.
    pub interface: u32,
    /// The group.
    pub group: IpAddr,
}

/// A UDP socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ListedSocket {
    /// Its local address and port.
    pub local: SocketAddr,
    /// Where it is connected to, if it is.
    pub remote: Option<IpAddr>,
    /// Its inode, which identifies it.
    pub inode: u64,
    /// Datagrams that it has dropped, mostly because its receive buffer was full.
    pub drops: u64,
}

impl Namespace {
    /// The groups that the interfaces of this namespace have joined (`igmp_mc_seq_show` of
    /// `net/ipv4/igmp.c`, `igmp6_mc_seq_show` of `net/ipv6/mcast.c`). A list of 1 MiB or more is an
    /// error.
    pub fn joined_groups(&self) -> Result<Vec<JoinedGroup>, Error> {
        let [v4, v6] = self.lists(["igmp", "igmp6"], "read the groups that a container joined")?;
        Ok(parse_igmp(&v4).chain(v6.lines().filter_map(parse_igmp6)).collect())
    }

    /// The UDP sockets of this namespace (`udp4_format_sock` of `net/ipv4/udp.c`). A list of 1 MiB
    /// or more is an error.
    pub fn udp_sockets(&self) -> Result<Vec<ListedSocket>, Error> {
        let lists = self.lists(["udp", "udp6"], "read the UDP sockets of a container")?;
        Ok(lists.iter().flat_map(|list| list.lines()).filter_map(parse_socket).collect())
    }

    /// The value of `net.ipv4.conf.<interface>.rp_filter` that is in force: the higher of the
    /// interface's and of `all` (`IN_DEV_RPFILTER`).
    pub fn reverse_path_filter(&self, interface: &str) -> Result<u8, Error> {
        let read = |name: &str| -> io::Result<u8> {
            let path = format!("/proc/sys/net/ipv4/conf/{name}/rp_filter");
            let text = fs::read_to_string(path)?;
            text.trim().parse().map_err(|_| io::Error::from(ErrorKind::InvalidData))
        };
        let both = self.enter(|| Ok::<_, io::Error>(read("all")?.max(read(interface)?)));
        both.and_then(|value| value.map_err(Fault::from))
            .map_err(|fault| fault.during(format_args!("read rp_filter of {interface}")))
    }

    /// How many packets IPv4 and IPv6 of this namespace have delivered to protocols such as UDP,
    /// after all rules of nf_tables for input (`InDelivers`, `Ip6InDelivers`, RFC 4293).
    pub fn delivered(&self) -> Result<[u64; 2], Error> {
        let [v4, v6] = self.lists(["snmp", "snmp6"], "read how many packets were delivered")?;
        let v4 = parse_snmp(&v4).ok_or_else(|| {
            Fault::Malformed("/proc/net/snmp has no InDelivers")
                .during("read how many packets were delivered")
        })?;
        Ok([v4, parse_snmp6(&v6).unwrap_or_default()])
    }

    /// The lists of IPv4 and IPv6 below `/proc/net`.
    fn lists(&self, names: [&str; 2], operation: &str) -> Result<[String; 2], Error> {
        let read = |name| read_list(&format!("/proc/thread-self/net/{name}"), LIST_MAX);
        self.enter(|| Ok::<_, io::Error>([read(names[0])?, read(names[1])?]))
            .and_then(|lists| lists.map_err(Fault::from))
            .map_err(|fault| fault.during(operation))
    }
}

/// Reads a list of the calling thread's namespace. Empty if it does not exist: the namespace has no
/// IPv6.
pub(crate) fn read_list(path: &str, limit: u64) -> io::Result<String> {
    let file = match File::open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(String::new()),
        file => file?,
    };
    let mut list = Vec::new();
    let length = file.take(limit).read_to_end(&mut list)?;
    if u64::try_from(length).is_ok_and(|length| length < limit) {
        // An interface's name need not be UTF-8.
        Ok(String::from_utf8_lossy(&list).into_owned())
    } else {
        Err(io::Error::new(ErrorKind::FileTooLarge, format!("{path} has {limit} octets or more")))
    }
}

/// An interface has a line that begins with its index; lines with its groups follow, which begin
/// with a tab.
fn parse_igmp(list: &str) -> impl Iterator<Item = JoinedGroup> {
    let mut interface = None;
    list.lines().filter_map(move |line| {
        let first = line.split_ascii_whitespace().next()?;
        if !line.starts_with('\t') {
            interface = first.parse().ok();
            return None;
        }
        Some(JoinedGroup { interface: interface?, group: ipv4(first)?.into() })
    })
}

fn parse_igmp6(line: &str) -> Option<JoinedGroup> {
    let mut words = line.split_ascii_whitespace();
    let interface = words.next()?.parse().ok()?;
    let group = words.nth(1).filter(|digits| digits.len() == 32)?;
    let group = Ipv6Addr::from(u128::from_str_radix(group, 16).ok()?);
    Some(JoinedGroup { interface, group: group.into() })
}

fn parse_socket(line: &str) -> Option<ListedSocket> {
    let words: Vec<&str> = line.split_ascii_whitespace().collect();
    let [_, local, remote, _, _, _, _, _, _, inode, _, _, drops] = words[..] else { return None };
    let (local, remote) = (socket_address(local)?, socket_address(remote)?);
    Some(ListedSocket {
        local,
        remote: Some(remote.ip().to_canonical()).filter(|address| !address.is_unspecified()),
        inode: inode.parse().ok()?,
        drops: drops.parse().ok()?,
    })
}

fn socket_address(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let address = ipv4(address).map(IpAddr::from).or_else(|| Some(ipv6(address)?.into()))?;
    Some(SocketAddr::new(address, u16::from_str_radix(port, 16).ok()?))
}

/// `InDelivers`. A line with the names of IP's counters comes before the line with their values
/// (`snmp_seq_show_ipstats` of `net/ipv4/proc.c`).
fn parse_snmp(list: &str) -> Option<u64> {
    let mut lines = list.lines().filter(|line| line.starts_with("Ip:"));
    let position = lines.next()?.split_ascii_whitespace().position(|name| name == "InDelivers")?;
    lines.next()?.split_ascii_whitespace().nth(position)?.parse().ok()
}

/// `Ip6InDelivers`, which has a line of its own.
fn parse_snmp6(list: &str) -> Option<u64> {
    let line = list.lines().find(|line| line.starts_with("Ip6InDelivers"))?;
    line.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// Eight digits of a number whose octets in memory are the address (`%08X` of a `__be32`).
fn ipv4(digits: &str) -> Option<Ipv4Addr> {
    let number = u32::from_str_radix(digits, 16).ok().filter(|_| digits.len() == 8)?;
    Some(number.to_ne_bytes().into())
}

/// The same for the four words of an IPv6 address.
fn ipv6(digits: &str) -> Option<Ipv6Addr> {
    let mut octets = [0; 16];
    for (position, word) in octets.chunks_exact_mut(4).enumerate() {
        word.copy_from_slice(&ipv4(digits.get(8 * position..8 * position + 8)?)?.octets());
    }
    (digits.len() == 32).then(|| octets.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As a machine with this byte order prints it.
    fn word(octets: [u8; 4]) -> String {
        format!("{:08X}", u32::from_ne_bytes(octets))
    }

    #[test]
    fn delivered_packets_are_found_by_name() {
        let list =
            "Ip: Forwarding InReceives InDelivers OutRequests\nIp: 1 20 17 30\nIcmp: InMsgs\n";
        assert_eq!(parse_snmp(list), Some(17));
        assert_eq!(parse_snmp("Ip: Forwarding\nIp: 1\n"), None);
        assert_eq!(parse_snmp6("Ip6InReceives \t5\nIp6InDelivers    \t12\n"), Some(12));
    }

    #[test]
    fn groups_are_listed_by_interface() {
        let list = format!(
            "Idx\tDevice : Count Querier\tGroup Users Timer\tReporter\n1\tlo : 1 V3\n\t\t\t\t{} 1 \
             0:00000000\t\t0\n7\teth0 : 2 V3\n\t\t\t\t{} 1 0:00000000\t\t0\n\t\t\t\tgarbage\n",
            word([224, 0, 0, 1]),
            word([239, 1, 2, 3])
        );
        let found: Vec<_> = parse_igmp(&list).collect();
        let expected = [(1, Ipv4Addr::new(224, 0, 0, 1)), (7, Ipv4Addr::new(239, 1, 2, 3))];
        assert_eq!(
            found,
            expected.map(|(interface, group)| JoinedGroup { interface, group: group.into() })
        );
        let line = "5    eth0            ff0200000000000000000000000000fb     1 00000004 0";
        let group = "ff02::fb".parse().unwrap();
        assert_eq!(parse_igmp6(line), Some(JoinedGroup { interface: 5, group }));
        assert_eq!(parse_igmp6("5 eth0 ff02 1"), None);
    }

    #[test]
    fn sockets_are_listed_with_their_drops() {
        let rest =
            "07 00000000:00000000 00:00000000 00000000     0        0 4711 2 0000000012345678";
        let line = format!("  12: {}:1389 00000000:0000 {rest} 42", word([224, 1, 1, 1]));
        let local = "224.1.1.1:5001".parse().unwrap();
        assert_eq!(
            parse_socket(&line),
            Some(ListedSocket { local, remote: None, inode: 4711, drops: 42 })
        );
        let address = [[0xff, 0x02, 0, 0], [0; 4], [0; 4], [0, 0, 0, 0xfb]].map(word).concat();
        let line = format!("  12: {address}:14E9 {}:0000 {rest} 0", "0".repeat(32));
        let local = "[ff02::fb]:5353".parse().unwrap();
        assert_eq!(
            parse_socket(&line),
            Some(ListedSocket { local, remote: None, inode: 4711, drops: 0 })
        );
        let connected = word([224, 1, 1, 1]);
        let line = format!("  12: {}:8001 {connected}:1389 {rest} 0", word([10, 0, 0, 1]));
        let remote = parse_socket(&line).and_then(|socket| socket.remote);
        assert_eq!(remote, Some([224, 1, 1, 1].into()));
        for line in
            ["", "sl  local_address rem_address   st tx_queue", "1: 0:1389 0 0 0 0 0 0 0 1 2 3 4"]
        {
            assert_eq!(parse_socket(line), None, "{line}");
        }
    }
}
