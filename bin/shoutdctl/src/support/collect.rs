//! What goes into the archive.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use serde_json::Value;
use shoutd_cli::{Directories, read_at_most};
use shoutd_core::last_run::{LAST_RUN_BYTES_MAX, LAST_RUN_FILE, LastRun, LogPlace};
use shoutd_core::plane::{NAMESPACES, namespace_vni};
use shoutd_core::view::{START_FILE, Status};
use shoutd_docker::engine::EngineClient;
use tokio::time::timeout;

use super::archive::Archive;
use crate::control::{self, ControlError};
use crate::programs;

/// Size limit of each file, in octets. A thousand devices have less than 1 MiB.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// Size limit of the end of the log, in octets.
const LOG_BYTES_MAX: u64 = 4 << 20;

/// How long Docker may take to describe itself.
const ENGINE_TIME_MAX: Duration = Duration::from_secs(20);

/// Lines of systemd's journal.
const JOURNAL_LINES: &str = "20000";

/// Namespaces whose devices and tables are read. Each takes some tens of milliseconds.
const NAMESPACES_MAX: usize = 64;

/// Files of the data directory whose sizes are listed.
const STATE_FILES_MAX: usize = 256;

/// Where the log is if nothing says otherwise.
const DEFAULT_LOG: &str = "/var/log/shoutd.log";

/// The views of the daemon.
const VIEWS: [&str; 6] = ["hosts", "health", "networks", "endpoints", "groups", "events"];

/// Files of the kernel and of the distribution.
const HOST_FILES: [(&str, &str); 10] = [
    ("host/version", "/proc/version"),
    ("host/os-release", "/etc/os-release"),
    ("host/uptime", "/proc/uptime"),
    ("host/loadavg", "/proc/loadavg"),
    ("host/meminfo", "/proc/meminfo"),
    ("host/modules", "/proc/modules"),
    ("host/igmp", "/proc/net/igmp"),
    ("host/softnet_stat", "/proc/net/softnet_stat"),
    ("host/snmp", "/proc/net/snmp"),
    ("host/bridge-nf-call-iptables", "/proc/sys/net/bridge/bridge-nf-call-iptables"),
];

/// Programs that show the host's devices, routes and filters.
const HOST_PROGRAMS: [(&str, &[&str]); 11] = [
    ("host/links.txt", &["ip", "-details", "-statistics", "link"]),
    ("host/addresses.txt", &["ip", "address"]),
    ("host/rules.txt", &["ip", "rule"]),
    ("host/routes.txt", &["ip", "route", "show", "table", "all"]),
    ("host/routes-ipv6.txt", &["ip", "-6", "route", "show", "table", "all"]),
    ("host/sockets.txt", &["ss", "--numeric", "--listening", "--tcp", "--udp", "--processes"]),
    ("host/nftables.txt", &["nft", "list", "ruleset"]),
    ("host/iptables.txt", &["iptables-save"]),
    ("host/ip6tables.txt", &["ip6tables-save"]),
    ("host/disks.txt", &["df", "-k"]),
    ("host/clock.txt", &["timedatectl"]),
];

/// Programs that show a segment, in its namespace.
const SEGMENT_PROGRAMS: [(&str, &[&str]); 7] = [
    ("links.txt", &["ip", "-details", "-statistics", "link"]),
    ("addresses.txt", &["ip", "address"]),
    ("routes.txt", &["ip", "route", "show", "table", "all"]),
    ("fdb.txt", &["bridge", "-details", "-statistics", "fdb", "show"]),
    ("mdb.txt", &["bridge", "-details", "-statistics", "mdb", "show"]),
    ("bridge-links.txt", &["bridge", "-details", "link"]),
    ("nftables.txt", &["nft", "list", "ruleset"]),
];

/// Where things are.
pub struct Sources {
    /// The directory of the control socket.
    pub directories: Directories,
    /// The data directory, unless the daemon names another.
    pub data_directory: PathBuf,
    /// Docker's socket, unless the daemon names another.
    pub docker_socket: PathBuf,
}

impl Sources {
    /// Collects everything. What cannot be read is noted in the archive.
    ///
    /// # Errors
    /// The archive cannot be written.
    pub async fn collect(mut self, archive: &mut Archive) -> Result<()> {
        self.views(archive).await?;
        self.docker(archive).await?;
        self.log(archive).await?;
        self.state(archive)?;
        for (name, path) in HOST_FILES {
            match read_proc(Path::new(path)) {
                Ok(text) => archive.add(name, &text, path)?,
                Err(error) => archive.lacks(name, &format!("{path}: {error}")),
            }
        }
        for (name, line) in HOST_PROGRAMS {
            run(archive, name, line).await?;
        }
        segments(archive).await
    }

    /// What the daemon shows.
    async fn views(&mut self, archive: &mut Archive) -> Result<()> {
        let status: Result<Status, _> = control::get(&self.directories, "/v1/status").await;
        let status = match status {
            Ok(status) => status,
            Err(error) => {
                // Each further question would take its whole deadline.
                lacks_views(archive, &error);
                return Ok(());
            }
        };
        self.data_directory.clone_from(&status.data_directory);
        self.docker_socket.clone_from(&status.docker_socket);
        add_json(archive, "views/status.json", &status)?;
        for view in VIEWS {
            let name = format!("views/{view}.json");
            let shown: Result<Value, _> =
                control::get(&self.directories, &format!("/v1/{view}")).await;
            match shown {
                Ok(shown) => add_json(archive, &name, &shown)?,
                Err(error) => archive.lacks(&name, &format!("{:#}", anyhow::Error::from(error))),
            }
        }
        Ok(())
    }

