//! Removes what looks like a secret from a text. The files of an archive are chosen so that they
//! have none; this is the second line of defence, for what a user or another program has written
//! into a log, an option or a firewall rule.

/// What replaces a secret.
const REMOVED: &str = "[removed]";

/// The prefix of a token.
const TOKEN: &str = "SHOUT1-";

/// The text without tokens, private keys, and passwords in URLs.
pub fn scrub(text: &str) -> String {
    let mut scrubbed = String::with_capacity(text.len());
    let mut is_key = false;
    for line in text.split_inclusive('\n') {
        if line.contains("-----BEGIN ") && line.contains("PRIVATE KEY-----") {
            is_key = true;
            scrubbed.push_str(REMOVED);
            scrubbed.push('\n');
        }
        if !is_key {
            scrubbed.push_str(&without_passwords(&without_tokens(line)));
        }
        if line.contains("-----END ") {
            is_key = false;
        }
    }
    scrubbed
}

/// Replaces everything that belongs to a token by [`REMOVED`].
fn without_tokens(line: &str) -> String {
    let mut parts = line.split(TOKEN);
    let mut kept = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        kept.push_str(TOKEN);
        kept.push_str(REMOVED);
        kept.push_str(part.trim_start_matches(|c: char| c.is_ascii_alphanumeric() || c == '-'));
    }
    kept
}

/// Replaces the user and the password of each URL by [`REMOVED`] (RFC 3986, section 3.2.1).
fn without_passwords(line: &str) -> String {
    let mut parts = line.split("://");
    let mut kept = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        kept.push_str("://");
        let end = part.find(|c: char| "/?# \"'\t\n".contains(c)).unwrap_or(part.len());
        let (authority, rest) = part.split_at(end);
        match authority.rsplit_once('@') {
            Some((_, host)) => {
                kept.push_str(REMOVED);
                kept.push('@');
                kept.push_str(host);
            }
            None => kept.push_str(authority),
        }
        kept.push_str(rest);
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_looks_like_a_secret_is_removed_and_the_rest_stays() {
        for (text, expected) in [
            ("a line\nanother\n", "a line\nanother\n"),
            ("start --token=SHOUT1-ab12-cd34 --x\n", "start --token=SHOUT1-[removed] --x\n"),
            ("SHOUT1-a-b,SHOUT1-c-d", "SHOUT1-[removed],SHOUT1-[removed]"),
            ("proxy http://me:pa@ss@proxy:80/x?y\n", "proxy http://[removed]@proxy:80/x?y\n"),
            ("see https://example.org/@me", "see https://example.org/@me"),
            (
                "a\n-----BEGIN EC PRIVATE KEY-----\nMII\n-----END EC PRIVATE KEY-----\nb",
                "a\n[removed]\nb",
            ),
        ] {
            assert_eq!(scrub(text), expected);
        }
    }
}
