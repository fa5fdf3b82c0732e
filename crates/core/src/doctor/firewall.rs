//! The firewall of the host: whether rules drop port 7789, or that of WireGuard, as far as their
//! text tells. It reads what `nft list ruleset` and `iptables-save` print. Rules can do more than
//! can be judged from their text, so what is found is told with the rule.

use super::{Check, Facts, Finding, Level, RulesText};
use crate::limits::PORT;

/// The table of the underlay filter, which drops VXLAN from strangers only.
const OWN_TABLE: &str = "table inet shoutd ";

/// What a set of rules does with the packets to this host's port.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Judged {
    /// Rules that drop the port, with their protocol.
    pub(super) drops: Vec<(&'static str, String)>,
    /// Chains of the input hook that drop what no rule accepts.
    pub(super) closed: Vec<String>,
    /// Protocols for which a rule accepts the port.
    pub(super) accepts: Vec<&'static str>,
}

/// Where a rule is.
#[derive(Debug, Clone, Copy)]
enum Place {
    /// In a chain at the input hook.
    Input,
    /// In a chain at another hook.
    OtherHook,
    /// In a chain to which others may jump.
    Regular,
}

/// The findings about the rules.
pub fn firewall(facts: &Facts) -> Vec<Finding> {
    let texts: Vec<_> = facts.rules.iter().flatten().collect();
    if texts.is_empty() {
        let why: Vec<&str> = facts
            .rules
            .iter()
            .filter_map(|rules| rules.as_ref().err())
            .map(String::as_str)
            .collect();
        return vec![Finding::new(
            Check::Firewall,
            Level::NotChecked,
            format!("the rules of this host's firewall: {}", why.join("; ")),
            "install nftables or iptables",
        )];
    }
    let mut findings: Vec<Finding> =
        texts.iter().flat_map(|rules| findings_of(rules, PORT, &["tcp", "udp"])).collect();
    let daemon = facts.daemon.as_ref().ok();
    let wireguard = daemon.and_then(|daemon| daemon.status.wireguard.as_ref()?.port);
    if let Some(port) = wireguard {
        findings.extend(texts.iter().flat_map(|rules| findings_of(rules, port, &["udp"])));
    }
    findings.dedup();
    if findings.is_empty() {
        let mut ports = format!("{PORT}/tcp or {PORT}/udp");
        if let Some(port) = wireguard {
            ports = format!("{PORT}/tcp, {PORT}/udp or {port}/udp");
        }
        let text = format!("no rule of this host's firewall drops {ports}");
        findings.push(Finding::ok(Check::Firewall, text));
    }
    findings
}

