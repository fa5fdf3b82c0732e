//! The size of the file of agreed state.

use std::fs;

use futures::stream::{self, StreamExt};

use crate::common::{Place, SOON, create, founded};

const COMMANDS: u16 = 20_000;

/// The limit in bytes for a state of some hundred bytes: about 1500 log entries, two snapshots,
/// and redb's free pages.
const FILE_BYTES_MAX: u64 = 2 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn the_file_stays_small_however_many_commands_are_committed() {
    // In memory, where fsync costs nothing: only the size matters here.
    let directory = tempfile::tempdir_in("/dev/shm").unwrap();
    let place = Place::new(directory.path(), 1);
    let node = place.start().await;
    node.consensus.found(founded(), SOON).await.unwrap();
    let mut largest = 0;
    for _ in 0..COMMANDS / 1000 {
        let proposals =
            stream::iter(0..1000).map(|_| node.consensus.propose(create(node.host(), 1), SOON));
        let done: Vec<_> = proposals.buffer_unordered(16).collect().await;
        assert!(done.iter().all(Result::is_ok), "{:?}", done.iter().find(|done| done.is_err()));
        largest = largest.max(file_bytes(&place));
    }
    println!("{COMMANDS} commands: the file had {largest} bytes at most");
    assert!(largest < FILE_BYTES_MAX, "{largest} bytes");
    assert!(node.status().applied > Some(u64::from(COMMANDS)));
    node.stop().await;
    let node = place.start().await;
    assert!(node.has(1));
    println!("{} bytes after a restart", file_bytes(&place));
    node.stop().await;
}

fn file_bytes(place: &Place) -> u64 {
    fs::metadata(place.directory.join("agreed.redb")).unwrap().len()
}
