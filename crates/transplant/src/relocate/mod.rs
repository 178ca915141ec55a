//! What files become that name their old place: scripts, search paths of libraries, times in `.pyc`
//! files, texts, strings in the binaries of conda.
//!
//! Each is an edit of one table (`edits`), whoever applies it: the build to what it packs, a node to
//! what it unpacked, or a mount to what it is asked for. Nothing here knows how a tree is collected.

pub(crate) mod bytecode;
mod conda;
pub(crate) mod content;
pub(crate) mod edits;
pub(crate) mod first_list;
pub(crate) mod mend;
mod naming;
pub(crate) mod old;
mod script;
pub(crate) mod search_path;
pub(crate) mod splice;
pub(crate) mod table;
pub(crate) mod unpacked;
