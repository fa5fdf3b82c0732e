//! The token of a host that wants in: given when it is started, or handed to it while it waits.

use std::time::Duration;

use anyhow::{Error, Result, bail};
use shoutd_peer::Token;
use tokio::sync::watch;
use tokio::time::timeout;

/// How long whoever hands a token over waits until a member has judged it. After that the host goes
/// on asking with it.
const JUDGEMENT_TIME_MAX: Duration = Duration::from_secs(20);

/// The token, if there is one. Clones are the same.
#[derive(Debug, Clone)]
pub struct HeldToken(watch::Sender<Held>);

#[derive(Debug, Clone, Default)]
struct Held {
    token: Option<Token>,
    /// Whether it was handed over while the host waited: then a refusal is told to whoever did
    /// that, and does not end the daemon.
    is_offered: bool,
    /// What came of it.
    judged: Option<Result<(), String>>,
}

impl HeldToken {
    /// With the token that the host was started with.
    pub fn new(token: Option<Token>) -> Self {
        Self(watch::Sender::new(Held { token, ..Held::default() }))
    }

    /// The token to ask with now.
    pub fn get(&self) -> Option<Token> {
        self.0.borrow().token.clone()
    }

    /// Takes a token, and waits until a member has judged it, for a while.
    ///
    /// # Errors
    /// A member refused it: the host has the token no more that it had before.
    pub async fn offer(&self, token: Token) -> Result<()> {
        let mut judged = self.0.subscribe();
        self.0.send_replace(Held { token: Some(token), is_offered: true, judged: None });
        match timeout(JUDGEMENT_TIME_MAX, judged.wait_for(|held| held.judged.is_some())).await {
            Ok(Ok(held)) => match &held.judged {
                Some(Err(refusal)) => bail!("{refusal}"),
                _ => Ok(()),
            },
            _ => Ok(()),
        }
    }

    /// Notes that this token has let the host in.
    pub fn accepted(&self) {
        self.0.send_modify(|held| held.judged = Some(Ok(())));
    }

    /// Notes that asking with this token failed for good. If somebody waits to hear it, they do,
    /// and the host goes on without a token: returns why. Otherwise the error is the caller's.
    ///
    /// # Errors
    /// The same error, for a token that the host was started with.
    pub fn refused(&self, token: Option<&Token>, error: Error) -> Result<String> {
        let text = format!("{error:#}");
        let is_taken = self.0.send_if_modified(|held| {
            let is_it = held.is_offered && held.token.as_ref() == token;
            if is_it {
                *held = Held { judged: Some(Err(text.clone())), ..Held::default() };
            }
            is_it
        });
        if is_taken { Ok(text) } else { Err(error) }
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
    async fn a_token_that_is_handed_over_is_asked_with_and_its_giver_hears_what_became_of_it() {
        let held = HeldToken::new(None);
        let giver = tokio::spawn({
            let held = held.clone();
            async move { held.offer(token("1")).await }
        });
        let mut seen = held.0.subscribe();
        seen.wait_for(|held| held.token.is_some()).await.unwrap();
        assert_eq!(held.get(), Some(token("1")));
        let told = held.refused(Some(&token("1")), anyhow!("it was revoked")).unwrap();
        assert_eq!(told, "it was revoked");
        assert_eq!(giver.await.unwrap().unwrap_err().to_string(), "it was revoked");
        assert_eq!(held.get(), None, "the host waits on as before");

        let giver = tokio::spawn({
            let held = held.clone();
            async move { held.offer(token("2")).await }
        });
        seen.wait_for(|held| held.token.is_some()).await.unwrap();
        held.accepted();
        assert!(giver.await.unwrap().is_ok());
    }

    #[test]
    fn a_token_that_the_host_was_started_with_ends_the_start_when_it_is_refused() {
        let held = HeldToken::new(Some(token("1")));
        assert!(held.refused(Some(&token("1")), anyhow!("no")).is_err());
        assert_eq!(held.get(), Some(token("1")));
    }
}
