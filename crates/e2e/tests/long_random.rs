//! 500 random operations over three hosts.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests say what they expect by failing")]

mod random;

#[test]
fn after_500_random_operations_nothing_differs_and_nothing_is_left() {
    random::run("long-random", 500).unwrap();
}
