//! Removes what is left of a lab when its processes and namespaces are gone.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::layout::{Layout, STATE_ROOT};
use crate::wait::wait_until;

/// How long the kernel may take to account for the last process of a control group.
const CGROUP_DEADLINE: Duration = Duration::from_secs(10);

/// How long an ending owner may still write to the lab's directory.
const DIRECTORY_DEADLINE: Duration = Duration::from_secs(10);

/// Removes the control groups and the directory of a lab whose hosts have ended. The caller holds
/// the lock on all labs.
///
/// # Errors
///
/// Fails when something cannot be removed. The directory goes last: while it exists, the next lab's
/// owner tries again.
pub(crate) fn clean_up(layout: &Layout) -> Result<()> {
    remove_cgroups(layout)?;
    let directory = layout.directory();
    let what = format!("the end of all that writes to {}", directory.display());
    wait_until(&what, DIRECTORY_DEADLINE, || match fs::remove_dir_all(&directory) {
        Ok(()) => Ok(Some(())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Some(())),
        // An interrupted owner may still be writing the image.
        Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty => Ok(None),
        Err(error) => Err(error).with_context(|| format!("remove {}", directory.display())),
    })?;
    // Fails while there are other labs, as it should.
    _ = fs::remove_dir(STATE_ROOT);
    Ok(())
}

fn remove_cgroups(layout: &Layout) -> Result<()> {
    for hierarchy in cgroup_hierarchies()? {
        let cgroup = hierarchy.join(layout.cgroup());
        let what = format!("the end of all in {}", cgroup.display());
        wait_until(&what, CGROUP_DEADLINE, || {
            thaw(&cgroup);
            Ok(remove_cgroup(&cgroup).then_some(()))
        })?;
    }
    Ok(())
}

/// Thaws the frozen containers of a lab's host: in a version 1 control group not even `SIGKILL`
/// ends them. Engines freeze paused containers, and for a moment each one whose limits they change
/// or that they kill.
pub(crate) fn thaw_host(layout: &Layout, number: u8) -> Result<()> {
    for hierarchy in cgroup_hierarchies()? {
        thaw(&hierarchy.join(layout.cgroup()).join(format!("host{number}")));
    }
    Ok(())
}

/// Thaws a control group with all groups below it, in the hierarchy that can freeze.
fn thaw(cgroup: &Path) {
    let state = cgroup.join("freezer.state");
    if state.exists() {
        // Fails if it is being removed.
        _ = fs::write(&state, "THAWED");
        let entries = fs::read_dir(cgroup).into_iter().flatten().flatten();
        entries
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
            .for_each(|entry| thaw(&entry.path()));
    }
}

/// Removes a control group with all groups below it; returns whether it is gone. Its files cannot
/// and need not be removed.
fn remove_cgroup(cgroup: &Path) -> bool {
    if let Ok(entries) = fs::read_dir(cgroup) {
        for entry in entries.flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                remove_cgroup(&entry.path());
            }
        }
    }
    fs::remove_dir(cgroup).is_ok() || !cgroup.exists()
}

fn cgroup_hierarchies() -> Result<Vec<PathBuf>> {
    let mounts = fs::read_to_string("/proc/self/mounts").context("read /proc/self/mounts")?;
    let mut hierarchies = Vec::new();
    for line in mounts.lines() {
        let mut fields = line.split(' ').skip(1);
        if let (Some(path), Some(kind)) = (fields.next(), fields.next())
            && kind.starts_with("cgroup")
        {
            hierarchies.push(PathBuf::from(path));
        }
    }
    Ok(hierarchies)
}
