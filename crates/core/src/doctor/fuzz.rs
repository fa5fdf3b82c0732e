//! Fuzz target of the reader of firewall rules.

use shoutd_fuzz::fuzz;

use super::firewall::{judge_iptables, judge_nftables};
use crate::limits::PORT;

/// Reads the input as each program's output.
#[test]
fn fuzz_firewall_rules() {
    fuzz("firewall_rules", env!("CARGO_MANIFEST_DIR"), |text| {
        let text = String::from_utf8_lossy(text);
        let judged = [judge_nftables(&text, PORT), judge_iptables(&text, PORT)];
        judged.map(|judged| {
            let drops = judged.drops.iter().map(|(protocol, _)| *protocol).collect::<Vec<_>>();
            (drops, judged.closed.len(), judged.accepts)
        })
    });
}
