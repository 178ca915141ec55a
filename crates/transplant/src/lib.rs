//! Packs Pythons into archives, and unpacks them where there is none.
//!
//! An archive is an ordinary `.tar.zst`, cut into independent frames so that all processors share
//! the work, with an index at its end that only this crate reads (docs/archive.md). Its name is
//! the digest of what is in it. Nothing in an archive is trusted before it is checked.

mod archive;
mod audit;
mod cache;
mod check;
mod difference;
mod elf;
mod encoding;
mod error;
mod export;
mod frame;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod linkage;
mod manifest;
mod memory;
mod mount;
#[cfg(test)]
mod mutations;
mod node;
mod order;
mod pack;
mod parallel;
mod prefixes;
mod prune;
mod same;
mod source;
mod store;
mod tree;
mod unchanged;
mod unpack;
mod walk;

pub use archive::{Archive, Digest};
pub use audit::{Audit, Need, Share};
pub use cache::{Cache, Held, PassedOver};
pub use check::{Checked, check};
pub use difference::{Change, Difference, difference};
pub use error::Error;
pub use export::{Format, export};
pub use manifest::{Manifest, Places};
pub use memory::{Memory, alone, keep, place};
pub use mount::{Mounted, Refusal, hold, mount};
pub use node::{NoRoom, Unmet, no_room, unmet};
pub use pack::{Packed, pack};
pub use prefixes::{Field, Prefixes, RECORD, apply};
pub use prune::{Leftover, forgotten, leftovers};
pub use source::{Excluded, Included, Source, collect, library_path};
pub use store::{Listed, build, find, is_named_by, list};
pub use tree::{Content, Entry, Kind, Stamp};
pub use unchanged::{fingerprint, recall, remember};
pub use unpack::{Unpacked, unpack, verify};
pub use walk::Walk;
