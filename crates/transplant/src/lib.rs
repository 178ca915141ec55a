//! Packs Pythons into archives, and unpacks them where there is none.
//!
//! An archive is an ordinary `.tar.zst`, cut into independent frames so that all processors share
//! the work, with an index at its end that only this crate reads (docs/archive.md). Its name is
//! the digest of what is in it. Nothing in an archive is trusted before it is checked.
//!
//! The rooms, from the ground up; each knows only those above it in this list:
//!
//! | room | look here for |
//! |---|---|
//! | `archive/` | the format: entries, frames, the index, the manifest, the names of our own places |
//! | `elf/` | reading programs and libraries, and which library is whose |
//! | `relocate/` | what a file becomes that names its old place |
//! | `environment/` | what of a Python goes in, and whether it has changed |
//! | `audit/` | what an environment asks of a node |
//! | `node/` | on the execute node: requirements, unpacking, mounting, the cache |
//! | `store/` | a directory of archives: names, differences, what to throw away |
//! | `build/` | from a tree to an archive with a name, and to other formats |

mod archive;
mod audit;
mod build;
mod elf;
mod environment;
mod error;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
#[cfg(any(test, feature = "fuzzing"))]
mod made;
#[cfg(test)]
mod mutations;
mod node;
#[cfg(test)]
mod noise;
#[cfg(test)]
mod old;
mod parallel;
mod relocate;
mod store;
mod versions;

pub use archive::entry::{Entry, Kind};
pub use archive::index::{Archive, Digest, Index};
pub use archive::manifest::{Audit, Bundled, Manifest, Need, Places, Share};
pub use archive::place::RECORD;
pub use build::check::{Checked, check};
pub use build::compile::{Compiled, beside, compile};
pub use build::describe::describe;
pub use build::export::{Format, export};
pub use build::memory::{Memory, alone, keep, place};
pub use build::pack::{Packed, pack};
pub use build::publish::build;
pub use environment::ledger::{Ledger, unchanged};
pub use environment::{Excluded, Included, Source, Taken, collect};
pub use error::Error;
pub use node::cache::{Cache, Held, PassedOver};
pub use node::libraries::{Libraries, libraries};
pub use node::mount::{Holder, Mounted, Refusal, hold, mount};
pub use node::requirements::{NoRoom, Node, Unmet, no_room, unmet};
pub use node::unpack::{Unpacked, remove, unpack, verify};
pub use relocate::content::{Content, Stamp};
pub use relocate::edits::Field;
pub use relocate::first_list::Prefixes;
pub use relocate::unpacked::apply;
pub use store::difference::{Change, Difference, difference};
pub use store::names::{Listed, find, is_named_by, list};
pub use store::prune::{Leftover, forgotten, leftovers};
