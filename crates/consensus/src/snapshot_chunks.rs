//! Snapshots come in pieces, and pieces can be lost, doubled and late.
//!
//! openraft puts a piece where it says that it belongs, and takes the snapshot for whole with the
//! piece that says that it is the last: also if those in between never came, as when copies of a
//! stream's first and last pieces come late and start it anew. What is missing would be zeros.

use openraft::SnapshotSegmentId;
use openraft::error::{InstallSnapshotError, SnapshotMismatch};
use openraft::raft::{InstallSnapshotRequest, InstallSnapshotResponse};

use crate::raft::{Types, Vote};

/// Of which snapshot pieces have come without a gap, and up to where.
#[derive(Debug, Default)]
pub(crate) struct SnapshotChunks(Option<Stream>);

#[derive(Debug)]
struct Stream {
    /// Whose it is: leaders' snapshots of one moment may be written differently.
    vote: Vote,
    id: String,
    /// The offset of the first byte that has not come, in bytes.
    end: u64,
}

/// Where a piece ends, kept while openraft has it.
#[derive(Debug)]
pub(crate) struct Chunk {
    stream: Stream,
    is_last: bool,
}

impl SnapshotChunks {
    /// Checks that no piece is missing before this one.
    ///
    /// # Errors
    /// If one is: the answer by which the sender begins again.
    pub fn check(
        &self,
        request: &InstallSnapshotRequest<Types>,
    ) -> Result<Chunk, InstallSnapshotError> {
        let (id, offset) = (&request.meta.snapshot_id, request.offset);
        let is_same = |stream: &&Stream| stream.vote == request.vote && stream.id == *id;
        let come = self.0.as_ref().filter(is_same).map_or(0, |stream| stream.end);
        if offset > come {
            let segment = |offset| SnapshotSegmentId { id: id.clone(), offset };
            return Err(InstallSnapshotError::SnapshotMismatch(SnapshotMismatch {
                expect: segment(0),
                got: segment(offset),
            }));
        }
        let end = offset.saturating_add(request.data.len() as u64);
        // A stream that begins again goes over all of it again.
        let end = if offset == 0 { end } else { end.max(come) };
        Ok(Chunk {
            stream: Stream { vote: request.vote, id: id.clone(), end },
            is_last: request.done,
        })
    }

    /// Notes what openraft made of a piece. It leaves those of a leader that it knows to be one no
    /// more.
    pub fn taken(&mut self, piece: Chunk, answer: &InstallSnapshotResponse<u64>) {
        if answer.vote <= piece.stream.vote {
            self.0 = (!piece.is_last).then_some(piece.stream);
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

    /// Whether each of these pieces is let through, one after the other.
    fn passed(requests: &[InstallSnapshotRequest<Types>]) -> Vec<bool> {
        let mut snapshot_chunks = SnapshotChunks::default();
        let mut pass = |request: &InstallSnapshotRequest<Types>| {
            let piece = snapshot_chunks.check(request);
            let passed = piece.is_ok();
            if let Ok(piece) = piece {
                snapshot_chunks.taken(piece, &InstallSnapshotResponse { vote: request.vote });
            }
            passed
        };
        requests.iter().map(&mut pass).collect()
    }

    #[test]
    fn pieces_in_order_pass_and_so_do_repeated_ones() {
        let stream = [
            request(1, "a", 0, 10, false),
            request(1, "a", 10, 10, false),
            request(1, "a", 10, 10, false),
            request(1, "a", 20, 5, true),
        ];
        assert_eq!(passed(&stream), [true; 4]);
    }

    #[test]
    fn a_piece_after_a_gap_does_not_pass() {
        let late = [request(1, "a", 0, 10, false), request(1, "a", 20, 5, true)];
        assert_eq!(passed(&late), [true, false]);
        let begun_again = [
            request(1, "a", 0, 10, false),
            request(1, "a", 10, 10, false),
            request(1, "a", 0, 10, false),
            request(1, "a", 20, 5, true),
        ];
        assert_eq!(passed(&begun_again), [true, true, true, false]);
        let after_the_end = [request(1, "a", 0, 10, true), request(1, "a", 10, 5, true)];
        assert_eq!(passed(&after_the_end), [true, false]);
    }

    #[test]
    fn pieces_of_another_snapshot_or_leader_do_not_count() {
        let other = [
            request(1, "a", 0, 10, false),
            request(1, "b", 10, 5, true),
            request(2, "a", 10, 5, true),
        ];
        assert_eq!(passed(&other), [true, false, false]);
    }

    #[test]
    fn what_openraft_leaves_has_not_come() {
        let mut snapshot_chunks = SnapshotChunks::default();
        let piece = snapshot_chunks.check(&request(1, "a", 0, 10, false)).unwrap();
        snapshot_chunks.taken(piece, &InstallSnapshotResponse { vote: Vote::new_committed(2, 2) });
        assert!(snapshot_chunks.check(&request(1, "a", 10, 5, true)).is_err());
    }
}
