//! From a collected tree to an archive with a name: compile, check, audit, compress what has changed, publish.

pub(crate) mod check;
pub(crate) mod compile;
pub(crate) mod describe;
pub(crate) mod export;
mod growth;
pub(crate) mod memory;
pub(crate) mod pack;
mod plan;
pub(crate) mod publish;
pub(crate) mod same;
