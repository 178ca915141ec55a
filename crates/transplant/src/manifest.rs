//! What an archive says of itself: which Python it is, and what is installed in it.

use htmap_exec_interpreter::Interpreter;
use serde::{Deserialize, Serialize};

/// Part of what the digest is made of: so it names nothing of the time, place or tool of its making.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Such as `3.11.7`.
    pub python_version: String,
    /// Such as `CPython`.
    pub implementation: String,
    /// The interpreter, below the root.
    pub python: String,
    /// As `uname -m` names the processors that it is for.
    pub machine: String,
    /// As `pip freeze` lists them.
    pub packages: Vec<String>,
}

impl Manifest {
    /// Of an interpreter that will lie at `python`.
    pub fn new(interpreter: &Interpreter, python: &str, packages: Vec<String>) -> Self {
        Self {
            python_version: interpreter.full_version.clone(),
            implementation: interpreter.implementation.clone(),
            python: python.to_owned(),
            machine: std::env::consts::ARCH.to_owned(),
            packages,
        }
    }
}
