//! The underlay filter: only members of the cluster reach the hosts' VXLAN and agreement ports.
//!
//! A VXLAN device accepts every packet to its UDP port with its VNI, from any source (`vxlan_rcv`).
//! So the filter checks the source first:
//!
//! * *input* drops VXLAN that does not come from a member's address, or that arrives on loopback.
//! * *forward* drops VXLAN that this host would forward to a member from another source, such as a
//!   container: after masquerading it would carry this host's address.
//! * *output* drops VXLAN that a process sends to a member. The kernel's own VXLAN has no socket in
//!   this namespace, so a rule on the socket's user does not match it (`nft_meta_get_eval_skugid`).
//!
//! A container may also forge a member's address as source. Rules that match the kind of the input
//! device drop its packets if no route leads back to the source by that device. The same rules keep
//! containers off the agreement port. They need Linux 5.19, the first that looks up the way back at
//! these hooks (`nft_fib_validate`). On older kernels the filter lacks them and reports that.
//!
//! The filter is one table of the family `inet`, replaced as a whole in one transaction. Its rules
//! match only these ports and set no mark. What they accept, other tables may still drop.

use std::collections::BTreeSet;
use std::net::IpAddr;

use nix::errno::Errno;
use nix::libc;

use crate::error::{Error, Fault};
use crate::igmp_mld_filter::name_value;
use crate::namespace::Namespace;
use crate::nftables::{
    self, Base, Comparison, Content, Expression, Family, Hook, Meta, NEW_SET_ELEMENT, OwnChain,
    TableName,
};
use crate::socket::{Protocol, Socket};

pub(crate) const TABLE: TableName = TableName { family: Family::Inet, name: "shoutd" };
/// Part of every rule, so that the filter of another version of shoutd is replaced. Raise it with
/// every change of the rules.
const VERSION: u32 = 1;
/// `NF_IP_PRI_RAW`: before the usual chains of the same hook, and at *output* before connection
/// tracking.
const PRIORITY: i32 = -300;
const FORWARD: &str = "forward";
const OUTPUT: &str = "output";
/// The sets of the members' addresses.
const MEMBERS_V4: &str = "members4";
const MEMBERS_V6: &str = "members6";
/// The maximum number of different agreement ports. By default all hosts have the same one.
pub const AGREEMENT_PORTS_MAX: usize = 8;

/// `NFPROTO_IPV4` and `NFPROTO_IPV6`.
const IPV4: u8 = 2;
const IPV6: u8 = 10;
const TCP: u8 = 6;
const UDP: u8 = 17;
/// The `uid_t` that no user has: every packet with a socket differs from it. Without a socket the
/// rule does not match.
const NO_USER: u32 = u32::MAX;
/// Kinds of devices (`rtnl_link_ops`) on which containers' packets arrive.
const CONTAINER_KINDS: [&str; 2] = ["bridge", "veth"];

/// Who may reach the ports of this host and of the other members.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnderlayAccess {
    /// The UDP port of VXLAN.
    pub vxlan_port: u16,
    /// This host's own underlay address.
    pub address: IpAddr,
    /// The interface with this address.
    pub interface: String,
    /// The agreement ports (TCP) of this host and of all members. Those beyond
    /// [`AGREEMENT_PORTS_MAX`] are not protected from containers.
    pub agreement_ports: BTreeSet<u16>,
    /// Underlay addresses of the other members.
    pub members: BTreeSet<IpAddr>,
}

/// Packets dropped since the filter was installed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DroppedPackets {
    /// Packets to this host.
    pub input: u64,
    /// Packets that this host would have forwarded.
    pub forward: u64,
    /// Packets of this host's own processes.
    pub output: u64,
}

/// The state of the filter in the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Installed {
    /// There is no table of its name.
    Absent,
    /// It is complete.
    Whole {
        /// The settings it enforces.
        access: UnderlayAccess,
        /// Whether it has the rules against containers, which need Linux 5.19.
        complete: bool,
        /// The packets it has dropped.
        dropped: DroppedPackets,
    },
    /// It is not what this version of shoutd installs.
    Broken,
}

/// The underlay filter of one namespace.
#[derive(Debug)]
pub struct UnderlayFilter {
    socket: Socket,
}

