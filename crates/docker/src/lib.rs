//! Both directions between Docker and shoutd: Docker's calls to shoutd, and shoutd's calls to
//! Docker.
//!
//! * [`plugin`]: a *socket plugin* with Docker's `NetworkDriver` and `IpamDriver` protocols: the
//!   traits that a driver implements, the router that calls them, and the Unix socket.
//! * [`engine`]: a client of the Docker Engine API for networks, their endpoints and events.
//!
//! Never call the engine *inside* a plugin call. The engine holds locks while it waits for a
//! plugin's answer, and at boot it calls plugins before its own API answers: both would deadlock.

pub mod engine;
pub mod plugin;

/// One line of text for a user. Control characters, such as line ends, become spaces; a text longer
/// than `limit` bytes is cut at a character boundary.
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
    fn line_breaks_and_excess_length_are_removed() {
        assert_eq!(one_line(" a\nb\r\0c ", 10), "a b  c");
        assert_eq!(one_line("ééé", 3), "é…");
        assert_eq!(one_line("", 3), "");
    }
}
