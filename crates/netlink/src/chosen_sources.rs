//! The sources that the sockets of a namespace select for their groups.
//!
//! Netlink does not report them. The kernel lists them in `/proc/net/mcfilter` (`igmp_mcf_seq_show`
//! of `net/ipv4/igmp.c`) and `/proc/net/mcfilter6` (`igmp6_mcf_seq_show` of `net/ipv6/mcast.c`):
//! one line for each interface, group and source, with the number of sockets that include it and
//! that exclude it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::error::{Error, Fault};
use crate::namespace::Namespace;
use crate::proc_net::read_list;

/// The lists of IPv4 and of IPv6.
const LISTS: [&str; 2] = ["/proc/thread-self/net/mcfilter", "/proc/thread-self/net/mcfilter6"];

/// Octets read of a list: about a thousand sources.
const LIST_MAX: u64 = 1 << 16;

/// The included sources, by the index of the interface and the group.
pub type ChosenSources = BTreeMap<(u32, IpAddr), BTreeSet<IpAddr>>;

impl Namespace {
    /// The sources that the sockets of this namespace include. A list of 64
    /// KiB or more is an error.
    pub fn chosen_sources(&self) -> Result<ChosenSources, Error> {
        let lists = self
            .enter(read_lists)
            .and_then(|lists| lists.map_err(Fault::from))
            .map_err(|fault| fault.during("read the source filters of a container's sockets"))?;
        Ok(collect(lists.iter().flat_map(|list| list.lines())))
    }
}

/// Reads the lists of the calling thread's namespace.
fn read_lists() -> io::Result<Vec<String>> {
    LISTS.into_iter().map(|path| read_list(path, LIST_MAX)).collect()
}

fn collect<'a>(lines: impl Iterator<Item = &'a str>) -> ChosenSources {
    let mut chosen = ChosenSources::new();
    for Included { interface, group, source } in lines.filter_map(parse) {
        chosen.entry((interface, group)).or_default().insert(source);
    }
    chosen
}

/// A source that sockets include for a group on the interface with this index.
#[derive(Debug, PartialEq, Eq)]
struct Included {
    interface: u32,
    group: IpAddr,
    source: IpAddr,
}

/// Parses a line. The name between index and group is truncated by the kernel and can be anything
/// without white space.
fn parse(line: &str) -> Option<Included> {
    let words: Vec<&str> = line.split_ascii_whitespace().collect();
    let [index, _name, group, source, wanting, _not_wanting] = words[..] else {
        return None;
    };
    let is_wanted = wanting.parse::<u64>().ok()? > 0;
    let group = address(group).filter(|group| is_wanted && group.is_multicast())?;
    Some(Included { interface: index.parse().ok()?, group, source: address(source)? })
}

/// An IPv4 address such as `0xe8010203`, or an IPv6 address of 32 hexadecimal digits.
fn address(digits: &str) -> Option<IpAddr> {
    match digits.strip_prefix("0x") {
        Some(digits) => Some(Ipv4Addr::from(u32::from_str_radix(digits, 16).ok()?).into()),
        None if digits.len() == 32 => {
            Some(Ipv6Addr::from(u128::from_str_radix(digits, 16).ok()?).into())
        }
        None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(all: &[&str]) -> BTreeSet<IpAddr> {
        all.iter().map(|address| address.parse().unwrap()).collect()
    }

    #[test]
    fn the_lists_are_read() {
        let listed = "\
Idx Device        MCA        SRC    INC    EXC
  7 eth0 0xe8010203 0x0a070711      1      0
  7 eth0 0xe8010203 0x0a070712      2      1
  7 eth0 0xe8010204 0x0a070711      0      1
 12 very-l ff3e0000000000000000000080000001 fd120005000000000000000000000002      1      0
";
        let expected = ChosenSources::from([
            ((7, "232.1.2.3".parse().unwrap()), addresses(&["10.7.7.17", "10.7.7.18"])),
            ((12, "ff3e::8000:1".parse().unwrap()), addresses(&["fd12:5::2"])),
        ]);
        assert_eq!(collect(listed.lines()), expected);
    }

    #[test]
    fn a_malformed_line_is_skipped() {
        for line in [
            "",
            "7 a b",
            "7 eth0 0x0a070711 0x0a070711 1 0",
            "x eth0 0xe8010203 0x0a070711 1 0",
            "7 a +1 +2 1 0",
        ] {
            assert_eq!(parse(line), None, "{line}");
        }
    }
}
