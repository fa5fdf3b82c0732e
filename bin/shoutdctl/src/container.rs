//! shoutd in a container of the engine that it serves.
//!
//! The daemon works on the host's network, mounts and processes, so the container shares them. It
//! has its programs only.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::unistd::Pid;
use shoutd_cli::{Configuration, TOKEN_VARIABLE};
use tokio::process::Command;
use tokio::time::timeout;

/// Name of the container.
pub const NAME: &str = "shoutd";

/// Default of `--image`.
pub const IMAGE: &str = "shoutd";

/// Directory of everything that runs: shoutd's sockets and Docker's, and the mounts of network
/// namespaces, which must be seen by both (mount_namespaces(7), "shared").
const RUN: &str = "/run";

/// The same directory, by its older name.
const OLD_RUN: &str = "/var/run";

/// Directory of the configuration, which need not exist.
const SETTINGS: &str = "/etc/shoutd";

/// The device by which WireGuard in user space makes its interface. Hosts whose kernel has no `tun`
/// have none.
const TUN: &str = "/dev/net/tun";

/// When the engine starts the container again: always, unless a user stopped it.
const RESTART: &str = "unless-stopped";

/// What the daemon keeps of root's capabilities, wherever it runs.
const CAPABILITIES: [&str; 7] = [
    "NET_ADMIN",
    "NET_BROADCAST",
    "NET_RAW",
    "NET_BIND_SERVICE",
    "SYS_ADMIN",
    "SYS_PTRACE",
    "DAC_OVERRIDE",
];

/// The engine's usual confinement of containers, which the daemon cannot work in: mount(2),
/// setns(2) and `/proc/sys` are forbidden there. Where the host has no AppArmor or SELinux, nothing
/// happens.
const CONFINEMENT: [&str; 4] =
    ["seccomp=unconfined", "apparmor=unconfined", "label=disable", "systempaths=unconfined"];

/// How long a `docker` command may take. The engine gives a container that it stops 10 s.
const DOCKER_TIME_MAX: Duration = Duration::from_secs(60);

/// Runs shoutd in a container, which the engine starts again whenever it starts. Prints the command
/// line, without the token.
///
/// # Errors
/// There is no such image, there is such a container already, or the engine fails.
pub async fn run(image: &str, configuration: &Configuration, token: Option<&str>) -> Result<()> {
    let socket = &configuration.start.docker_socket;
    if state(socket, "{{.State.Status}}").await?.is_some() {
        bail!(
            "there is a container {NAME} already; type docker start {NAME} to start it as it was, \
             or docker rm {NAME} first to give it other options: the host's data stays"
        );
    }
    let found = docker(socket, &["image".into(), "inspect".into(), image.into()]).await?;
    if !found.is_success {
        bail!(
            "the engine has no image {image}; load the one of this version first: docker load \
             --input shoutd-{}-x86_64-image.tar.gz",
            env!("CARGO_PKG_VERSION")
        );
    }
    let root = docker(socket, &["info", "--format={{.DockerRootDir}}"].map(OsString::from)).await?;
    let root = PathBuf::from(root.checked()?.trim());
    let line = command_line(image, configuration, &root, token.is_some());
    let shown: Vec<_> = line.iter().map(|word| word.to_string_lossy()).collect();
    println!("running: docker {}", shown.join(" "));
    let mut command = command(socket);
    if let Some(token) = token {
        // Not as an argument, which every user of the host can read.
        command.env(TOKEN_VARIABLE, token);
    }
    let run = output(command.args(&line)).await?.checked();
    if run.is_err() {
        // One that could not be started is left behind.
        remove(socket).await?;
    }
    run.map(drop)
}

/// Whether this daemon is the container's. On a host without Docker's command line it is not.
pub async fn runs(socket: &Path, daemon: Pid) -> bool {
    let pid = state(socket, "{{.State.Pid}}").await;
    matches!(pid, Ok(Some(pid)) if pid == daemon.to_string())
}

/// The line in which the container's daemon logged why it ended.
pub async fn last_error(socket: &Path) -> Option<String> {
    let logged = docker(socket, &["logs", "--tail=20", NAME].map(OsString::from)).await.ok()?;
    let mut lines = logged.stderr.lines().rev();
    lines.find_map(|line| line.strip_prefix("shoutd: ")).map(str::to_owned)
}

/// Stops the container: if only the daemon ended, the engine would start it again.
///
/// # Errors
/// The engine fails.
pub async fn stop(socket: &Path) -> Result<()> {
    docker(socket, &["stop", NAME].map(OsString::from)).await?.checked().map(drop)
}

/// Sets whether the engine starts the container again when it ends.
///
/// # Errors
/// The engine fails.
pub async fn set_restart(socket: &Path, again: bool) -> Result<()> {
    let policy = if again { RESTART } else { "no" };
    let line = ["update", "--restart", policy, NAME].map(OsString::from);
    docker(socket, &line).await?.checked().map(drop)
}

/// Removes the container.
///
/// # Errors
/// The engine fails.
pub async fn remove(socket: &Path) -> Result<()> {
    docker(socket, &["rm", "--force", NAME].map(OsString::from)).await?.checked().map(drop)
}

