//! What a run says of itself: to people on stdout, to HTMap in the error record, to tools in the run record.

pub(crate) mod advice;
pub(crate) mod death;
pub(crate) mod error_record;
pub(crate) mod lack;
pub(crate) mod loader;
pub(crate) mod run_record;
mod source;
pub(crate) mod transcript;
