//! Consensus with real connections and files. It is one program, since each would compile openraft
//! once more.

#[cfg(test)]
mod cluster;
#[cfg(test)]
mod common;
#[cfg(test)]
mod crash;
#[cfg(test)]
mod disk;
#[cfg(test)]
mod json;
#[cfg(test)]
mod messages;
#[cfg(test)]
mod recovery;
#[cfg(test)]
mod removal;
#[cfg(test)]
mod size;