impl UnderlayFilter {
    /// Opens a socket to nf_tables in this namespace.
    ///
    /// # Errors
    /// The kernel refused the socket.
    pub fn open(namespace: &Namespace) -> Result<Self, Error> {
        let socket = Socket::open(Protocol::Netfilter, namespace);
        Ok(Self { socket: socket.map_err(|fault| fault.during("open an nf_tables socket"))? })
    }

    /// Installs the filter in one transaction and replaces an existing one. If the kernel refuses
    /// the rules against containers, they are omitted.
    ///
    /// # Errors
    /// The kernel has no nf_tables for `inet`, or refused the rules.
    pub fn install(&mut self, access: &UnderlayAccess) -> Result<(), Error> {
        let mut done = self.replace(access, true);
        if let Err(fault) = &done
            && matches!(fault.errno(), Some(Errno::ENOENT | Errno::EOPNOTSUPP | Errno::EINVAL))
        {
            done = self.replace(access, false);
        }
        done.map_err(|fault| fault.during("install the nf_tables underlay filter"))
    }

    /// Removes the filter. A missing one is not an error.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn remove(&mut self) -> Result<(), Error> {
        nftables::delete_table(&mut self.socket, TABLE)
            .map_err(|fault| fault.during("remove the nf_tables underlay filter"))
    }

    /// Reads the filter.
    ///
    /// # Errors
    /// The kernel did not answer, or has no nf_tables.
    pub fn read(&mut self) -> Result<Installed, Error> {
        self.try_read().map_err(|fault| fault.during("read the nf_tables underlay filter"))
    }

    fn replace(&mut self, access: &UnderlayAccess, complete: bool) -> Result<(), Fault> {
        let mut batch = nftables::empty_table(TABLE);
        batch.extend([
            nftables::new_address_set(TABLE, MEMBERS_V4, 1, false),
            nftables::new_address_set(TABLE, MEMBERS_V6, 2, true),
        ]);
        for (set, ipv4) in [(MEMBERS_V4, true), (MEMBERS_V6, false)] {
            let mut members =
                access.members.iter().copied().filter(|member| member.is_ipv4() == ipv4);
            let mut members = members.by_ref().peekable();
            if members.peek().is_some() {
                let flags = libc::NLM_F_CREATE;
                batch.push(nftables::set_elements(NEW_SET_ELEMENT, flags, TABLE, set, members));
            }
        }
        for FilterChain { name, hook, rules } in chains(access, complete) {
            batch.push(nftables::new_chain(TABLE, name, hook, PRIORITY));
            batch.extend(rules.iter().enumerate().map(|(position, rule)| {
                nftables::new_rule(TABLE, name, &userdata(access, complete, position), rule)
            }));
        }
        nftables::commit(&mut self.socket, batch)
    }

    fn try_read(&mut self) -> Result<Installed, Fault> {
        let found = Content::read(&mut self.socket, TABLE)?;
        if found.tables.is_empty() {
            return Ok(Installed::Absent);
        }
        let Some((mut access, complete)) =
            found.rules.iter().find_map(|rule| settings(&rule.userdata))
        else {
            return Ok(Installed::Broken);
        };
        if found != expected(&access, complete) {
            return Ok(Installed::Broken);
        }
        for set in [MEMBERS_V4, MEMBERS_V6] {
            let request = nftables::get_set_elements(TABLE, set);
            let found =
                self.socket.dump(&request, |frame| nftables::parse_set_elements(TABLE, frame))?;
            access.members.extend(found.into_iter().flatten());
        }
        Ok(Installed::Whole { access, complete, dropped: self.dropped()? })
    }

    fn dropped(&mut self) -> Result<DroppedPackets, Fault> {
        let counts = self
            .socket
            .dump(&nftables::get_rules(TABLE), |frame| nftables::parse_count(TABLE, frame))?;
        let mut dropped = DroppedPackets::default();
        for (rule, count) in counts {
            let sum = match rule.chain.as_str() {
                FORWARD => &mut dropped.forward,
                OUTPUT => &mut dropped.output,
                _ => &mut dropped.input,
            };
            *sum = sum.saturating_add(count);
        }
        Ok(dropped)
    }
}

fn expected(access: &UnderlayAccess, complete: bool) -> Content {
    Content::of(chains(access, complete).map(|FilterChain { name, hook, rules }| {
        let texts = (0..rules.len()).map(|position| userdata(access, complete, position));
        OwnChain { name, hook, userdata: texts.collect() }
    }))
}

