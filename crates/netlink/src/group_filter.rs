//! The group filter: one bridge port forwards multicast only of admitted groups.
//!
//! It serves kernels whose VXLAN devices have no MDB. Such a device looks up a group's MAC address,
//! which several groups share, in its FDB, and sends a frame without an entry to every host. The
//! filter is a table of its own in the bridge family, beside the
//! [`IgmpMldFilter`](crate::IgmpMldFilter). The two do not depend on each other, and without this
//! one everything passes. Link-local groups and non-IP frames always pass.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use nix::libc;

use crate::error::{Error, Fault};
use crate::igmp_mld_filter::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, PACKET_MULTICAST, name_value};
use crate::namespace::Namespace;
use crate::nftables::{
    self, Base, Comparison, Content, DELETE_SET_ELEMENT, Expression, Family, Hook, Meta,
    NEW_SET_ELEMENT, OwnChain, TableName,
};
use crate::socket::{Protocol, Socket};

const TABLE: TableName = TableName { family: Family::Bridge, name: "shoutd-groups" };
/// The name of its chain. Frames from one port to another pass it. A bridge itself sends link-local
/// groups only.
const CHAIN: &str = "forward";
/// Part of every rule, so that we recognize the filter of another version of shoutd. Raise it with
/// every change of the rules.
const VERSION: u32 = 1;
/// The sets of admitted groups.
const GROUPS_V4: &str = "groups4";
const GROUPS_V6: &str = "groups6";
/// Groups per message: an attribute holds at most 64 KiB, and a batch must fit into a socket's
/// buffer.
const GROUPS_AT_ONCE: usize = 1000;

/// The first and the last IPv4 group that is not link-local (RFC 5771, sections 3 and 4).
const NOT_LINK_LOCAL: [Ipv4Addr; 2] =
    [Ipv4Addr::new(224, 0, 1, 0), Ipv4Addr::new(239, 255, 255, 255)];
/// The scope of IPv6 groups next to link-local (RFC 4291, section 2.7).
const WIDER_SCOPE: u8 = 3;

/// The group filter of one namespace.
#[derive(Debug)]
pub struct GroupFilter {
    socket: Socket,
}

/// The state of a group filter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Filtering {
    /// There is none.
    Absent,
    /// It is complete and admits these groups.
    Whole(BTreeSet<IpAddr>),
    /// It is not what this version of shoutd installs.
    Broken,
}

impl GroupFilter {
    /// Opens a socket to nf_tables in this namespace.
    pub fn open(namespace: &Namespace) -> Result<Self, Error> {
        let socket = Socket::open(Protocol::Netfilter, namespace)
            .map_err(|fault| fault.during("open an nf_tables socket"))?;
        Ok(Self { socket })
    }

    /// Closes its socket until the next request.
    pub fn rest(&mut self) {
        self.socket.rest();
    }

    /// Reads the filter at this port. If the kernel enlarges a set at the same moment, some of its
    /// groups can be missing.
    pub fn read(&mut self, port: &str) -> Result<Filtering, Error> {
        self.try_read(port).map_err(|fault| fault.during("read the nf_tables group filter"))
    }

