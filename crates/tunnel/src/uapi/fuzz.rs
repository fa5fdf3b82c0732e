//! Fuzz targets of requests and answers.

use shoutd_fuzz::fuzz;
use shoutd_netlink::wireguard::Device;

use super::{REQUEST_MAX, Refusal, answer, request};

/// What is accepted is written again, and reads back the same.
#[test]
fn fuzz_request() {
    fuzz("request", env!("CARGO_MANIFEST_DIR"), |octets| {
        let parsed = request::Request::parse(octets)?;
        if let request::Request::Set(change) = &parsed {
            let mut peers = Vec::new();
            for text in request::write_set(change)? {
                assert!(text.len() <= REQUEST_MAX);
                let request::Request::Set(part) = request::Request::parse(text.as_bytes())? else {
                    panic!("a change is written as another request");
                };
                peers.extend(part.peers);
            }
            assert_eq!(change.peers, peers);
        }
        Ok::<_, Refusal>(format!("{parsed:?}").len() / 64)
    });
}

/// What is accepted is written again, and reads back the same but for the firewall mark.
#[test]
fn fuzz_answer() {
    fuzz("answer", env!("CARGO_MANIFEST_DIR"), |octets| {
        let parsed = answer::parse(octets)?;
        if let Ok(device) = &parsed {
            let again = answer::parse(answer::write_get(device).as_bytes())?;
            let again = again.map(|again| Device { fwmark: device.fwmark, ..again });
            assert_eq!(again.as_ref(), Ok(device));
        }
        Ok::<_, Refusal>(parsed.map(|device| (device.public_key.is_some(), device.peers.len())))
    });
}
