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
//! | `archive/` | the format: entries, frames, the index, the manifest, the names of our own places; `order`: what is likely to be read first, the hot list |
//! | `elf/` | reading programs and libraries, and which library is whose |
//! | `relocate/` | what a file becomes that names its old place; `table` finds and `edits` describes it, `unpacked` applies it |
//! | `environment/` | what of a Python goes in (`collector` and those around it), and whether it has changed (`ledger`) |
//! | `audit/` | what an environment asks of a node |
//! | `node/` | on the execute node: requirements, libraries, unpacking, the cache; `mount/` with what it reads `ahead` |
//! | `store/` | a directory of archives: names, differences, what to throw away |
//! | `build/` | from a tree to an archive with a name: bytecode that is missing (`compile`), which bytes lie where (`plan`), what is taken from the last archive (`memory`), the start of the packed Python (`check`), other formats |
//!
//! Beside the rooms: `error` (all errors), `parallel` (work on all processors), `versions` (how versions compare),
//! `fuzzing` (what `fuzz/` calls), and for tests `mutations` (damage of any byte), `old` (archives of the first format)
//! and `noise` (random bytes that are the same each time). `elf/` is a room of its own below `relocate/`, and no part
//! of `audit/`, since relocation reads what a library asks for as well.

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

pub use archive::digest::Digest;
pub use archive::entry::{Entry, Kind};
pub use archive::index::{Archive, Index};
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
pub use environment::{Excluded, Included, Noted, Source, Taken, collect};
pub use error::Error;
pub use node::c_library::Node;
pub use node::cache::{Cache, Held, PassedOver};
pub use node::libraries::{Libraries, libraries};
pub use node::mount::{Holder, Mounted, Refusal, hold, mount};
pub use node::requirements::{NoRoom, Unmet, no_room, unmet};
pub use node::unpack::{Unpacked, remove, unpack, verify};
pub use relocate::content::{Content, Stamp};
pub use relocate::edits::Field;
pub use relocate::first_list::Prefixes;
pub use relocate::unpacked::apply;
pub use store::difference::{Change, Difference, difference};
pub use store::names::{Listed, find, is_named_by, list};
pub use store::prune::{Leftover, forgotten, leftovers};
