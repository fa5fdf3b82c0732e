//! Some random operations over three hosts; `long_random` has many.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests say what they expect by failing")]

mod random;

#[test]
fn after_some_random_operations_nothing_differs_and_nothing_is_left() {
    random::run("random", 60).unwrap();
}
