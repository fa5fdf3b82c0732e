//! Whether a container still runs.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Whether any process is in the network namespace of this file. The file alone proves nothing: an
/// engine that was killed removes it only later.
///
/// This checks every process, so it is used only when two endpoints need the same address.
pub fn is_inhabited(sandbox: &Path) -> bool {
    let Ok(wanted) = fs::metadata(sandbox).map(|metadata| (metadata.dev(), metadata.ino())) else {
        return false;
    };
    let Ok(processes) = fs::read_dir("/proc") else {
        // We cannot tell without /proc, so assume that the container runs.
        return true;
    };
    let mut processes =
        processes.flatten().filter(|entry| entry.file_name().to_str().is_some_and(is_process_id));
    processes.any(|process| {
        let namespace = fs::metadata(process.path().join("ns/net"));
        namespace.is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == wanted)
    })
}

fn is_process_id(name: &str) -> bool {
    name.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_is_inhabited_if_a_process_is_in_it() {
        assert!(is_inhabited(Path::new("/proc/self/ns/net")));
        assert!(!is_inhabited(Path::new("/proc/self/status")));
        assert!(!is_inhabited(Path::new("/nowhere")));
    }
}
