//! Places and times of our own in every tree, by the names that builds and nodes know them by.

/// Of every file, in seconds since 1970: when it was installed is no part of an environment.
/// 2020-01-01.
pub(crate) const MTIME: i64 = 1_577_836_800;

/// Libraries of the operating system that came along.
pub(crate) const LIBRARIES: &str = "lib/htmap-exec";

/// Those that nearly every node has, perhaps newer: only for one that has none.
pub(crate) const COMMON: &str = "lib/htmap-exec-common";

/// Sources of editable installs, each in a directory of its own.
pub(crate) const EDITABLES: &str = "lib/htmap-exec-editable";

/// Packages of the Python that a virtual environment was made from, behind its own: in `lib` or
/// `lib64`, as deep as they lay.
pub(crate) const BASE: &str = "htmap-exec-base";

/// Data of `--include` that is no module of Python's.
pub(crate) const INCLUDED: &str = "share/htmap-exec/include";

/// The list of what names the place where it lies, and has to be edited for another.
pub(crate) const EDITS: &str = "lib/htmap-exec-edits.json";

/// In texts of the manifest: the root of the tree, wherever it lies.
pub(crate) const ROOT: &str = "@htmap-exec-prefix@";

/// The first such list, which is read and no longer written.
pub const RECORD: &str = "conda-meta/htmap-exec-prefixes.json";
