//! Join tokens: `SHOUT1-<SHA-256 of the authority's certificate>-<secret>`.
//!
//! The fingerprint authenticates the cluster to the joining host; the secret proves to the cluster
//! that the host may join. The cluster keeps only the hash of the secret.

use std::fmt;
use std::str::FromStr;

use shoutd_core::{Fingerprint, TokenHash};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::hex;
use crate::key::{KeyError, random, sha256};

/// The prefix of tokens of this version.
const PREFIX: &str = "SHOUT1";

/// Bytes of a secret: 128 bits cannot be guessed.
const SECRET_BYTES: usize = 16;

/// Bytes of the longest text that we parse as a token.
const TEXT_MAX: usize = 4096;

/// A join token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// The SHA-256 of the authority's certificate (DER).
    pub authority: Fingerprint,
    /// Proves to the cluster that the host may join.
    pub secret: Secret,
}

/// The secret part of a token. Comparison takes constant time.
#[derive(Clone)]
pub struct Secret(Zeroizing<[u8; SECRET_BYTES]>);

/// Why a text is not a token. Never contains the text: it may be most of a token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It does not look like a token.
    #[error(
        "this is not a token: a token starts with SHOUT1- and is one word; `shoutdctl token show` \
         on a member prints it"
    )]
    NotAToken,
    /// It has a later version.
    #[error(
        "this token is of version {0}, which this shoutd does not know: run the version of shoutd \
         that printed it"
    )]
    OtherVersion(String),
    /// A part is missing, too short or too long, or has other characters.
    #[error(
        "the token's {part} is not {digits} hexadecimal digits: was the token cut off when it was \
         copied?"
    )]
    Damaged {
        /// Which part.
        part: &'static str,
        /// How many digits it must have.
        digits: usize,
    },
}

impl Secret {
    /// Generates a new secret.
    ///
    /// # Errors
    /// The kernel returns no random numbers.
    pub fn draw() -> Result<Self, KeyError> {
        random().map(Self)
    }

    /// The hash that the cluster keeps.
    pub fn hash(&self) -> TokenHash {
        TokenHash(sha256(&*self.0))
    }

    /// Its digits, to send to the cluster. They must stay secret too.
    pub fn reveal(&self) -> Zeroizing<String> {
        Zeroizing::new(hex::encode(&*self.0))
    }

    /// The secret with these digits.
    ///
    /// # Errors
    /// These are not 32 hexadecimal digits.
    pub fn from_digits(digits: &str) -> Result<Self, TokenError> {
        let octets = hex::decode_array(digits);
        let damaged = TokenError::Damaged { part: "secret", digits: 2 * SECRET_BYTES };
        octets.map(|octets| Self(Zeroizing::new(octets))).ok_or(damaged)
    }

    pub(crate) fn octets(&self) -> &[u8] {
        &*self.0
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&*other.0).into()
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// The whole token with its secret: print it only where a user asked for it, and never log it.
impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}-{}-{}", self.authority, self.secret.reveal().as_str())
    }
}

impl FromStr for Token {
    type Err = TokenError;

    /// Ignores white space around the token: a file ends with a line feed.
    fn from_str(text: &str) -> Result<Self, TokenError> {
        let text = text.trim();
        if text.len() > TEXT_MAX {
            return Err(TokenError::NotAToken);
        }
        let (prefix, rest) = text.split_once('-').ok_or(TokenError::NotAToken)?;
        if prefix != PREFIX {
            let version = prefix.strip_prefix("SHOUT").filter(|version| {
                (1..=4).contains(&version.len())
                    && version.bytes().all(|byte| byte.is_ascii_digit())
            });
            return Err(version.map_or(TokenError::NotAToken, |version| {
                TokenError::OtherVersion(version.to_owned())
            }));
        }
        let (authority, secret) = rest.split_once('-').unwrap_or((rest, ""));
        let damaged = TokenError::Damaged { part: "first part", digits: 64 };
        let authority = authority.parse().map_err(|_| damaged)?;
        Ok(Self { authority, secret: Secret::from_digits(secret)? })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text() -> String {
        format!("SHOUT1-{}-{}", "0a".repeat(32), "1b".repeat(16))
    }

    #[test]
    fn a_token_reads_back_and_hides_its_secret() {
        let token: Token = text().parse().unwrap();
        assert_eq!(token.to_string(), text());
        assert_eq!(format!("\n {} \n", text()).parse(), Ok(token.clone()));
        assert!(!format!("{token:?} {:?}", token.secret).contains("1b1b"));
        // echo -n 1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b | xxd -r -p | sha256sum
        assert_eq!(token.secret.hash(), TokenHash(sha256(&[0x1b; 16])));
        assert_ne!(Secret::draw().unwrap(), Secret::draw().unwrap());
    }

    #[test]
    fn errors_about_a_token_do_not_repeat_it() {
        let damaged_secret = TokenError::Damaged { part: "secret", digits: 32 };
        for (text, error) in [
            (String::new(), TokenError::NotAToken),
            ("SWMTKN-1-abc".to_owned(), TokenError::NotAToken),
            ("x".repeat(1 << 20), TokenError::NotAToken),
            ("SHOUT2-x".to_owned(), TokenError::OtherVersion("2".to_owned())),
            ("SHOUT1-abc".to_owned(), TokenError::Damaged { part: "first part", digits: 64 }),
            (text()[..100].to_owned(), damaged_secret.clone()),
            (format!("{}0", text()), damaged_secret.clone()),
            (format!("{}-00", text()), damaged_secret.clone()),
        ] {
            assert_eq!(text.parse::<Token>().unwrap_err(), error);
        }
        assert!(!damaged_secret.to_string().contains("1b1b"));
    }

    proptest! {
        #[test]
        fn any_text_is_a_token_or_an_error(text: String) {
            let _ = text.parse::<Token>();
        }

        #[test]
        fn anything_like_a_token_is_a_token_or_an_error(
            text in "SHOUT[0-9]{0,2}-?[0-9a-fA-F\u{e9}-]{0,120}",
        ) {
            if let Ok(token) = text.parse::<Token>() {
                prop_assert_eq!(token.to_string(), text.to_lowercase().replace("shout", "SHOUT"));
            }
        }
    }
}
