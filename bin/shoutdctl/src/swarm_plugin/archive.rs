//! The managed plugin as a tar archive with `config.json` and the root file system of its
//! container.

use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use ring::digest::{SHA256, digest};
use serde_json::{Value, json};
use shoutd_core::swarm::SOCKET;
use tar::{Builder, EntryType, Header};

use super::program::Program;

/// Path of the program in the container.
const PROGRAM: &str = "/shoutdctl";

/// Path of the directory with the daemon's socket in the container.
const DAEMON: &str = "/daemon";

/// Directory in the container where the engine looks for plugin sockets.
const SOCKETS: &str = "/run/docker/plugins";

/// Name of the plugin's own socket.
const OWN_SOCKET: &str = "shoutd-swarm.sock";

/// Size limit of one file, in bytes. A debug build of the program has about 100 MiB.
const FILE_BYTES_MAX: u64 = 512 << 20;

/// Hexadecimal digits of the checksum in the description.
const BUILD_DIGITS: usize = 16;

/// A plugin to install.
#[derive(Debug)]
pub struct Plugin {
    /// The description that the engine shows. It contains a checksum of the whole plugin.
    pub description: String,
    /// The tar archive.
    pub archive: Vec<u8>,
}

impl Plugin {
    /// Builds the plugin that runs `program`, with the host's directory `daemon` mounted.
    pub fn new(program: &Program, daemon: &Path) -> Result<Self> {
        let rootfs = rootfs(program)?;
        let version = env!("CARGO_PKG_VERSION");
        let unnamed = config("", program, daemon)?.to_string();
        let sum = digest(&SHA256, &[rootfs.as_slice(), unnamed.as_bytes()].concat());
        let build: String = sum.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        let description = format!(
            "multicast between containers, for Swarm (shoutd {version}, {})",
            &build[..BUILD_DIGITS]
        );
        let config = config(&description, program, daemon)?;
        let mut builder = Builder::new(rootfs);
        append(&mut builder, Path::new("config.json"), config.to_string().as_bytes(), 0o644)?;
        let archive = builder.into_inner().context("cannot finish the archive")?;
        Ok(Self { description, archive })
    }
}

fn text(path: &Path) -> Result<String> {
    match path.to_str() {
        Some(text) => Ok(text.to_owned()),
        None => bail!("{} is not valid UTF-8", path.display()),
    }
}

/// The plugin's `config.json`. The plugin only forwards calls, so it gets no network, no capability
/// and no device.
fn config(description: &str, program: &Program, daemon: &Path) -> Result<Value> {
    let mut entrypoint = Vec::new();
    if let Some(interpreter) = &program.interpreter {
        // We start ld.so explicitly: it then need not be at the path in the ELF header, and needs
        // no ld.so.cache.
        let directories =
            program.library_directories().into_iter().map(text).collect::<Result<Vec<_>>>()?;
        entrypoint.extend([text(interpreter)?, "--library-path".to_owned(), directories.join(":")]);
    }
    let listen = format!("--listen={SOCKETS}/{OWN_SOCKET}");
    let call = format!("--daemon={DAEMON}/{SOCKET}");
    entrypoint.extend([PROGRAM, "swarm-plugin", "serve", &listen, &call].map(str::to_owned));
    Ok(json!({
        "description": description,
        "documentation": "https://github.com/shoutd/shoutd",
        "entrypoint": entrypoint,
        "workdir": "/",
        "interface": { "types": ["docker.networkdriver/1.0"], "socket": OWN_SOCKET },
        "network": { "type": "none" },
        "linux": { "capabilities": [], "devices": [], "allowAllDevices": false },
        "mounts": [{
            "name": "daemon",
            "description": "directory of the daemon's socket",
            "source": text(daemon)?,
            "destination": DAEMON,
            "type": "bind",
            "options": ["rbind"],
        }],
        "env": [],
        "args": { "name": "", "description": "", "settable": null, "value": [] },
    }))
}

