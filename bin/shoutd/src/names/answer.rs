//! The answers of the resolver (RFC 1035), without I/O.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use domain::base::iana::{Class, Opcode, Rcode};
use domain::base::message_builder::AnswerBuilder;
use domain::base::wire::Composer;
use domain::base::{Message, MessageBuilder, Name as DomainName, Rtype, Ttl};
use domain::rdata::{A, Aaaa, Ptr};
use shoutd_core::names::{Directory, Name};

/// TTL of answers. It is short, so that a container that moved is found soon.
const TTL: Ttl = Ttl::from_secs(5);

/// Size limit of a UDP answer without EDNS, in octets (RFC 1035, section 4.2.1).
const PLAIN_BYTES_MAX: u16 = 512;

/// Size limit of a UDP answer with EDNS (RFC 6891), in octets: fits any path (DNS flag day 2020).
const EXTENDED_BYTES_MAX: u16 = 1232;

/// Transport of a query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// UDP.
    Udp,
    /// TCP.
    Tcp,
}

/// The answer to a query, from the names that the container may know. `None` for a message that is
/// not a query: we do not answer it.
///
/// The answer for an unknown name is SERVFAIL: Docker's resolver, and those of C libraries, then
/// ask the next server.
pub fn answer(question: &[u8], directory: &Directory, transport: Transport) -> Option<Vec<u8>> {
    let message = Message::from_octets(question).ok().filter(|message| !message.header().qr())?;
    let extension = message.opt();
    let limit = match (transport, &extension) {
        (Transport::Tcp, _) => u16::MAX,
        (Transport::Udp, Some(opt)) => {
            opt.udp_payload_size().clamp(PLAIN_BYTES_MAX, EXTENDED_BYTES_MAX)
        }
        (Transport::Udp, None) => PLAIN_BYTES_MAX,
    };
    let found = find(&message, directory);
    if let Found::Fault(Rcode::FORMERR) = found {
        return Some(malformed(&message));
    }
    let extended = extension.is_some();
    let whole = compose(&message, &found, extended)?;
    if whole.len() <= usize::from(limit) {
        return Some(whole);
    }
    // Truncated: the client asks again over TCP.
    let mut short = MessageBuilder::new_vec().start_answer(&message, Rcode::NOERROR).ok()?;
    short.header_mut().set_aa(true);
    short.header_mut().set_tc(true);
    finish(short, extended)
}

/// The answer to a query that has not exactly one question. We do not repeat the questions, because
/// they may be of any size.
fn malformed(message: &Message<&[u8]>) -> Vec<u8> {
    let mut answer = MessageBuilder::new_vec();
    let header = answer.header_mut();
    header.set_id(message.header().id());
    header.set_qr(true);
    header.set_opcode(message.header().opcode());
    header.set_rcode(Rcode::FORMERR);
    answer.finish()
}

/// Result of a lookup.
enum Found {
    Addresses(Vec<IpAddr>),
    Names(Vec<Name>),
    Fault(Rcode),
}

fn find(message: &Message<&[u8]>, directory: &Directory) -> Found {
    let Ok(question) = message.sole_question() else { return Found::Fault(Rcode::FORMERR) };
    if message.header().opcode() != Opcode::QUERY {
        return Found::Fault(Rcode::NOTIMP);
    }
    if !matches!(question.qclass(), Class::IN | Class::ANY) {
        return Found::Fault(Rcode::REFUSED);
    }
    let (text, wanted) = (question.qname().to_string().to_ascii_lowercase(), question.qtype());
    if let Some(address) = reversed(&text) {
        let names = directory
            .addresses
            .iter()
            .filter(|(_, at)| at.contains(&address))
            .map(|(name, _)| name.clone());
        let names: Vec<_> = names.collect();
        return match (names.is_empty(), wanted) {
            (true, _) => Found::Fault(Rcode::SERVFAIL),
            (false, Rtype::PTR | Rtype::ANY) => Found::Names(names),
            (false, _) => Found::Names(Vec::new()),
        };
    }
    let known = text.parse::<Name>().ok().and_then(|name| directory.addresses.get(&name));
    let Some(known) = known else { return Found::Fault(Rcode::SERVFAIL) };
    // A name without an address of this type exists: NODATA (RFC 2308, section 2.2).
    Found::Addresses(known.iter().copied().filter(|address| is_of(*address, wanted)).collect())
}

