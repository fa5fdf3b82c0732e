//! What a report says of one group (RFC 3376, section 4.2.12; RFC 3810, section 5.2.12).

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::Version;
use crate::multicast::SourceFilter;

/// Sources of one record at the most, so that a report of it is within the least MTU of IPv6
/// whatever the family: 1280 octets, of which 56 are headers and 28 the record's own and the
/// report's.
const SOURCES_MAX: usize = (1280 - 56 - 28) / 16;

/// What a record means, with its number on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum RecordKind {
    /// These sources are wanted (`MODE_IS_INCLUDE`).
    IsInclude = 1,
    /// All but these sources are wanted (`MODE_IS_EXCLUDE`).
    IsExclude = 2,
    /// From now on these sources are wanted; with none, the group is left
    /// (`CHANGE_TO_INCLUDE_MODE`).
    ToInclude = 3,
    /// From now on all but these sources are wanted (`CHANGE_TO_EXCLUDE_MODE`).
    ToExclude = 4,
    /// These sources are wanted, too (`ALLOW_NEW_SOURCES`).
    Allow = 5,
    /// These sources are not wanted any more (`BLOCK_OLD_SOURCES`).
    Block = 6,
}

/// What is said of one group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// What it means.
    pub kind: RecordKind,
    /// The group.
    pub group: IpAddr,
    /// The sources, of the group's address family.
    pub sources: Vec<IpAddr>,
}

/// How it is with a group.
pub(super) fn current(group: IpAddr, filter: &SourceFilter) -> Vec<Record> {
    match filter {
        SourceFilter::Include(sources) => split(RecordKind::IsInclude, group, sources),
        SourceFilter::Exclude(sources) => vec![excluding(RecordKind::IsExclude, group, sources)],
    }
}

/// Which of these sources are wanted (RFC 3376, section 5.2).
pub(super) fn of_sources(
    group: IpAddr,
    filter: &SourceFilter,
    asked: &BTreeSet<IpAddr>,
) -> Vec<Record> {
    let wanted = asked.iter().filter(|source| filter.admits(**source)).copied().collect();
    split(RecordKind::IsInclude, group, &wanted)
}

/// What is wanted otherwise than before (RFC 3376, section 5.1).
pub(super) fn change(
    group: IpAddr,
    before: Option<&SourceFilter>,
    now: Option<&SourceFilter>,
) -> Vec<Record> {
    let none = SourceFilter::Include(BTreeSet::new());
    let (before, now) = (before.unwrap_or(&none), now.unwrap_or(&none));
    let allow_and_block = |allowed: BTreeSet<IpAddr>, blocked: BTreeSet<IpAddr>| {
        let mut records = split(RecordKind::Allow, group, &allowed);
        records.extend(split(RecordKind::Block, group, &blocked));
        records
    };
    match (before, now) {
        // What every version can say. A router asks about the sources then, as if they were
        // blocked.
        (before, SourceFilter::Include(now)) if now.is_empty() && *before != none => {
            vec![Record { kind: RecordKind::ToInclude, group, sources: Vec::new() }]
        }
        (SourceFilter::Include(before), SourceFilter::Include(now)) => {
            allow_and_block(now - before, before - now)
        }
        (SourceFilter::Exclude(before), SourceFilter::Exclude(now)) => {
            allow_and_block(before - now, now - before)
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

/// What is left of records for versions that know no sources: which groups are joined, and, in the
/// second, left.
pub(super) fn of_older(records: Vec<Record>, version: Version) -> Vec<Record> {
    let mut said = BTreeSet::new();
    let whole = records.into_iter().filter_map(|Record { kind, group, sources }| {
        let is_left = match kind {
            RecordKind::IsExclude | RecordKind::ToExclude => false,
            RecordKind::IsInclude | RecordKind::Allow if !sources.is_empty() => false,
            RecordKind::ToInclude => sources.is_empty(),
            // That some sources are not wanted any more does not say that none is.
            RecordKind::IsInclude | RecordKind::Allow | RecordKind::Block => return None,
        };
        let kind = if is_left { RecordKind::ToInclude } else { RecordKind::IsExclude };
        Some(Record { kind, group, sources: Vec::new() })
    });
    let is_known =
        |record: &Record| version != Version::First || record.kind != RecordKind::ToInclude;
    whole.filter(is_known).filter(|record| said.insert(record.group)).collect()
}

/// Several records if there are many sources; none if there is none.
fn split(kind: RecordKind, group: IpAddr, sources: &BTreeSet<IpAddr>) -> Vec<Record> {
    let sources: Vec<IpAddr> = sources.iter().copied().collect();
    sources
        .chunks(SOURCES_MAX)
        .map(|sources| Record { kind, group, sources: sources.to_vec() })
        .collect()
}

/// Such a record cannot be split. With fewer sources more is let through, never less.
fn excluding(kind: RecordKind, group: IpAddr, sources: &BTreeSet<IpAddr>) -> Record {
    Record { kind, group, sources: sources.iter().take(SOURCES_MAX).copied().collect() }
}
