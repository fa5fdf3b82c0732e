//! The wire format of netlink: messages (`struct nlmsghdr`) with a family header and attributes
//! (`struct nlattr`). Everything is aligned to four octets and in host byte order unless stated
//! otherwise (`include/uapi/linux/netlink.h`).

use std::net::IpAddr;

use nix::libc;
use zeroize::Zeroize;

/// Octets of `struct nlmsghdr`.
const HEADER: usize = 16;
/// Octets of `struct nlattr`.
const ATTRIBUTE_HEADER: usize = 4;
/// Octets of `struct ifinfomsg`, with which messages about links begin.
pub(crate) const LINK_HEADER: usize = 16;
/// Masks the flags of an attribute's type: nested, and network byte order.
const ATTRIBUTE_TYPE_MASK: u16 = 0x3fff;
/// `NLA_F_NESTED`. Newer families refuse nested attributes without it (`nla_parse_nested`), older
/// ones, such as nf_tables, do not (`nla_parse_nested_deprecated`).
pub(crate) const NESTED: u16 = 0x8000;

const fn aligned(length: usize) -> usize {
    (length + 3) & !3
}

/// A message under construction.
#[derive(Debug, Clone)]
pub(crate) struct Message {
    bytes: Vec<u8>,
}

impl Message {
    /// A message of type `kind` with the fixed header of its family.
    pub(crate) fn new(kind: u16, flags: u16, family_header: &[u8]) -> Self {
        Self::with_capacity(kind, flags, family_header, HEADER + family_header.len())
    }

    /// As [`Message::new`]. While the message has at most `capacity` octets they are never moved,
    /// which would leave a copy behind that [`Message::wipe`] does not know.
    pub(crate) fn with_capacity(
        kind: u16,
        flags: u16,
        family_header: &[u8],
        capacity: usize,
    ) -> Self {
        let mut bytes = Vec::with_capacity(capacity.max(HEADER));
        bytes.resize(HEADER, 0);
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
        let mut message = Self { bytes };
        message.put_aligned(family_header);
        message
    }

    fn put_aligned(&mut self, value: &[u8]) {
        self.bytes.extend_from_slice(value);
        self.bytes.resize(aligned(self.bytes.len()), 0);
    }

    /// Adds an attribute.
    pub(crate) fn bytes(&mut self, kind: u16, value: &[u8]) {
        // No value here comes near 64 KiB. If one did, the kernel would refuse the message because
        // its lengths are inconsistent.
        let length = u16::try_from(ATTRIBUTE_HEADER + value.len()).unwrap_or(u16::MAX);
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.put_aligned(value);
    }

    /// Adds an attribute of one octet.
    pub(crate) fn u8(&mut self, kind: u16, value: u8) {
        self.bytes(kind, &[value]);
    }

    /// Adds an attribute of four octets.
    pub(crate) fn u32(&mut self, kind: u16, value: u32) {
        self.bytes(kind, &value.to_ne_bytes());
    }

    /// Adds an attribute of four octets that the kernel reads as a signed number.
    pub(crate) fn i32(&mut self, kind: u16, value: i32) {
        self.bytes(kind, &value.to_ne_bytes());
    }

    /// Adds an attribute of two octets.
    pub(crate) fn u16(&mut self, kind: u16, value: u16) {
        self.bytes(kind, &value.to_ne_bytes());
    }

    /// Adds an attribute of two octets in network byte order.
    pub(crate) fn u16_be(&mut self, kind: u16, value: u16) {
        self.bytes(kind, &value.to_be_bytes());
    }

    /// Adds an attribute of four octets in network byte order.
    pub(crate) fn u32_be(&mut self, kind: u16, value: u32) {
        self.bytes(kind, &value.to_be_bytes());
    }

    /// Adds a zero-terminated string.
    pub(crate) fn text(&mut self, kind: u16, value: &str) {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.bytes(kind, &bytes);
    }

    /// Adds an IP address.
    pub(crate) fn ip(&mut self, kind: u16, value: IpAddr) {
        match value {
            IpAddr::V4(address) => self.bytes(kind, &address.octets()),
            IpAddr::V6(address) => self.bytes(kind, &address.octets()),
        }
    }

