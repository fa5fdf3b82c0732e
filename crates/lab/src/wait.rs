//! Waiting, always with a deadline.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Time between two looks: short compared with the waits, long compared with the cost of a look.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

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
    let end = Instant::now() + deadline;
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
    fn says_what_it_waited_for() {
        let error = wait_until::<()>("godot", Duration::from_millis(30), || Ok(None)).unwrap_err();
        assert!(error.to_string().contains("godot"), "{error}");
    }
}
