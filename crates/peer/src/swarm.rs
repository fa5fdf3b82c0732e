//! The identity of a node of a Docker Swarm, by which a host can join without a token.
//!
//! Docker keeps each node's certificate and key, and the certificate of the Swarm's authority, in
//! `swarm/certificates` below its data directory (swarmkit, `ca/config.go`). A certificate names
//! the node's id and its role, `swarm-manager` or `swarm-worker`, as DNS names (swarmkit,
//! `ca/certificates.go`). Node keys are ECDSA on P-256.
//!
//! Two hosts prove their nodes to each other by signatures of a [`Statement`], which binds them to
//! shoutd's own keys.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::SignatureScheme;
use rustls::crypto::ring::sign::any_ecdsa_type;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::sign::SigningKey;
use serde::{Deserialize, Serialize};
use shoutd_core::Fingerprint;
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};

use crate::hex;

/// Directory of the files, below Docker's data directory.
const DIRECTORY: &str = "swarm/certificates";

/// Size limit of each file, in octets. They have less than 2,000.
const FILE_BYTES_MAX: u64 = 64 << 10;

/// Certificates in one proof: the node's, and intermediates while the Swarm changes its authority.
const CHAIN_MAX: usize = 4;

/// Size limit of one certificate, in octets.
const CERTIFICATE_BYTES_MAX: usize = 8 << 10;

/// Limit of a node's id, in characters. They have 25.
const NODE_LENGTH_MAX: usize = 64;

/// The role that a manager's certificate names.
const MANAGER: &str = "swarm-manager";

/// What the certificates of a Swarm are signed with: keys of P-256 or, with an authority of the
/// administrator's own, also P-384.
const ALGORITHMS: [&dyn rustls::pki_types::SignatureVerificationAlgorithm; 4] = [
    webpki::ring::ECDSA_P256_SHA256,
    webpki::ring::ECDSA_P256_SHA384,
    webpki::ring::ECDSA_P384_SHA256,
    webpki::ring::ECDSA_P384_SHA384,
];

/// Why a node's identity cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SwarmError {
    /// A file of the Swarm cannot be read.
    #[error("cannot read {path}: {source}")]
    Unreadable {
        /// The file.
        path: String,
        /// The cause.
        source: io::Error,
    },
    /// The key is encrypted.
    #[error(
        "the key of this Swarm node is encrypted (docker swarm update --autolock): start shoutd \
         with a token"
    )]
    Locked,
    /// A file or a proof is not what a Swarm makes.
    #[error("{0}")]
    Malformed(String),
    /// The certificate is not of this Swarm, not valid now, or not for this node or role.
    #[error("its Swarm certificate is refused: {0}")]
    Untrusted(String),
}

/// A statement that a node signs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Statement {
    /// "The host with this key, which asks to join, is on my node."
    Applicant {
        /// Fingerprint of the host's key.
        host: Fingerprint,
    },
    /// "I belong to the cluster of this authority", to this applicant.
    Member {
        /// Fingerprint of the authority's certificate.
        authority: Fingerprint,
        /// Fingerprint of the applicant's key.
        applicant: Fingerprint,
    },
}

impl Statement {
    /// The signed octets. The first words keep them apart from all else that a node signs.
    fn octets(&self) -> Vec<u8> {
        match self {
            Self::Applicant { host } => format!("shoutd swarm applicant {host}"),
            Self::Member { authority, applicant } => {
                format!("shoutd swarm member {authority} for {applicant}")
            }
        }
        .into_bytes()
    }
}

/// A node's certificate with a signature of a [`Statement`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SwarmProof {
    /// The node's id.
    pub node: String,
    /// The node's certificate and intermediates: DER in hexadecimal digits.
    certificates: Vec<String>,
    /// ECDSA on P-256 with SHA-256, as in ASN.1, in hexadecimal digits.
    signature: String,
}

/// The identity of this host's node.
#[derive(Debug)]
pub struct SwarmIdentity {
    node: String,
    chain: Vec<CertificateDer<'static>>,
    key: Arc<dyn SigningKey>,
    roots: Vec<CertificateDer<'static>>,
}

