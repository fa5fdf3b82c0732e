//! The scope of a plugin's networks, in which Docker calls it.

/// Scope of a plugin's networks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Networks of one engine (Docker's scope `local`).
    Local,
    /// Networks of a Swarm (Docker's scope `global`). The Swarm creates them on its nodes and
    /// allocates their addresses.
    Swarm,
}
