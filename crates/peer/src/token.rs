//! The token that lets a host in: `SHOUT1-<SHA-256 of the authority's certificate>-<secret>`.
//!
//! The first part tells the joiner which cluster it may talk to; the second tells the cluster that
//! the joiner was invited. The cluster keeps only the hash of the secret.

use std::fmt;
use std::str::FromStr;

use shoutd_core::{Fingerprint, TokenHash};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::hex;
use crate::key::{KeyError, random, sha256};

/// What every token of this form starts with.
const PREFIX: &str = "SHOUT1";

/// Octets of a secret: 128 bits cannot be guessed, however often one tries.
const SECRET_BYTES: usize = 16;

/// Characters of the longest text that is looked at as a token.
const TEXT_MAX: usize = 4096;

/// A token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// The SHA-256 of the authority's certificate (DER).
    pub authority: Fingerprint,
    /// What the cluster is shown.
    pub secret: Secret,
}

/// The secret part of a token. Comparing two takes the same time whatever they are.
#[derive(Clone)]
pub struct Secret(Zeroizing<[u8; SECRET_BYTES]>);

/// Why a text is no token. It never repeats the text, which may be most of one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It is something else.
    #[error(
        "this is not a token: a token starts with SHOUT1- and is one word; `shoutdctl token show` \
         on a member prints it"
    )]
    NotAToken,
    /// It is of a later version.
    #[error(
        "this token is of version {0}, which this shoutd does not know: run the version of shoutd \
         that printed it"
    )]
    OtherVersion(String),
    /// A part of it is missing, or too long, or has other characters.
    #[error(
        "the token's {part} is not {digits} hexadecimal digits: was it cut off when it was copied?"
    )]
    Damaged {
        /// Which part.
        part: &'static str,
        /// How long it should be.
        digits: usize,
    },
}

impl Secret {
    /// Draws a new one.
    ///
    /// # Errors
    /// There are no random numbers.
    pub fn draw() -> Result<Self, KeyError> {
        random().map(Self)
    }

    /// What the cluster keeps of it.
    pub fn hash(&self) -> TokenHash {
        TokenHash(sha256(&*self.0))
    }

    /// Its digits, to show to the cluster. They are as secret as it is.
    pub fn reveal(&self) -> Zeroizing<String> {
        Zeroizing::new(hex::encode(&*self.0))
    }

    /// The secret with these digits.
    ///
    /// # Errors
    /// There are others, or not the right number.
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

/// The whole token, secret included: to print where it was asked for, and nowhere else.
impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}-{}-{}", self.authority, self.secret.reveal().as_str())
    }
}

impl FromStr for Token {
    type Err = TokenError;

    /// White space around it is passed over: a file ends with a line feed.
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
    use super::*;
    use proptest::prelude::*;

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
    fn what_is_wrong_with_a_token_is_told_without_repeating_it() {
        let parse = |text: &str| text.parse::<Token>().unwrap_err();
        assert_eq!(parse(""), TokenError::NotAToken);
        assert_eq!(parse("SWMTKN-1-abc"), TokenError::NotAToken);
        assert_eq!(parse(&"x".repeat(1 << 20)), TokenError::NotAToken);
        assert_eq!(parse("SHOUT2-x"), TokenError::OtherVersion("2".to_owned()));
        assert_eq!(parse("SHOUT1-abc"), TokenError::Damaged { part: "first part", digits: 64 });
        let cut = &text()[..100];
        assert_eq!(parse(cut), TokenError::Damaged { part: "secret", digits: 32 });
        assert_eq!(
            parse(&format!("{}0", text())),
            TokenError::Damaged { part: "secret", digits: 32 }
        );
        assert_eq!(
            parse(&format!("{}-00", text())),
            TokenError::Damaged { part: "secret", digits: 32 }
        );
        assert!(!parse(cut).to_string().contains("1b1b"));
    }

    proptest! {
        #[test]
        fn any_text_is_a_token_or_an_error(text: String) {
            let _ = text.parse::<Token>();
        }

        #[test]
        fn anything_like_a_token_is_a_token_or_an_error(text in "SHOUT[0-9]{0,2}-?[0-9a-fA-F\u{e9}-]{0,120}") {
            if let Ok(token) = text.parse::<Token>() {
                prop_assert_eq!(token.to_string(), text.to_lowercase().replace("shout", "SHOUT"));
            }
        }
    }
}