impl SwarmIdentity {
    /// Reads the identity of the node with this id, below Docker's data directory.
    ///
    /// # Errors
    /// [`SwarmError::Unreadable`], [`SwarmError::Locked`] or [`SwarmError::Malformed`].
    pub fn read(docker_root: &Path, node: &str) -> Result<Self, SwarmError> {
        let directory = docker_root.join(DIRECTORY);
        let blocks = |name: &str| read_pem(&directory.join(name));
        let certificates = |name: &str| -> Result<Vec<_>, SwarmError> {
            let blocks = blocks(name)?.into_iter().filter(|block| block.tag() == "CERTIFICATE");
            let found: Vec<_> =
                blocks.map(|block| CertificateDer::from(block.into_contents())).collect();
            if found.is_empty() {
                return Err(SwarmError::Malformed(format!("{name} has no certificate")));
            }
            Ok(found)
        };
        let key = blocks("swarm-node.key")?.into_iter().next();
        let key = key.ok_or_else(|| SwarmError::Malformed("swarm-node.key is empty".to_owned()))?;
        Ok(Self {
            node: node.to_owned(),
            chain: certificates("swarm-node.crt")?,
            key: signing_key(key)?,
            roots: certificates("swarm-root-ca.crt")?,
        })
    }

    /// Signs a statement.
    ///
    /// # Errors
    /// The key cannot sign.
    pub fn prove(&self, statement: &Statement) -> Result<SwarmProof, SwarmError> {
        let signer = self.key.choose_scheme(&[SignatureScheme::ECDSA_NISTP256_SHA256]);
        let signer = signer
            .ok_or_else(|| SwarmError::Malformed("the node's key is not on P-256".to_owned()))?;
        let signature = signer
            .sign(&statement.octets())
            .map_err(|error| SwarmError::Malformed(error.to_string()))?;
        Ok(SwarmProof {
            node: self.node.clone(),
            certificates: self.chain.iter().take(CHAIN_MAX).map(|der| hex::encode(der)).collect(),
            signature: hex::encode(&signature),
        })
    }

    /// Checks that a node of this Swarm signed the statement.
    ///
    /// # Errors
    /// [`SwarmError::Malformed`] or [`SwarmError::Untrusted`].
    pub fn check_node(
        &self,
        proof: &SwarmProof,
        statement: &Statement,
        now: SystemTime,
    ) -> Result<(), SwarmError> {
        self.check(proof, statement, &[], now)
    }

    /// As [`check_node`](Self::check_node), and that the node is a manager.
    ///
    /// # Errors
    /// As [`check_node`](Self::check_node).
    pub fn check_manager(
        &self,
        proof: &SwarmProof,
        statement: &Statement,
        now: SystemTime,
    ) -> Result<(), SwarmError> {
        self.check(proof, statement, &[MANAGER], now)
    }

    fn check(
        &self,
        proof: &SwarmProof,
        statement: &Statement,
        roles: &[&str],
        now: SystemTime,
    ) -> Result<(), SwarmError> {
        let chain = proof.chain()?;
        let Some((own, intermediates)) = chain.split_first() else {
            return Err(malformed("a proof has no certificate"));
        };
        let certificate = EndEntityCert::try_from(own).map_err(malformed)?;
        let anchors: Result<Vec<_>, _> = self.roots.iter().map(anchor_from_trusted_cert).collect();
        let anchors = anchors.map_err(malformed)?;
        let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let now = UnixTime::since_unix_epoch(now);
        let usage = KeyUsage::client_auth();
        certificate
            .verify_for_usage(&ALGORITHMS, &anchors, intermediates, now, usage, None, None)
            .map_err(|error| untrusted(&error))?;
        for name in [proof.node.as_str()].iter().chain(roles) {
            let server = ServerName::try_from(*name).map_err(malformed)?;
            certificate
                .verify_is_valid_for_subject_name(&server)
                .map_err(|error| untrusted(&error))?;
        }
        let signature = hex::decode(&proof.signature).ok_or_else(|| malformed("the signature"))?;
        certificate
            .verify_signature(webpki::ring::ECDSA_P256_SHA256, &statement.octets(), &signature)
            .map_err(|error| untrusted(&error))
    }
}

