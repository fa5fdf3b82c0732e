//! Hosts that are whole machines: an installed Debian 12 with its own kernel, systemd and Docker
//! Engine, in virtual machines without hardware support. They show what hosts of namespaces cannot:
//! shoutd with systemd, reboots and power failures.
//!
//! Commands reach them through QEMU's guest agent, over a serial line.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::net::Ipv4Addr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use crate::build_directory::build_directory;
use crate::layout;
use crate::wait::wait_until;
use crate::{debian, image};

/// How long a host may take to boot. On an idle machine this takes a minute, ten times as long as
/// on hardware; builds on the machine slow it down further.
const BOOT_DEADLINE: Duration = Duration::from_secs(900);

/// How long a command may take.
const COMMAND_DEADLINE: Duration = Duration::from_secs(600);

/// How long the agent may take to answer, if it runs.
const ANSWER_DEADLINE: Duration = Duration::from_secs(10);

/// The name of the agent's serial port.
const AGENT_PORT: &str = "org.qemu.guest_agent.0";

/// Two virtual machines that a cable connects. They end when this is dropped, and nothing is left.
#[derive(Debug)]
pub struct VirtualHosts {
    hosts: Vec<VirtualHost>,
    directory: PathBuf,
}

impl VirtualHosts {
    /// Boots both, with an address each, the lab's image for containers, and `files` in `/root`.
    ///
    /// # Errors
    ///
    /// Fails when Debian cannot be installed on a disk, or a host does not boot in time.
    pub fn boot(files: &[&Path]) -> Result<Self> {
        let system = debian::bookworms_system()?;
        let directory = build_directory()?.join(format!("virtual-{}", std::process::id()));
        fs::create_dir_all(&directory).with_context(|| format!("make {}", directory.display()))?;
        let mut hosts = Self { hosts: Vec::new(), directory };
        let additions = hosts.additions(files)?;
        for number in [1, 2] {
            let host = VirtualHost::power_on(number, &hosts.directory, &system, &additions)?;
            hosts.hosts.push(host);
        }
        for host in &hosts.hosts {
            host.await_boot("")?;
            host.set_up()?;
        }
        // The machines have the files open; unlinked now, they cannot be left behind.
        for disk in [additions, hosts.directory.join("disk1"), hosts.directory.join("disk2")] {
            fs::remove_file(&disk).with_context(|| format!("remove {}", disk.display()))?;
        }
        Ok(hosts)
    }

    /// Both hosts.
    ///
    /// # Errors
    ///
    /// None, once they have booted.
    pub fn both(&self) -> Result<[&VirtualHost; 2]> {
        match self.hosts.as_slice() {
            [first, second] => Ok([first, second]),
            others => bail!("there are {} hosts", others.len()),
        }
    }

    /// A disk with the files that are copied to the hosts.
    fn additions(&self, files: &[&Path]) -> Result<PathBuf> {
        let (tree, disk) =
            (self.directory.join("additions"), self.directory.join("additions.disk"));
        fs::create_dir(&tree).with_context(|| format!("make {}", tree.display()))?;
        for file in files {
            let name = file.file_name().context("a file has no name")?;
            fs::copy(file, tree.join(name)).with_context(|| format!("copy {}", file.display()))?;
        }
        image::build(&tree.join("image.tar"))?;
        let made = Command::new("mke2fs")
            .args(["-q", "-t", "ext4", "-d"])
            .args([&tree, &disk])
            .arg("1G")
            .output();
        let made = made.context("run mke2fs")?;
        ensure!(
            made.status.success(),
            "mke2fs failed: {}",
            String::from_utf8_lossy(&made.stderr).trim()
        );
        fs::remove_dir_all(&tree).with_context(|| format!("remove {}", tree.display()))?;
        Ok(disk)
    }
}

impl Drop for VirtualHosts {
    fn drop(&mut self) {
        self.hosts.clear();
        _ = fs::remove_dir_all(&self.directory);
    }
}

/// One of the two virtual machines.
#[derive(Debug)]
pub struct VirtualHost {
    number: u8,
    directory: PathBuf,
    machine: Child,
}