    /// Admits these groups at the port and no others. The rules come last: until then everything
    /// passes.
    pub fn install<'a>(
        &mut self,
        port: &str,
        groups: impl IntoIterator<Item = &'a IpAddr>,
    ) -> Result<(), Error> {
        let groups: Vec<(IpAddr, bool)> = groups.into_iter().map(|group| (*group, true)).collect();
        self.try_install(port, &groups).map_err(|fault| {
            fault.during(format_args!("install the nf_tables group filter at {port}"))
        })
    }

    /// Admits groups (`true`) or stops admitting them. Each batch of a thousand is atomic.
    pub fn change(&mut self, groups: &[(IpAddr, bool)]) -> Result<(), Error> {
        self.try_change(groups).map_err(|fault| fault.during("change the nf_tables group filter"))
    }

    /// Removes the filter. A missing one is not an error.
    pub fn remove(&mut self) -> Result<(), Error> {
        nftables::delete_table(&mut self.socket, TABLE)
            .map_err(|fault| fault.during("remove the nf_tables group filter"))
    }

    fn try_install(&mut self, port: &str, groups: &[(IpAddr, bool)]) -> Result<(), Fault> {
        let mut first = nftables::empty_table(TABLE);
        first.extend([
            nftables::new_address_set(TABLE, GROUPS_V4, 1, false),
            nftables::new_address_set(TABLE, GROUPS_V6, 2, true),
        ]);
        nftables::commit(&mut self.socket, first)?;
        self.try_change(groups)?;
        let mut last = vec![nftables::new_chain(TABLE, CHAIN, Hook::Forward, 0)];
        let rules = rules(port).into_iter().enumerate();
        last.extend(rules.map(|(position, rule)| {
            nftables::new_rule(TABLE, CHAIN, &userdata(port, position), &rule)
        }));
        nftables::commit(&mut self.socket, last)
    }

    fn try_change(&mut self, groups: &[(IpAddr, bool)]) -> Result<(), Fault> {
        let runs = groups.chunk_by(|(first, add_first), (second, add_second)| {
            (first.is_ipv4(), add_first) == (second.is_ipv4(), add_second)
        });
        for run in runs.flat_map(|run| run.chunks(GROUPS_AT_ONCE)) {
            let (group, add) = run[0];
            let (message, flags) =
                if add { (NEW_SET_ELEMENT, libc::NLM_F_CREATE) } else { (DELETE_SET_ELEMENT, 0) };
            let set = if group.is_ipv4() { GROUPS_V4 } else { GROUPS_V6 };
            let groups = run.iter().map(|(group, _)| *group);
            nftables::commit(
                &mut self.socket,
                vec![nftables::set_elements(message, flags, TABLE, set, groups)],
            )?;
        }
        Ok(())
    }

    fn try_read(&mut self, port: &str) -> Result<Filtering, Fault> {
        let found = Content::read(&mut self.socket, TABLE)?;
        if found.tables.is_empty() {
            return Ok(Filtering::Absent);
        }
        if found != expected(port) {
            return Ok(Filtering::Broken);
        }
        let mut groups = BTreeSet::new();
        for set in [GROUPS_V4, GROUPS_V6] {
            let request = nftables::get_set_elements(TABLE, set);
            groups.extend(
                self.socket
                    .dump(&request, |frame| nftables::parse_set_elements(TABLE, frame))?
                    .into_iter()
                    .flatten(),
            );
        }
        Ok(Filtering::Whole(groups))
    }
}

fn expected(port: &str) -> Content {
    let userdata = (0..rules(port).len()).map(|position| userdata(port, position)).collect();
    Content::of([OwnChain { name: CHAIN, hook: Hook::Forward, userdata }])
}

fn userdata(port: &str, position: usize) -> String {
    format!("shoutd groups {VERSION} {port} {position}")
}

/// Drops at this port the multicast of a family that is neither link-local nor in its set.
fn rules(port: &str) -> [Vec<Expression>; 2] {
    // The destination is at octet 16 of an IPv4 header and at octet 24 of an IPv6 header.
    let [first, last] = NOT_LINK_LOCAL.map(|group| group.octets().to_vec());
    let ipv4 = vec![
        load(16, 4),
        Expression::Compare(Comparison::AtLeast, first),
        Expression::Compare(Comparison::AtMost, last),
        Expression::NotIn(GROUPS_V4),
    ];
    let ipv6 = vec![
        load(24, 1),
        Expression::Compare(Comparison::Equal, vec![0xff]),
        load(25, 1),
        // The other half of the octet holds flags.
        Expression::Mask(vec![0x0f]),
        Expression::Compare(Comparison::AtLeast, vec![WIDER_SCOPE]),
        load(24, 16),
        Expression::NotIn(GROUPS_V6),
    ];
    [drop_rule(port, ETHERTYPE_IPV4, ipv4), drop_rule(port, ETHERTYPE_IPV6, ipv6)]
}

/// Drops at this port the multicast of a family for which all conditions hold.
fn drop_rule(port: &str, ethertype: u16, conditions: Vec<Expression>) -> Vec<Expression> {
    let common = [
        // A frame to a unicast MAC address goes to one host only, whatever its IP destination.
        Expression::LoadMeta(Meta::PacketType),
        Expression::Compare(Comparison::Equal, vec![PACKET_MULTICAST]),
        Expression::LoadMeta(Meta::OutputName),
        Expression::Compare(Comparison::Equal, name_value(port)),
        Expression::LoadMeta(Meta::Protocol),
        Expression::Compare(Comparison::Equal, ethertype.to_be_bytes().to_vec()),
    ];
    common.into_iter().chain(conditions).chain([Expression::Drop]).collect()
}

/// Loads octets of the IP header.
fn load(offset: u32, length: u32) -> Expression {
    Expression::LoadPayload { base: Base::Network, offset, length }
}