/// The userdata of a rule: all settings except the members, which are in sets.
fn userdata(access: &UnderlayAccess, complete: bool, position: usize) -> String {
    let ports: Vec<String> = agreement_ports(access).map(|port| port.to_string()).collect();
    let UnderlayAccess { vxlan_port, address, interface, .. } = access;
    let (ports, complete) = (ports.join(","), u8::from(complete));
    format!(
        "shoutd underlay {VERSION} {position} {complete} {vxlan_port} {ports} {address} \
         {interface}"
    )
}

/// Parses the userdata of a rule. The result has no members.
fn settings(userdata: &[u8]) -> Option<(UnderlayAccess, bool)> {
    let text = std::str::from_utf8(userdata).ok()?.strip_prefix("shoutd underlay ")?;
    let fields: Vec<&str> = text.split(' ').collect();
    let [_, _, complete, vxlan_port, ports, address, interface] = fields.as_slice() else {
        return None;
    };
    let access = UnderlayAccess {
        vxlan_port: vxlan_port.parse().ok()?,
        address: address.parse().ok()?,
        interface: (*interface).to_owned(),
        agreement_ports: ports.split(',').map(|port| port.parse().ok()).collect::<Option<_>>()?,
        members: BTreeSet::new(),
    };
    Some((access, *complete == "1"))
}

fn agreement_ports(access: &UnderlayAccess) -> impl Iterator<Item = u16> {
    access.agreement_ports.iter().copied().take(AGREEMENT_PORTS_MAX)
}

type Rules = Vec<Vec<Expression>>;

struct FilterChain {
    name: &'static str,
    hook: Hook,
    rules: Rules,
}

/// The chains with their rules.
fn chains(access: &UnderlayAccess, complete: bool) -> [FilterChain; 3] {
    let mut chains = [
        FilterChain { name: FORWARD, hook: Hook::Forward, rules: forward(access, complete) },
        FilterChain { name: "input", hook: Hook::Input, rules: input(access, complete) },
        FilterChain { name: OUTPUT, hook: Hook::Output, rules: output(access) },
    ];
    for chain in &mut chains {
        chain.rules.insert(0, other_ports(access));
    }
    chains
}

fn input(access: &UnderlayAccess, complete: bool) -> Rules {
    let by_loopback = equal(Meta::InputName, name_value("lo"));
    let mut rules = vec![drop_if([vxlan(access), by_loopback])];
    rules.extend([IPV4, IPV6].map(|family| drop_if([vxlan(access), source(family, false)])));
    if complete {
        rules.extend(CONTAINER_KINDS.map(|kind| {
            drop_if([
                vxlan(access),
                source(family(access), true),
                from_containers(access, kind),
                no_way_back(),
            ])
        }));
        let family = family(access);
        let own_address =
            [vec![destination_address(family)], compare(octets(access.address))].concat();
        rules.extend(agreement_ports(access).map(|port| {
            let containers = from_containers(access, CONTAINER_KINDS[0]);
            drop_if([port_of(TCP, port), own_address.clone(), containers, source(family, false)])
        }));
    }
    rules
}

fn forward(access: &UnderlayAccess, complete: bool) -> Rules {
    let mut rules: Rules = [IPV4, IPV6]
        .map(|family| drop_if([vxlan(access), destination(family), source(family, false)]))
        .into();
    if complete {
        let family = family(access);
        // With br_netfilter, frames that a bridge forwards from port to port pass here too. Their
        // input and output device is the bridge.
        let routed = equal(Meta::OutputName, name_value(&access.interface));
        rules.extend(CONTAINER_KINDS.map(|kind| {
            let containers = from_containers(access, kind);
            drop_if([
                vxlan(access),
                destination(family),
                source(family, true),
                containers,
                routed.clone(),
                no_way_back(),
            ])
        }));
        rules.extend(agreement_ports(access).map(|port| {
            let containers = from_containers(access, CONTAINER_KINDS[0]);
            let stranger = source(family, false);
            let to_member = destination(family);
            drop_if([port_of(TCP, port), to_member, containers, routed.clone(), stranger])
        }));
    }
    rules
}

