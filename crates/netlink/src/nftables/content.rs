//! Parsing of tables, chains, rules and sets, as far as shoutd needs them.

use std::net::IpAddr;

use super::{
    CHAIN_HOOK, CHAIN_NAME, CHAIN_TABLE, COUNTER_PACKETS, DATA_VALUE, DELETE_SET_ELEMENT,
    ELEMENT_KEY, ELEMENTS_LIST, ELEMENTS_TABLE, EXPRESSION_DATA, EXPRESSION_NAME, GET_CHAIN,
    GET_TABLE, HEADER, HOOK_NUMBER, Hook, LIST_ELEMENT, NEW_GENERATION, NEW_SET_ELEMENT,
    RULE_CHAIN, RULE_EXPRESSIONS, RULE_TABLE, RULE_USERDATA, SUBSYSTEM, TABLE_FLAGS, TABLE_NAME,
    TableName, get_rules, message,
};
use crate::error::Fault;
use crate::socket::Socket;
use crate::wire::{Attribute, Frame};

/// A table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Table {
    /// Non-zero if the table is dormant or owned by a process.
    pub(crate) flags: u32,
}

/// A chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Chain {
    pub(crate) name: String,
    /// The number of its hook; `None` if it is not a base chain.
    pub(crate) hook: Option<u32>,
}

/// A rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(crate) chain: String,
    /// Our text that identifies the rule.
    pub(crate) userdata: Vec<u8>,
}

/// A rule, and the packets counted by its [`Expression::Count`](super::Expression::Count).
pub(crate) fn parse_count(table: TableName, frame: &Frame<'_>) -> Option<(Rule, u64)> {
    let rule = parse_rule(table, frame)?;
    let attributes = frame.attributes(HEADER);
    let count = attributes.find(RULE_EXPRESSIONS)?.nested().find_map(|element| {
        let expression = element.nested();
        let is_counter = expression.find(EXPRESSION_NAME)?.text() == "counter";
        expression
            .find(EXPRESSION_DATA)
            .filter(|_| is_counter)?
            .nested()
            .find(COUNTER_PACKETS)?
            .u64_be()
    });
    Some((rule, count?))
}

/// The contents of a table, except the elements of its sets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Content {
    pub(crate) tables: Vec<Table>,
    pub(crate) chains: Vec<Chain>,
    pub(crate) rules: Vec<Rule>,
}

/// A chain of one of our tables, with the userdata of its rules.
pub(crate) struct OwnChain {
    pub(crate) name: &'static str,
    pub(crate) hook: Hook,
    pub(crate) userdata: Vec<String>,
}

impl Content {
    /// The contents of a table with these chains, each with the userdata of its rules.
    pub(crate) fn of(chains: impl IntoIterator<Item = OwnChain>) -> Self {
        let mut content = Self { tables: vec![Table { flags: 0 }], ..Self::default() };
        for OwnChain { name, hook, userdata } in chains {
            content.chains.push(Chain { name: name.to_owned(), hook: Some(hook as u32) });
            for text in userdata {
                content.rules.push(Rule { chain: name.to_owned(), userdata: text.into_bytes() });
            }
        }
        content.sorted()
    }

    /// Reads a table.
    pub(crate) fn read(socket: &mut Socket, table: TableName) -> Result<Self, Fault> {
        let get_tables = message(GET_TABLE, 0, table.family);
        let get_chains = message(GET_CHAIN, 0, table.family);
        let content = Self {
            tables: socket.dump(&get_tables, |frame| parse_table(table, frame))?,
            chains: socket.dump(&get_chains, |frame| parse_chain(table, frame))?,
            // Only this table's: a host may have ten thousand rules of other tables.
            rules: socket.dump(&get_rules(table), |frame| parse_rule(table, frame))?,
        };
        Ok(content.sorted())
    }

    /// The order of chains does not matter. The order of rules matters within a chain.
    fn sorted(mut self) -> Self {
        self.chains.sort_by(|a, b| a.name.cmp(&b.name));
        self.rules.sort_by(|a, b| a.chain.cmp(&b.chain));
        self
    }
}

pub(crate) fn parse_table(table: TableName, frame: &Frame<'_>) -> Option<Table> {
    let attributes = frame.attributes(HEADER);
    is_of(table, frame, TABLE_NAME)?;
    Some(Table {
        flags: attributes.find(TABLE_FLAGS).and_then(Attribute::u32_be).unwrap_or_default(),
    })
}

pub(crate) fn parse_chain(table: TableName, frame: &Frame<'_>) -> Option<Chain> {
    let attributes = frame.attributes(HEADER);
    is_of(table, frame, CHAIN_TABLE)?;
    let hook = attributes.find(CHAIN_HOOK).and_then(|hook| hook.nested().find(HOOK_NUMBER));
    Some(Chain {
        name: attributes.find(CHAIN_NAME)?.text(),
        hook: hook.and_then(Attribute::u32_be),
    })
}

pub(crate) fn parse_rule(table: TableName, frame: &Frame<'_>) -> Option<Rule> {
    let attributes = frame.attributes(HEADER);
    is_of(table, frame, RULE_TABLE)?;
    let userdata =
        attributes.find(RULE_USERDATA).map(|userdata| userdata.value.to_vec()).unwrap_or_default();
    Some(Rule { chain: attributes.find(RULE_CHAIN)?.text(), userdata })
}

/// The addresses in a set. Each message holds some of them.
pub(crate) fn parse_set_elements(table: TableName, frame: &Frame<'_>) -> Option<Vec<IpAddr>> {
    is_of(table, frame, ELEMENTS_TABLE)?;
    let list = frame.attributes(HEADER).find(ELEMENTS_LIST)?;
    Some(keys(list).filter_map(Attribute::ip).collect())
}

/// The keys of eight octets in a set. Each message holds some of them.
pub(crate) fn parse_set_keys(table: TableName, frame: &Frame<'_>) -> Option<Vec<[u8; 8]>> {
    is_of(table, frame, ELEMENTS_TABLE)?;
    let list = frame.attributes(HEADER).find(ELEMENTS_LIST)?;
    Some(keys(list).filter_map(|key| key.value.try_into().ok()).collect())
}

/// The keys in a list of a set's elements.
fn keys(list: Attribute<'_>) -> impl Iterator<Item = Attribute<'_>> {
    list.nested()
        .filter(|element| element.kind == LIST_ELEMENT)
        .filter_map(|element| element.nested().find(ELEMENT_KEY)?.nested().find(DATA_VALUE))
}

/// Whether a message is about elements of sets only, or is the generation message that ends every
/// transaction.
pub(crate) fn is_of_elements(frame: &Frame<'_>) -> bool {
    [NEW_SET_ELEMENT, DELETE_SET_ELEMENT, NEW_GENERATION].contains(&(frame.kind ^ SUBSYSTEM << 8))
}

/// Whether an event is about a table or its contents. In each kind of message the first attribute
/// is the table's name.
pub(crate) fn is_about(table: TableName, frame: &Frame<'_>) -> bool {
    is_of(table, frame, TABLE_NAME).is_some()
}

/// `Some` if a message is about the table, whose name is in this attribute.
fn is_of(table: TableName, frame: &Frame<'_>, attribute: u16) -> Option<()> {
    let name = frame.attributes(HEADER).find(attribute)?.text();
    (frame.octet(0) == table.family as u8 && name == table.name).then_some(())
}
