//! Rewrites a hosts file in place, because it is mounted into a container.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Seek};
use std::os::unix::fs::FileExt;

/// How often a file is read again while another process writes it.
const TRIES_MAX: u32 = 5;

/// Size limit of a file that we change, in octets.
pub const FILE_BYTES_MAX: u64 = 1 << 20;

/// Replaces the text of a file, unless `wanted` returns `None`. It is written in place.
pub fn rewrite_as(
    file: &mut File,
    mut wanted: impl FnMut(&str) -> Option<String>,
) -> io::Result<()> {
    for _ in 0..TRIES_MAX {
        let now = read(file)?;
        let Some(wanted) = wanted(&now) else { return Ok(()) };
        if read(file)? == now {
            file.write_all_at(wanted.as_bytes(), 0)?;
            return file.set_len(wanted.len() as u64);
        }
    }
    Err(io::Error::new(ErrorKind::WouldBlock, "another process keeps writing it"))
}

fn read(file: &mut File) -> io::Result<String> {
    let mut octets = Vec::new();
    file.rewind()?;
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut octets)?;
    if octets.len() as u64 > FILE_BYTES_MAX {
        return Err(io::Error::new(
            ErrorKind::InvalidData,
            format!("it is larger than {FILE_BYTES_MAX} octets"),
        ));
    }
    String::from_utf8(octets)
        .map_err(|_| io::Error::new(ErrorKind::InvalidData, "it is not valid UTF-8"))
}
