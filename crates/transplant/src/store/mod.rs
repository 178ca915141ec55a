//! A directory of archives: their names, what tells two of them apart, and what nobody needs any more.

pub(crate) mod difference;
pub(crate) mod names;
pub(crate) mod prune;
