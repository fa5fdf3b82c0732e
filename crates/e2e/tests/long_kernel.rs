//! Whole hosts with engines on Debian 12's kernel 6.1, which has WireGuard, in a virtual machine:
//! the tests of encrypted networks, with the kernel's WireGuard.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests say what they expect by failing")]

use std::time::Duration;

use shoutd_e2e::test_program;
use shoutd_lab::{PATIENCE, run_on_older_kernel};

/// The tests, which also run every day, with the WireGuard that the machine has.
const PROGRAMS: [&str; 2] = ["e2e_encryption", "e2e_rotation"];

/// Memory of the virtual machine, in MiB: three engines, and files that they write.
const MEMORY: u32 = 6144;

/// How long one of them may take.
const DEADLINE: Duration = Duration::from_secs(3600);

/// How many times as slow the virtual machine may be.
const SLOWNESS: u32 = 15;

#[test]
fn networks_are_encrypted_by_the_kernels_wireguard() {
    for name in PROGRAMS {
        let program = test_program(name).unwrap();
        let passed = format!("{name} has passed");
        let commands = format!(
            "cd '{}'\nexport {PATIENCE}={SLOWNESS} SHOUTD_LAB_WIREGUARD=yes\n'{}' --nocapture \
             --color=never && echo {passed}",
            env!("CARGO_MANIFEST_DIR"),
            program.display()
        );
        let shown = run_on_older_kernel(&commands, MEMORY, DEADLINE).unwrap();
        println!("{shown}");
        assert!(shown.contains("kernel 6.1."), "which kernel was it? {shown}");
        assert!(shown.lines().any(|line| line == passed), "{name} failed, see above");
    }
}
