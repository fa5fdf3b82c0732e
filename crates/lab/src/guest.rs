//! Tests on Debian 12's kernel instead of the machine's, in a minimal virtual machine without
//! hardware support.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::build_directory::build_directory;
use crate::debian;
use crate::image::libraries;
use crate::wait::wait_until;

/// How long the virtual machine may run: it boots in seconds, and tests are ten times as slow as
/// elsewhere.
const DEADLINE: Duration = Duration::from_secs(600);

/// Kernel modules that the data plane needs in Debian, and any implementation of `crc32c`, which
/// they need without declaring it.
const MODULES: [&str; 13] = [
    "crc32c_generic",
    "bridge",
    "veth",
    "vxlan",
    "nf_tables",
    "nft_meta_bridge",
    "nft_limit",
    "nft_dup_netdev",
    "nft_chain_nat",
    "nft_masq",
    "nft_ct",
    "8021q",
    "wireguard",
];

/// Programs that the tests run.
const PROGRAMS: [&str; 3] = ["/usr/sbin/bridge", "/usr/bin/ip", "/usr/sbin/nft"];

/// The console's last line.
const END: &str = "all tests are done";

/// Runs these tests of a test program on Debian 12's kernel, with these environment variables, and
/// returns the console's output.
///
/// # Errors
///
/// Fails when the kernel cannot be downloaded, when qemu does not run, and when the tests do not
/// end in time, with the end of the output.
pub fn run_on_older_kernel(
    program: &Path,
    tests: &[&str],
    environment: &[(&str, &str)],
) -> Result<String> {
    let root = debian::bookworms_kernel()?;
    let name = program.file_name().and_then(|name| name.to_str()).context("a file name")?;
    // Tests of one process run at the same time.
    let work = build_directory()?.join(format!("guest-{}-{name}", std::process::id()));
    fs::create_dir_all(&work).with_context(|| format!("make {}", work.display()))?;
    let shown = pack(&root, program, tests, environment, &work)
        .and_then(|image| boot(&root, &image, &work));
    fs::remove_dir_all(&work).with_context(|| format!("remove {}", work.display()))?;
    shown
}

/// Packs the initial file system.
fn pack(
    root: &Path,
    program: &Path,
    tests: &[&str],
    environment: &[(&str, &str)],
    work: &Path,
) -> Result<PathBuf> {
    let tree = work.join("root");
    for directory in ["bin", "modules", "proc", "sys", "dev", "tmp", "run"] {
        let directory = tree.join(directory);
        fs::create_dir_all(&directory).with_context(|| format!("make {}", directory.display()))?;
    }
    let test_program = program.to_str().context("the test program's path is not valid UTF-8")?;
    for file in PROGRAMS.into_iter().chain([test_program]) {
        let path = Path::new(file);
        copy(path, &tree.join("bin").join(path.file_name().context("a file name")?))?;
        for library in libraries(file)? {
            copy(&library, &tree.join(library.strip_prefix("/").unwrap_or(&library)))?;
        }
    }
    copy(Path::new("/usr/bin/busybox"), &tree.join("bin/busybox"))?;
    let modules = modules(root)?;
    let mut loads = String::new();
    for module in &modules {
        let name = module.file_name().and_then(|name| name.to_str()).context("a file name")?;
        copy(module, &tree.join("modules").join(name))?;
        loads.push_str(&format!("insmod /modules/{name}\n"));
    }
    let name = program.file_name().and_then(|name| name.to_str()).context("a file name")?;
    let variables: String =
        environment.iter().map(|(name, value)| format!("export {name}={value}\n")).collect();
    let runs: String =
        tests.iter().map(|test| format!("/bin/{name} --test-threads=1 --exact {test}\n")).collect();
    let init = format!(
        "#!/bin/busybox sh\n/bin/busybox --install -s /bin 2>/dev/null\nexport \
         PATH=/bin\n{variables}mount -t proc proc /proc; mount -t sysfs sysfs /sys; mount -t \
         devtmpfs devtmpfs /dev\nmount -t tmpfs tmpfs /tmp; mount -t tmpfs tmpfs /run; mkdir -p \
         /run/netns\n{loads}ip link set lo up\necho kernel $(uname -r)\n{runs}echo \
         {END}\npoweroff -f\n"
    );
    let path = tree.join("init");
    fs::write(&path, init).with_context(|| format!("write {}", path.display()))?;
    let image = work.join("image");
    let script =
        format!("chmod +x init && find . | busybox cpio -o -H newc > '{}'", image.display());
    let packed = Command::new("sh")
        .args(["-c", &script])
        .current_dir(&tree)
        .output()
        .context("run busybox cpio")?;
    ensure!(
        packed.status.success(),
        "busybox cpio failed: {}",
        String::from_utf8_lossy(&packed.stderr).trim()
    );
    Ok(image)
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

/// The modules' files, in the order of their dependencies.
fn modules(root: &Path) -> Result<Vec<PathBuf>> {
    let mut known = BTreeMap::new();
    find_modules(&root.join("lib/modules"), &mut known)?;
    let mut order = Vec::new();
    for module in MODULES {
        add_module(module, &known, &mut order)?;
    }
    Ok(order)
}

fn find_modules(directory: &Path, known: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    for entry in fs::read_dir(directory).with_context(|| format!("list {}", directory.display()))? {
        let entry = entry.with_context(|| format!("list {}", directory.display()))?;
        let path = entry.path();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            find_modules(&path, known)?;
        } else if let Some(name) =
            path.file_name().and_then(|name| name.to_str()?.strip_suffix(".ko"))
        {
            known.insert(name.replace('-', "_"), path);
        }
    }
    Ok(())
}

