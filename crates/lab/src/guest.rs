//! This machine's programs on Debian 12's kernel, in a virtual machine without hardware support.
//!
//! Its root file system is the machine's, read-only (9p), below one in memory (overlayfs). So it
//! has all programs, libraries and files of the machine. What it writes is lost when it ends.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::build_directory::build_directory;
use crate::debian;
use crate::wait::wait_until;

/// Kernel modules for its root file system. Everything else is loaded when it is first used.
const ROOT_MODULES: [&str; 4] = ["virtio_pci", "9pnet_virtio", "9p", "overlay"];

/// Files by which modprobe finds modules.
const INDEXES: [&str; 3] = ["modules.dep", "modules.alias", "modules.symbols"];

/// Processors of the virtual machine.
const PROCESSORS: &str = "2";

/// The first script: it finds the root file system.
const INIT: &str = "#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
for module in @MODULES@; do modprobe $module; done
mount -t 9p -o trans=virtio,version=9p2000.L,ro,cache=loose,msize=512000 root /lower
mount -t tmpfs -o size=70% tmpfs /upper
mkdir /upper/files /upper/work
mount -t overlay -o lowerdir=/lower,upperdir=/upper/files,workdir=/upper/work overlay /root
mount -t tmpfs tmpfs /root/run
cp /guest.sh /root/run/guest.sh
for directory in proc sys dev; do mount --move /$directory /root/$directory; done
exec switch_root /root /bin/sh /run/guest.sh
";

/// The second script: it prepares the system, and runs the commands.
const GUEST: &str = "export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export HOME=/root
mkdir -p /run/netns /dev/pts /dev/shm /lib/modules/$(uname -r)
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount --bind '@MODULES@' /lib/modules/$(uname -r)
ln -s /usr/bin/busybox /run/modprobe
echo /run/modprobe > /proc/sys/kernel/modprobe
ip link set lo up
echo kernel $(uname -r)
(
@COMMANDS@
) 2>&1
echo '@END@'
busybox poweroff -f
";

/// The console's last line.
const END: &str = "all commands are done";

/// Runs these lines of shell on Debian 12's kernel, with so much memory (in MiB), and returns the
/// console's output.
///
/// # Errors
///
/// Fails when the kernel cannot be downloaded, when qemu does not run, and when the commands do not
/// end within `deadline`, with the end of the output. The commands' own failures are in the output.
pub fn run_on_older_kernel(commands: &str, memory: u32, deadline: Duration) -> Result<String> {
    // Several may run at the same time.
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let root = debian::bookworms_kernel()?;
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let work = build_directory()?.join(format!("guest-{}-{number}", std::process::id()));
    fs::create_dir_all(&work).with_context(|| format!("make {}", work.display()))?;
    let shown = pack(&root, commands, &work)
        .and_then(|image| boot(&root, &image, &work, memory))
        .and_then(|machine| machine.await_end(deadline));
    fs::remove_dir_all(&work).with_context(|| format!("remove {}", work.display()))?;
    shown
}

/// Packs the initial file system.
fn pack(root: &Path, commands: &str, work: &Path) -> Result<PathBuf> {
    let modules = indexed_modules(root)?;
    let tree = work.join("initial");
    for directory in ["bin", "proc", "sys", "dev", "lower", "upper", "root"] {
        let directory = tree.join(directory);
        fs::create_dir_all(&directory).with_context(|| format!("make {}", directory.display()))?;
    }
    // Debian's is linked statically.
    copy(Path::new("/usr/bin/busybox"), &tree.join("bin/busybox"))?;
    let version = modules.file_name().context("a kernel's version")?;
    let to = tree.join("lib/modules").join(version);
    for file in INDEXES.map(PathBuf::from).into_iter().chain(root_modules(&modules)?) {
        copy(&modules.join(&file), &to.join(&file))?;
    }
    let modules = modules.to_str().context("the path of the build is not valid UTF-8")?;
    let guest =
        GUEST.replace("@MODULES@", modules).replace("@COMMANDS@", commands).replace("@END@", END);
    for (name, text) in
        [("init", INIT.replace("@MODULES@", &ROOT_MODULES.join(" "))), ("guest.sh", guest)]
    {
        let path = tree.join(name);
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
    }
    let image = work.join("image");
    let script =
        format!("chmod +x init && find . | busybox cpio -o -H newc > '{}'", image.display());
    run(Command::new("sh").args(["-c", &script]).current_dir(&tree))?;
    Ok(image)
}

