//! An archive on an execute node: what it asks of the node, and the three ways to its tree.

pub(crate) mod c_library;
pub(crate) mod cache;
mod extent;
mod gpu;
pub(crate) mod libraries;
pub(crate) mod mount;
pub(crate) mod requirements;
pub(crate) mod unpack;

/// Texts of a node that say what it is.
#[cfg(feature = "fuzzing")]
pub(crate) fn fuzz(bytes: &[u8]) {
    if let Some(release) = c_library::release(bytes) {
        assert!(
            release
                .bytes()
                .all(|byte| byte.is_ascii_digit() || byte == b'.')
        );
    }
    gpu::version(&String::from_utf8_lossy(bytes));
}