fn output(access: &UnderlayAccess) -> Rules {
    let from_process = vec![
        Expression::LoadMeta(Meta::SocketUser),
        Expression::Compare(Comparison::NotEqual, NO_USER.to_ne_bytes().to_vec()),
    ];
    [IPV4, IPV6]
        .map(|family| drop_if([vxlan(access), destination(family), from_process.clone()]))
        .into()
}

fn drop_if<const N: usize>(conditions: [Vec<Expression>; N]) -> Vec<Expression> {
    conditions.into_iter().flatten().chain([Expression::Count, Expression::Drop]).collect()
}

/// Accepts packets to other ports at once, so that other traffic costs one rule. TCP and UDP have
/// the port at the same offset.
fn other_ports(access: &UnderlayAccess) -> Vec<Expression> {
    let ports: BTreeSet<u16> = agreement_ports(access).chain([access.vxlan_port]).collect();
    let mut rule = vec![destination_port()];
    rule.extend(
        ports
            .into_iter()
            .map(|port| Expression::Compare(Comparison::NotEqual, port.to_be_bytes().to_vec())),
    );
    rule.push(Expression::Accept);
    rule
}

fn destination_port() -> Expression {
    Expression::LoadPayload { base: Base::Transport, offset: 2, length: 2 }
}

fn port_of(protocol: u8, port: u16) -> Vec<Expression> {
    let port = [vec![destination_port()], compare(port.to_be_bytes().to_vec())].concat();
    [equal(Meta::TransportProtocol, vec![protocol]), port].concat()
}

fn vxlan(access: &UnderlayAccess) -> Vec<Expression> {
    port_of(UDP, access.vxlan_port)
}

/// The source is a member, or is not.
fn source(family: u8, is_member: bool) -> Vec<Expression> {
    let (offset, length) = if family == IPV4 { (12, 4) } else { (8, 16) };
    let lookup = if is_member {
        Expression::In(members(family))
    } else {
        Expression::NotIn(members(family))
    };
    let address = Expression::LoadPayload { base: Base::Network, offset, length };
    [equal(Meta::Family, vec![family]), vec![address, lookup]].concat()
}

/// The destination is a member.
fn destination(family: u8) -> Vec<Expression> {
    let address = vec![destination_address(family), Expression::In(members(family))];
    [equal(Meta::Family, vec![family]), address].concat()
}

fn destination_address(family: u8) -> Expression {
    let (offset, length) = if family == IPV4 { (16, 4) } else { (24, 16) };
    Expression::LoadPayload { base: Base::Network, offset, length }
}

/// The packet came in on a device of this kind other than the underlay's interface.
fn from_containers(access: &UnderlayAccess, kind: &str) -> Vec<Expression> {
    let other = Expression::Compare(Comparison::NotEqual, name_value(&access.interface));
    let not_underlay = vec![Expression::LoadMeta(Meta::InputName), other];
    [equal(Meta::InputKind, name_value(kind)), not_underlay].concat()
}

/// No route leads back to the source by the input device.
fn no_way_back() -> Vec<Expression> {
    vec![Expression::LoadReversePath, Expression::Compare(Comparison::Equal, vec![0])]
}

fn equal(meta: Meta, value: Vec<u8>) -> Vec<Expression> {
    [vec![Expression::LoadMeta(meta)], compare(value)].concat()
}

fn compare(value: Vec<u8>) -> Vec<Expression> {
    vec![Expression::Compare(Comparison::Equal, value)]
}

fn members(family: u8) -> &'static str {
    if family == IPV4 { MEMBERS_V4 } else { MEMBERS_V6 }
}

fn family(access: &UnderlayAccess) -> u8 {
    if access.address.is_ipv4() { IPV4 } else { IPV6 }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn userdata_reads_back_as_the_settings() {
        let access = UnderlayAccess {
            vxlan_port: 7789,
            address: "fd00::1".parse().unwrap(),
            interface: "eth0".to_owned(),
            agreement_ports: [7789, 7790].into(),
            members: BTreeSet::new(),
        };
        for complete in [false, true] {
            let text = userdata(&access, complete, 3);
            assert_eq!(settings(text.as_bytes()), Some((access.clone(), complete)));
            assert!(text.len() < 200, "the kernel keeps 256 octets (NFT_USERDATA_MAXLEN)");
        }
        assert_eq!(settings(b"shoutd underlay 1 2"), None);
    }
}
