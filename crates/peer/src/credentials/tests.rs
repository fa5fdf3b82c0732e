use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::authority::VALIDITY;
use shoutd_core::limits::FORMER_AUTHORITIES_MAX;

const DAY: Duration = Duration::from_secs(86_400);

struct Fixture {
    directory: TempDir,
    authority: Authority,
    seal_key: SealKey,
}

impl Fixture {
    fn new() -> Self {
        let (authority, seal_key) = (Authority::draw().unwrap(), SealKey::draw().unwrap());
        Self { directory: tempfile::tempdir().unwrap(), authority, seal_key }
    }

    fn open(&self) -> Result<Arc<CredentialStore>, CredentialError> {
        CredentialStore::open(self.directory.path())
    }

    fn issue(&self, store: &CredentialStore, now: SystemTime) -> Credentials {
        let (key, cluster) = (store.key().public(), ClusterId::new(7));
        Credentials::issue(key, &self.authority, cluster, self.seal_key.clone(), now).unwrap()
    }

    /// The directory of a host that belongs to a cluster.
    fn enrolled() -> Self {
        let fixture = Self::new();
        let store = fixture.open().unwrap();
        store.enroll(fixture.issue(&store, SystemTime::now())).unwrap();
        fixture
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(DIRECTORY).join(name)
    }

    fn error(&self) -> String {
        self.open().unwrap_err().to_string()
    }
}

#[test]
fn a_host_keeps_its_identity_until_it_leaves() {
    let fixture = Fixture::new();
    let first = fixture.open().unwrap();
    assert!(first.credentials().is_none());
    let again = fixture.open().unwrap();
    assert_eq!(again.host(), first.host());
    again.enroll(fixture.issue(&again, SystemTime::now())).unwrap();
    let member = fixture.open().unwrap();
    assert_eq!(member.credentials(), again.credentials());
    assert_eq!(member.credentials().unwrap().cluster(), ClusterId::new(7));
    assert_eq!(member.certified().cert.len(), 2, "with the authority's, for joining hosts");
    member.leave().unwrap();
    let left = fixture.open().unwrap();
    assert_eq!(left.credentials(), None);
    assert_ne!(left.host(), first.host(), "it is another host now");
    assert_eq!(member.certified().cert.len(), 1);
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn files_that_other_users_can_read_are_refused() {
    let fixture = Fixture::enrolled();
    assert_eq!(mode(&fixture.directory.path().join(DIRECTORY)), 0o700);
    for name in [KEY_FILE, CERTIFICATE_FILE, AUTHORITY_FILE, SEAL_KEY_FILE] {
        let path = fixture.file(name);
        assert_eq!(mode(&path), 0o600);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let expected = format!(
            "{0} has mode 0640, so that other users can access it: if none has done so, type \
             `chmod 0600 {0}`",
            path.display()
        );
        assert_eq!(fixture.error(), expected);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    }
    let directory = fixture.directory.path().join(DIRECTORY);
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o755)).unwrap();
    assert!(fixture.error().contains("has mode 0755"), "{}", fixture.error());
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o700)).unwrap();
    std::os::unix::fs::chown(fixture.file(KEY_FILE), Some(12345), None).unwrap();
    assert!(fixture.error().contains("belongs to user 12345"), "{}", fixture.error());
}

