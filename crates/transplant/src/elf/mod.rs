//! Programs and libraries in ELF: the one reader of what they ask for, and whose business each library is.

pub(crate) mod layout;
pub(crate) mod libraries;
pub(crate) mod linkage;
pub(crate) mod loader;
pub(crate) mod room;