fn run(command: &mut Command) -> Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| format!("run {name}"))?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{name} failed: {}", error.trim());
    Ok(())
}

/// Copies a file, and makes the directory that it goes to.
fn copy(from: &Path, to: &Path) -> Result<()> {
    if let Some(directory) = to.parent() {
        fs::create_dir_all(directory).with_context(|| format!("make {}", directory.display()))?;
    }
    fs::copy(from, to)
        .map(drop)
        .with_context(|| format!("copy {} to {}", from.display(), to.display()))
}

/// The directory of the kernel's modules, with what modprobe needs.
fn indexed_modules(root: &Path) -> Result<PathBuf> {
    let directory = root.join("lib/modules");
    let mut versions =
        fs::read_dir(&directory).with_context(|| format!("list {}", directory.display()))?;
    let version = versions.next().context("the kernel has no modules")?;
    let modules = version.with_context(|| format!("list {}", directory.display()))?.path();
    if INDEXES.iter().any(|index| !modules.join(index).exists()) {
        let version = modules.file_name().context("a kernel's version")?;
        run(Command::new("busybox").args(["depmod", "-b"]).arg(root).arg(version))?;
    }
    Ok(modules)
}

/// The files of [`ROOT_MODULES`] with their dependencies, below the directory of the modules.
fn root_modules(modules: &Path) -> Result<Vec<PathBuf>> {
    let index = modules.join("modules.dep");
    let index = fs::read_to_string(&index).with_context(|| format!("read {}", index.display()))?;
    let mut files = Vec::new();
    for name in ROOT_MODULES {
        let file = format!("/{name}.ko");
        let line = index.lines().find_map(|line| {
            let (module, others) = line.split_once(':')?;
            module.ends_with(&file).then_some((module, others))
        });
        let (module, others) = line.with_context(|| format!("the kernel has no {name}"))?;
        files.extend(others.split_whitespace().chain([module]).map(PathBuf::from));
    }
    Ok(files)
}

fn boot(root: &Path, image: &Path, work: &Path, memory: u32) -> Result<Machine> {
    let directory = root.join("boot");
    let files =
        fs::read_dir(&directory).with_context(|| format!("list {}", directory.display()))?;
    let kernel = files
        .flatten()
        .find(|entry| entry.file_name().to_string_lossy().starts_with("vmlinuz-"))
        .context("find the kernel")?
        .path();
    let console = work.join("console");
    let output = File::create(&console).with_context(|| format!("make {}", console.display()))?;
    let error = output.try_clone().context("write what the console shows")?;
    // It ends with its parent, however that ends.
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "qemu-system-x86_64", "-accel", "tcg,thread=multi"]);
    command.args(["-smp", PROCESSORS, "-cpu", "max", "-m", &memory.to_string()]);
    command.args(["-nographic", "-no-reboot", "-nic", "none"]);
    command.args(["-append", "console=ttyS0 panic=-1 quiet"]);
    command.args([
        "-virtfs",
        "local,path=/,mount_tag=root,security_model=none,readonly=on,multidevs=remap",
    ]);
    command.arg("-kernel").arg(kernel).arg("-initrd").arg(image);
    let child = command
        .stdin(Stdio::null())
        .stdout(output)
        .stderr(error)
        .spawn()
        .context("run qemu-system-x86_64")?;
    Ok(Machine { child, console })
}

/// The virtual machine; it is killed when this is dropped.
struct Machine {
    child: Child,
    /// The file with what its console shows.
    console: PathBuf,
}

impl Machine {
    /// Waits for the end of the commands, and returns what the console has shown.
    fn await_end(mut self, deadline: Duration) -> Result<String> {
        let ended = wait_until("the end of the commands in the virtual machine", deadline, || {
            if self.shown()?.lines().any(|line| line == END) {
                return Ok(Some(()));
            }
            match self.child.try_wait()? {
                Some(status) => bail!("the virtual machine ended ({status})"),
                None => Ok(None),
            }
        });
        let shown = self.shown()?;
        ended.with_context(|| {
            let lines: Vec<&str> = shown.lines().collect();
            format!(
                "its console showed at last:\n{}",
                lines.get(lines.len().saturating_sub(60)..).unwrap_or_default().join("\n")
            )
        })?;
        Ok(shown)
    }

    fn shown(&self) -> Result<String> {
        let shown =
            fs::read(&self.console).with_context(|| format!("read {}", self.console.display()))?;
        // A console ends its lines with a carriage return, too.
        Ok(String::from_utf8_lossy(&shown).replace('\r', ""))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}