/// Whether a record of this type has the address.
fn is_of(address: IpAddr, wanted: Rtype) -> bool {
    match wanted {
        Rtype::A => address.is_ipv4(),
        Rtype::AAAA => address.is_ipv6(),
        other => other == Rtype::ANY,
    }
}

fn compose(message: &Message<&[u8]>, found: &Found, extended: bool) -> Option<Vec<u8>> {
    let code = if let Found::Fault(code) = found { *code } else { Rcode::NOERROR };
    let mut answer = MessageBuilder::new_vec().start_answer(message, code).ok()?;
    answer.header_mut().set_aa(code == Rcode::NOERROR);
    answer.header_mut().set_ra(true);
    if let Ok(question) = message.sole_question() {
        let owner = question.qname();
        match found {
            Found::Addresses(addresses) => {
                for address in addresses {
                    match address {
                        IpAddr::V4(address) => answer.push((owner, TTL, A::new(*address))).ok()?,
                        IpAddr::V6(address) => {
                            answer.push((owner, TTL, Aaaa::new(*address))).ok()?;
                        }
                    }
                }
            }
            Found::Names(names) => {
                for name in names {
                    let name: DomainName<Vec<u8>> = name.as_str().parse().ok()?;
                    answer.push((owner, TTL, Ptr::new(name))).ok()?;
                }
            }
            Found::Fault(_) => {}
        }
    }
    finish(answer, extended)
}

/// Finishes the message. A query with EDNS gets an OPT record with our UDP payload size.
fn finish<Target: Composer + Into<Vec<u8>>>(
    answer: AnswerBuilder<Target>,
    extended: bool,
) -> Option<Vec<u8>> {
    let mut additional = answer.additional();
    if extended {
        let opt = additional.opt(|opt| {
            opt.set_udp_payload_size(EXTENDED_BYTES_MAX);
            Ok(())
        });
        opt.ok()?;
    }
    Some(additional.finish().into())
}

/// The address of a name in the reverse tree (RFC 1035, section 3.5; RFC 3596, section 2.5).
fn reversed(name: &str) -> Option<IpAddr> {
    if let Some(digits) = name.strip_suffix(".in-addr.arpa") {
        let octets: Vec<u8> =
            digits.split('.').map(|octet| octet.parse().ok()).collect::<Option<_>>()?;
        let [d, c, b, a] = octets.try_into().ok()?;
        return Some(IpAddr::V4(Ipv4Addr::new(a, b, c, d)));
    }
    let digits: Vec<_> = name.strip_suffix(".ip6.arpa")?.split('.').collect();
    if digits.len() != 32 || digits.iter().any(|digit| digit.len() != 1) {
        return None;
    }
    let text: String = digits.into_iter().rev().collect();
    u128::from_str_radix(&text, 16).ok().map(|bits| IpAddr::V6(Ipv6Addr::from_bits(bits)))
}

#[cfg(test)]
mod tests {
    use shoutd_fuzz::fuzz;

    use super::*;

    fn directory() -> Directory {
        let entries: [(&str, &[&str]); 3] = [
            ("web", &["10.0.0.1", "10.0.0.2", "fd00::1"]),
            ("only-4.example", &["10.0.0.3"]),
            ("many", &[]),
        ];
        let mut directory = Directory::default();
        for (name, addresses) in entries {
            let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
            directory.addresses.insert(name.parse().unwrap(), addresses);
        }
        let many = (0..200u8).map(|last| IpAddr::from([10, 1, 0, last])).collect();
        directory.addresses.insert("many".parse().unwrap(), many);
        directory
    }

    fn question(name: &str, kind: Rtype, size: Option<u16>) -> Vec<u8> {
        let mut builder = MessageBuilder::new_vec();
        builder.header_mut().set_id(4711);
        builder.header_mut().set_rd(true);
        let mut builder = builder.question();
        let name: DomainName<Vec<u8>> = name.parse().unwrap();
        builder.push((name, kind)).unwrap();
        let mut builder = builder.additional();
        if let Some(size) = size {
            builder
                .opt(|opt| {
                    opt.set_udp_payload_size(size);
                    Ok(())
                })
                .unwrap();
        }
        builder.finish()
    }

    struct Reply {
        code: Rcode,
        is_truncated: bool,
        records: Vec<String>,
    }

