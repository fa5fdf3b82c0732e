//! What the plugin does and answers when Docker calls it. The daemon's driver only reads state,
//! carries out these plans, and waits for their results.

mod address;
mod creation;
mod deletion;
mod eviction;
mod gateway;

pub use address::{
    AddressAnswer, InvalidAddress, PoolRange, answer_address, choose_subnet, pools_to_try,
    with_prefix,
};
pub use creation::{MirrorRefusal, bind, check_mirror};
pub use deletion::{Deleted, RemovalState, delete_copy, removal_state};
pub use eviction::{Wanted, rival};
pub use gateway::crashes_with_gateways;
