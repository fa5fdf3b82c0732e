//! Fuzz targets for the decoders of tokens, headers, certificates, preshared keys and rejections.

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use shoutd_core::{ClusterId, Fingerprint, HostId};
use shoutd_fuzz::fuzz;

use crate::identity::ENROLL;
use crate::key::HostKey;
use crate::{
    AuthorityCertificate, Certificate, Identity, Peer, PublicKey, Rejection, RevealedKey, Secret,
    Token,
};

#[test]
fn fuzz_token() {
    fuzz("token", env!("CARGO_MANIFEST_DIR"), |text| {
        let text = String::from_utf8_lossy(text);
        let token = text.parse::<Token>();
        if let Ok(token) = &token {
            assert_eq!(token.to_string().parse::<Token>().as_ref(), Ok(token));
        }
        (token, Secret::from_digits(&text))
    });
}

/// The input is a header per line; checks a request for the enrollment path and one for another.
#[test]
fn fuzz_headers() {
    let host: HostId = "0123456789abcdef".parse().unwrap();
    let identity = Identity::new(host, Some(ClusterId::new(7)));
    let peer = Peer {
        key: *HostKey::draw().unwrap().public(),
        host,
        membership: Ok(Fingerprint([0; 32])),
    };
    fuzz("headers", env!("CARGO_MANIFEST_DIR"), |text| {
        let mut headers = HeaderMap::new();
        for line in text.split(|octet| *octet == b'\n').take(64) {
            let (name, value) =
                line.split_at(line.iter().position(|octet| *octet == b':').unwrap_or(line.len()));
            let value = value.strip_prefix(b":").unwrap_or(value).trim_ascii();
            if let (Ok(name), Ok(value)) =
                (HeaderName::from_bytes(name), HeaderValue::from_bytes(value))
            {
                headers.append(name, value);
            }
        }
        let address = ([127, 0, 0, 1], 7789).into();
        let check =
            |path| identity.check(&headers, path, &peer, address).map(|caller| caller.cluster);
        (check(ENROLL), check("/v1/propose"))
    });
}

#[test]
fn fuzz_certificate() {
    fuzz("certificate", env!("CARGO_MANIFEST_DIR"), |bytes| {
        let errors =
            (AuthorityCertificate::from_der(bytes).err(), Certificate::from_der(bytes).err());
        let keys = (PublicKey::from_spki(bytes).is_some(), HostKey::from_pkcs8(bytes).is_ok());
        let json = serde_json::from_slice::<Certificate>(bytes).err();
        (errors, keys, json.is_none(), serde_json::from_slice::<Rejection>(bytes).is_ok())
    });
}

#[test]
fn fuzz_preshared_key() {
    fuzz("preshared_key", env!("CARGO_MANIFEST_DIR"), |text| {
        let key = serde_json::from_slice::<RevealedKey>(text).ok().map(|revealed| revealed.key());
        if let Some(Some(key)) = &key {
            assert_eq!(RevealedKey::of(key).key().as_ref(), Some(key));
        }
        key.map(|key| key.map(|key| key.rotation == 0))
    });
}
