//! Recipes of container images for maps, and what a map finds in an image.
//!
//! Runs the tools that people have: docker, podman, buildah, apptainer, singularity.

mod check;
mod compiled;
mod conda;
mod context;
mod debian;
mod environment;
mod error;
mod installed;
mod libraries;
mod local_versions;
mod package;
mod project;
mod recipe;
mod runtime;
mod versions;

pub use check::{Check, Finding, check};
pub use context::{Wheels, write};
pub use environment::Environment;
pub use error::Error;
pub use libraries::needs_loader;
pub use package::Package;
pub use recipe::Format;
pub use runtime::{Container, Runtime, on_path, output};
