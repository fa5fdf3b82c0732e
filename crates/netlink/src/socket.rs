//! A netlink socket to the kernel: acknowledged requests, dumps and batches.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, connect, recv,
    send, setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;
use zeroize::Zeroize;

use crate::error::Fault;
use crate::namespace::Namespace;
use crate::wire::{Frame, Frames, Message, parse_verdict};

/// Deadline of one request. The kernel takes microseconds. It takes seconds only while another
/// request holds a global lock (`rtnl`), for example while hundreds of namespaces are torn down.
const DEADLINE: Duration = Duration::from_secs(10);
/// How often we restart a dump because the table changed during it (`NLM_F_DUMP_INTR`).
const DUMP_ATTEMPTS_MAX: usize = 16;
/// Independent requests sent at once. If the kernel refuses all of them, the answers fit into a
/// socket's default buffer.
const EACH_MAX: usize = 128;
/// Related requests sent at once: as many as one entry can have hosts. The kernel processes them
/// without a pause.
const TOGETHER_MAX: usize = 1024;
/// Receive buffer, in octets; the kernel doubles the value. It holds [`TOGETHER_MAX`] refusals of
/// 1,280 octets each, the kernel's overhead included.
const ANSWERS: usize = 1024 * 1024;
/// Octets received at once: the kernel puts up to 32 KiB of a dump into one datagram.
const BUFFER: usize = 64 * 1024;

/// The netlink protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    Route,
    Netfilter,
    Generic,
}

/// A socket in one namespace. It is opened on demand and can be closed in between: a host can have
/// more networks than its limit of open files.
#[derive(Debug)]
pub(crate) struct Socket {
    fd: Option<OwnedFd>,
    protocol: Protocol,
    namespace: Namespace,
    /// Whether we stopped reading an answer before its end. The kernel refuses a dump on a socket
    /// that has one in progress (`EBUSY`, `__netlink_dump_start`), so the next request opens a new
    /// socket.
    is_unfinished: bool,
    sequence: u32,
    buffer: Vec<u8>,
    /// How many related requests can be sent at once.
    together_max: usize,
}

