//! Which certificates a host accepts and shows while the cluster replaces its certificate
//! authority. Pure.
//!
//! `shoutdctl remove --revoke` replaces the authority by agreement. Hosts learn of it one after the
//! other, some of them hours later. Until then:
//!
//! * A host that knows the new authority accepts the former one from members only. It keeps its
//!   former certificates, and shows one to a peer that trusts no newer authority. Each side names
//!   the authorities that it trusts in the handshake (RFC 8446, section 4.2.4).
//! * A host that does not know it yet accepts the former authority only.
//!
//! So members always understand each other, and a certificate that a thief issues with the former
//! authority's key is refused by every host that knows of the replacement.

use std::collections::BTreeSet;

use crate::HostId;

/// What a host knows of its cluster's authorities. `A` identifies an authority.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authorities<A> {
    /// The authority that issued the certificate of this host.
    pub own: A,
    /// Those that issued its former certificates, newest first.
    pub own_former: Vec<A>,
    /// What agreed state names, as far as this host knows it.
    pub agreed: Agreed<A>,
}

/// The authorities in agreed state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agreed<A> {
    /// The current one; `None` until the founder has published it.
    pub current: Option<A>,
    /// Those that were replaced.
    pub former: Vec<A>,
    /// The hosts of the cluster.
    pub members: BTreeSet<HostId>,
}

impl<A> Default for Agreed<A> {
    fn default() -> Self {
        Self { current: None, former: Vec::new(), members: BTreeSet::new() }
    }
}

/// Which hosts may show a certificate of an authority.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accepted {
    /// Every host: the authority certifies only hosts that the cluster admits.
    FromAll,
    /// Hosts in agreed state only: a thief may have the authority's key.
    FromMembers,
    /// No host: the authority is another cluster's.
    FromNone,
}

impl<A: PartialEq> Authorities<A> {
    /// Whether the agreed state that this host knows is older than its certificate: it got the
    /// certificate from a member that knows more.
    fn is_behind(&self) -> bool {
        let Agreed { current, former, .. } = &self.agreed;
        current.as_ref().is_some_and(|current| *current != self.own) && !former.contains(&self.own)
    }

    /// Which hosts may show this host a certificate of an authority.
    pub fn accepted(&self, issuer: &A) -> Accepted {
        let Agreed { current, former, .. } = &self.agreed;
        let is_current = current.as_ref() == Some(issuer);
        if *issuer == self.own {
            // Its own certificate may be from an authority that was replaced.
            if former.contains(issuer) { Accepted::FromMembers } else { Accepted::FromAll }
        } else if is_current && !self.is_behind() {
            Accepted::FromAll
        } else if is_current || former.contains(issuer) {
            Accepted::FromMembers
        } else {
            Accepted::FromNone
        }
    }

    /// Whether this host accepts a certificate of `host` from an authority.
    pub fn accepts(&self, issuer: &A, host: HostId) -> bool {
        match self.accepted(issuer) {
            Accepted::FromAll => true,
            Accepted::FromMembers => self.agreed.members.contains(&host),
            Accepted::FromNone => false,
        }
    }

    /// The authorities that this host names in a handshake.
    pub fn named(&self) -> impl Iterator<Item = &A> {
        let Agreed { current, former, .. } = &self.agreed;
        let others = current.iter().chain(former).filter(|other| **other != self.own);
        std::iter::once(&self.own).chain(others)
    }

    /// Which certificate to show to a peer that names these authorities: the newest that it
    /// accepts, as an index. 0 is the current one; former ones follow, newest first.
    pub fn shown(&self, named: impl Fn(&A) -> bool) -> usize {
        let held = std::iter::once(&self.own).chain(&self.own_former);
        // A host that belongs to no cluster names none.
        held.enumerate().find(|(_, authority)| named(authority)).map_or(0, |(index, _)| index)
    }

    /// Whether this host needs a certificate from the authority that its cluster has now.
    pub fn needs_certificate(&self) -> bool {
        self.agreed.former.contains(&self.own)
    }
}

#[cfg(test)]
mod tests;
