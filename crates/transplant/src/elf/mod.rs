//! Programs and libraries in ELF: the one reader of what they ask for, and whose business each library is.

pub(crate) mod libraries;
pub(crate) mod linkage;
