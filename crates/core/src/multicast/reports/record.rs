//! Group records of reports (RFC 3376, section 4.2.12; RFC 3810, section 5.2.12).

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::Version;
use crate::multicast::SourceFilter;

/// Maximum number of sources per record. A report with one record then fits into the minimum MTU of
/// IPv6, 1280 octets, for both families: 56 octets are headers, and 28 are the record's and the
/// report's own.
const SOURCES_MAX: usize = (1280 - 56 - 28) / 16;

/// The type of a record, with its number on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum RecordKind {
    /// Only these sources are selected (`MODE_IS_INCLUDE`).
    IsInclude = 1,
    /// All but these sources are selected (`MODE_IS_EXCLUDE`).
    IsExclude = 2,
    /// Change to these sources only; without sources it is a leave (`CHANGE_TO_INCLUDE_MODE`).
    ToInclude = 3,
    /// Change to all but these sources (`CHANGE_TO_EXCLUDE_MODE`).
    ToExclude = 4,
    /// These sources are selected in addition (`ALLOW_NEW_SOURCES`).
    Allow = 5,
    /// These sources are no longer selected (`BLOCK_OLD_SOURCES`).
    Block = 6,
}

/// A group record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The type.
    pub kind: RecordKind,
    /// The group.
    pub group: IpAddr,
    /// The sources, of the group's address family.
    pub sources: Vec<IpAddr>,
}

/// The current state of a group.
pub(super) fn current(group: IpAddr, filter: &SourceFilter) -> Vec<Record> {
    match filter {
        SourceFilter::Include(sources) => split(RecordKind::IsInclude, group, sources),
        SourceFilter::Exclude(sources) => vec![excluding(RecordKind::IsExclude, group, sources)],
    }
}

/// The answer to a group-and-source-specific query (RFC 3376, section 5.2).
pub(super) fn of_sources(
    group: IpAddr,
    filter: &SourceFilter,
    queried: &BTreeSet<IpAddr>,
) -> Vec<Record> {
    let wanted = queried.iter().filter(|source| filter.admits(**source)).copied().collect();
    split(RecordKind::IsInclude, group, &wanted)
}

/// The state change of a group (RFC 3376, section 5.1).
pub(super) fn change(
    group: IpAddr,
    before: Option<&SourceFilter>,
    now: Option<&SourceFilter>,
) -> Vec<Record> {
    let none = SourceFilter::Include(BTreeSet::new());
    let (before, now) = (before.unwrap_or(&none), now.unwrap_or(&none));
    match (before, now) {
        // A leave. `Block` would say the same, but has no equivalent in version 2. A router queries
        // the group after a leave, as it queries blocked sources after `Block`.
        (before, SourceFilter::Include(now)) if now.is_empty() && *before != none => {
            vec![Record { kind: RecordKind::ToInclude, group, sources: Vec::new() }]
        }
        (SourceFilter::Include(before), SourceFilter::Include(now)) => {
            allow_and_block(group, &(now - before), &(before - now))
        }
        (SourceFilter::Exclude(before), SourceFilter::Exclude(now)) => {
            allow_and_block(group, &(before - now), &(now - before))
        }
        (SourceFilter::Include(_), SourceFilter::Exclude(now)) => {
            vec![excluding(RecordKind::ToExclude, group, now)]
        }
        (SourceFilter::Exclude(_), SourceFilter::Include(now)) => {
            let mut wanted = now.iter().copied();
            let first = wanted.by_ref().take(SOURCES_MAX).collect();
            let mut records = vec![Record { kind: RecordKind::ToInclude, group, sources: first }];
            records.extend(split(RecordKind::Allow, group, &wanted.collect()));
            records
        }
    }
}

fn allow_and_block(
    group: IpAddr,
    allowed: &BTreeSet<IpAddr>,
    blocked: &BTreeSet<IpAddr>,
) -> Vec<Record> {
    let mut records = split(RecordKind::Allow, group, allowed);
    records.extend(split(RecordKind::Block, group, blocked));
    records
}

/// Translates records to a version without sources. An `IsExclude` record stands for a join, and a
/// `ToInclude` record for a leave, which the first version does not have.
pub(super) fn of_older(records: Vec<Record>, version: Version) -> Vec<Record> {
    let mut seen = BTreeSet::new();
    let translated = records.into_iter().filter_map(|Record { kind, group, sources }| {
        let is_leave = match kind {
            RecordKind::IsExclude | RecordKind::ToExclude => false,
            RecordKind::IsInclude | RecordKind::Allow if !sources.is_empty() => false,
            RecordKind::ToInclude => sources.is_empty(),
            // Neither a join nor a leave: other sources may still be selected.
            RecordKind::IsInclude | RecordKind::Allow | RecordKind::Block => return None,
        };
        let kind = if is_leave { RecordKind::ToInclude } else { RecordKind::IsExclude };
        Some(Record { kind, group, sources: Vec::new() })
    });
    translated
        .filter(|record| version != Version::First || record.kind != RecordKind::ToInclude)
        .filter(|record| seen.insert(record.group))
        .collect()
}

/// One record per [`SOURCES_MAX`] sources; none without sources.
fn split(kind: RecordKind, group: IpAddr, sources: &BTreeSet<IpAddr>) -> Vec<Record> {
    let sources: Vec<IpAddr> = sources.iter().copied().collect();
    sources
        .chunks(SOURCES_MAX)
        .map(|sources| Record { kind, group, sources: sources.to_vec() })
        .collect()
}

/// A record in EXCLUDE mode cannot be split. Leaving sources out widens the filter, which is safe.
fn excluding(kind: RecordKind, group: IpAddr, sources: &BTreeSet<IpAddr>) -> Record {
    Record { kind, group, sources: sources.iter().take(SOURCES_MAX).copied().collect() }
}
