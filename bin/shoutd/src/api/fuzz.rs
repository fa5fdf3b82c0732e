//! Fuzz targets for the lists that other hosts answer with.

use serde::Serialize;
use serde::de::DeserializeOwned;
use shoutd_core::health::HostHealth;
use shoutd_core::view::{EndpointRow, GroupMemberRow};
use shoutd_fuzz::fuzz;

/// Reads an answer of this type and writes it again.
fn is_read<T: DeserializeOwned + Serialize + PartialEq>(body: &[u8]) -> Result<(), String> {
    let read: T = serde_json::from_slice(body).map_err(|error| error.to_string())?;
    let again = serde_json::to_vec(&read).map_err(|error| error.to_string())?;
    assert!(
        serde_json::from_slice::<T>(&again).is_ok_and(|again| again == read),
        "it is not shown as it was read"
    );
    Ok(())
}

/// The same body for every type of answer.
#[test]
fn fuzz_peer_view() {
    fuzz("peer_view", env!("CARGO_MANIFEST_DIR"), |body| {
        (
            is_read::<Vec<EndpointRow>>(body),
            is_read::<Vec<GroupMemberRow>>(body),
            is_read::<HostHealth>(body),
        )
    });
}