    /// Adds an attribute that holds what `fill` writes: attributes, or a header and then
    /// attributes.
    pub(crate) fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) {
        let start = self.bytes.len();
        self.bytes(kind, &[]);
        fill(self);
        let length = u16::try_from(self.bytes.len() - start).unwrap_or(u16::MAX);
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
    }

    /// Adds octets that are not an attribute: the header within some nested attributes.
    pub(crate) fn raw(&mut self, value: &[u8]) {
        self.put_aligned(value);
    }

    /// The octets to send, with `more_flags` added and the sequence number set.
    pub(crate) fn finish(&self, more_flags: u16, sequence: u32) -> Vec<u8> {
        let mut copy = self.clone();
        copy.finish_in_place(more_flags, sequence);
        copy.bytes
    }

    /// As [`Message::finish`], without a copy: for messages with secrets.
    pub(crate) fn finish_in_place(&mut self, more_flags: u16, sequence: u32) -> &[u8] {
        let bytes = &mut self.bytes;
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let flags = u16::from_ne_bytes([bytes[6], bytes[7]]) | more_flags;
        bytes[0..4].copy_from_slice(&length.to_ne_bytes());
        bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
        bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
        bytes
    }

    /// Overwrites the octets with zeros and forgets them. The message cannot be sent any more.
    pub(crate) fn wipe(&mut self) {
        self.bytes.zeroize();
    }
}

/// A received message.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Frame<'a> {
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    pub(crate) sequence: u32,
    pub(crate) payload: &'a [u8],
}

impl<'a> Frame<'a> {
    /// The attributes after a family header of this many octets.
    pub(crate) fn attributes(&self, family_header: usize) -> Attributes<'a> {
        Attributes(self.payload.get(aligned(family_header)..).unwrap_or_default())
    }

    /// The octet of the payload at this offset; zero if the payload is shorter.
    pub(crate) fn octet(&self, offset: usize) -> u8 {
        self.payload.get(offset).copied().unwrap_or_default()
    }

    /// The four octets of the payload at this offset; zero if the payload is shorter.
    pub(crate) fn word(&self, offset: usize) -> u32 {
        read_array(self.payload, offset).map(u32::from_ne_bytes).unwrap_or_default()
    }
}

/// The messages of one datagram, up to the first truncated one.
#[derive(Debug)]
pub(crate) struct Frames<'a>(pub(crate) &'a [u8]);

impl<'a> Iterator for Frames<'a> {
    type Item = Frame<'a>;

    fn next(&mut self) -> Option<Frame<'a>> {
        let length = usize::try_from(u32::from_ne_bytes(read_array(self.0, 0)?)).ok()?;
        let payload = self.0.get(HEADER..length)?;
        let frame = Frame {
            kind: u16::from_ne_bytes(read_array(self.0, 4)?),
            flags: u16::from_ne_bytes(read_array(self.0, 6)?),
            sequence: u32::from_ne_bytes(read_array(self.0, 8)?),
            payload,
        };
        self.0 = self.0.get(aligned(length)..).unwrap_or_default();
        Some(frame)
    }
}

/// Received attributes, up to the first truncated one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Attributes<'a>(pub(crate) &'a [u8]);

impl<'a> Attributes<'a> {
    /// Whether none is truncated.
    pub(crate) fn are_whole(mut self) -> bool {
        while self.next().is_some() {}
        self.0.is_empty()
    }

    /// The first attribute of this type.
    pub(crate) fn find(mut self, kind: u16) -> Option<Attribute<'a>> {
        Iterator::find(&mut self, |attribute| attribute.kind == kind)
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = Attribute<'a>;

    fn next(&mut self) -> Option<Attribute<'a>> {
        let length = usize::from(u16::from_ne_bytes(read_array(self.0, 0)?));
        let kind = u16::from_ne_bytes(read_array(self.0, 2)?) & ATTRIBUTE_TYPE_MASK;
        let value = self.0.get(ATTRIBUTE_HEADER..length)?;
        self.0 = self.0.get(aligned(length)..).unwrap_or_default();
        Some(Attribute { kind, value })
    }
}

/// A received attribute. Its readers return `None` if the value has another length than they read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Attribute<'a> {
    pub(crate) kind: u16,
    pub(crate) value: &'a [u8],
}

impl<'a> Attribute<'a> {
    pub(crate) fn array<const N: usize>(self) -> Option<[u8; N]> {
        self.value.try_into().ok()
    }

    pub(crate) fn u8(self) -> Option<u8> {
        self.array().map(u8::from_ne_bytes)
    }