impl SwarmProof {
    /// The certificates, within the limits.
    fn chain(&self) -> Result<Vec<CertificateDer<'static>>, SwarmError> {
        let is_small = |digits: &String| digits.len() <= 2 * CERTIFICATE_BYTES_MAX;
        if self.certificates.len() > CHAIN_MAX
            || !self.certificates.iter().all(is_small)
            || self.node.len() > NODE_LENGTH_MAX
        {
            return Err(malformed("a proof is too large"));
        }
        let ders = self.certificates.iter().map(|digits| hex::decode(digits));
        let certificates = ders.map(|der| der.map(CertificateDer::from)).collect::<Option<_>>();
        certificates.ok_or_else(|| malformed("a certificate"))
    }
}

fn malformed(error: impl std::fmt::Display) -> SwarmError {
    SwarmError::Malformed(format!("the proof of a Swarm node is malformed: {error}"))
}

fn untrusted(error: &webpki::Error) -> SwarmError {
    SwarmError::Untrusted(format!("{error:?}"))
}

fn signing_key(block: pem::Pem) -> Result<Arc<dyn SigningKey>, SwarmError> {
    // swarmkit encrypts the key with PKCS #8, or with a cipher that the PEM headers name.
    if block.tag().contains("ENCRYPTED") || block.headers().get("Proc-Type").is_some() {
        return Err(SwarmError::Locked);
    }
    let key = PrivateKeyDer::try_from(block.into_contents());
    let key = key.map_err(|error| SwarmError::Malformed(format!("swarm-node.key: {error}")))?;
    any_ecdsa_type(&key).map_err(|error| SwarmError::Malformed(format!("swarm-node.key: {error}")))
}