/// Opens a socket in the namespace of the calling thread.
pub(crate) fn open_here(protocol: Protocol, flags: SockFlag) -> Result<OwnedFd, Fault> {
    let protocol = match protocol {
        Protocol::Route => SockProtocol::NetlinkRoute,
        Protocol::Netfilter => SockProtocol::NetlinkNetFilter,
        Protocol::Generic => SockProtocol::NetlinkGeneric,
    };
    let fd =
        socket(AddressFamily::Netlink, SockType::Raw, flags | SockFlag::SOCK_CLOEXEC, protocol)?;
    bind(fd.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
    Ok(fd)
}

/// Sets a `SOL_NETLINK` option that takes an integer.
pub(crate) fn set_option(fd: &OwnedFd, option: libc::c_int, value: u32) -> io::Result<()> {
    let length = libc::socklen_t::try_from(size_of::<u32>()).unwrap_or(4);
    // SAFETY: `fd` is open. The kernel reads `length` octets from a pointer to a value that has as
    // many octets and outlives the call.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_NETLINK,
            option,
            (&raw const value).cast(),
            length,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Opens a socket in a namespace, connected to the kernel. Also returns how many related requests
/// can be sent at once.
fn connected(protocol: Protocol, namespace: &Namespace) -> Result<(OwnedFd, usize), Fault> {
    let fd = namespace.enter(move || open_here(protocol, SockFlag::empty()))??;
    // Connected to the kernel (port 0), so no other process can put an answer into our queue.
    connect(fd.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
    setsockopt(&fd, sockopt::ReceiveTimeout, &time_value(DEADLINE))?;
    setsockopt(&fd, sockopt::SendTimeout, &time_value(DEADLINE))?;
    set_option(&fd, libc::NETLINK_EXT_ACK, 1)?;
    set_option(&fd, libc::NETLINK_CAP_ACK, 1)?;
    // Kernels before 4.20 cannot narrow dumps, so we also filter every dump's answer ourselves.
    let _ = set_option(&fd, libc::NETLINK_GET_STRICT_CHK, 1);
    // Exceeding the system's limit takes a privilege that we may not have.
    let has_room = setsockopt(&fd, sockopt::RcvBufForce, &ANSWERS).is_ok();
    Ok((fd, if has_room { TOGETHER_MAX } else { EACH_MAX }))
}

impl Socket {
    /// Opens a socket in this namespace.
    pub(crate) fn open(protocol: Protocol, namespace: &Namespace) -> Result<Self, Fault> {
        let (fd, together_max) = connected(protocol, namespace)?;
        let (fd, buffer, namespace) = (Some(fd), vec![0; BUFFER], namespace.clone());
        Ok(Self {
            fd,
            protocol,
            namespace,
            is_unfinished: false,
            sequence: 0,
            buffer,
            together_max,
        })
    }

    /// Closes the socket. The next request reopens it, which costs a few hundred microseconds.
    pub(crate) fn rest(&mut self) {
        self.fd = None;
        self.buffer = Vec::new();
    }

    /// Called before each request: opens a new socket if this one is closed or has an unfinished
    /// answer.
    fn begin(&mut self) -> Result<(), Fault> {
        if self.is_unfinished || self.fd.is_none() {
            self.fd = None;
            let (fd, together_max) = connected(self.protocol, &self.namespace)?;
            (self.fd, self.together_max) = (Some(fd), together_max);
        }
        self.buffer.resize(BUFFER, 0);
        self.is_unfinished = true;
        Ok(())
    }

    /// The descriptor, valid after [`Socket::begin`].
    fn raw(&self) -> RawFd {
        self.fd.as_ref().map_or(-1, AsRawFd::as_raw_fd)
    }

    /// Sends a request and waits for its acknowledgement.
    pub(crate) fn call(&mut self, message: &Message) -> Result<(), Fault> {
        self.get(message, |_| {})
    }

    /// Sends a request that has secrets, without a copy of it, and waits for its acknowledgement.
    pub(crate) fn call_secret(&mut self, message: &mut Message) -> Result<(), Fault> {
        self.begin()?;
        let sequence = self.next_sequence();
        self.send(message.finish_in_place(flag(libc::NLM_F_REQUEST | libc::NLM_F_ACK), sequence))?;
        self.receive(sequence..=sequence, sequence, |_| true).map(drop)
    }

    /// Overwrites with zeros what the kernel answered: for answers with secrets.
    pub(crate) fn wipe(&mut self) {
        self.buffer.zeroize();
    }

    /// Sends a request and passes on the answers that precede the acknowledgement.
    pub(crate) fn get(
        &mut self,
        message: &Message,
        mut on_answer: impl FnMut(Frame<'_>),
    ) -> Result<(), Fault> {
        self.begin()?;
        let sequence = self.next_sequence();
        self.send(&message.finish(flag(libc::NLM_F_REQUEST | libc::NLM_F_ACK), sequence))?;
        self.receive(sequence..=sequence, sequence, |frame| {
            on_answer(frame);
            true
        })
        .map(drop)
    }

    /// Dumps a table and parses its entries.
    pub(crate) fn dump<T>(
        &mut self,
        message: &Message,
        parse: impl FnMut(&Frame<'_>) -> Option<T>,
    ) -> Result<Vec<T>, Fault> {
        self.dump_part(message, |_| true, parse)
    }

    /// Dumps a table and parses a part of its entries. Changes to the rest of the table during the
    /// dump do not matter.
    pub(crate) fn dump_part<T>(
        &mut self,
        message: &Message,
        is_of_part: impl Fn(&Frame<'_>) -> bool,
        mut parse: impl FnMut(&Frame<'_>) -> Option<T>,
    ) -> Result<Vec<T>, Fault> {
        for _ in 0..DUMP_ATTEMPTS_MAX {
            let (mut entries, mut interrupted) = (Vec::new(), false);
            let end = self.dump_while(message, |frame| {
                if is_of_part(&frame) {
                    interrupted |= is_interrupted(&frame);
                    entries.extend(parse(&frame));
                }
                true
            });
            match end {
                Ok(End { interrupted: false, .. }) if !interrupted => return Ok(entries),
                Ok(_) => {}
                // The kernel dropped answers because our buffer was full: entries are missing.
                Err(fault) if fault.errno() == Some(Errno::ENOBUFS) => {}
                Err(fault) => return Err(fault),
            }
        }
        Err(Fault::Unstable)
    }

    /// Dumps a table once and reads it until `read` returns false. The unread rest costs the kernel
    /// nothing.
    pub(crate) fn dump_while(
        &mut self,
        message: &Message,
        read: impl FnMut(Frame<'_>) -> bool,
    ) -> Result<End, Fault> {
        self.begin()?;
        let sequence = self.next_sequence();
        self.send(&message.finish(flag(libc::NLM_F_REQUEST | libc::NLM_F_DUMP), sequence))?;
        self.receive(sequence..=sequence, sequence, read)
    }

    /// Sends several requests as one datagram. Only the one at position `acknowledged` is
    /// acknowledged, and the refusal of any request is the result for all.
    pub(crate) fn call_batch(
        &mut self,
        messages: &[Message],
        acknowledged: usize,
    ) -> Result<(), Fault> {
        self.begin()?;
        let mut bytes = Vec::new();
        let first = self.sequence.wrapping_add(1);
        let mut awaited = first;
        for (position, message) in messages.iter().enumerate() {
            let sequence = self.next_sequence();
            let acknowledge = if position == acknowledged { libc::NLM_F_ACK } else { 0 };
            if position == acknowledged {
                awaited = sequence;
            }
            bytes.extend_from_slice(
                &message.finish(flag(libc::NLM_F_REQUEST | acknowledge), sequence),
            );
        }
        self.send(&bytes)?;
        self.receive(first..=self.sequence, awaited, |_| true).map(drop)
    }

    /// Sends several independent requests and returns the refused ones by position. A request for
    /// which `belongs_to_last` holds is sent together with the one before it.
    pub(crate) fn call_each(
        &mut self,
        messages: &[Message],
        belongs_to_last: impl Fn(usize) -> bool,
    ) -> Result<Vec<(usize, Fault)>, Fault> {
        let mut refused = Vec::new();
        let mut offset = 0;
        while offset < messages.len() {
            let end = batch_end(offset, messages.len(), self.together_max, &belongs_to_last);
            let messages = &messages[offset..end];
            self.begin()?;
            let first = self.sequence.wrapping_add(1);
            let mut bytes = Vec::new();
            for position in 0..messages.len() {
                // The kernel reports every refusal. Of the other requests it acknowledges only the
                // last.
                let acknowledge = if position + 1 == messages.len() { libc::NLM_F_ACK } else { 0 };
                let sequence = self.next_sequence();
                bytes.extend_from_slice(
                    &messages[position].finish(flag(libc::NLM_F_REQUEST | acknowledge), sequence),
                );
            }
            self.send(&bytes)?;
            self.receive_each(first, self.sequence, |position, fault| {
                refused.push((offset + position, fault));
            })?;
            offset = end;
        }
        Ok(refused)
    }

    /// Receives until the answer to `last`, and passes on which requests since `first` were
    /// refused.
    fn receive_each(
        &mut self,
        first: u32,
        last: u32,
        mut on_refusal: impl FnMut(usize, Fault),
    ) -> Result<(), Fault> {
        let deadline = Instant::now() + DEADLINE;
        while Instant::now() < deadline {
            let length = match recv(self.raw(), &mut self.buffer, MsgFlags::MSG_TRUNC) {
                Ok(length) => length,
                Err(Errno::EINTR) => continue,
                Err(Errno::EAGAIN) => break,
                Err(errno) => return Err(errno.into()),
            };
            let datagram = self
                .buffer
                .get(..length)
                .ok_or(Fault::Malformed("larger than any answer should be"))?;
            for frame in Frames(datagram).filter(|frame| i32::from(frame.kind) == libc::NLMSG_ERROR)
            {
                let position =
                    usize::try_from(frame.sequence.wrapping_sub(first)).unwrap_or(usize::MAX);
                // Skip answers to earlier requests that we gave up.
                if position > usize::try_from(last.wrapping_sub(first)).unwrap_or_default() {
                    continue;
                }
                let (code, text) = verdict(&frame);
                if code != 0 {
                    on_refusal(position, Fault::Refused { errno: Errno::from_raw(code), text });
                }
                if frame.sequence == last {
                    self.is_unfinished = false;
                    return Ok(());
                }
            }
        }
        Err(Fault::TimedOut { after: DEADLINE })
    }

    fn next_sequence(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        self.sequence
    }

    fn send(&self, bytes: &[u8]) -> Result<(), Fault> {
        loop {
            match send(self.raw(), bytes, MsgFlags::empty()) {
                Ok(_) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// Receives until the answer to `awaited` is complete, a request in `ours` is refused, or
    /// `on_answer` returns false. Answers to other requests are skipped.
    fn receive(
        &mut self,
        ours: std::ops::RangeInclusive<u32>,
        awaited: u32,
        mut on_answer: impl FnMut(Frame<'_>) -> bool,
    ) -> Result<End, Fault> {
        let deadline = Instant::now() + DEADLINE;
        let mut end = End { interrupted: false, is_whole: true };
        loop {
            let length = match recv(self.raw(), &mut self.buffer, MsgFlags::MSG_TRUNC) {
                Ok(length) => length,
                Err(Errno::EINTR) => continue,
                Err(Errno::EAGAIN) => return Err(Fault::TimedOut { after: DEADLINE }),
                Err(errno) => return Err(errno.into()),
            };
            let datagram = self
                .buffer
                .get(..length)
                .ok_or(Fault::Malformed("larger than any answer should be"))?;
            for frame in Frames(datagram).filter(|frame| ours.contains(&frame.sequence)) {
                match i32::from(frame.kind) {
                    libc::NLMSG_ERROR | libc::NLMSG_DONE => {
                        end.interrupted |= is_interrupted(&frame);
                        let (code, text) = verdict(&frame);
                        if code != 0 {
                            self.is_unfinished = false;
                            return Err(Fault::Refused { errno: Errno::from_raw(code), text });
                        }
                        if frame.sequence == awaited {
                            self.is_unfinished = false;
                            return Ok(end);
                        }
                    }
                    libc::NLMSG_NOOP => {}
                    libc::NLMSG_OVERRUN => return Err(Errno::ENOBUFS.into()),
                    _ if on_answer(frame) => {}
                    _ => return Ok(End { is_whole: false, ..end }),
                }
            }
            if Instant::now() > deadline {
                return Err(Fault::TimedOut { after: DEADLINE });
            }
        }
    }
}

/// The end of the run of requests, from `start` on, that is sent at once.
fn batch_end(
    start: usize,
    count: usize,
    together_max: usize,
    belongs_to_last: impl Fn(usize) -> bool,
) -> usize {
    let mut end = count.min(start + EACH_MAX);
    while end < count && end - start < together_max && belongs_to_last(end) {
        end += 1;
    }
    end
}

/// How the reading of an answer ended.
pub(crate) struct End {
    /// Whether the final message says that the table changed during the dump. An earlier entry may
    /// have said so as well.
    interrupted: bool,
    /// Whether we read all of it.
    pub(crate) is_whole: bool,
}

fn is_interrupted(frame: &Frame<'_>) -> bool {
    frame.flags & flag(libc::NLM_F_DUMP_INTR) != 0
}

/// The error number, positive, of an acknowledgement or of the end of a dump; of the former also
/// the kernel's text. On kernels before 4.20 the end of a dump has no error number.
pub(crate) fn verdict(frame: &Frame<'_>) -> (i32, Option<String>) {
    if i32::from(frame.kind) == libc::NLMSG_DONE {
        (frame.word(0).cast_signed().saturating_neg().max(0), None)
    } else {
        parse_verdict(frame)
    }
}

/// A flag of `nlmsg_flags`, which is 16 bits wide.
pub(crate) fn flag(flags: libc::c_int) -> u16 {
    u16::try_from(flags).unwrap_or_default()
}

fn time_value(duration: Duration) -> TimeVal {
    TimeVal::new(duration.as_secs().cast_signed(), 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn related_requests_are_sent_at_once() {
        assert_eq!(batch_ends(TOGETHER_MAX), [0, 300, 1324, 2000]);
        assert_eq!(batch_ends(EACH_MAX)[..4], [0, 128, 256, 384]);
    }

    /// Where batches of 2000 requests end. Those from 120 to 300 belong together, and those from
    /// 400 to the end.
    fn batch_ends(together_max: usize) -> Vec<usize> {
        let mut ends = vec![0];
        while let Some(&end) = ends.last().filter(|end| **end < 2000) {
            ends.push(batch_end(end, 2000, together_max, |position| {
                (121..300).contains(&position) || position > 400
            }));
        }
        ends
    }
}
