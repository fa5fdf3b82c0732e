//! A cluster replaces its certificate authority. Its members stay connected, and certificates that
//! a thief issues with the former authority's key are refused. Over real connections on loopback.

#[cfg(test)]
#[allow(dead_code, reason = "shared with other tests")]
mod common;

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::sync::Arc;
    use std::time::SystemTime;

    use axum::routing::post;
    use axum::{Extension, Json, Router};
    use shoutd_core::HostId;
    use shoutd_core::trust::Agreed;
    use shoutd_peer::{
        AuthorityCertificate, CallError, Caller, Client, CredentialStore, Credentials, Distrust,
        NextCredentials, Rejection, Trust,
    };
    use tempfile::TempDir;

    use crate::common::{Running, SOON, client_of, ours, prepared, serve_as};

    /// The number of the authority of the beginning, and of the one that replaces it.
    const FORMER: u8 = 1;
    const NEW: u8 = 2;

    /// A host with its files, a server, and a client.
    struct Host {
        _directory: TempDir,
        store: Arc<CredentialStore>,
        server: Running,
        client: Client,
    }

    fn issue(store: &CredentialStore, authority: u8) -> Credentials {
        let given = prepared(authority);
        let (key, now) = (store.key().public(), SystemTime::now());
        Credentials::issue(key, &given.authority, ours(), given.seal_key, now).unwrap()
    }

    impl Host {
        fn start(authority: u8) -> Self {
            let directory = tempfile::tempdir().unwrap();
            let store = CredentialStore::open(directory.path()).unwrap();
            store.enroll(issue(&store, authority)).unwrap();
            let who = post(async |Extension(caller): Extension<Caller>| {
                Json((caller.host, caller.is_member))
            });
            let server = serve_as(&store, Router::new().route("/who", who));
            let client = client_of(&store, Trust::Cluster);
            Self { _directory: directory, store, server, client }
        }

        /// Agreed state, as this host knows it.
        fn knows(&self, current: u8, former: &[u8], members: &[&Self]) {
            let certificate = |number: u8| -> AuthorityCertificate {
                prepared(number).authority.certificate().clone()
            };
            self.store.trust(Agreed {
                current: Some(certificate(current)),
                former: former.iter().copied().map(certificate).collect(),
                members: members.iter().map(|host| host.store.host()).collect(),
            });
        }

        fn adopt(&self, authority: u8) {
            let credentials = issue(&self.store, authority);
            let next = NextCredentials { credentials, sealed_key: None };
            self.store.prepare_next(&next).unwrap();
            self.store.adopt_next().unwrap();
        }

        fn address(&self) -> SocketAddr {
            self.server.address
        }

        /// Over the connection that is open, if one is.
        async fn calls(&self, other: &Self) -> Result<(HostId, bool), CallError> {
            self.client.call(other.address(), "/who", &(), SOON).await
        }

        async fn calls_anew(&self, other: &Self) -> Result<(HostId, bool), CallError> {
            client_of(&self.store, Trust::Cluster).call(other.address(), "/who", &(), SOON).await
        }
    }

    /// Both hosts reach each other, over open and over new connections.
    async fn connected(one: &Host, other: &Host) {
        for (from, to) in [(one, other), (other, one)] {
            let expected = (from.store.host(), true);
            assert_eq!(from.calls(to).await.unwrap(), expected);
            assert_eq!(from.calls_anew(to).await.unwrap(), expected);
        }
    }

    /// The reason for which a server refuses a request.
    fn refused(answer: Result<(HostId, bool), CallError>) -> String {
        match answer {
            Err(CallError::Refused {
                rejection: Rejection::Unauthenticated { reason }, ..
            }) => reason,
            other => panic!("{other:?}"),
        }
    }

    fn distrust(answer: Result<(HostId, bool), CallError>) -> Distrust {
        match answer {
            Err(CallError::Untrusted { distrust, .. }) => distrust,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn members_go_on_and_a_thief_is_shut_out() {
        let (first, second) = (Host::start(FORMER), Host::start(FORMER));
        let thief = Host::start(FORMER);
        let members = [&first, &second];
        for host in members {
            host.knows(FORMER, &[], &members);
        }
        connected(&first, &second).await;
        // Before, the authority's key is all that it takes.
        connected(&first, &thief).await;

        // The first host issues the new authority. The second knows nothing of it.
        first.knows(NEW, &[FORMER], &members);
        assert!(first.store.needs_certificate());
        connected(&first, &second).await;
        first.adopt(NEW);
        assert!(!first.store.needs_certificate());
        connected(&first, &second).await;
        let reason = Distrust::FormerAuthority.to_string();
        assert_eq!(refused(thief.calls(&first).await), reason, "over its open connection");
        assert_eq!(refused(thief.calls_anew(&first).await), reason);
        assert_eq!(distrust(first.calls_anew(&thief).await), Distrust::FormerAuthority);

        // The second knows of it, and has no certificate from it yet.
        second.knows(NEW, &[FORMER], &members);
        assert!(second.store.needs_certificate());
        connected(&first, &second).await;
        assert_eq!(refused(thief.calls(&second).await), reason);
        second.adopt(NEW);
        connected(&first, &second).await;

        // A host that the cluster admits now.
        let newcomer = Host::start(NEW);
        for host in [&first, &second, &newcomer] {
            host.knows(NEW, &[FORMER], &[&first, &second, &newcomer]);
            connected(host, &newcomer).await;
        }
        assert_eq!(distrust(newcomer.calls_anew(&thief).await), Distrust::FormerAuthority);
    }

    #[tokio::test]
    async fn a_host_that_was_away_understands_those_that_were_members_before() {
        let (first, away, newcomer) = (Host::start(FORMER), Host::start(FORMER), Host::start(NEW));
        away.knows(FORMER, &[], &[&first, &away]);
        first.adopt(NEW);
        for host in [&first, &newcomer] {
            host.knows(NEW, &[FORMER], &[&first, &away, &newcomer]);
        }
        connected(&first, &away).await;
        // It cannot know the newcomer yet, which has no former certificate to show.
        assert_eq!(distrust(away.calls_anew(&newcomer).await), Distrust::OtherAuthority);
        assert_eq!(refused(newcomer.calls_anew(&away).await), Distrust::OtherAuthority.to_string());
        // A member gives it a certificate, before it hears of agreed state.
        away.adopt(NEW);
        connected(&away, &newcomer).await;
        connected(&away, &first).await;
        let thief = Host::start(FORMER);
        assert_eq!(refused(thief.calls_anew(&away).await), Distrust::FormerAuthority.to_string());
    }
}