fn read_pem(path: &Path) -> Result<Vec<pem::Pem>, SwarmError> {
    let unreadable = |source| SwarmError::Unreadable { path: path.display().to_string(), source };
    let mut text = Vec::new();
    let file = File::open(path).map_err(unreadable)?;
    file.take(FILE_BYTES_MAX).read_to_end(&mut text).map_err(unreadable)?;
    pem::parse_many(&text)
        .map_err(|error| SwarmError::Malformed(format!("{}: {error}", path.display())))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Duration;

    use rcgen::{
        BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
        KeyPair, PKCS_ECDSA_P256_SHA256,
    };
    use shoutd_fuzz::fuzz;
    use tempfile::TempDir;

    use super::*;

    fn pem(tag: &str, der: &[u8]) -> String {
        pem::encode(&pem::Pem::new(tag, der))
    }

    /// The authority of a Swarm.
    struct Swarm {
        issuer: Issuer<'static, KeyPair>,
        root: String,
    }

    impl Swarm {
        fn new() -> Self {
            let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
            let mut params = CertificateParams::new(Vec::new()).unwrap();
            params.distinguished_name.push(DnType::CommonName, "swarm-ca");
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            let root = pem("CERTIFICATE", params.self_signed(&key).unwrap().der());
            Self { issuer: Issuer::new(params, key), root }
        }

        /// A node's files below a data directory of Docker.
        fn node(&self, id: &str, role: &str) -> (TempDir, SwarmIdentity) {
            let directory = tempfile::tempdir().unwrap();
            let files = directory.path().join(DIRECTORY);
            fs::create_dir_all(&files).unwrap();
            let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
            let mut params = CertificateParams::new([role.to_owned(), id.to_owned()]).unwrap();
            params.extended_key_usages =
                vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
            let certificate = params.signed_by(&key, &self.issuer).unwrap();
            fs::write(files.join("swarm-node.crt"), pem("CERTIFICATE", certificate.der())).unwrap();
            fs::write(files.join("swarm-node.key"), pem("PRIVATE KEY", key.serialized_der()))
                .unwrap();
            fs::write(files.join("swarm-root-ca.crt"), &self.root).unwrap();
            let identity = SwarmIdentity::read(directory.path(), id).unwrap();
            (directory, identity)
        }
    }

    fn fingerprint(digit: &str) -> Fingerprint {
        digit.repeat(64).parse().unwrap()
    }

    #[test]
    fn nodes_of_one_swarm_believe_each_other() {
        let swarm = Swarm::new();
        let (_files, manager) = swarm.node("manager1", MANAGER);
        let (_files, worker) = swarm.node("worker1", "swarm-worker");
        let now = SystemTime::now();
        let applicant = Statement::Applicant { host: fingerprint("a") };
        let proof = worker.prove(&applicant).unwrap();
        manager.check_node(&proof, &applicant, now).unwrap();
        let member = Statement::Member { authority: fingerprint("b"), applicant: fingerprint("a") };
        let answer = manager.prove(&member).unwrap();
        worker.check_manager(&answer, &member, now).unwrap();
        // A worker may not let hosts in.
        let false_answer = worker.prove(&member).unwrap();
        assert!(worker.check_manager(&false_answer, &member, now).is_err());
    }

    #[test]
    fn what_another_swarm_or_key_signed_is_refused() {
        let (swarm, other) = (Swarm::new(), Swarm::new());
        let (_files, manager) = swarm.node("manager1", MANAGER);
        let (_files, stranger) = other.node("worker1", "swarm-worker");
        let (_files, worker) = swarm.node("worker1", "swarm-worker");
        let now = SystemTime::now();
        let statement = Statement::Applicant { host: fingerprint("a") };
        let refused = |proof: &SwarmProof, statement: &Statement, now| {
            assert!(manager.check_node(proof, statement, now).is_err(), "{proof:?}");
        };
        refused(&stranger.prove(&statement).unwrap(), &statement, now);
        let proof = worker.prove(&statement).unwrap();
        manager.check_node(&proof, &statement, now).unwrap();
        let others = Statement::Applicant { host: fingerprint("c") };
        refused(&proof, &others, now);
        let as_member =
            Statement::Member { authority: fingerprint("a"), applicant: fingerprint("a") };
        refused(&proof, &as_member, now);
        refused(&SwarmProof { node: "worker2".to_owned(), ..proof.clone() }, &statement, now);
        let signature = "00".to_owned() + &proof.signature[2..];
        refused(&SwarmProof { signature, ..proof.clone() }, &statement, now);
        refused(&SwarmProof { certificates: Vec::new(), ..proof.clone() }, &statement, now);
        let large = vec!["0".repeat(3 * CERTIFICATE_BYTES_MAX)];
        refused(&SwarmProof { certificates: large, ..proof.clone() }, &statement, now);
        // rcgen's certificates end in the year 4096.
        refused(&proof, &statement, now + Duration::from_secs(100_000_000_000));
    }

    #[test]
    fn missing_encrypted_and_damaged_files_are_named() {
        let swarm = Swarm::new();
        let (directory, _) = swarm.node("manager1", MANAGER);
        let key = directory.path().join(DIRECTORY).join("swarm-node.key");
        let text = fs::read_to_string(&key).unwrap();
        let read = || SwarmIdentity::read(directory.path(), "manager1").unwrap_err();
        fs::write(&key, text.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY")).unwrap();
        assert!(matches!(read(), SwarmError::Locked));
        fs::write(&key, "nonsense").unwrap();
        assert!(read().to_string().contains("swarm-node.key"));
        fs::remove_file(&key).unwrap();
        assert!(matches!(read(), SwarmError::Unreadable { .. }));
    }

    #[test]
    fn fuzz_swarm_proof() {
        let (_files, manager) = Swarm::new().node("manager1", MANAGER);
        let applicant = Statement::Applicant { host: fingerprint("a") };
        fuzz("swarm_proof", env!("CARGO_MANIFEST_DIR"), |text| {
            let proof =
                serde_json::from_slice::<SwarmProof>(text).map_err(|error| error.to_string())?;
            let checked = manager.check_node(&proof, &applicant, SystemTime::now());
            assert!(checked.is_err(), "another authority signed it, or none");
            checked.map_err(|error| error.to_string())
        });
    }
}