    fn ask_by(name: &str, kind: Rtype, size: Option<u16>, transport: Transport) -> Reply {
        let octets = answer(&question(name, kind, size), &directory(), transport).unwrap();
        let message = Message::from_octets(octets.as_slice()).unwrap();
        assert!(message.header().qr() && message.header().rd() && message.header().id() == 4711);
        assert_eq!(message.opt().is_some(), size.is_some());
        let records = message.answer().unwrap().map(|record| {
            let record = record.unwrap();
            let data = record.to_any_record::<domain::rdata::AllRecordData<_, _>>().unwrap();
            format!("{} {}", data.rtype(), data.data())
        });
        Reply {
            code: message.header().rcode(),
            is_truncated: message.header().tc(),
            records: records.collect(),
        }
    }

    fn ask(name: &str, kind: Rtype) -> (Rcode, Vec<String>) {
        let reply = ask_by(name, kind, Some(4096), Transport::Udp);
        assert!(!reply.is_truncated);
        (reply.code, reply.records)
    }

    #[test]
    fn names_resolve_to_addresses_and_addresses_to_names() {
        let long = format!("1.{}0.0.d.f.ip6.arpa", "0.".repeat(27));
        let questions: [(&str, Rtype, &[&str]); 6] = [
            ("web", Rtype::A, &["A 10.0.0.1", "A 10.0.0.2"]),
            ("WEB", Rtype::AAAA, &["AAAA fd00::1"]),
            // The name exists.
            ("only-4.example", Rtype::AAAA, &[]),
            ("web", Rtype::MX, &[]),
            ("3.0.0.10.in-addr.arpa", Rtype::PTR, &["PTR only-4.example."]),
            (&long, Rtype::PTR, &["PTR web."]),
        ];
        for (name, kind, expected) in questions {
            let (code, records) = ask(name, kind);
            assert_eq!(code, Rcode::NOERROR, "{name} {kind}");
            assert_eq!(records, expected, "{name} {kind}");
        }
        assert_eq!(ask("web", Rtype::ANY).1.len(), 3);
    }

    #[test]
    fn unknown_names_get_servfail() {
        for name in
            ["example.com", "9.9.9.9.in-addr.arpa", "1.in-addr.arpa", "x.ip6.arpa", "-", "."]
        {
            assert_eq!(ask(name, Rtype::A), (Rcode::SERVFAIL, vec![]), "{name}");
        }
    }

    #[test]
    fn an_answer_that_is_too_long_for_udp_is_truncated() {
        for size in [None, Some(0), Some(512), Some(1232), Some(65535)] {
            for (transport, is_truncated, count) in
                [(Transport::Udp, true, 0), (Transport::Tcp, false, 200)]
            {
                let reply = ask_by("many", Rtype::A, size, transport);
                assert_eq!(reply.code, Rcode::NOERROR, "{size:?} {transport:?}");
                assert_eq!(reply.is_truncated, is_truncated, "{size:?} {transport:?}");
                assert_eq!(reply.records.len(), count, "{size:?} {transport:?}");
            }
        }
    }

    /// The code of the answer over UDP, if there is one.
    fn code(octets: &[u8]) -> Option<Rcode> {
        let octets = answer(octets, &directory(), Transport::Udp)?;
        Some(Message::from_octets(octets.as_slice()).unwrap().header().rcode())
    }

    #[test]
    fn invalid_queries_are_refused_and_other_messages_are_not_answered() {
        let valid = question("web", Rtype::A, None);
        assert_eq!(code(&[]), None);
        assert_eq!(code(&[0; 11]), None);
        let mut reply = valid.clone();
        reply[2] |= 0x80;
        assert_eq!(code(&reply), None, "it is a response");
        let mut notify = valid.clone();
        notify[2] |= 4 << 3;
        assert_eq!(code(&notify), Some(Rcode::NOTIMP));
        let mut chaos = valid.clone();
        *chaos.last_mut().unwrap() = 3;
        assert_eq!(code(&chaos), Some(Rcode::REFUSED));
        assert_eq!(code(&valid[..valid.len() - 1]), Some(Rcode::FORMERR));
        let mut none = valid.clone();
        none[5] = 0;
        assert_eq!(code(&none), Some(Rcode::FORMERR));
    }

    #[test]
    fn fuzz_dns_question() {
        fuzz("dns_question", env!("CARGO_MANIFEST_DIR"), |octets| {
            for transport in [Transport::Udp, Transport::Tcp] {
                let answer = answer(octets, &directory(), transport)?;
                assert!(
                    transport == Transport::Tcp || answer.len() <= usize::from(EXTENDED_BYTES_MAX)
                );
                Message::from_octets(answer.as_slice()).unwrap();
            }
            Some(())
        });
    }
}
