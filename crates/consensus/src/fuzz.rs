//! Fuzz targets for the decoders of other hosts' messages, commands and backups.

use openraft::error::InstallSnapshotError;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse,
    VoteRequest, VoteResponse,
};
use serde::de::DeserializeOwned;
use shoutd_core::cluster::{Cluster, Command};
use shoutd_fuzz::fuzz;

use crate::backup;
use crate::raft::Types;
use crate::wire::{Answer, Join, Joined, Message, Propose, Proposed, StatusAnswer};

fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, serde_json::Error> {
    serde_json::from_slice(body)
}

/// Decodes one body as every message: a caller can send any body to any path.
#[test]
fn fuzz_message() {
    fuzz("message", env!("CARGO_MANIFEST_DIR"), |body| {
        let raft = (
            read::<Message<AppendEntriesRequest<Types>>>(body),
            read::<Message<VoteRequest<u64>>>(body),
            read::<Message<InstallSnapshotRequest<Types>>>(body),
        );
        let questions = (
            read::<Message<Propose>>(body),
            read::<Message<Join>>(body),
            read::<Message<()>>(body),
        );
        let answers = (
            read::<Answer<Proposed>>(body),
            read::<Answer<Joined>>(body),
            read::<Answer<StatusAnswer>>(body),
        );
        let raft_answers = (
            read::<Answer<AppendEntriesResponse<u64>>>(body),
            read::<Answer<VoteResponse<u64>>>(body),
            read::<Answer<Result<InstallSnapshotResponse<u64>, InstallSnapshotError>>>(body),
        );
        (raft, questions, answers, raft_answers)
    });
}

/// The input is a command per line, as a member can propose them. Decodes and applies them.
#[test]
fn fuzz_command() {
    fuzz("command", env!("CARGO_MANIFEST_DIR"), |lines| {
        let mut cluster = Cluster::default();
        let applied = lines
            .split(|octet| *octet == b'\n')
            .take(32)
            .map(|line| read::<Command>(line).map(|command| cluster.apply(&command)));
        applied.collect::<Vec<_>>()
    });
}

/// Reads a backup as it is, and also with its length and checksum corrected: the fuzzer would not
/// get past these.
#[test]
fn fuzz_backup() {
    fuzz("backup", env!("CARGO_MANIFEST_DIR"), |mut file| {
        let corrected = correct(file);
        (backup::read(&mut file), corrected.map(|file| backup::read(&mut file.as_slice())))
    });
}

fn correct(file: &[u8]) -> Option<Vec<u8>> {
    let end = file.iter().position(|octet| *octet == b'\n')?;
    let (header, body) = (file.get(..end)?, file.get(end + 1..)?);
    let mut header: serde_json::Value = read(header).ok()?;
    let members = header.as_object_mut()?;
    members.insert("bytes".to_owned(), body.len().into());
    members.insert("sha256".to_owned(), backup::hash(body).into());
    Some([header.to_string().as_bytes(), b"\n", body].concat())
}