impl VirtualHost {
    fn power_on(number: u8, directory: &Path, system: &Path, additions: &Path) -> Result<Self> {
        let [disk, console_file, agent] =
            ["disk", "console", "agent"].map(|what| directory.join(format!("{what}{number}")));
        // Keeps holes.
        let copied =
            Command::new("cp").arg("--sparse=always").arg(system.join("disk")).arg(&disk).status();
        ensure!(copied.context("run cp")?.success(), "the disk of host {number} cannot be copied");
        let console = File::create(console_file).context("make a file for what a console shows")?;
        let errors = console.try_clone().context("write what a console shows")?;
        // The first one serves the cable's socket, and the second one connects to it.
        let cable = directory.join("cable");
        let end = if number == 1 { "on" } else { "off" };
        // It ends with its parent, however that ends.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "qemu-system-x86_64", "-nographic"]);
        command.args(["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "2048"]);
        command
            .arg("-kernel")
            .arg(system.join("vmlinuz"))
            .arg("-initrd")
            .arg(system.join("initrd"));
        command.args(["-append", "root=/dev/vda rw console=ttyS0 net.ifnames=0 panic=-1 quiet"]);
        command.args([
            "-drive",
            &format!("file={},if=virtio,format=raw,cache=unsafe", disk.display()),
            "-drive",
            &format!("file={},if=virtio,format=raw,readonly=on", additions.display()),
        ]);
        command.args(["-device", "virtio-serial"]);
        command.args([
            "-chardev",
            &format!("socket,id=agent,path={},server=on,wait=off", agent.display()),
        ]);
        command.args(["-device", &format!("virtserialport,chardev=agent,name={AGENT_PORT}")]);
        command.args([
            "-netdev",
            &format!("stream,id=cable,server={end},addr.type=unix,addr.path={}", cable.display()),
        ]);
        command
            .args(["-device", &format!("virtio-net-pci,netdev=cable,mac={}", layout::mac(number))]);
        let machine = command.stdin(Stdio::null()).stdout(console).stderr(errors).spawn();
        let mut host = Self {
            number,
            directory: directory.to_owned(),
            machine: machine.context("run qemu-system-x86_64")?,
        };
        wait_until("the start of a virtual machine", ANSWER_DEADLINE, || {
            host.ensure_runs()?;
            Ok((cable.exists() && agent.exists()).then_some(()))
        })?;
        Ok(host)
    }

    /// Its address on the cable.
    #[must_use]
    pub fn address(&self) -> Ipv4Addr {
        layout::address(self.number)
    }

    /// Runs a script of the shell there, as root, and returns what it printed to its standard
    /// output.
    ///
    /// # Errors
    ///
    /// Fails when the script does, with what it printed, and when it takes longer than minutes.
    pub fn sh(&self, script: &str) -> Result<String> {
        self.try_sh(script).with_context(|| format!("host{}$ {script}", self.number))
    }

    fn try_sh(&self, script: &str) -> Result<String> {
        let mut agent = self.agent()?;
        let begun = agent.ask(
            "guest-exec",
            &json!({"path": "/bin/sh", "arg": ["-c", script], "capture-output": true}),
        );
        let pid = begun?["pid"].clone();
        let ended = wait_until("the end of the command", COMMAND_DEADLINE, || {
            let status = agent.ask("guest-exec-status", &json!({ "pid": pid }))?;
            Ok((status["exited"] == true).then_some(status))
        })?;
        let printed = decode(&ended["out-data"])?;
        let errors = decode(&ended["err-data"])?;
        let code = &ended["exitcode"];
        ensure!(*code == 0, "failed ({code}): {printed}{errors}");
        Ok(printed)
    }

    /// Reboots it as an administrator does, and returns when systemd has started everything.
    ///
    /// # Errors
    ///
    /// Fails when it does not come back in time.
    pub fn reboot(&self) -> Result<()> {
        let before = self.boot_id()?;
        self.begin("systemctl reboot")?;
        self.await_boot(&before)
    }

    /// Lets its power fail for an instant: nothing ends in order, and what is not on its disk is
    /// lost. Returns the argument for [`VirtualHost::await_boot`], which waits until it is back.
    ///
    /// # Errors
    ///
    /// Fails when it does not take commands.
    pub fn fail(&self) -> Result<String> {
        let before = self.boot_id()?;
        self.begin("echo b > /proc/sysrq-trigger")?;
        Ok(before)
    }

    /// Starts a script after which it no longer answers.
    fn begin(&self, script: &str) -> Result<()> {
        self.agent()?.send("guest-exec", &json!({"path": "/bin/sh", "arg": ["-c", script]}))
    }

    /// Waits until it has booted, in another boot than that of this identifier, and systemd has
    /// started everything.
    ///
    /// # Errors
    ///
    /// Fails when it does not in time, with the end of what its console showed.
    pub fn await_boot(&self, before: &str) -> Result<()> {
        let booted = wait_until("a virtual machine to boot", BOOT_DEADLINE, || {
            let Ok(boot) = self.boot_id() else { return Ok(None) };
            Ok((boot != before).then_some(()))
        });
        booted
            .and_then(|()| self.sh("systemctl is-system-running --wait || systemctl --failed"))
            .map(drop)
            .with_context(|| {
                let shown = fs::read(self.directory.join(format!("console{}", self.number)))
                    .unwrap_or_default();
                let shown = String::from_utf8_lossy(&shown).into_owned();
                let lines: Vec<&str> = shown.lines().collect();
                let end =
                    lines.get(lines.len().saturating_sub(30)..).unwrap_or_default().join("\n");
                format!("the console of host {} showed at last:\n{end}", self.number)
            })
    }

    fn boot_id(&self) -> Result<String> {
        self.sh("cat /proc/sys/kernel/random/boot_id")
    }

    /// Sets the host up as an administrator does: name, address, files.
    fn set_up(&self) -> Result<()> {
        let (number, address) = (self.number, self.address());
        self.sh(&format!(
            "set -e; hostnamectl hostname host{number}; echo 127.0.1.1 host{number} >> /etc/hosts
            printf '[Match]\nName=eth0\n[Network]\nAddress={address}/24\nIPv6AcceptRA=no\n' > \
             /etc/systemd/network/cable.network
            networkctl reload
            mount -o ro /dev/vdb /mnt; docker import /mnt/image.tar {}
            find /mnt -type f ! -name image.tar -exec cp '{{}}' /root ';'; umount /mnt",
            image::IMAGE
        ))
        .map(drop)
    }

    fn agent(&self) -> Result<Agent> {
        Agent::connect(&self.directory.join(format!("agent{}", self.number)))
    }

    fn ensure_runs(&mut self) -> Result<()> {
        let ended = self.machine.try_wait().context("wait for a virtual machine")?;
        if ended.is_some() {
            let console = self.directory.join(format!("console{}", self.number));
            let shown = fs::read_to_string(console).unwrap_or_default();
            bail!("the virtual machine ended: {shown}");
        }
        Ok(())
    }
}

impl Drop for VirtualHost {
    fn drop(&mut self) {
        _ = self.machine.kill();
        _ = self.machine.wait();
    }
}

/// A connection to the agent of a host: a line of JSON for each question, and one for each answer
/// (QEMU Guest Agent Protocol Reference).
struct Agent {
    lines: BufReader<UnixStream>,
}

impl Agent {
    /// Returns when the agent answers this connection and no earlier one.
    fn connect(socket: &Path) -> Result<Self> {
        let line = UnixStream::connect(socket)
            .with_context(|| format!("connect to {}", socket.display()))?;
        line.set_read_timeout(Some(ANSWER_DEADLINE))?;
        line.set_write_timeout(Some(ANSWER_DEADLINE))?;
        let mut agent = Self { lines: BufReader::new(line) };
        let mark = std::time::UNIX_EPOCH.elapsed().context("know the time")?.subsec_nanos();
        agent.send("guest-sync", &json!({ "id": mark }))?;
        while agent.receive()?["return"] != mark {}
        Ok(agent)
    }

    fn ask(&mut self, command: &str, arguments: &Value) -> Result<Value> {
        self.send(command, arguments)?;
        let mut answer = self.receive()?;
        ensure!(answer["error"].is_null(), "the agent answers {command} with {}", answer["error"]);
        Ok(answer["return"].take())
    }

    fn send(&mut self, command: &str, arguments: &Value) -> Result<()> {
        let line = format!("{}\n", json!({"execute": command, "arguments": arguments}));
        self.lines
            .get_mut()
            .write_all(line.as_bytes())
            .with_context(|| format!("tell the agent {command}"))
    }

    fn receive(&mut self) -> Result<Value> {
        let mut line = String::new();
        ensure!(
            self.lines.read_line(&mut line).context("read from the agent")? > 0,
            "the agent's line was closed"
        );
        serde_json::from_str(&line).with_context(|| format!("read the agent's answer {line:?}"))
    }
}

/// The text that the guest agent encoded in base64.
fn decode(encoded: &Value) -> Result<String> {
    let octets = BASE64_STANDARD.decode(encoded.as_str().unwrap_or_default())?;
    Ok(String::from_utf8_lossy(&octets).into_owned())
}
