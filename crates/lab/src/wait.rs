//! Waiting, always with a deadline.

use std::sync::LazyLock;
use std::time::{Duration, Instant};
use std::{env, thread};

use anyhow::{Result, bail};

/// Time between two looks: short compared with the waits, long compared with the cost of a look.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// The environment variable with the factor by which deadlines are longer than usual, from 1 to
/// 100, for machines that are as much slower.
pub const PATIENCE: &str = "SHOUTD_LAB_PATIENCE";

static FACTOR: LazyLock<u32> =
    LazyLock::new(|| factor(env::var(PATIENCE).ok().as_deref()).unwrap_or(1));

fn factor(text: Option<&str>) -> Option<u32> {
    text?.parse().ok().filter(|factor| (1..=100).contains(factor))
}

/// When a wait ends that begins now, on this machine.
pub(crate) fn end_of(deadline: Duration) -> Instant {
    Instant::now() + deadline * *FACTOR
}

/// Looks again and again until `look` yields a value, and returns it.
///
/// # Errors
///
/// Fails with `what` when `deadline` has passed without a value, and at once when `look` itself
/// fails.
pub fn wait_until<T>(
    what: &str,
    deadline: Duration,
    mut look: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let end = end_of(deadline);
    loop {
        if let Some(value) = look()? {
            return Ok(value);
        }
        if Instant::now() >= end {
            bail!("waited {} s in vain for: {what}", deadline.as_secs_f32());
        }
        thread::sleep(LOOK_AGAIN);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gives_the_value_as_soon_as_there_is_one() {
        let mut looks = 0;
        let value = wait_until("three looks", Duration::from_secs(5), || {
            looks += 1;
            Ok((looks == 3).then_some(looks))
        });
        assert_eq!(value.unwrap(), 3);
    }

    #[test]
    fn a_factor_is_a_small_number() {
        let factors = [None, Some(""), Some("0"), Some("7"), Some("100"), Some("101")].map(factor);
        assert_eq!(factors, [None, None, None, Some(7), Some(100), None]);
    }

    #[test]
    fn says_what_it_waited_for() {
        let error = wait_until::<()>("godot", Duration::from_millis(30), || Ok(None)).unwrap_err();
        assert!(error.to_string().contains("godot"), "{error}");
    }
}
