//! Opens the hosts file that the engine made for a container, and only that.
//!
//! Names in this file are trusted by all programs that read it. So it must not be the host's own
//! file, another container's, or one that a user mounted. All checks work on Linux 4.18.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Component, Path};

use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;
use shoutd_core::names::HostsFile;

/// Mode bits by which others than a file's owner can write to it.
const WRITABLE_FOR_OTHERS: u32 = 0o022;

/// Opens the file, and proves that the engine made it for this container:
/// - no component of its path is a symbolic link,
/// - only root can replace it, or the user to which the engine maps root in containers,
/// - nothing is mounted over it,
/// - it has no other hard link, and
/// - the container sees it at `/etc/hosts`.
///
/// The owner of the file proves nothing, because the container may change it.
///
/// # Errors
/// [`ErrorKind::NotFound`] if the container or its file is gone; [`ErrorKind::PermissionDenied`]
/// with the reason if it is a different file; else the error of opening it.
pub fn open_own(wanted: &HostsFile) -> io::Result<File> {
    let directory = open_directory(&wanted.directory)?;
    let folder = File::from(directory.try_clone()?).metadata()?;
    if !wanted.owners().contains(&folder.uid()) || folder.mode() & WRITABLE_FOR_OTHERS != 0 {
        return Err(refused("others than the engine can change its directory"));
    }
    let flags =
        OFlag::O_RDWR | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let file = File::from(openat(&directory, HostsFile::NAME, flags, Mode::empty())?);
    let found = file.metadata()?;
    if !found.is_file() {
        return Err(refused("it is not a file"));
    }
    if mount_of(&file)? != mount_of(&directory)? {
        return Err(refused("something else is mounted over it"));
    }
    if found.nlink() != 1 {
        return Err(refused("it has another hard link"));
    }
    let seen = fs::symlink_metadata(format!("/proc/{}/root/etc/hosts", wanted.process))?;
    if (seen.dev(), seen.ino()) != (found.dev(), found.ino()) {
        return Err(refused("the container has another file at /etc/hosts"));
    }
    Ok(file)
}

/// Opens a file to remove lines of an earlier version. Does not follow a symbolic link.
///
/// # Errors
/// It cannot be opened, or is not a regular file.
pub fn open_plain(path: &Path) -> io::Result<File> {
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let file = OpenOptions::new().read(true).write(true).custom_flags(flags.bits()).open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(refused("it is not a file")) }
}

/// Opens a directory without following any symbolic link on the way.
fn open_directory(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mut components = path.components();
    if components.next() != Some(Component::RootDir) {
        return Err(refused("its path is not absolute"));
    }
    let root = OpenOptions::new().read(true).custom_flags(OFlag::O_DIRECTORY.bits()).open("/")?;
    components.try_fold(OwnedFd::from(root), |directory, component| match component {
        Component::Normal(name) => Ok(openat(&directory, name, flags, Mode::empty())?),
        _ => Err(refused("its path contains \"..\"")),
    })
}

/// The mount id of an open file (proc(5), `fdinfo`).
fn mount_of(file: &impl AsRawFd) -> io::Result<u64> {
    let text = fs::read_to_string(format!("/proc/self/fdinfo/{}", file.as_raw_fd()))?;
    let id = text.lines().find_map(|line| line.strip_prefix("mnt_id:")?.trim().parse().ok());
    id.ok_or_else(|| io::Error::new(ErrorKind::InvalidData, "the kernel does not report its mount"))
}

