//! The first process of a host: makes the host's file system, then reaps orphaned processes.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::sethostname;

use crate::layout::{COMMANDS, Layout, MAX_HOSTS, address};
use crate::source;

/// The host's persistent directory as seen from inside.
const STATE: &str = "/run/lab";

/// The root directory of the host's engine as seen from inside, if it is not the machine's.
const ENGINE: &str = "/run/engine";

/// The host's own directories that last as long as the lab, and their names in its persistent
/// directory.
const PERSISTENT: [(&str, &str); 5] = [
    ("/etc/docker", "etc-docker"),
    ("/var/lib/docker", "var-lib-docker"),
    ("/var/lib/containerd", "var-lib-containerd"),
    ("/var/lib/shoutd", "var-lib-shoutd"),
    ("/var/log", "var-log"),
];

/// Becomes the first process of host `number`, in namespaces that are already its own. When the
/// host is ready, it prints its process id on the machine; then it runs until it is killed.
pub(super) fn run(lab: &str, number: u8) -> Result<u8> {
    let mut children = SigSet::empty();
    children.add(Signal::SIGCHLD);
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&children), None).context("block signals")?;
    // Until another one is mounted over it, /proc is the machine's, and so is the process id in it.
    let pid = fs::read_link("/proc/self").context("read /proc/self")?;
    make_file_system(&Layout::new(lab)?, number)?;
    sethostname(format!("host{number}")).context("set the host name")?;
    set_sysctls()?;
    provide_commands()?;
    let mut output = io::stdout();
    writeln!(output, "{}", pid.display()).and_then(|()| output.flush()).context("report")?;
    reap(&children)
}

fn make_file_system(layout: &Layout, number: u8) -> Result<()> {
    attach("proc", "proc", "/proc", MsFlags::MS_NOSUID | MsFlags::MS_NODEV, "")?;
    attach("tmpfs", "tmpfs", "/run", MsFlags::MS_NOSUID | MsFlags::MS_NODEV, "mode=755")?;
    make_directory(STATE)?;
    bind(&layout.host(number), STATE)?;
    renew_sys()?;
    let engine = source::of_host(&layout.read_record()?.engines, number);
    if let Some(root) = engine.root() {
        cover_usr(root)?;
    }
    // Mount points in an overlay are not made on the machine.
    for (directory, name) in [("/etc", "etc"), ("/var/lib", "var-lib")] {
        let (upper, work) = (format!("/run/overlay/{name}"), format!("/run/overlay/{name}.work"));
        make_directory(&upper)?;
        make_directory(&work)?;
        let options = format!("lowerdir={directory},upperdir={upper},workdir={work}");
        attach("overlay", "overlay", directory, MsFlags::empty(), &options)?;
    }
    for (directory, name) in PERSISTENT {
        let source = format!("{STATE}/{name}");
        make_directory(&source)?;
        make_directory(directory)?;
        bind(Path::new(&source), directory)?;
    }
    write_identity(number)?;
    // As systemd does. The new peer groups begin in this mount namespace and stay in it.
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_SHARED, None::<&str>)
        .context("share mounts within the host")
}

/// Mounts programs and shared libraries of another system over the machine's. The newer libraries
/// work for the machine's other programs too.
fn cover_usr(root: &Path) -> Result<()> {
    make_directory(ENGINE)?;
    // Its own path may have characters that are special in a mount option.
    bind(root, ENGINE)?;
    let options = format!("lowerdir={ENGINE}/usr:/usr");
    attach("overlay", "overlay", "/usr", MsFlags::MS_RDONLY, &options)
}

/// Mounts a new `/sys`, which shows the interfaces of the host's network namespace; the control
/// groups are carried over.
fn renew_sys() -> Result<()> {
    let (cgroups, kept) = ("/sys/fs/cgroup", "/run/cgroup");
    make_directory(kept)?;
    let recursive = MsFlags::MS_BIND | MsFlags::MS_REC;
    mount(Some(cgroups), kept, None::<&str>, recursive, None::<&str>)
        .context("keep the control groups")?;
    attach("sysfs", "sysfs", "/sys", MsFlags::MS_NOSUID | MsFlags::MS_NODEV, "")?;
    mount(Some(kept), cgroups, None::<&str>, recursive, None::<&str>)
        .context("put the control groups back")?;
    umount2(kept, MntFlags::MNT_DETACH).context("forget where the control groups were kept")?;
    fs::remove_dir(kept).with_context(|| format!("remove {kept}"))
}

fn write_identity(number: u8) -> Result<()> {
    let mut hosts = String::from("127.0.0.1 localhost\n::1 localhost ip6-localhost\n");
    for other in 1..=MAX_HOSTS {
        hosts.push_str(&format!("{} host{other}\n", address(other)));
    }
    let files = [
        ("/etc/hostname", format!("host{number}\n")),
        ("/etc/hosts", hosts),
        // Nothing listens there, so queries are refused at once; an unreachable server would stall
        // the engine.
        ("/etc/resolv.conf", "nameserver 127.0.0.1\n".to_owned()),
    ];
    for (path, content) in files {
        // It may be a link to a file outside the overlay.
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("remove {path}"));
            }
            _ => fs::write(path, content).with_context(|| format!("write {path}"))?,
        }
    }
    Ok(())
}

/// Provides commands that the machine may lack, such as `ping`, last in the search path.
fn provide_commands() -> Result<()> {
    make_directory(COMMANDS)?;
    let status = Command::new("busybox").args(["--install", "-s", COMMANDS]).status();
    ensure!(status.context("run busybox")?.success(), "cannot install the commands of busybox");
    Ok(())
}

/// Resets sysctls that a new network namespace inherits from the machine. On a host that does not
/// forward yet, the engine sets the policy of FORWARD to DROP, as on most hosts.
fn set_sysctls() -> Result<()> {
    for name in ["ip_forward", "conf/all/forwarding", "conf/default/forwarding"] {
        let path = format!("/proc/sys/net/ipv4/{name}");
        fs::write(&path, "0").with_context(|| format!("write {path}"))?;
    }
    Ok(())
}

fn attach(kind: &str, source: &str, target: &str, flags: MsFlags, options: &str) -> Result<()> {
    mount(Some(source), target, Some(kind), flags, Some(options))
        .with_context(|| format!("mount {kind} on {target}"))
}

fn bind(source: &Path, target: &str) -> Result<()> {
    mount(Some(source), target, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .with_context(|| format!("bind {} to {target}", source.display()))
}

fn make_directory(path: &str) -> Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(path)
        .with_context(|| format!("make {path}"))
}

fn reap(children: &SigSet) -> ! {
    loop {
        // SIGCHLD is blocked, so one that came since the last look is still pending.
        loop {
            match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => break,
                Ok(_) | Err(_) => {}
            }
        }
        _ = children.wait();
    }
}