/// An unfinished archive with the container's root file system.
fn rootfs(program: &Program) -> Result<Vec<u8>> {
    let mut builder = Builder::new(Vec::new());
    for directory in [SOCKETS, DAEMON, "/proc", "/dev", "/sys", "/tmp"] {
        let mut header = header(EntryType::Directory, 0o755);
        builder.append_data(&mut header, inside(Path::new(directory)), std::io::empty())?;
    }
    append(&mut builder, &inside(Path::new(PROGRAM)), &read(&program.executable)?, 0o755)?;
    for library in &program.libraries {
        append(&mut builder, &inside(library), &read(library)?, 0o755)?;
    }
    for (link, target) in &program.links {
        let mut header = header(EntryType::Symlink, 0o777);
        builder.append_link(&mut header, inside(link), target)?;
    }
    // Without the two zero blocks that end an archive, because `config.json` follows.
    Ok(std::mem::take(builder.get_mut()))
}

/// The path in the archive of a file in the container.
fn inside(path: &Path) -> PathBuf {
    let mut whole = OsString::from("rootfs");
    whole.push(path);
    whole.into()
}

fn append(builder: &mut Builder<Vec<u8>>, path: &Path, content: &[u8], mode: u32) -> Result<()> {
    let mut header = header(EntryType::Regular, mode);
    header.set_size(content.len() as u64);
    builder
        .append_data(&mut header, path, content)
        .with_context(|| format!("cannot pack {}", path.display()))
}

/// A header with owner root and no date, so that the same files always make the same archive.
fn header(kind: EntryType, mode: u32) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(0);
    header
}

fn read(path: &Path) -> Result<Vec<u8>> {
    let mut content = Vec::new();
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    file.take(FILE_BYTES_MAX + 1)
        .read_to_end(&mut content)
        .with_context(|| format!("cannot read {}", path.display()))?;
    if content.len() as u64 > FILE_BYTES_MAX {
        bail!("{} is larger than {FILE_BYTES_MAX} bytes", path.display());
    }
    Ok(content)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn entries(archive: &[u8]) -> BTreeMap<String, Vec<u8>> {
        let mut archive = tar::Archive::new(archive);
        let entries = archive.entries().unwrap().map(|entry| {
            let mut entry = entry.unwrap();
            let name = entry.path().unwrap().to_str().unwrap().to_owned();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            (name, content)
        });
        entries.collect()
    }

    #[test]
    fn a_plugin_has_the_program_its_libraries_and_a_configuration() {
        let directory = tempfile::tempdir().unwrap();
        let [executable, loader, library] = ["program", "ld-1.so", "libc-1.so"].map(|name| {
            let path = directory.path().join(name);
            std::fs::write(&path, name).unwrap();
            path
        });
        let link = directory.path().join("libc.so.6");
        let program = Program {
            executable,
            interpreter: Some(loader.clone()),
            libraries: [loader.clone(), library.clone()].into(),
            links: [(link.clone(), "libc-1.so".into())].into(),
        };
        let plugin = Plugin::new(&program, Path::new("/var/lib/shoutd/swarm")).unwrap();
        let entries = entries(&plugin.archive);
        assert_eq!(entries["rootfs/shoutdctl"], b"program");
        assert_eq!(entries[&format!("rootfs{}", library.display())], b"libc-1.so");
        assert!(entries.contains_key(&format!("rootfs{}", link.display())));
        let config: Value = serde_json::from_slice(&entries["config.json"]).unwrap();
        assert_eq!(config["description"], plugin.description);
        assert_eq!(config["entrypoint"][0], loader.to_str().unwrap());
        assert_eq!(config["entrypoint"][2], directory.path().to_str().unwrap());
        assert_eq!(config["mounts"][0]["source"], "/var/lib/shoutd/swarm");
        let again = Plugin::new(&program, Path::new("/var/lib/shoutd/swarm")).unwrap();
        assert_eq!(
            (again.description, again.archive),
            (plugin.description.clone(), plugin.archive)
        );
        let elsewhere = Plugin::new(&program, Path::new("/srv/swarm")).unwrap();
        assert_ne!(elsewhere.description, plugin.description);
        std::fs::write(&program.executable, "newer").unwrap();
        let newer = Plugin::new(&program, Path::new("/var/lib/shoutd/swarm")).unwrap();
        assert_ne!(newer.description, plugin.description);
    }

    #[test]
    fn a_statically_linked_program_is_started_directly() {
        let program = Program {
            executable: "/proc/self/exe".into(),
            interpreter: None,
            libraries: [].into(),
            links: [].into(),
        };
        let config = config("", &program, Path::new("/srv/swarm")).unwrap();
        assert_eq!(config["entrypoint"][0], PROGRAM);
    }
}
