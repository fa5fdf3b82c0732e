//! Transactions: the messages of one take effect together or not at all.

use nix::errno::Errno;
use nix::libc;

use super::{DELETE_TABLE, NEW_TABLE, TableName, batch_edge, table};
use crate::error::Fault;
use crate::socket::Socket;
use crate::wire::Message;

/// Messages after which a table exists and is empty.
pub(crate) fn empty_table(name: TableName) -> Vec<Message> {
    vec![
        // Created first, so that the deletion finds a table.
        table(NEW_TABLE, libc::NLM_F_CREATE, name),
        table(DELETE_TABLE, 0, name),
        table(NEW_TABLE, libc::NLM_F_CREATE, name),
    ]
}

/// Sends these messages as one transaction.
pub(crate) fn commit(socket: &mut Socket, messages: Vec<Message>) -> Result<(), Fault> {
    let last = messages.len();
    let mut batch = vec![batch_edge(true)];
    batch.extend(messages);
    batch.push(batch_edge(false));
    socket.call_batch(&batch, last)
}

/// Deletes a table. A missing one is not an error.
pub(crate) fn delete_table(socket: &mut Socket, name: TableName) -> Result<(), Fault> {
    match commit(socket, vec![table(DELETE_TABLE, 0, name)]) {
        Err(fault) if fault.errno() != Some(Errno::ENOENT) => Err(fault),
        _ => Ok(()),
    }
}
