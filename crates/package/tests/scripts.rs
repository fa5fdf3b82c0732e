//! The files in `packaging`, as far as they can be checked without a package.
#![allow(clippy::unwrap_used, reason = "tests say what they expect by failing")]

use std::fs;
use std::path::Path;
use std::process::Command;

const PACKAGING: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../packaging");

#[test]
fn the_scripts_are_valid() {
    for script in
        ["debian/postinst", "debian/prerm", "debian/postrm", "rpm/post", "rpm/preun", "rpm/postun"]
    {
        let path = Path::new(PACKAGING).join(script);
        let checked = Command::new("sh").arg("-n").arg(&path).output().unwrap();
        assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
        // dpkg does not run one without it.
        let is_whole = fs::read_to_string(&path).unwrap().starts_with("#!/bin/sh\nset -e\n");
        assert_eq!(is_whole, script.starts_with("debian"), "{script}");
    }
}

/// The programs that it names are not there, so another one takes their place.
#[test]
fn systemd_accepts_the_unit() {
    let text = fs::read_to_string(format!("{PACKAGING}/shoutd.service")).unwrap();
    assert!(text.contains("\nExecStart=/usr/bin/shoutd\n"));
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("shoutd.service");
    fs::write(
        &path,
        text.replace("/usr/bin/shoutdctl", "/bin/true").replace("/usr/bin/shoutd", "/bin/true"),
    )
    .unwrap();
    let verified =
        Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&path).output().unwrap();
    let told = String::from_utf8_lossy(&verified.stderr).into_owned();
    // It also reports on the machine's other units.
    let ours: Vec<_> = told.lines().filter(|line| line.contains("shoutd")).collect();
    assert!(verified.status.success() && ours.is_empty(), "{told}");
}

/// `SECURITY.md` and `docs/packaging.md` say how systemd-analyze rates it.
#[test]
fn the_unit_is_as_confined_as_the_documents_say() {
    let mut analyze = Command::new("systemd-analyze");
    // It fails if the rating is higher than this, in tenths.
    analyze.args(["security", "--no-pager", "--offline=true", "--threshold=50"]);
    let rated = analyze.arg(format!("{PACKAGING}/shoutd.service")).output().unwrap();
    assert!(rated.status.success(), "{}", String::from_utf8_lossy(&rated.stdout));
}

#[test]
fn what_the_packages_are_made_of_exists() {
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../../bin/shoutd/Cargo.toml");
    let manifest = fs::read_to_string(manifest).unwrap();
    let scripts = manifest.lines().filter_map(|line| line.split_once("_script = "));
    let scripts: Vec<_> = scripts.map(|(_, path)| path.trim_matches('"')).collect();
    assert_eq!(scripts.len(), 3);
    for script in scripts {
        assert!(Path::new(PACKAGING).join("..").join(script).exists(), "{script}");
    }
    for name in ["postinst", "prerm", "postrm", "lintian-overrides"] {
        assert!(Path::new(PACKAGING).join("debian").join(name).exists(), "{name}");
    }
}
