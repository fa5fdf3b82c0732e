//! The configuration protocol of userspace WireGuard, as text over a Unix socket
//! (<https://www.wireguard.com/xplatform/>, "Cross-platform Userspace Implementation").
//!
//! A request is `get=1` or `set=1`, then lines `key=value`, then an empty line. The answer is
//! lines too, of which the last is `errno=`, and an empty line. A connection carries any number
//! of requests, one after the other.

pub(crate) mod answer;
#[cfg(test)]
mod fuzz;
pub(crate) mod hex;
pub(crate) mod request;
#[cfg(test)]
mod tests;

use nix::errno::Errno;

/// The maximum length of a request, in octets. A client splits a longer change.
pub const REQUEST_MAX: usize = 256 << 10;

/// The maximum length of an answer, in octets: `PEERS_MAX` peers have at most 400 octets each
/// besides their `ALLOWED_IPS_MAX` allowed IPs, of at most 55 octets each.
pub const ANSWER_MAX: usize = 8 << 20;

/// Why a text is refused: the key of the line, and what is wrong. It never has the value, which
/// may be a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {problem}")]
pub(crate) struct Refusal {
    /// The key of the line, or a part of the protocol.
    pub(crate) key: &'static str,
    /// What is wrong.
    pub(crate) problem: &'static str,
    /// The error number of the answer.
    pub(crate) errno: Errno,
}

impl Refusal {
    pub(crate) const fn new(key: &'static str, problem: &'static str) -> Self {
        Self { key, problem, errno: Errno::EINVAL }
    }

    pub(crate) const fn of(errno: Errno, key: &'static str, problem: &'static str) -> Self {
        Self { key, problem, errno }
    }
}

/// The lines of a message, up to its empty line, as pairs.
pub(crate) fn pairs(text: &str) -> impl Iterator<Item = Result<(&str, &str), Refusal>> {
    text.split('\n')
        .take_while(|line| !line.is_empty())
        .map(|line| line.split_once('=').ok_or(Refusal::new("line", "it has no \"=\"")))
}

/// A decimal number without a sign.
pub(crate) fn number<N: std::str::FromStr>(key: &'static str, text: &str) -> Result<N, Refusal> {
    let only_digits = !text.is_empty() && text.bytes().all(|octet| octet.is_ascii_digit());
    let parsed = only_digits.then(|| text.parse().ok()).flatten();
    parsed.ok_or(Refusal::new(key, "not a number, or too large"))
}
