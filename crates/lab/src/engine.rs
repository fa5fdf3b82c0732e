//! The Docker Engine of a host: Debian's containerd and dockerd, with as few settings as possible.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::host::Host;
use crate::image::IMAGE;
use crate::layout::GATEWAY;
use crate::wait::wait_until;

/// How long an engine may take to serve its API: seconds, but many may start at once on two cores.
const START_DEADLINE: Duration = Duration::from_secs(90);

/// How long an engine may take to stop: it gives each container 10 s.
const STOP_DEADLINE: Duration = Duration::from_secs(60);

/// How long the API may take to answer a ping.
const PING_DEADLINE: Duration = Duration::from_secs(5);

/// containerd's configuration for containers only: its other parts take time to start.
const CONTAINERD_CONFIG: &str = r#"version = 2
disabled_plugins = ["io.containerd.grpc.v1.cri"]
"#;

impl Host {
    /// Starts the host's engine, and its containerd if that does not run; returns when the API
    /// answers.
    ///
    /// # Errors
    ///
    /// Fails when the engine ends or does not answer in 90 s, with the end of its log.
    pub fn start_engine(&self) -> Result<()> {
        if self.pids_of("containerd")?.is_empty() {
            let config = self.file("/run/containerd.toml")?;
            fs::write(&config, CONTAINERD_CONFIG)
                .with_context(|| format!("write {}", config.display()))?;
            self.start_daemon("containerd", "containerd --config /run/containerd.toml")?;
            self.wait_serving("containerd", "/run/containerd/containerd.sock", |_| true)?;
        }
        self.start_daemon("dockerd", "dockerd")?;
        self.wait_serving("dockerd", "/run/docker.sock", answers_ping)
    }

    /// Stops the host's engine, and with it all containers, as a service manager does; containerd
    /// stays.
    ///
    /// # Errors
    ///
    /// Fails when it does not run or does not end in a minute.
    pub fn stop_engine(&self) -> Result<()> {
        let pids = self.pids_of("dockerd")?;
        if pids.is_empty() {
            bail!("no engine runs on {}", self.name());
        }
        self.signal("TERM", &pids)?;
        self.wait_gone("dockerd", &pids, STOP_DEADLINE)
    }

    /// Kills the host's engine with `SIGKILL`; its containers stay.
    ///
    /// # Errors
    ///
    /// Fails when it does not run.
    pub fn kill_engine(&self) -> Result<()> {
        self.kill_all("dockerd")
    }

    /// The log of the host's engine since the host was made.
    ///
    /// # Errors
    ///
    /// Fails when there is none.
    pub fn engine_log(&self) -> Result<String> {
        self.log("dockerd")
    }

    /// Writes dockerd's configuration, once per host; tests may change it later.
    pub(crate) fn configure_engine(&self) -> Result<()> {
        let path = self.file("/etc/docker/daemon.json")?;
        let settings = serde_json::json!({
            "containerd": "/run/containerd/containerd.sock",
            "cgroup-parent": format!("/{}/{}", self.layout.cgroup(), self.name()),
            // The machine's service manager does not know the lab's hosts.
            "exec-opts": ["native.cgroupdriver=cgroupfs"],
            "storage-driver": self.storage_driver()?,
            // Otherwise dockerd uses 8.8.8.8, because the host's own server is on its loopback. The
            // lab's name server answers at once.
            "dns": [GATEWAY.to_string()],
        });
        fs::write(&path, serde_json::to_string_pretty(&settings)?)
            .with_context(|| format!("write {}", path.display()))
    }

    /// Loads the lab's image.
    pub(crate) fn import_image(&self, tar: &Path) -> Result<()> {
        self.docker(["import", &tar.to_string_lossy(), IMAGE]).map(|_| ())
    }

    /// The contents of a daemon's log.
    pub(crate) fn log(&self, daemon: &str) -> Result<String> {
        let path = self.log_file(daemon);
        fs::read(&path)
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .with_context(|| format!("read the log of {daemon} on {}", self.name()))
    }

    /// Starts a daemon whose parent is the host's first process, with its output appended to its
    /// log.
    pub(crate) fn start_daemon(&self, name: &str, command: &str) -> Result<()> {
        // The process exists before the shell ends, so that a search for it succeeds.
        self.sh(&format!("exec </dev/null >>/var/log/{name}.log 2>&1; setsid {command} &"))
            .map(|_| ())
    }

    /// Waits until a daemon serves its socket and `check` accepts a connection to it.
    fn wait_serving(
        &self,
        name: &str,
        socket: &str,
        check: impl Fn(UnixStream) -> bool,
    ) -> Result<()> {
        let socket = self.file(socket)?;
        let mut seen = false;
        let served = wait_until(&format!("{name} on {}", self.name()), START_DEADLINE, || {
            if UnixStream::connect(&socket).is_ok_and(&check) {
                return Ok(Some(()));
            }
            // A process that has just started still has the name of the shell.
            let runs = !self.pids_of(name)?.is_empty();
            if seen && !runs {
                bail!("{name} on {} ended", self.name());
            }
            seen |= runs;
            Ok(None)
        });
        served.with_context(|| format!("{name}'s log ends with:\n{}", self.end_of_log(name)))
    }

    fn end_of_log(&self, daemon: &str) -> String {
        let log = self.log(daemon).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines.get(lines.len().saturating_sub(12)..).unwrap_or_default().join("\n")
    }

    fn log_file(&self, daemon: &str) -> PathBuf {
        self.layout.host(self.number()).join("var-log").join(format!("{daemon}.log"))
    }

    /// `overlay2` where the file system supports it. An overlay file system, as in a container,
    /// does not.
    fn storage_driver(&self) -> Result<&'static str> {
        let script = "cd /var/lib/docker && mkdir -p try/l try/u try/w try/m &&
            mount -t overlay overlay -o lowerdir=try/l,upperdir=try/u,workdir=try/w try/m && \
                      umount try/m";
        let overlay = self.run(["sh", "-c", script])?.success();
        self.sh("rm -rf /var/lib/docker/try")?;
        Ok(if overlay { "overlay2" } else { "vfs" })
    }
}

/// Whether the Docker API answers a ping.
fn answers_ping(mut api: UnixStream) -> bool {
    let mut answer = String::new();
    let asked = api
        .set_read_timeout(Some(PING_DEADLINE))
        .and_then(|()| api.write_all(b"GET /_ping HTTP/1.0\r\n\r\n"))
        .and_then(|()| api.read_to_string(&mut answer));
    asked.is_ok() && answer.ends_with("OK")
}
