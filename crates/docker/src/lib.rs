//! Docker, seen from both sides: the calls it makes to shoutd, and the calls shoutd makes to it.
//!
//! * [`plugin`]: the wire of a *socket plugin* (Docker's `NetworkDriver` and `IpamDriver`
//!   protocols), the traits that a driver implements, the router between the two and the Unix
//!   socket it is served on.
//! * [`engine`]: a client of the Docker Engine API: networks, who is attached to them, and what
//!   changes.
//!
//! The two must not meet: the engine holds locks while it waits for a plugin's answer, and at boot
//! it calls plugins before its own API answers, so a driver that asks the engine anything *inside*
//! a call may wait for itself for ever.

pub mod engine;
pub mod plugin;

/// One line of text for a user: control characters (line ends among them) become spaces, and what
/// is longer than `limit` bytes is cut at a character.
fn one_line(text: &str, limit: usize) -> String {
    let mut line: String =
        text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if line.len() > limit {
        let cut = (0..=limit).rev().find(|&at| line.is_char_boundary(at)).unwrap_or(0);
        line.truncate(cut);
        line.push('…');
    }
    line
}

#[cfg(test)]
mod tests {
    use super::one_line;

    #[test]
    fn a_line_is_one_line_and_bounded() {
        assert_eq!(one_line(" a\nb\r\0c ", 10), "a b  c");
        assert_eq!(one_line("ééé", 3), "é…");
        assert_eq!(one_line("", 3), "");
    }
}