/// Adds a module after its dependencies (`depends=` in its section `.modinfo`).
fn add_module(
    name: &str,
    known: &BTreeMap<String, PathBuf>,
    order: &mut Vec<PathBuf>,
) -> Result<()> {
    // A module without a file is built into the kernel.
    let Some(path) = known.get(name).filter(|path| !order.contains(*path)) else { return Ok(()) };
    let octets = fs::read(path).with_context(|| format!("read {}", path.display()))?;
    let depends = octets.split(|octet| *octet == 0).find_map(|text| text.strip_prefix(b"depends="));
    for other in String::from_utf8_lossy(depends.unwrap_or_default())
        .split(',')
        .filter(|other| !other.is_empty())
    {
        add_module(&other.replace('-', "_"), known, order)?;
    }
    order.push(path.clone());
    Ok(())
}

/// Boots, and waits for the end of the tests.
fn boot(root: &Path, image: &Path, work: &Path) -> Result<String> {
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
    command.args([
        "--pdeathsig",
        "KILL",
        "qemu-system-x86_64",
        "-accel",
        "tcg",
        "-cpu",
        "max",
        "-m",
        "1024",
    ]);
    command.args([
        "-nographic",
        "-no-reboot",
        "-nic",
        "none",
        "-append",
        "console=ttyS0 panic=-1 quiet",
    ]);
    command.arg("-kernel").arg(kernel).arg("-initrd").arg(image);
    let child = command
        .stdin(Stdio::null())
        .stdout(output)
        .stderr(error)
        .spawn()
        .context("run qemu-system-x86_64")?;
    let mut machine = Machine(child);
    let ended = wait_until("the end of the tests in the virtual machine", DEADLINE, || {
        if read_console(&console)?.contains(END) {
            return Ok(Some(()));
        }
        match machine.0.try_wait()? {
            Some(status) => bail!("the virtual machine ended ({status})"),
            None => Ok(None),
        }
    });
    let shown = read_console(&console)?;
    ended.with_context(|| {
        let lines: Vec<&str> = shown.lines().collect();
        format!(
            "its console showed at last:\n{}",
            lines.get(lines.len().saturating_sub(30)..).unwrap_or_default().join("\n")
        )
    })?;
    Ok(shown)
}

fn read_console(path: &Path) -> Result<String> {
    let shown = fs::read(path).with_context(|| format!("read {}", path.display()))?;
    Ok(String::from_utf8_lossy(&shown).into_owned())
}

/// The virtual machine; it is killed when this is dropped.
struct Machine(Child);

impl Drop for Machine {
    fn drop(&mut self) {
        _ = self.0.kill();
        _ = self.0.wait();
    }
}