    pub(crate) fn u16(self) -> Option<u16> {
        self.array().map(u16::from_ne_bytes)
    }

    pub(crate) fn u64(self) -> Option<u64> {
        self.value.get(..8)?.try_into().ok().map(u64::from_ne_bytes)
    }

    pub(crate) fn u32(self) -> Option<u32> {
        self.array().map(u32::from_ne_bytes)
    }

    pub(crate) fn i32(self) -> Option<i32> {
        self.array().map(i32::from_ne_bytes)
    }

    pub(crate) fn u16_be(self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    pub(crate) fn u32_be(self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    pub(crate) fn u64_be(self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    pub(crate) fn mac(self) -> Option<[u8; 6]> {
        self.array()
    }

    pub(crate) fn ip(self) -> Option<IpAddr> {
        let v4 = self.array::<4>().map(IpAddr::from);
        v4.or_else(|| self.array::<16>().map(IpAddr::from))
    }

    /// A string, up to its terminating zero. Invalid UTF-8 is replaced: the text is only compared
    /// and displayed.
    pub(crate) fn text(self) -> String {
        let end = self.value.iter().position(|&octet| octet == 0).unwrap_or(self.value.len());
        String::from_utf8_lossy(&self.value[..end]).into_owned()
    }

    pub(crate) fn nested(self) -> Attributes<'a> {
        Attributes(self.value)
    }
}

pub(crate) fn read_array<const N: usize>(bytes: &[u8], offset: usize) -> Option<[u8; N]> {
    bytes.get(offset..offset.checked_add(N)?)?.try_into().ok()
}

/// Reads an `NLMSG_ERROR`: the error number (zero acknowledges), and the text of the extended
/// acknowledgement, if there is one.
pub(crate) fn parse_verdict(frame: &Frame<'_>) -> (i32, Option<String>) {
    const NLM_F_CAPPED: u16 = 0x100;
    const NLM_F_ACK_TLVS: u16 = 0x200;
    const NLMSGERR_ATTR_MSG: u16 = 1;

    let code = frame.word(0).cast_signed();
    let original = if frame.flags & NLM_F_CAPPED == 0 { frame.word(4) } else { 0 };
    let skipped = usize::try_from(original).unwrap_or(usize::MAX).max(HEADER);
    let words = (frame.flags & NLM_F_ACK_TLVS != 0)
        .then(|| {
            frame
                .attributes(skipped.saturating_add(4).min(frame.payload.len()))
                .find(NLMSGERR_ATTR_MSG)
        })
        .flatten();
    (code.saturating_neg(), words.map(Attribute::text))
}

/// `struct ifinfomsg` for the device with this index; zero selects none.
pub(crate) fn link_header(family: u8, index: u32, flags: u32, change: u32) -> [u8; 16] {
    let mut header = [0; 16];
    header[0] = family;
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..16].copy_from_slice(&change.to_ne_bytes());
    header
}

/// The address family of an address, as in rtnetlink's headers.
pub(crate) fn family_of(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => family_octet(libc::AF_INET),
        IpAddr::V6(_) => family_octet(libc::AF_INET6),
    }
}

/// An address family as one octet; all that we use fit.
pub(crate) fn family_octet(family: i32) -> u8 {
    u8::try_from(family).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_written_message_reads_back() {
        let mut message = Message::new(20, 1, &[7; 6]);
        message.text(3, "shoutbr0");
        message.nest(18, |inner| {
            inner.u32(1, 77);
            inner.u16_be(2, 7789);
        });
        let bytes = message.finish(4, 9);
        let frames: Vec<_> = Frames(&bytes).collect();
        assert_eq!(frames.len(), 1);
        assert_eq!((frames[0].kind, frames[0].flags, frames[0].sequence), (20, 5, 9));
        let attributes = frames[0].attributes(6);
        assert_eq!(attributes.find(3).unwrap().text(), "shoutbr0");
        let nested = attributes.find(18).unwrap().nested();
        assert_eq!(nested.find(1).unwrap().u32(), Some(77));
        assert_eq!(nested.find(2).unwrap().u16_be(), Some(7789));
    }

    proptest! {
        #[test]
        fn garbage_is_read_without_harm(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            for frame in Frames(&bytes) {
                let _ = parse_verdict(&frame);
                for attribute in frame.attributes(usize::from(frame.octet(0))) {
                    let _ = (attribute.text(), attribute.ip(), attribute.nested().count());
                }
            }
        }
    }
}
