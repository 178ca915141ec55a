//! An archive on an execute node: what it asks of the node, and the three ways to its tree.

mod c_library;
pub(crate) mod cache;
mod extent;
mod gpu;
pub(crate) mod libraries;
pub(crate) mod mount;
pub(crate) mod requirements;
pub(crate) mod unpack;
