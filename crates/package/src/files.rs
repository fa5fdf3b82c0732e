//! Files and archives that depend only on their contents.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use flate2::{Compression, GzBuilder};
use ring::digest::{self, SHA256};
use tar::{Builder, EntryType, Header};

/// Reads a whole file.
pub fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("read {}", path.display()))
}

/// Writes a file.
pub fn write(path: &Path, content: &[u8]) -> Result<()> {
    fs::write(path, content).with_context(|| format!("write {}", path.display()))
}

/// Copies a file.
pub fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to)
        .map(drop)
        .with_context(|| format!("copy {} to {}", from.display(), to.display()))
}

/// All files below a directory, sorted by path.
pub fn list(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let entries =
        fs::read_dir(directory).with_context(|| format!("list {}", directory.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() { found.extend(list(&path)?) } else { found.push(path) }
    }
    found.sort();
    Ok(found)
}

/// The SHA-256 checksum of a file, in hexadecimal digits.
pub fn checksum(path: &Path) -> Result<String> {
    let mut file = File::open(path).with_context(|| format!("open {}", path.display()))?;
    let mut context = digest::Context::new(&SHA256);
    let mut buffer = vec![0; 1 << 16];
    loop {
        match file.read(&mut buffer).with_context(|| format!("read {}", path.display()))? {
            0 => return Ok(hexadecimal(context.finish().as_ref())),
            count => context.update(&buffer[..count]),
        }
    }
}

/// The SHA-256 checksum of octets, in hexadecimal digits.
pub fn checksum_of(octets: &[u8]) -> String {
    hexadecimal(digest::digest(&SHA256, octets).as_ref())
}

fn hexadecimal(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}

/// A tar archive of files of root, all with one date.
pub struct Archive {
    builder: Builder<Vec<u8>>,
    date: u64,
}

impl Archive {
    /// An empty archive; `date` is in seconds since 1970.
    pub fn new(date: u64) -> Self {
        Self { builder: Builder::new(Vec::new()), date }
    }

    /// Adds a file, with the permission bits `mode`.
    pub fn file(&mut self, path: impl AsRef<Path>, content: &[u8], mode: u32) -> Result<()> {
        let mut header = self.header(EntryType::Regular, mode);
        header.set_size(content.len() as u64);
        self.builder.append_data(&mut header, path, content).context("add a file to an archive")
    }

    /// Adds a directory, with the permission bits `mode`.
    pub fn directory(&mut self, path: impl AsRef<Path>, mode: u32) -> Result<()> {
        let mut header = self.header(EntryType::Directory, mode);
        self.builder
            .append_data(&mut header, path, io::empty())
            .context("add a directory to an archive")
    }

    /// Adds a symbolic link.
    pub fn link(&mut self, path: impl AsRef<Path>, target: &str) -> Result<()> {
        let mut header = self.header(EntryType::Symlink, 0o777);
        self.builder
            .append_link(&mut header, path, target)
            .context("add a symbolic link to an archive")
    }

    /// The whole archive.
    pub fn finish(self) -> Result<Vec<u8>> {
        self.builder.into_inner().context("finish an archive")
    }

    fn header(&self, kind: EntryType, mode: u32) -> Header {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(self.date);
        header.set_size(0);
        header
    }
}

/// Writes these octets, compressed by gzip, with neither name nor date.
pub fn write_gz(path: &Path, octets: &[u8]) -> Result<()> {
    let file = File::create(path).with_context(|| format!("make {}", path.display()))?;
    let mut encoder = GzBuilder::new().mtime(0).write(file, Compression::best());
    encoder
        .write_all(octets)
        .and_then(|()| encoder.finish())
        .map(drop)
        .with_context(|| format!("write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_files_make_the_same_archive() {
        let directory = tempfile::tempdir().unwrap();
        let made = ["one.gz", "two.gz"].map(|name| {
            let mut archive = Archive::new(7);
            archive.directory("a", 0o755).unwrap();
            archive.file("a/b", b"text", 0o644).unwrap();
            archive.link("a/c", "b").unwrap();
            let path = directory.path().join(name);
            write_gz(&path, &archive.finish().unwrap()).unwrap();
            checksum(&path).unwrap()
        });
        assert_eq!(made[0], made[1]);
        let listed = list(directory.path()).unwrap();
        assert_eq!(listed, ["one.gz", "two.gz"].map(|name| directory.path().join(name)));
    }

    #[test]
    fn checksums_are_those_of_fips_180() {
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(checksum_of(b"abc"), abc);
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("abc");
        write(&path, b"abc").unwrap();
        assert_eq!(checksum(&path).unwrap(), abc);
    }
}
