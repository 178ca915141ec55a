//! Finds and probes Pythons, and lists the distributions that they have.
//!
//! Knows nothing of components, transplants or images.

mod distributions;
mod probe;
pub mod regular;
mod search;
mod version;

pub use distributions::{
    Distribution, Distributions, Source, canonical_name, likely_site_directories,
};
pub use probe::{Interpreter, ProbeError, probe};
pub use search::{Candidate, Origin, Rejection, Search, SearchEnvironment, search};
pub use version::{InvalidVersion, MINIMUM_VERSION, PythonVersion};