    async fn docker(&self, archive: &mut Archive) -> Result<()> {
        let engine = EngineClient::new(&self.docker_socket);
        match timeout(ENGINE_TIME_MAX, engine.description()).await {
            Ok(Ok(description)) => {
                add_json(archive, "docker/version.json", &description.version)?;
                add_json(archive, "docker/info.json", &description.info)?;
                add_json(archive, "docker/networks.json", &description.networks)?;
            }
            Ok(Err(error)) => archive.lacks("docker", &error.to_string()),
            Err(_) => archive.lacks(
                "docker",
                &format!("Docker does not answer within {} s", ENGINE_TIME_MAX.as_secs()),
            ),
        }
        Ok(())
    }

    /// The end of the daemon's log.
    async fn log(&self, archive: &mut Archive) -> Result<()> {
        let path = self.directories.run_dir.join(LAST_RUN_FILE);
        let last: Option<LastRun> = read_at_most(&path, LAST_RUN_BYTES_MAX)
            .ok()
            .and_then(|text| serde_json::from_slice(&text).ok());
        if let Some(last) = &last {
            add_json(archive, "state/daemon.json", last)?;
        }
        let path = match last.map(|last| last.log) {
            Some(LogPlace::Journal) => {
                let line = [
                    "journalctl",
                    "--unit=shoutd",
                    "--no-pager",
                    "--output=short-iso",
                    "--lines",
                    JOURNAL_LINES,
                ];
                return run(archive, "log.txt", &line).await;
            }
            Some(LogPlace::File(path)) => path,
            Some(LogPlace::Elsewhere) | None => PathBuf::from(DEFAULT_LOG),
        };
        match read_end(&path) {
            Ok(text) => archive.add("log.txt", &text, &format!("the end of {}", path.display())),
            Err(error) => {
                archive.lacks("log.txt", &format!("{}: {error}", path.display()));
                Ok(())
            }
        }
    }

    /// The last start's address and peers, and the sizes of the files of the data directory.
    fn state(&self, archive: &mut Archive) -> Result<()> {
        let path = self.data_directory.join(START_FILE);
        match read_at_most(&path, FILE_BYTES_MAX) {
            Ok(text) => add_json(archive, "state/start.json", &settings(&text))?,
            Err(error) => archive.lacks("state/start.json", &error.to_string()),
        }
        let mut lines = Vec::new();
        list(&self.data_directory, 0, &mut lines);
        let text = if lines.is_empty() { "none\n".to_owned() } else { lines.concat() };
        archive.add("state/files.txt", text.as_bytes(), "mode, owner, size and name; no contents")
    }
}

/// The address and the peers of the last start.
fn settings(text: &[u8]) -> Value {
    let whole: Value = serde_json::from_slice(text).unwrap_or_default();
    let known = ["advertise_address", "advertise_by", "peer_addresses"];
    known.into_iter().filter_map(|name| Some((name.to_owned(), whole.get(name)?.clone()))).collect()
}

fn lacks_views(archive: &mut Archive, error: &ControlError) {
    let mut text = error.to_string();
    if let Some(source) = std::error::Error::source(error) {
        text = format!("{text}: {source}");
    }
    archive.lacks("views", &text);
}

/// Sizes of files, also in subdirectories of the first level.
fn list(directory: &Path, depth: usize, lines: &mut Vec<String>) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let Ok(metadata) = entry.path().symlink_metadata() else { continue };
        if lines.len() >= STATE_FILES_MAX {
            return;
        }
        lines.push(format!(
            "{:o} {}:{} {} {}\n",
            metadata.mode(),
            metadata.uid(),
            metadata.gid(),
            metadata.size(),
            entry.path().display()
        ));
        if metadata.is_dir() && depth == 0 {
            list(&entry.path(), depth + 1, lines);
        }
    }
}

/// The segments of this host: devices, tables and filters of each namespace.
async fn segments(archive: &mut Archive) -> Result<()> {
    let entries = fs::read_dir(NAMESPACES).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| namespace_vni(name).is_some())
        .collect();
    names.sort();
    if let Some(surplus) = names.len().checked_sub(NAMESPACES_MAX).filter(|surplus| *surplus > 0) {
        archive.lacks("segments", &format!("{surplus} of {} namespaces left out", names.len()));
    }
    for namespace in names.iter().take(NAMESPACES_MAX) {
        for (name, line) in SEGMENT_PROGRAMS {
            let inside = ["ip", "netns", "exec", namespace];
            let line: Vec<&str> = inside.iter().chain(line).copied().collect();
            run(archive, &format!("segments/{namespace}/{name}"), &line).await?;
        }
    }
    Ok(())
}

async fn run(archive: &mut Archive, name: &str, line: &[&str]) -> Result<()> {
    match programs::output(line, FILE_BYTES_MAX).await {
        Ok((text, is_cut)) => {
            let cut = if is_cut { ", cut off" } else { "" };
            archive.add(name, &text, &format!("{}{cut}", line.join(" ")))
        }
        Err(error) => {
            archive.lacks(name, &error.to_string());
            Ok(())
        }
    }
}

fn add_json(archive: &mut Archive, name: &str, value: &impl serde::Serialize) -> Result<()> {
    archive.add(name, &serde_json::to_vec_pretty(value)?, "")
}

/// A file of `/proc`, whose size is not known in advance.
fn read_proc(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut text = Vec::new();
    File::open(path)?.take(FILE_BYTES_MAX).read_to_end(&mut text)?;
    Ok(text)
}

fn read_end(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let size = file.metadata()?.len();
    file.seek(SeekFrom::Start(size.saturating_sub(LOG_BYTES_MAX)))?;
    let mut text = Vec::new();
    file.take(LOG_BYTES_MAX).read_to_end(&mut text)?;
    Ok(text)
}
