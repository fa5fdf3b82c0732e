//! Checks that the chunks of an incoming snapshot have no gap: they can be lost, duplicated and
//! delayed.
//!
//! openraft writes a chunk at its offset, and takes the snapshot for complete with the chunk marked
//! as the last, even if chunks in between never arrived: for example when delayed copies of a
//! stream's first and last chunks arrive and restart it. The missing bytes would be zeros.

use openraft::SnapshotSegmentId;
use openraft::error::{InstallSnapshotError, SnapshotMismatch};
use openraft::raft::{InstallSnapshotRequest, InstallSnapshotResponse};

use crate::raft::{Types, Vote};

/// Which snapshot is being received, and up to where without a gap.
#[derive(Debug, Default)]
pub(crate) struct SnapshotChunks(Option<Stream>);

#[derive(Debug)]
struct Stream {
    /// The leader's vote: two leaders may serialize the same state differently.
    vote: Vote,
    id: String,
    /// The offset of the first missing byte.
    end: u64,
}

/// A checked chunk, kept while openraft handles it.
#[derive(Debug)]
pub(crate) struct Chunk {
    stream: Stream,
    is_last: bool,
}

impl SnapshotChunks {
    /// Checks that no chunk is missing before this one.
    ///
    /// # Errors
    /// A chunk is missing: the answer that makes the sender start again.
    pub fn check(
        &self,
        request: &InstallSnapshotRequest<Types>,
    ) -> Result<Chunk, InstallSnapshotError> {
        let (id, offset) = (&request.meta.snapshot_id, request.offset);
        let received = match &self.0 {
            Some(stream) if stream.vote == request.vote && stream.id == *id => stream.end,
            _ => 0,
        };
        if offset > received {
            return Err(InstallSnapshotError::SnapshotMismatch(SnapshotMismatch {
                expect: SnapshotSegmentId { id: id.clone(), offset: 0 },
                got: SnapshotSegmentId { id: id.clone(), offset },
            }));
        }
        let end = offset.saturating_add(request.data.len() as u64);
        // A stream that restarts sends everything again.
        let end = if offset == 0 { end } else { end.max(received) };
        Ok(Chunk {
            stream: Stream { vote: request.vote, id: id.clone(), end },
            is_last: request.done,
        })
    }

    /// Records that openraft handled a chunk. It ignores chunks of a leader that was deposed.
    pub fn taken(&mut self, chunk: Chunk, answer: &InstallSnapshotResponse<u64>) {
        if answer.vote <= chunk.stream.vote {
            self.0 = (!chunk.is_last).then_some(chunk.stream);
        }
    }
}

#[cfg(test)]
mod tests {
    use openraft::SnapshotMeta;

    use super::*;

    fn request(
        term: u64,
        id: &str,
        offset: u64,
        length: usize,
        done: bool,
    ) -> InstallSnapshotRequest<Types> {
        let meta = SnapshotMeta { snapshot_id: id.to_owned(), ..SnapshotMeta::default() };
        InstallSnapshotRequest {
            vote: Vote::new_committed(term, 1),
            meta,
            offset,
            data: vec![0; length],
            done,
        }
    }

    /// Whether each of these chunks passes, one after the other.
    fn passed(requests: &[InstallSnapshotRequest<Types>]) -> Vec<bool> {
        let mut snapshot_chunks = SnapshotChunks::default();
        let mut passed = Vec::new();
        for request in requests {
            let chunk = snapshot_chunks.check(request);
            passed.push(chunk.is_ok());
            if let Ok(chunk) = chunk {
                snapshot_chunks.taken(chunk, &InstallSnapshotResponse { vote: request.vote });
            }
        }
        passed
    }

    #[test]
    fn chunks_in_order_pass_and_so_do_repeated_ones() {
        let stream = [
            request(1, "a", 0, 10, false),
            request(1, "a", 10, 10, false),
            request(1, "a", 10, 10, false),
            request(1, "a", 20, 5, true),
        ];
        assert_eq!(passed(&stream), [true; 4]);
    }

    #[test]
    fn a_chunk_after_a_gap_does_not_pass() {
        let late = [request(1, "a", 0, 10, false), request(1, "a", 20, 5, true)];
        assert_eq!(passed(&late), [true, false]);
        let restarted = [
            request(1, "a", 0, 10, false),
            request(1, "a", 10, 10, false),
            request(1, "a", 0, 10, false),
            request(1, "a", 20, 5, true),
        ];
        assert_eq!(passed(&restarted), [true, true, true, false]);
        let after_the_end = [request(1, "a", 0, 10, true), request(1, "a", 10, 5, true)];
        assert_eq!(passed(&after_the_end), [true, false]);
    }

    #[test]
    fn chunks_of_another_snapshot_or_leader_do_not_count() {
        let other = [
            request(1, "a", 0, 10, false),
            request(1, "b", 10, 5, true),
            request(2, "a", 10, 5, true),
        ];
        assert_eq!(passed(&other), [true, false, false]);
    }

    #[test]
    fn a_chunk_that_openraft_ignores_counts_as_missing() {
        let mut snapshot_chunks = SnapshotChunks::default();
        let chunk = snapshot_chunks.check(&request(1, "a", 0, 10, false)).unwrap();
        snapshot_chunks.taken(chunk, &InstallSnapshotResponse { vote: Vote::new_committed(2, 2) });
        assert!(snapshot_chunks.check(&request(1, "a", 10, 5, true)).is_err());
    }
}