fn refused(why: &str) -> io::Error {
    io::Error::new(ErrorKind::PermissionDenied, why.to_owned())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::PathBuf;
    use std::process::{Child, Command, Stdio};

    use super::*;

    /// An engine's root directory (`DockerRootDir`) with a container's hosts file (`HostsPath`).
    struct Made {
        _folder: tempfile::TempDir,
        root: PathBuf,
        file: HostsFile,
    }

    fn made(process: u32) -> Made {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap().join("docker");
        let directory = root.join("containers").join("c".repeat(64));
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("hosts"), "127.0.0.1\tlocalhost\n").unwrap();
        Made { _folder: folder, root, file: HostsFile { directory, process } }
    }

    /// A process that sees this file at `/etc/hosts`.
    struct Process(Child);

    impl Process {
        fn seeing(file: &Path) -> Self {
            let script = format!("mount --bind {} /etc/hosts && echo && read _", file.display());
            let mut command = Command::new("unshare");
            command
                .args(["--mount", "sh", "-c", &script])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped());
            let mut child = command.spawn().unwrap();
            let mut said = [0];
            io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut said).unwrap();
            Self(child)
        }
    }

    impl Drop for Process {
        fn drop(&mut self) {
            _ = self.0.kill();
            _ = self.0.wait();
        }
    }

    fn why(file: &HostsFile) -> String {
        open_own(file).unwrap_err().to_string()
    }

    #[test]
    fn the_file_that_the_engine_made_is_opened() {
        let Made { file, _folder, .. } = made(0);
        let process = Process::seeing(&file.path());
        open_own(&HostsFile { process: process.0.id(), ..file }).unwrap();
    }

    #[test]
    fn a_file_that_the_container_does_not_see_is_refused() {
        let Made { file, _folder, root } = made(0);
        let other = root.join("other");
        fs::write(&other, "").unwrap();
        let process = Process::seeing(&other);
        let file = HostsFile { process: process.0.id(), ..file };
        assert_eq!(why(&file), "the container has another file at /etc/hosts");
        drop(process);
        assert_eq!(open_own(&file).unwrap_err().kind(), ErrorKind::NotFound, "it is gone");
    }

    #[test]
    fn links_to_the_hosts_own_file_are_not_followed() {
        let Made { file, _folder, root } = made(std::process::id());
        let own = root.join("etc-hosts");
        fs::write(&own, "").unwrap();
        // What this process sees at /etc/hosts does not matter: that is checked last.
        fs::remove_file(file.path()).unwrap();
        symlink(&own, file.path()).unwrap();
        open_own(&file).unwrap_err();
        fs::remove_file(file.path()).unwrap();
        fs::hard_link(&own, file.path()).unwrap();
        assert_eq!(why(&file), "it has another hard link");
        fs::rename(&file.directory, root.join("elsewhere")).unwrap();
        symlink(root.join("elsewhere"), &file.directory).unwrap();
        open_own(&file).unwrap_err();
        assert_eq!(fs::read_to_string(own).unwrap(), "");
    }

    #[test]
    fn a_file_that_others_can_replace_or_that_is_not_regular_is_refused() {
        let Made { file, _folder, .. } = made(std::process::id());
        fs::set_permissions(&file.directory, fs::Permissions::from_mode(0o777)).unwrap();
        assert_eq!(why(&file), "others than the engine can change its directory");
        fs::set_permissions(&file.directory, fs::Permissions::from_mode(0o710)).unwrap();
        fs::remove_file(file.path()).unwrap();
        assert_eq!(open_own(&file).unwrap_err().kind(), ErrorKind::NotFound);
        nix::unistd::mkfifo(&file.path(), Mode::S_IRUSR).unwrap();
        assert_eq!(why(&file), "it is not a file");
        let relative = HostsFile { directory: "containers".into(), process: 1 };
        assert_eq!(why(&relative), "its path is not absolute");
    }

    /// The host's own file is mounted over the engine's, in the mount namespace that the daemon
    /// shares with the engine. The test runs itself again in its own mount namespace.
    #[test]
    fn nothing_mounted_over_it_is_touched() {
        const WITHIN: &str = "SHOUTD_TEST_MOUNTS";
        if std::env::var_os(WITHIN).is_none() {
            let this = "names::proof::tests::nothing_mounted_over_it_is_touched";
            let mut again = Command::new("unshare");
            again
                .args(["--mount"])
                .arg(std::env::current_exe().unwrap())
                .args(["--exact", this])
                .env(WITHIN, "1");
            let output = again.output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
            return;
        }
        let Made { file, _folder, root } = made(std::process::id());
        let own = root.join("etc-hosts");
        fs::write(&own, "").unwrap();
        let mounted =
            Command::new("mount").arg("--bind").arg(&own).arg(file.path()).status().unwrap();
        assert!(mounted.success());
        assert_eq!(why(&file), "something else is mounted over it");
    }
}
