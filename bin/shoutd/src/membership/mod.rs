//! Who belongs to the cluster, and what its hosts agree on.

pub mod agreement;
pub mod enrollment;
pub mod formation;
pub mod leaving;
pub mod renewal;
pub mod tokens;