#[test]
fn damage_is_reported_in_one_line_that_names_the_file() {
    for (name, bytes) in [
        (KEY_FILE, b"".as_slice()),
        (KEY_FILE, b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"),
        (KEY_FILE, b"-----BEGIN PRIVATE KEY-----\n"),
        (CERTIFICATE_FILE, b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
        (CERTIFICATE_FILE, &[0xff; 2000]),
        (AUTHORITY_FILE, b""),
        (SEAL_KEY_FILE, b"0123"),
        (SEAL_KEY_FILE, &[0; 100_000]),
    ] {
        let fixture = Fixture::enrolled();
        fs::write(fixture.file(name), bytes).unwrap();
        let error = fixture.error();
        assert!(
            error.starts_with(&format!("{} is damaged: ", fixture.file(name).display())),
            "{error}"
        );
        assert!(!error.contains('\n'), "{error}");
    }
    for name in [KEY_FILE, AUTHORITY_FILE, SEAL_KEY_FILE] {
        let fixture = Fixture::enrolled();
        fs::remove_file(fixture.file(name)).unwrap();
        assert!(
            fixture.error().contains(&format!("{name} is damaged: it is missing")),
            "{}",
            fixture.error()
        );
    }
}

#[test]
fn files_of_different_hosts_or_clusters_do_not_fit() {
    let (one, two) = (Fixture::enrolled(), Fixture::enrolled());
    fs::copy(two.file(KEY_FILE), one.file(KEY_FILE)).unwrap();
    assert!(one.error().contains("the certificate is for another key"), "{}", one.error());
    let one = Fixture::enrolled();
    fs::copy(two.file(AUTHORITY_FILE), one.file(AUTHORITY_FILE)).unwrap();
    assert!(
        one.error().contains("the certificate is not from the given authority"),
        "{}",
        one.error()
    );
    let (one, two) = (one.directory, two.open().unwrap());
    fs::remove_dir_all(one.path().join(DIRECTORY)).unwrap();
    let one = CredentialStore::open(one.path()).unwrap();
    let foreign = Credentials::clone(&two.credentials().unwrap());
    assert!(one.enroll(foreign).unwrap_err().to_string().contains("for another key"));
    assert!(one.credentials().is_none());
}

#[test]
fn symbolic_links_and_pipes_are_refused() {
    let fixture = Fixture::enrolled();
    let elsewhere = fixture.directory.path().join("elsewhere");
    fs::rename(fixture.file(KEY_FILE), &elsewhere).unwrap();
    symlink(&elsewhere, fixture.file(KEY_FILE)).unwrap();
    assert!(fixture.error().starts_with("cannot read "), "{}", fixture.error());
    fs::remove_file(fixture.file(KEY_FILE)).unwrap();
    nix::unistd::mkfifo(&fixture.file(KEY_FILE), nix::sys::stat::Mode::from_bits_truncate(0o600))
        .unwrap();
    assert!(fixture.error().contains("it is not a file"), "{}", fixture.error());
}

#[test]
fn a_crash_while_enrolling_leaves_a_host_that_has_yet_to_join() {
    for interrupted_after in 1..3 {
        let fixture = Fixture::enrolled();
        for name in [CERTIFICATE_FILE, AUTHORITY_FILE, SEAL_KEY_FILE].iter().take(interrupted_after)
        {
            fs::remove_file(fixture.file(name)).unwrap();
        }
        fs::write(fixture.file("certificate.pem.new"), b"half").unwrap();
        let store = fixture.open().unwrap();
        assert!(store.credentials().is_none());
        store.enroll(fixture.issue(&store, SystemTime::now())).unwrap();
        assert!(fixture.open().unwrap().credentials().is_some());
    }
}

#[test]
fn a_certificate_is_renewed_before_and_after_it_expires() {
    let fixture = Fixture::new();
    let (store, now) = (fixture.open().unwrap(), SystemTime::now());
    assert!(matches!(store.renew(&fixture.authority, now), Err(CredentialError::NotEnrolled)));
    store.enroll(fixture.issue(&store, now)).unwrap();
    for (at, needs_renewal) in [
        (now, false),
        (now + VALIDITY - RENEWAL - DAY, false),
        (now + VALIDITY - RENEWAL + DAY, true),
        (now + 10 * VALIDITY, true),
        // A slow clock does not cause a renewal, whether it is days behind or was never set.
        (now - 10 * DAY, false),
        (SystemTime::UNIX_EPOCH + DAY, false),
    ] {
        assert_eq!(store.credentials().unwrap().needs_renewal(at), needs_renewal, "{at:?}");
    }
    // A host that was off for a year still starts, and renews its certificate.
    store.enroll(fixture.issue(&store, now - 365 * DAY)).unwrap();
    let store = fixture.open().unwrap();
    assert!(store.credentials().unwrap().needs_renewal(now));
    let other = Authority::draw().unwrap();
    assert!(store.renew(&other, now).unwrap_err().to_string().contains("another cluster"));
    store.renew(&fixture.authority, now).unwrap();
    let reopened = fixture.open().unwrap().credentials().unwrap();
    assert!(!reopened.needs_renewal(now));
    assert_eq!(reopened.cluster(), ClusterId::new(7));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn any_bytes_in_any_file_are_an_error_or_no_harm(which in 0..4usize, bytes: Vec<u8>) {
        let fixture = Fixture::enrolled();
        let name = [KEY_FILE, CERTIFICATE_FILE, AUTHORITY_FILE, SEAL_KEY_FILE][which];
        fs::write(fixture.file(name), bytes).unwrap();
        prop_assert!(fixture.error().contains(name));
    }
}

/// Credentials of the same host from another authority, and that authority's sealed key.
fn next(store: &CredentialStore) -> NextCredentials {
    let other = Fixture::new();
    let credentials = other.issue(store, SystemTime::now());
    NextCredentials { credentials, sealed_key: Some("5ea1ed".to_owned()) }
}

#[test]
fn a_host_goes_from_one_authority_to_the_next_and_keeps_its_former_certificates() {
    let fixture = Fixture::enrolled();
    let store = fixture.open().unwrap();
    assert!(matches!(store.adopt_next(), Err(CredentialError::NotEnrolled)));
    let mut held = vec![store.credentials().unwrap().authority().clone()];
    for _ in 0..FORMER_AUTHORITIES_MAX + 2 {
        let next = next(&store);
        store.prepare_next(&next).unwrap();
        assert_eq!(store.credentials().unwrap().authority(), &held[0], "it does not count yet");
        assert_eq!(fixture.open().unwrap().next().unwrap().as_ref(), Some(&next));
        store.adopt_next().unwrap();
        assert_eq!(store.next().unwrap(), None);
        held.insert(0, next.credentials.authority().clone());
        held.truncate(FORMER_AUTHORITIES_MAX + 1);
        // Also after a restart, each peer gets the newest certificate that it accepts.
        for store in [Arc::clone(&store), fixture.open().unwrap()] {
            let shown = |named: &[&AuthorityCertificate]| {
                let chain = store.certified_for(|one| named.contains(&one)).cert.clone();
                AuthorityCertificate::from_der(&chain[1]).unwrap()
            };
            assert_eq!(shown(&[]), held[0], "a joining host names none");
            for (index, authority) in held.iter().enumerate() {
                assert_eq!(&shown(&[authority]), authority);
                let older: Vec<_> = held[index..].iter().collect();
                assert_eq!(&shown(&older), authority);
            }
        }
    }
    store.leave().unwrap();
    let left: Vec<_> = fs::read_dir(fixture.file("")).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_crash_while_the_authority_changes_leaves_one_or_the_other() {
    // After so many steps of `adopt_next`: it writes the former ones, removes the certificate, and
    // writes the new seal key and authority.
    for steps in 0..4 {
        let fixture = Fixture::enrolled();
        let store = fixture.open().unwrap();
        let (before, next) = (store.credentials().unwrap(), next(&store));
        store.prepare_next(&next).unwrap();
        let prepared = fs::read(fixture.file(NEXT_FILE)).unwrap();
        let former = Fixture::enrolled();
        if steps > 0 {
            store.adopt_next().unwrap();
            files::write(&fixture.file(""), NEXT_FILE, &prepared).unwrap();
            fs::remove_file(fixture.file(CERTIFICATE_FILE)).unwrap();
        }
        if steps == 1 {
            // Neither was written: the files are those of before.
            files::write(&fixture.file(""), SEAL_KEY_FILE, before.seal_key().reveal().as_bytes())
                .unwrap();
        }
        if steps == 2 {
            fs::copy(former.file(AUTHORITY_FILE), fixture.file(AUTHORITY_FILE)).unwrap();
        }
        let reopened = fixture.open().unwrap();
        let expected = if steps == 0 { &*before } else { &next.credentials };
        assert_eq!(&*reopened.credentials().unwrap(), expected, "{steps}");
        assert_eq!(reopened.next().unwrap().is_some(), steps == 0);
    }
}

#[test]
fn damaged_former_or_next_credentials_are_reported() {
    for (name, text) in [
        (NEXT_FILE, ""),
        (NEXT_FILE, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
        (FORMER_FILE, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
        (FORMER_FILE, "-----BEGIN CERTIFICATE-----\n"),
    ] {
        let fixture = Fixture::enrolled();
        files::write(&fixture.file(""), name, text.as_bytes()).unwrap();
        let error = match name {
            NEXT_FILE => fixture.open().unwrap().next().unwrap_err().to_string(),
            _ => fixture.error(),
        };
        assert!(error.starts_with(&format!("{} is damaged: ", fixture.file(name).display())));
    }
}
