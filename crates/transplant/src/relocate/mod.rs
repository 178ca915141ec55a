//! What files become that name their old place: scripts, links, search paths of libraries, times in
//! `.pyc` files, conda's prefixes.
//!
//! Every function here looks at one file, or at one record of an installer, and knows nothing of how a
//! tree is collected.

pub(crate) mod bytecode;
pub(crate) mod conda;
pub(crate) mod content;
pub(crate) mod mend;
pub(crate) mod old;
pub(crate) mod prefixes;
pub(crate) mod search_path;