/// The findings about what rules do with a port.
fn findings_of(rules: &RulesText, port: u16, protocols: &[&'static str]) -> Vec<Finding> {
    let judged = if rules.program.starts_with("nft") {
        judge_nftables(&rules.text, port)
    } else {
        judge_iptables(&rules.text, port)
    };
    let drops = judged.drops.iter().filter(|(protocol, _)| protocols.contains(protocol));
    let mut findings: Vec<Finding> =
        drops.map(|(protocol, rule)| dropping((port, protocol), rule, rules)).collect();
    for protocol in protocols {
        if let Some(chain) = judged.closed.first().filter(|_| !judged.accepts.contains(protocol)) {
            findings.push(Finding::new(
                Check::Firewall,
                Level::Warning,
                format!(
                    "{chain} drops what no rule accepts, and none of its rules names \
                     {port}/{protocol}"
                ),
                format!(
                    "accept {port}/{protocol} from the other hosts, unless a rule does so already \
                     ({} shows the rules)",
                    rules.program
                ),
            ));
        }
    }
    findings
}

/// The finding about a rule that drops the port.
fn dropping((port, protocol): (u16, &str), rule: &str, rules: &RulesText) -> Finding {
    let conditions = ["saddr", "daddr", "iif", " -s ", " -d ", " -i ", "@"];
    if conditions.iter().any(|condition| rule.contains(condition)) {
        return Finding::new(
            Check::Firewall,
            Level::NotChecked,
            format!("a firewall rule of this host drops some of {port}/{protocol}: {rule}"),
            "see whether it lets the other hosts through; the checks of peers and tunnels say \
             whether they arrive",
        );
    }
    Finding::new(
        Check::Firewall,
        Level::Error,
        format!("a firewall rule of this host drops {port}/{protocol}: {rule}"),
        format!(
            "remove the rule, or accept {port}/{protocol} from the other hosts before it ({} shows \
             the rules)",
            rules.program
        ),
    )
}

/// Reads what `nft list ruleset` prints.
pub(super) fn judge_nftables(text: &str, port: u16) -> Judged {
    let mut judged = Judged::default();
    let (mut table, mut chain, mut place) = (String::new(), String::new(), Place::Regular);
    for line in text.lines() {
        let line = line.trim();
        if line.starts_with("table ") {
            table = line.to_owned();
        } else if let Some(name) = line.strip_prefix("chain ") {
            (chain, place) = (name.trim_end_matches(" {").to_owned(), Place::Regular);
        }
        if table.starts_with(OWN_TABLE) {
            continue;
        }
        if line.starts_with("type ") && line.contains(" hook ") {
            let is_input = line.contains(" hook input ");
            place = if is_input { Place::Input } else { Place::OtherHook };
            if is_input && line.contains("policy drop") {
                let table = table.trim_end_matches(" {");
                judged.closed.push(format!("chain {chain} of {table}"));
            }
            continue;
        }
        for protocol in ["tcp", "udp"] {
            let ports = line.split_once(&format!("{protocol} dport "));
            let ports = ports.or_else(|| line.split_once("th dport "));
            let Some((_, ports)) = ports.filter(|(_, ports)| names_port(ports, port)) else {
                continue;
            };
            judged.note(protocol, ports, line, place);
        }
    }
    judged
}

/// Reads what `iptables-save` prints.
pub(super) fn judge_iptables(text: &str, port: u16) -> Judged {
    let mut judged = Judged::default();
    for line in text.lines() {
        if line.starts_with(":INPUT DROP") {
            judged.closed.push("chain INPUT of iptables".to_owned());
        }
        let Some(rule) = line.strip_prefix("-A ") else { continue };
        let place = match rule.split(' ').next() {
            Some("INPUT") => Place::Input,
            Some("OUTPUT" | "FORWARD" | "PREROUTING" | "POSTROUTING") => Place::OtherHook,
            _ => Place::Regular,
        };
        for protocol in ["tcp", "udp"] {
            let ports = rule
                .split_once("--dport ")
                .or_else(|| rule.split_once("--dports "))
                .filter(|(before, ports)| {
                    before.contains(&format!("-p {protocol}")) && names_port(ports, port)
                });
            if let Some((_, rest)) = ports {
                let rest = rest.replace("-j DROP", "drop").replace("-j REJECT", "reject");
                judged.note(protocol, &rest.replace("-j ACCEPT", "accept"), line, place);
            }
        }
    }
    judged
}

impl Judged {
    /// A rule that names the port. `rest` is what follows the port.
    fn note(&mut self, protocol: &'static str, rest: &str, rule: &str, place: Place) {
        let has = |verdict| rest.split_whitespace().any(|word| word == verdict);
        let (accepts, drops) = (has("accept"), has("drop") || has("reject"));
        match place {
            Place::Input if drops => self.drops.push((protocol, rule.to_owned())),
            // Without a verdict it jumps to a chain, which decides.
            Place::Input => self.accepts.push(protocol),
            Place::Regular if accepts => self.accepts.push(protocol),
            Place::Regular | Place::OtherHook => {}
        }
    }
}

/// Whether the ports at the beginning of a text have this one: a number, a range, or a list.
fn names_port(text: &str, wanted: u16) -> bool {
    let list = match text.strip_prefix('{') {
        Some(set) => set.split('}').next().unwrap_or_default(),
        None => text.split_whitespace().next().unwrap_or_default(),
    };
    list.split(',').any(|item| {
        let item = item.trim();
        let mut ends = item.split(['-', ':']).map(|number| number.trim().parse::<u16>());
        match (ends.next(), ends.next()) {
            (Some(Ok(port)), None) => port == wanted,
            (Some(Ok(first)), Some(Ok(last))) => (first..=last).contains(&wanted),
            _ => false,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_of_nftables_that_drop_the_port_are_found() {
        let text = "table inet shoutd {\n\tchain input {\n\t\ttype filter hook input priority -5; \
                    policy accept;\n\t\tudp dport 7789 ip saddr != @members drop\n\t}\n}\n\
                    table ip blocked {\n\tchain in {\n\t\ttype filter hook input priority filter; \
                    policy drop;\n\t\tudp dport 7789 drop\n\t\ttcp dport { 22, 7000-8000 } accept\n\
                    \t}\n\tchain out {\n\t\ttype filter hook output priority 0; policy accept;\n\
                    \t\ttcp dport 7789 drop\n\t}\n}\n";
        let judged = judge_nftables(text, PORT);
        assert_eq!(judged.drops, [("udp", "udp dport 7789 drop".to_owned())]);
        assert_eq!(judged.closed, ["chain in of table ip blocked"]);
        assert_eq!(judged.accepts, ["tcp"]);
        assert_eq!(judge_nftables("rubbish\n}{", PORT), Judged::default());
    }

    #[test]
    fn rules_of_iptables_that_drop_the_port_are_found() {
        let text = "*filter\n:INPUT DROP [0:0]\n-A INPUT -p tcp -m tcp --dport 7789 -j ACCEPT\n\
                    -A INPUT -p udp -m udp --dport 7000:8000 -j REJECT --reject-with icmp\n\
                    -A OUTPUT -p tcp -m tcp --dport 7789 -j DROP\n-A INPUT -p udp --dport 53 -j \
                    DROP\nCOMMIT\n";
        let judged = judge_iptables(text, PORT);
        assert_eq!(judged.drops.len(), 1, "{judged:?}");
        assert!(judged.drops[0].1.contains("7000:8000"), "{judged:?}");
        assert_eq!(judged.closed.len(), 1);
        assert!(judged.accepts.contains(&"tcp"));
    }

    #[test]
    fn ports_are_read_as_numbers_ranges_and_lists() {
        for text in ["7789 drop", "{ 22, 7789 } drop", "7000-8000 accept", "22,7788:7790 -j DROP"] {
            assert!(names_port(text, PORT), "{text}");
        }
        for text in ["77890 drop", "{ 22, 23 } drop", "7790-8000 accept", "@ports drop", ""] {
            assert!(!names_port(text, PORT), "{text}");
        }
    }
}
