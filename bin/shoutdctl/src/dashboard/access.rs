//! Access to the page: only users who know the printed token see it. Other users of this host and
//! pages of other sites do not know it.

use anyhow::{Result, anyhow};
use axum::http::HeaderMap;
use axum::http::header::COOKIE;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use ring::rand::{SecureRandom, SystemRandom};
use subtle::ConstantTimeEq;

/// Octets of a token.
const TOKEN_BYTES: usize = 16;

/// The cookie that has the token after the first visit. Cookies do not depend on the port, so the
/// name is ours alone.
const NAME: &str = "shoutd-dashboard";

/// The token of this run.
#[derive(Clone)]
pub struct Access {
    token: String,
}

impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Access")
    }
}

impl Access {
    /// Draws a token.
    ///
    /// # Errors
    /// The kernel gives no random numbers.
    pub fn new() -> Result<Self> {
        let mut bytes = [0; TOKEN_BYTES];
        let drawn = SystemRandom::new().fill(&mut bytes);
        drawn.map_err(|_| anyhow!("the kernel gives no random numbers"))?;
        Ok(Self { token: BASE64_URL_SAFE_NO_PAD.encode(bytes) })
    }

    /// The token.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// Whether this is the token.
    pub fn knows(&self, token: &str) -> bool {
        self.token.as_bytes().ct_eq(token.as_bytes()).into()
    }

    /// Whether the request's cookie has the token.
    pub fn admits(&self, headers: &HeaderMap) -> bool {
        let cookies = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
        let mut pairs = cookies.flat_map(|value| value.split(';'));
        pairs.any(|pair| {
            let value = pair.trim().strip_prefix(NAME).and_then(|rest| rest.strip_prefix('='));
            value.is_some_and(|value| self.knows(value))
        })
    }

    /// The header that stores the token in the browser. Pages of other sites cannot send it
    /// (`SameSite`), and scripts cannot read it (`HttpOnly`).
    pub fn cookie(&self) -> String {
        format!("{NAME}={}; HttpOnly; SameSite=Strict; Path=/", self.token)
    }
}
