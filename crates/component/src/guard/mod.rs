//! The version guard: bytecode runs only on the Python minor version that wrote it.
//!
//! Bytecode of another minor version gives silently wrong answers (`2*x` pickled on 3.13 returns
//! 21 for 21 on 3.11), so it has to be known before anything is unpickled. The submit side says its
//! version; where it does not (stock HTMap), the bytecode itself is compared with the instruction
//! sets that are known.

mod bytecode;
mod code;
mod kept;
mod machine;
mod opcodes;

use std::io::Read;

use htmap_exec_interpreter::PythonVersion;

use crate::failure::Failure;
use crate::guard::bytecode::{ALL, Versions};
use crate::guard::machine::{Found, Machine};
use crate::guard::opcodes::KNOWN;
use crate::pickle::scanner;

/// What the code objects of all pickles say together.
#[derive(Debug)]
pub(crate) struct Evidence {
    /// The known versions that can have written all of them.
    plausible: Versions,
    count: u64,
    /// The name of the first one.
    name: String,
}

impl Evidence {
    /// Of nothing.
    pub(crate) fn new() -> Self {
        Self {
            plausible: ALL,
            count: 0,
            name: String::new(),
        }
    }

    /// Adds a pickle. What was found in it before it breaks off counts: Python will report the
    /// damage, and says more about it.
    pub(crate) fn read(&mut self, pickle: impl Read) {
        let mut machine = Machine::new(|found| self.add(&found));
        if let Err(error) = scanner::read(pickle, &mut machine) {
            tracing::debug!("the pickle cannot be read to its end: {error}");
        }
    }

    fn add(&mut self, found: &Found) {
        let name = found.name.as_deref().unwrap_or("?");
        if tracing::enabled!(tracing::Level::TRACE) {
            tracing::trace!("code object `{name}`: {}", listed(found.versions));
        }
        if self.count == 0 {
            name.clone_into(&mut self.name);
        }
        self.count += 1;
        self.plausible &= found.versions;
    }

    /// Whether the code may run on `node`, made by `submit` if that is known.
    pub(crate) fn check(
        &self,
        submit: Option<PythonVersion>,
        node: PythonVersion,
        executable: &str,
    ) -> Result<(), Failure> {
        if self.count == 0 {
            return Ok(());
        }
        let (made_by, fix) = match submit {
            Some(submit) if submit == node => return Ok(()),
            Some(submit) => (format!("Python {submit}"), submit.to_string()),
            None => {
                if self.fits(node) {
                    return Ok(());
                }
                let names = listed(self.plausible);
                if names.is_empty() {
                    (
                        "another Python".to_owned(),
                        "the submit side's version".to_owned(),
                    )
                } else {
                    (format!("Python {names}"), names)
                }
            }
        };
        let more = match self.count - 1 {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        Err(Failure {
            stage: "checking the Python version".to_owned(),
            kind: "PythonVersionMismatch".to_owned(),
            message: format!(
                "the map was pickled by {made_by}, and this execute node would run it on Python \
                 {node} (`{executable}`): it holds bytecode (of `{}`{more}), which only the version \
                 that wrote it runs rightly",
                self.name
            ),
            ..Failure::default()
        }
        .hint(format!(
            "give the execute node Python {fix} (another image, `--python PATH`, a transplant), or \
             submit the map from Python {node}; `--allow-python-mismatch` runs it all the same"
        )))
    }

    fn fits(&self, node: PythonVersion) -> bool {
        let node = (node.major, node.minor);
        match KNOWN.iter().position(|table| table.version == node) {
            Some(index) => self.plausible >> index & 1 == 1,
            // A version newer than this program's tables: its code looks like nothing that is known,
            // or like the newest that is.
            None => self.plausible == 0 || self.plausible >> (KNOWN.len() - 1) & 1 == 1,
        }
    }
}

/// Such as `3.11 or 3.12`.
fn listed(versions: Versions) -> String {
    let names: Vec<String> = KNOWN
        .iter()
        .enumerate()
        .filter(|(index, _)| versions >> index & 1 == 1)
        .map(|(_, table)| format!("{}.{}", table.version.0, table.version.1))
        .collect();
    names.join(" or ")
}
