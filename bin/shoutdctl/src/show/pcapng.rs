//! Capture files in the pcapng format (draft-ietf-opsawg-pcapng), little-endian.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use shoutd_core::explain::{KeptPacket, KeptPlace};

const SECTION_HEADER: u32 = 0x0a0d_0d0a;
const INTERFACE_DESCRIPTION: u32 = 1;
const ENHANCED_PACKET: u32 = 6;
const BYTE_ORDER_MAGIC: u32 = 0x1a2b_3c4d;
/// The version 1.0, and an unknown length of the section.
const SECTION: [u8; 12] = [1, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
/// `LINKTYPE_RAW`: packets begin with an IP header.
const LINKTYPE_RAW: u16 = 101;
const OPTION_END: u16 = 0;
/// `if_name`.
const NAME: u16 = 2;
/// `if_tsresol`: 10 to the power of -9 seconds.
const RESOLUTION: u16 = 9;
/// `epb_flags`: 1 for inbound, 2 for outbound.
const FLAGS: u16 = 2;
/// Octets of a name: the length of an option is a 16-bit number.
const NAME_BYTES_MAX: usize = 1024;

/// Creates a file that only root can read. Packets may hold secrets.
///
/// # Errors
/// It exists, or cannot be created.
pub fn create(path: &Path) -> Result<File> {
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    file.with_context(|| format!("cannot create {}; name another file with -w", path.display()))
}

/// Writes the packets of all places by time, and returns how many there are.
///
/// # Errors
/// The file cannot be written.
pub fn write(file: &mut File, places: &[KeptPlace]) -> io::Result<usize> {
    let mut out = BufWriter::new(file);
    let header = [&BYTE_ORDER_MAGIC.to_le_bytes()[..], &SECTION].concat();
    block(&mut out, SECTION_HEADER, &header)?;
    let mut packets = Vec::new();
    for (number, place) in (0..).zip(places) {
        interface(&mut out, &place.place)?;
        packets.extend(place.packets.iter().map(|packet| (number, packet)));
    }
    packets.sort_by_key(|(_, packet)| packet.at);
    for (interface, packet) in &packets {
        enhanced_packet(&mut out, *interface, packet)?;
    }
    out.flush()?;
    Ok(packets.len())
}

fn interface(out: &mut impl Write, name: &str) -> io::Result<()> {
    let mut name = name.to_owned();
    while name.len() > NAME_BYTES_MAX {
        name.pop();
    }
    // Without a limit on the length of packets.
    let mut body = [&LINKTYPE_RAW.to_le_bytes()[..], &[0; 6]].concat();
    option(&mut body, NAME, name.as_bytes());
    option(&mut body, RESOLUTION, &[9]);
    option(&mut body, OPTION_END, &[]);
    block(out, INTERFACE_DESCRIPTION, &body)
}

fn enhanced_packet(out: &mut impl Write, interface: u32, packet: &KeptPacket) -> io::Result<()> {
    // A peer's text may be anything; then the packet is empty.
    let octets = STANDARD.decode(&packet.octets).unwrap_or_default();
    let half = |part: u64| u32::try_from(part & 0xffff_ffff).unwrap_or_default();
    let (high, low) = (half(packet.at >> 32), half(packet.at));
    let kept = u32::try_from(octets.len()).unwrap_or(u32::MAX);
    let length = u32::try_from(packet.length).unwrap_or(u32::MAX);
    let mut body: Vec<u8> = [interface, high, low, kept, length]
        .iter()
        .flat_map(|number| number.to_le_bytes())
        .collect();
    body.extend(&octets);
    pad(&mut body);
    let flags: u32 = if packet.outbound { 2 } else { 1 };
    option(&mut body, FLAGS, &flags.to_le_bytes());
    option(&mut body, OPTION_END, &[]);
    block(out, ENHANCED_PACKET, &body)
}

fn option(body: &mut Vec<u8>, code: u16, value: &[u8]) {
    body.extend(code.to_le_bytes());
    body.extend(u16::try_from(value.len()).unwrap_or_default().to_le_bytes());
    body.extend(value);
    pad(body);
}

/// Fills up to a multiple of four octets.
fn pad(body: &mut Vec<u8>) {
    body.resize(body.len().next_multiple_of(4), 0);
}

fn block(out: &mut impl Write, kind: u32, body: &[u8]) -> io::Result<()> {
    let length = u32::try_from(body.len() + 12).map_err(io::Error::other)?.to_le_bytes();
    out.write_all(&kind.to_le_bytes())?;
    out.write_all(&length)?;
    out.write_all(body)?;
    out.write_all(&length)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(at: u64, octets: &[u8]) -> KeptPacket {
        let octets = STANDARD.encode(octets);
        KeptPacket { at, outbound: true, length: 1498, octets }
    }

    /// The kinds and bodies of all blocks.
    fn blocks(mut file: &[u8]) -> Vec<(u32, Vec<u8>)> {
        let number = |octets: &[u8]| {
            usize::try_from(u32::from_le_bytes(octets[..4].try_into().unwrap())).unwrap()
        };
        let mut found = Vec::new();
        while !file.is_empty() {
            let length = number(&file[4..]);
            assert_eq!(number(&file[length - 4..]), length);
            assert_eq!(length % 4, 0);
            found.push((u32::try_from(number(file)).unwrap(), file[8..length - 4].to_vec()));
            file = &file[length..];
        }
        found
    }

    #[test]
    fn packets_are_merged_by_time_and_name_their_interface() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.pcapng");
        let places = [
            KeptPlace { place: "h1: eth0".to_owned(), packets: vec![packet(5 << 32, b"later")] },
            KeptPlace { place: "h2: eth0".to_owned(), packets: vec![packet(7, b"first")] },
        ];
        assert_eq!(write(&mut create(&path).unwrap(), &places).unwrap(), 2);
        let blocks = blocks(&std::fs::read(&path).unwrap());
        let kinds: Vec<u32> = blocks.iter().map(|(kind, _)| *kind).collect();
        assert_eq!(kinds, [SECTION_HEADER, 1, 1, 6, 6]);
        assert_eq!(blocks[2].1[8..12], [2, 0, 8, 0]);
        assert_eq!(&blocks[2].1[12..20], b"h2: eth0");
        let first = &blocks[3].1;
        assert_eq!(first[..20], [1, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 5, 0, 0, 0, 0xda, 5, 0, 0]);
        assert_eq!(&first[20..28], b"first\0\0\0");
        assert_eq!(blocks[4].1[4..8], [5, 0, 0, 0]);
        assert!(create(&path).unwrap_err().to_string().contains("-w"));
    }
}
