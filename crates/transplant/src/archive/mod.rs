//! What an archive is: its entries, its name, its frames, and what it says of itself.
//!
//! The ground that everything else stands on: nothing here knows how an environment is found, or what
//! becomes of it on a node.

pub(crate) mod digest;
pub(crate) mod encoding;
pub(crate) mod ending;
pub(crate) mod entry;
pub(crate) mod frame;
pub(crate) mod index;
pub(crate) mod listing;
pub(crate) mod manifest;
pub(crate) mod order;
pub(crate) mod outline;
pub(crate) mod place;
