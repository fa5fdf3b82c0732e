//! The name server of the outside world: it answers at once that a name does not exist.
//!
//! Without it a lookup in a container would stall: Docker's resolver (20.10) does not pass a
//! server's refusal on to its client.

use std::net::{SocketAddr, UdpSocket};

use anyhow::{Context, Result};

use crate::layout::GATEWAY;

/// The header of a message (RFC 1035, section 4.1.1).
const HEADER: usize = 12;

/// The longest message by UDP without extensions (RFC 1035, section 2.3.4).
const MAX_MESSAGE: usize = 512;

/// The response code "the name does not exist" (RFC 1035, section 4.1.1).
const NAME_ERROR: u8 = 3;

/// Listens at the gateway's address, which has to be there.
pub(super) fn listen() -> Result<UdpSocket> {
    let address = SocketAddr::from((GATEWAY, 53));
    let socket = UdpSocket::bind(address).with_context(|| format!("listen on {address}"))?;
    socket.set_nonblocking(true).context("make the name server's socket non-blocking")?;
    Ok(socket)
}

/// Answers the next query that has arrived. Clients repeat lost ones.
pub(super) fn serve(socket: &UdpSocket) {
    let mut message = [0; MAX_MESSAGE];
    let Ok((length, client)) = socket.recv_from(&mut message) else { return };
    let received = message.get_mut(..length).unwrap_or_default();
    if let Some(answer) = answer(received) {
        _ = socket.send_to(answer, client);
    }
}

/// Turns a query into the answer that its name does not exist; `None` for anything else.
fn answer(message: &mut [u8]) -> Option<&[u8]> {
    let question_end = question_end(message)?;
    let header = message.get_mut(..HEADER)?;
    let (flags, counts) = header.get_mut(2..)?.split_at_mut(2);
    if let [high, low] = flags {
        if *high & 0x80 != 0 {
            return None;
        }
        // A response, authoritative, with the query's opcode and "recursion desired"; recursion is
        // available.
        *high = *high & 0x79 | 0x84;
        *low = 0x80 | NAME_ERROR;
    }
    // One question, nothing else: extensions that came after it are cut off.
    counts.copy_from_slice(&[0, 1, 0, 0, 0, 0, 0, 0]);
    message.get(..question_end)
}

/// The end of the first question: labels up to the empty one, then type and class.
fn question_end(message: &[u8]) -> Option<usize> {
    let mut at = HEADER;
    loop {
        match usize::from(*message.get(at)?) {
            0 => break,
            length => at += 1 + length,
        }
    }
    let end = at + 1 + 4;
    (end <= message.len()).then_some(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_does_not_exist() {
        let mut query = b"\x12\x34\x01\x20\0\x01\0\0\0\0\0\x01\x01a\0\0\x01\0\x01".to_vec();
        query.extend(b"\0\0\x29\x04\xd0\0\0\0\0\0\0");
        let wanted = b"\x12\x34\x85\x83\0\x01\0\0\0\0\0\0\x01a\0\0\x01\0\x01";
        assert_eq!(answer(&mut query).unwrap(), wanted);
    }

    #[test]
    fn only_queries_get_an_answer() {
        let response = b"\x12\x34\x81\x80\0\x01\0\0\0\0\0\0\x01a\0\0\x01\0\x01";
        for garbage in [&b""[..], b"\x12\x34", &response[..17], response, &[0xff; 40]] {
            assert_eq!(answer(&mut garbage.to_vec()), None);
        }
    }
}
