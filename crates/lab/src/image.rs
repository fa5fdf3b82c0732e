//! The image of the lab's containers, made of the machine's own programs, so that it needs no
//! registry.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// The name of the image on every host. It holds a shell, busybox with all its commands, iperf and
/// socat.
pub const IMAGE: &str = "debian";

/// Programs that busybox lacks or has only in a lesser version.
const PROGRAMS: [&str; 4] = ["/bin/bash", "/usr/bin/iperf", "/usr/bin/socat", "/usr/bin/getent"];

/// Descriptions of common terminals, for line editing in a shell.
const TERMINALS: [&str; 6] =
    ["d/dumb", "l/linux", "s/screen", "v/vt100", "x/xterm", "x/xterm-256color"];

/// The directories of a merged `/usr`, and the links to them.
const USR_LINKS: [&str; 4] = ["bin", "sbin", "lib", "lib64"];

/// Writes the image to `tar`, through a directory beside it.
pub(crate) fn build(tar: &Path) -> Result<()> {
    let root = tar.with_extension("root");
    fs::create_dir(&root).with_context(|| format!("make {}", root.display()))?;
    for directory in
        ["usr/bin", "usr/sbin", "usr/lib", "usr/lib64", "etc", "root", "tmp", "var", "run"]
    {
        make_directory(&root, Path::new(directory))?;
    }
    for name in USR_LINKS {
        link(&format!("usr/{name}"), &root.join(name))?;
    }
    let mut files: BTreeSet<PathBuf> = PROGRAMS.iter().map(PathBuf::from).collect();
    for program in PROGRAMS {
        files.extend(libraries(program)?);
    }
    let terminals = TERMINALS.map(|name| Path::new("/usr/lib/terminfo").join(name));
    files.extend(terminals.into_iter().filter(|path| path.exists()));
    for file in &files {
        copy(file, &root)?;
    }
    add_busybox(&root)?;
    write(&root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/bash\n")?;
    write(&root.join("etc/group"), "root:x:0:\n")?;
    write(&root.join("etc/nsswitch.conf"), "hosts: files dns\n")?;
    // As in Debian's package base-files: all addresses of a name in the hosts file count.
    write(&root.join("etc/host.conf"), "multi on\n")?;
    let mut command = Command::new("tar");
    command
        .args(["--create", "--owner=0", "--group=0", "--file"])
        .arg(tar)
        .arg("--directory")
        .arg(&root)
        .arg(".");
    let output = command.output().context("run tar")?;
    if !output.status.success() {
        bail!("tar failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    fs::remove_dir_all(&root).with_context(|| format!("remove {}", root.display()))
}

/// The shared libraries that a program needs, and its loader.
///
/// # Errors
///
/// Fails when ldd does.
pub fn libraries(program: &str) -> Result<Vec<PathBuf>> {
    let output = Command::new("ldd").arg(program).output().context("run ldd")?;
    if !output.status.success() {
        bail!("ldd {program} failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(parse_ldd(&String::from_utf8_lossy(&output.stdout)))
}

/// Lines are `name => /path (address)`, or `/path (address)` for the loader; a line without a path
/// is the kernel's vDSO.
fn parse_ldd(text: &str) -> Vec<PathBuf> {
    text.lines()
        .filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')))
        .map(PathBuf::from)
        .collect()
}

/// Copies a file of the machine to the same place below `root`; `/lib/x` goes to `/usr/lib/x`,
/// where a link leads.
fn copy(file: &Path, root: &Path) -> Result<()> {
    let place = file.strip_prefix("/").unwrap_or(file);
    let linked = USR_LINKS.iter().any(|link| place.starts_with(link));
    let place = if linked { Path::new("usr").join(place) } else { place.to_owned() };
    if let Some(directory) = place.parent() {
        make_directory(root, directory)?;
    }
    let target = root.join(place);
    fs::copy(file, &target)
        .map(|_| ())
        .with_context(|| format!("copy {} to the image", file.display()))
}

fn add_busybox(root: &Path) -> Result<()> {
    copy(Path::new("/usr/bin/busybox"), root).or_else(|_| {
        fs::copy("/bin/busybox", root.join("usr/bin/busybox"))
            .map(|_| ())
            .context("copy /bin/busybox to the image")
    })?;
    let output = Command::new("busybox").arg("--list").output().context("run busybox --list")?;
    for applet in String::from_utf8_lossy(&output.stdout).lines() {
        let path = root.join("usr/bin").join(applet);
        if !path.exists() {
            link("busybox", &path)?;
        }
    }
    Ok(())
}

fn link(to: &str, path: &Path) -> Result<()> {
    symlink(to, path).with_context(|| format!("make the link {}", path.display()))
}

/// Makes a directory below `root` with its parents, but never `root` itself: if that is gone, so is
/// the lab.
fn make_directory(root: &Path, directory: &Path) -> Result<()> {
    let mut path = root.to_owned();
    for name in directory {
        path.push(name);
        match fs::create_dir(&path) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                return Err(error).with_context(|| format!("make {}", path.display()));
            }
            _ => {}
        }
    }
    Ok(())
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_ldd_prints() {
        let text = "\tlinux-vdso.so.1 (0x00007ffd)\n\tlibc.so.6 => \
                    /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)\n\t/lib64/ld-linux-x86-64.so.2 \
                    (0x00007f)\n";
        let wanted =
            ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"].map(PathBuf::from);
        assert_eq!(parse_ldd(text), wanted);
    }
}
