//! Whether a container is alive.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Whether any process lives in the network namespace of this file. The file itself outlives its
/// container: an engine that was killed removes it only in its own time.
///
/// Looks at every process, so it is asked only when two endpoints want one address.
pub fn is_inhabited(sandbox: &Path) -> bool {
    let Ok(wanted) = fs::metadata(sandbox).map(|metadata| (metadata.dev(), metadata.ino())) else {
        return false;
    };
    let Ok(processes) = fs::read_dir("/proc") else {
        // Without /proc nobody can tell: then the file counts.
        return true;
    };
    let is_process = |name: &str| name.bytes().all(|byte| byte.is_ascii_digit());
    let mut processes =
        processes.flatten().filter(|entry| entry.file_name().to_str().is_some_and(is_process));
    processes.any(|process| {
        let namespace = fs::metadata(process.path().join("ns/net"));
        namespace.is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == wanted)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ones_own_namespace_is_inhabited_and_a_plain_file_is_not() {
        assert!(is_inhabited(Path::new("/proc/self/ns/net")));
        assert!(!is_inhabited(Path::new("/proc/self/status")));
        assert!(!is_inhabited(Path::new("/nowhere")));
    }
}