/// The output of `docker inspect` with this template; `None` if there is no such container.
async fn state(socket: &Path, template: &str) -> Result<Option<String>> {
    let line = ["container", "inspect", "--format", template, NAME].map(OsString::from);
    let inspected = docker(socket, &line).await?;
    Ok(inspected.is_success.then(|| inspected.stdout.trim().to_owned()))
}

/// The arguments of `docker` that run the container.
fn command_line(
    image: &str,
    configuration: &Configuration,
    engine_root: &Path,
    has_token: bool,
) -> Vec<OsString> {
    let (arguments, directories) = (&configuration.start, &configuration.directories);
    let mut line: Vec<OsString> = [
        "run",
        "--detach",
        "--name",
        NAME,
        "--restart",
        RESTART,
        "--network=host",
        "--pid=host",
        "--uts=host",
        "--cap-drop=ALL",
    ]
    .map(OsString::from)
    .to_vec();
    line.extend(CAPABILITIES.map(|name| format!("--cap-add={name}").into()));
    line.extend(CONFINEMENT.map(|kind| format!("--security-opt={kind}").into()));
    // The engine refuses a device that does not exist.
    if Path::new(TUN).exists() {
        line.push(format!("--device={TUN}").into());
    }
    let mut volume = |path: &Path, options: &str| {
        let mut text = OsString::from("--volume=");
        text.push(path);
        text.push(":");
        text.push(path);
        text.push(options);
        line.push(text);
    };
    volume(Path::new(RUN), ":rshared");
    volume(&arguments.data_dir, "");
    // The hosts files of containers are there.
    volume(engine_root, ":rslave");
    if Path::new(SETTINGS).exists() {
        volume(Path::new(SETTINGS), ":ro");
    }
    let sockets = [&arguments.docker_socket, &arguments.plugin_socket, &directories.run_dir];
    let directories_of_sockets = sockets.map(|path| path.parent().unwrap_or(path));
    for directory in directories_of_sockets {
        if !directory.starts_with(RUN) && !directory.starts_with(OLD_RUN) {
            volume(directory, "");
        }
    }
    if has_token {
        // Its value comes from our environment.
        line.push(format!("--env={TOKEN_VARIABLE}").into());
    }
    line.push(image.into());
    // The cluster remembers it, and another host may change it.
    line.extend(configuration.command_line_without(&["encrypt"]));
    line
}

/// What a `docker` command printed.
struct Printed {
    is_success: bool,
    stdout: String,
    stderr: String,
}

impl Printed {
    fn checked(self) -> Result<String> {
        if !self.is_success {
            let lines: Vec<_> = self.stderr.lines().collect();
            bail!("the Docker Engine refuses it: {}", lines.join(" "));
        }
        Ok(self.stdout)
    }
}

async fn docker(socket: &Path, arguments: &[OsString]) -> Result<Printed> {
    output(command(socket).args(arguments)).await
}

fn command(socket: &Path) -> Command {
    let mut command = Command::new("docker");
    command
        .env("DOCKER_HOST", format!("unix://{}", socket.display()))
        .env_remove("DOCKER_CONTEXT")
        .env_remove(TOKEN_VARIABLE);
    command
}

async fn output(command: &mut Command) -> Result<Printed> {
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output();
    let output = timeout(DOCKER_TIME_MAX, output).await;
    let output = output.context("the Docker Engine does not answer")?;
    let output = output.context("cannot run `docker`, Docker's command line")?;
    Ok(Printed {
        is_success: output.status.success(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boot::tests::configuration;

    fn line(words: &[&str], has_token: bool) -> String {
        let line = command_line(IMAGE, &configuration(words), Path::new("/srv/docker"), has_token);
        let words: Vec<_> = line.into_iter().map(|word| word.into_string().unwrap()).collect();
        words.join(" ")
    }

    #[test]
    fn the_container_shares_what_the_daemon_works_on() {
        let usual = line(&["10.0.0.1", "--peer-addresses=10.0.0.2"], true);
        for words in [
            "--network=host --pid=host",
            "--cap-drop=ALL --cap-add=NET_ADMIN",
            "--security-opt=systempaths=unconfined",
            "--volume=/run:/run:rshared",
            "--volume=/var/lib/shoutd:/var/lib/shoutd",
            "--volume=/srv/docker:/srv/docker:rslave",
            "--env=SHOUTD_TOKEN shoutd ",
        ] {
            assert!(usual.contains(words), "{words:?} is not in {usual}");
        }
        assert!(!usual.contains("--volume=/var/run"), "{usual}");
        assert_eq!(usual.contains(" --device=/dev/net/tun "), Path::new(TUN).exists(), "{usual}");
        let other = line(&["--docker-socket=/srv/run/docker.sock", "--data-dir=/srv/data"], false);
        assert!(!other.contains("SHOUTD_TOKEN"), "{other}");
        for volume in ["--volume=/srv/run:/srv/run", "--volume=/srv/data:/srv/data"] {
            assert!(other.contains(volume), "{other}");
        }
    }
}
