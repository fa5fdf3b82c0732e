//! A rule of nf_tables that has a device send clones of PTP's event messages.
//!
//! A frame belongs to the socket that sent it, and each device that it passes sends that socket a
//! transmit time stamp (`SO_TIMESTAMPING`). A clone belongs to no socket. The rule stands at the
//! egress hook of the device, which Linux has since 5.16.

use crate::error::Error;
use crate::namespace::Namespace;
use crate::nftables::{self, Base, Comparison, Expression, Family, Meta, TableName};
use crate::socket::{Protocol, Socket};

const TABLE: TableName = TableName { family: Family::Device, name: "shoutd-events" };
const CHAIN: &str = "egress";
/// Protocol 17 of IPv4, and next header of IPv6.
const UDP: u8 = 17;
/// The port of PTP's event messages, which are those that are time-stamped (IEEE 1588-2019,
/// annexes C and D).
const EVENT_PORT: u16 = 319;
/// Marks the clone, which leaves by the same device. VXLAN clears it (`skb_scrub_packet`).
const MARK: u32 = 0x7789_0319;

/// The rule in one network namespace.
#[derive(Debug)]
pub struct EventCopies {
    socket: Socket,
}

impl EventCopies {
    /// Opens a socket to nf_tables in this namespace.
    pub fn open(namespace: &Namespace) -> Result<Self, Error> {
        let socket = Socket::open(Protocol::Netfilter, namespace)
            .map_err(|fault| fault.during("open an nf_tables socket"))?;
        Ok(Self { socket })
    }

    /// Installs the rule at this device, which has this index, and replaces any that is there.
    pub fn install(&mut self, device: &str, index: u32) -> Result<(), Error> {
        let mut messages = nftables::empty_table(TABLE);
        messages.extend([
            nftables::new_egress_chain(TABLE, CHAIN, device),
            nftables::new_rule(TABLE, CHAIN, "copy", &rule(index)),
        ]);
        let done = nftables::commit(&mut self.socket, messages);
        done.map_err(|fault| {
            fault.during(format_args!("have {device} send clones of PTP's event messages"))
        })
    }

    /// Removes the rule. It is no error if there is none.
    pub fn remove(&mut self) -> Result<(), Error> {
        nftables::delete_table(&mut self.socket, TABLE).map_err(|fault| {
            fault.during("remove the nf_tables rule that clones PTP's event messages")
        })
    }
}

/// First is what most frames fail.
fn rule(index: u32) -> Vec<Expression> {
    let mark = MARK.to_ne_bytes().to_vec();
    vec![
        Expression::LoadMeta(Meta::TransportProtocol),
        Expression::Compare(Comparison::Equal, vec![UDP]),
        Expression::LoadPayload { base: Base::Transport, offset: 2, length: 2 },
        Expression::Compare(Comparison::Equal, EVENT_PORT.to_be_bytes().to_vec()),
        Expression::LoadMeta(Meta::Mark),
        Expression::Compare(Comparison::NotEqual, mark.clone()),
        Expression::LoadValue(mark),
        Expression::SetMark,
        Expression::LoadValue(index.to_ne_bytes().to_vec()),
        Expression::SendCopy,
        Expression::Drop,
    ]
}
