//! The archive: a compressed tar file that only root can read.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use flate2::Compression;
use flate2::write::GzEncoder;
use tar::{Builder, EntryType, Header};

use super::scrub::scrub;

/// An archive in the making. If it is dropped unfinished, its file is removed.
pub struct Archive {
    /// `None` once it is finished.
    builder: Option<Builder<GzEncoder<File>>>,
    path: PathBuf,
    /// The directory of all files in it.
    directory: String,
    /// When it was begun, in seconds since 1970.
    now: u64,
    index: Vec<String>,
    missing: Vec<String>,
}

impl Archive {
    /// Creates the file, which must not exist.
    pub fn create(path: &Path, directory: &str, now: u64) -> Result<Self> {
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
        let file = file.with_context(|| {
            format!("cannot create {}; name another file with -o FILE", path.display())
        })?;
        let builder = Builder::new(GzEncoder::new(file, Compression::default()));
        Ok(Self {
            builder: Some(builder),
            path: path.to_owned(),
            directory: directory.to_owned(),
            now,
            index: Vec::new(),
            missing: Vec::new(),
        })
    }

    /// Adds a text, without what looks like a secret.
    pub fn add(&mut self, name: &str, text: &[u8], note: &str) -> Result<()> {
        let text = scrub(&String::from_utf8_lossy(text));
        self.write(name, text.as_bytes())?;
        let note = if note.is_empty() { String::new() } else { format!(" ({note})") };
        self.index.push(format!("{name}{note}"));
        Ok(())
    }

    /// Notes what is missing, and why.
    pub fn lacks(&mut self, name: &str, why: &str) {
        let why: String = scrub(why).replace(char::is_control, " ");
        self.missing.push(format!("{name}: {why}"));
    }

    /// Writes the index, and returns how many files there are, what is missing, and the size in
    /// octets.
    pub fn finish(mut self, head: &str) -> Result<(usize, Vec<String>, u64)> {
        let list = |title: &str, lines: &[String]| {
            let lines: String = lines.iter().map(|line| format!("  {line}\n")).collect();
            format!("\n{title}:\n{}", if lines.is_empty() { "  none\n".to_owned() } else { lines })
        };
        let files = list("Files", &self.index);
        let index = format!("{head}{files}{}", list("Could not be read", &self.missing));
        self.write("index.txt", scrub(&index).as_bytes())?;
        let builder = self.builder.take().context("it is finished already")?;
        let written = builder.into_inner().and_then(GzEncoder::finish);
        let file = written.with_context(|| format!("cannot write {}", self.path.display()))?;
        file.sync_all()?;
        Ok((self.index.len() + 1, std::mem::take(&mut self.missing), file.metadata()?.len()))
    }

    fn write(&mut self, name: &str, content: &[u8]) -> Result<()> {
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::Regular);
        header.set_mode(0o600);
        header.set_mtime(self.now);
        header.set_size(content.len() as u64);
        let path = format!("{}/{name}", self.directory);
        let builder = self.builder.as_mut().context("it is finished already")?;
        builder
            .append_data(&mut header, path, content)
            .with_context(|| format!("cannot write {}", self.path.display()))
    }
}

impl Drop for Archive {
    fn drop(&mut self) {
        if let Some(builder) = self.builder.take() {
            drop(builder);
            _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::fs::PermissionsExt;

    use flate2::read::GzDecoder;

    use super::*;

    #[test]
    fn an_archive_is_private_has_an_index_and_is_removed_if_it_is_not_finished() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.tar.gz");
        drop(Archive::create(&path, "a", 7).unwrap());
        assert!(!path.exists());
        let mut archive = Archive::create(&path, "a", 7).unwrap();
        archive.add("x/log.txt", b"token SHOUT1-ab-cd", "a log").unwrap();
        archive.lacks("docker", "it does\nnot answer");
        let (files, missing, size) = archive.finish("head\n").unwrap();
        assert_eq!((files, missing.len()), (2, 1));
        let metadata = fs::metadata(&path).unwrap();
        assert_eq!((metadata.permissions().mode() & 0o777, metadata.len()), (0o600, size));
        let mut read = tar::Archive::new(GzDecoder::new(File::open(&path).unwrap()));
        let mut found = Vec::new();
        for entry in read.entries().unwrap() {
            let mut entry = entry.unwrap();
            let mut text = String::new();
            entry.read_to_string(&mut text).unwrap();
            found.push((entry.path().unwrap().display().to_string(), text));
        }
        assert_eq!(found[0], ("a/x/log.txt".to_owned(), "token SHOUT1-[removed]".to_owned()));
        let index = "head\n\nFiles:\n  x/log.txt (a log)\n\nCould not be read:\n  docker: it does \
                     not answer\n";
        assert_eq!(found[1], ("a/index.txt".to_owned(), index.to_owned()));
        assert!(Archive::create(&path, "a", 7).is_err(), "it is not replaced");
    }
}
