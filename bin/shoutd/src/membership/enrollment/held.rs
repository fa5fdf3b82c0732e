//! The token of a joining host: given at its start, or offered later by `shoutdctl start`.

use std::time::Duration;

use anyhow::{Error, Result, bail};
use shoutd_peer::Token;
use tokio::sync::watch;
use tokio::time::timeout;

/// How long an offer waits until a member has accepted or refused the token. After that, the host
/// continues to ask with it.
const OFFER_TIME_MAX: Duration = Duration::from_secs(20);

/// The token, if there is one. A clone shares it.
#[derive(Debug, Clone)]
pub struct HeldToken(watch::Sender<Held>);

#[derive(Debug, Clone, Default)]
struct Held {
    token: Option<Token>,
    /// Whether it was offered while the host waited. A refusal then goes to the offering client,
    /// and does not end the daemon.
    is_offered: bool,
    /// Whether a member accepted it.
    result: Option<Result<(), String>>,
}

impl HeldToken {
    /// The token that the host was started with.
    pub fn new(token: Option<Token>) -> Self {
        Self(watch::Sender::new(Held { token, ..Held::default() }))
    }

    /// The token to ask with now.
    pub fn get(&self) -> Option<Token> {
        self.0.borrow().token.clone()
    }

    /// Replaces the token, and waits for a while until a member has accepted or refused it.
    ///
    /// # Errors
    /// A member refused it. The host is then without a token.
    pub async fn offer(&self, token: Token) -> Result<()> {
        let mut result = self.0.subscribe();
        self.0.send_replace(Held { token: Some(token), is_offered: true, result: None });
        match timeout(OFFER_TIME_MAX, result.wait_for(|held| held.result.is_some())).await {
            Ok(Ok(held)) => match &held.result {
                Some(Err(refusal)) => bail!("{refusal}"),
                _ => Ok(()),
            },
            _ => Ok(()),
        }
    }

    /// Records that the host was enrolled with this token.
    pub fn accepted(&self) {
        self.0.send_modify(|held| held.result = Some(Ok(())));
    }

    /// Records that this token was refused for good. If it was offered, the client gets the error,
    /// and the host continues without a token; then this returns the reason.
    ///
    /// # Errors
    /// The same error, for a token that the host was started with.
    pub fn refused(&self, token: Option<&Token>, error: Error) -> Result<String> {
        let text = format!("{error:#}");
        let was_offered = self.0.send_if_modified(|held| {
            let was_offered = held.is_offered && held.token.as_ref() == token;
            if was_offered {
                *held = Held { result: Some(Err(text.clone())), ..Held::default() };
            }
            was_offered
        });
        if was_offered { Ok(text) } else { Err(error) }
    }
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    fn token(digit: &str) -> Token {
        format!("SHOUT1-{}-{}", digit.repeat(64), digit.repeat(32)).parse().unwrap()
    }

    #[tokio::test]
    async fn an_offered_token_is_used_and_the_client_gets_the_result() {
        let held = HeldToken::new(None);
        let client = tokio::spawn({
            let held = held.clone();
            async move { held.offer(token("1")).await }
        });
        let mut seen = held.0.subscribe();
        seen.wait_for(|held| held.token.is_some()).await.unwrap();
        assert_eq!(held.get(), Some(token("1")));
        let reason = held.refused(Some(&token("1")), anyhow!("it was revoked")).unwrap();
        assert_eq!(reason, "it was revoked");
        assert_eq!(client.await.unwrap().unwrap_err().to_string(), "it was revoked");
        assert_eq!(held.get(), None, "the host waits without a token");

        let client = tokio::spawn({
            let held = held.clone();
            async move { held.offer(token("2")).await }
        });
        seen.wait_for(|held| held.token.is_some()).await.unwrap();
        held.accepted();
        assert!(client.await.unwrap().is_ok());
    }

    #[test]
    fn a_refused_token_of_the_start_is_an_error() {
        let held = HeldToken::new(Some(token("1")));
        assert!(held.refused(Some(&token("1")), anyhow!("no")).is_err());
        assert_eq!(held.get(), Some(token("1")));
    }
}
