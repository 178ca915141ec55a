//! An archive on an execute node: what it asks of the node, and the three ways to its tree.

pub(crate) mod cache;
mod extent;
pub(crate) mod mount;
pub(crate) mod requirements;
pub(crate) mod unpack;
