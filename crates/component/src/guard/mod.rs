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

use crate::failure::{Cause, Failure, Stage};
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
            stage: Stage::CheckingVersion,
            cause: Cause::VersionMismatch,
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

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: PythonVersion = PythonVersion {
        major: 3,
        minor: 12,
    };

    fn read(pickle: &[u8]) -> Evidence {
        let mut evidence = Evidence::new();
        evidence.read(pickle);
        evidence
    }

    /// A code object of 3.11's shape, made by the callable that `callable` pushes.
    fn code(callable: &[u8], bytecode: &[u8]) -> Vec<u8> {
        let mut pickle = b"\x80\x04".to_vec();
        pickle.extend_from_slice(callable);
        pickle.extend_from_slice(b"(K\x01K\0K\0K\x01K\x02K\x03");
        pickle.extend_from_slice(bytecode);
        pickle.extend_from_slice(
            b"N\x85)\x8c\x01x\x85\x8c\x04f.py\x8c\x01f\x94h\0K\x01C\x01\x80C\0))tR.",
        );
        pickle
    }

    const BUILTIN_TYPE: &[u8] = b"ccloudpickle.cloudpickle\n_builtin_type\n\x8c\x08CodeType\x85R";
    // RESUME 0, LOAD_FAST 0, RETURN_VALUE: the same in 3.11 and 3.12.
    const SAME: &[u8] = b"C\x06\x97\0|\0S\0";

    #[test]
    fn finds_code_whatever_makes_it() {
        for callable in [
            BUILTIN_TYPE,
            b"ctypes\nCodeType\n",
            b"cdill._dill\n_create_code\n",
            b"csome.module\nof_its_own\n",
            b"cbuiltins\ngetattr\nctypes\nCodeType\n\x8c\x08CodeType\x86R",
        ] {
            let evidence = read(&code(callable, SAME));
            assert_eq!((evidence.count, evidence.name.as_str()), (1, "f"));
            assert_eq!(listed(evidence.plausible), "3.11 or 3.12");
        }
        assert_eq!(read(b"\x80\x04cmarshal\nloads\nC\x02\xe3\0\x85R.").count, 1);
    }

    #[test]
    fn finds_none_in_data_and_references() {
        for pickle in [
            &b"\x80\x04\x95\x15\0\0\0\0\0\0\0\x8c\x04math\x94\x8c\x04sqrt\x94\x93\x94."[..],
            b"cmath\nsqrt\np0\n.",
            b"\x80\x02]q\0(K\x01X\x08\0\0\0CodeTypeq\x01e.",
            b"\x80\x04cmarshal\nloads\nC\x01i\x85R.",
        ] {
            assert_eq!(read(pickle).count, 0);
        }
    }

    #[test]
    fn finds_code_behind_many_memos() {
        let mut pickle = b"\x80\x04ctypes\nCodeType\n\x94".to_vec();
        for number in 0..200_000_u32 {
            pickle.extend_from_slice(b"X\x04\0\0\0coder");
            pickle.extend((number + 1).to_le_bytes());
            pickle.push(b'0');
        }
        let rest = code(b"h\0", SAME);
        pickle.extend_from_slice(&rest[2..]);
        assert_eq!(read(&pickle).count, 1);
    }

    #[test]
    fn keeps_what_was_found_before_the_damage() {
        let mut pickle = code(BUILTIN_TYPE, SAME);
        pickle.pop();
        pickle.push(0xff);
        let evidence = read(&pickle);
        assert_eq!(evidence.count, 1);
        let other = Some(PythonVersion {
            major: 3,
            minor: 11,
        });
        assert!(evidence.check(other, NODE, "python").is_err());
        assert!(evidence.check(Some(NODE), NODE, "python").is_ok());
        assert!(evidence.check(None, NODE, "python").is_ok());
    }

    #[test]
    fn an_unknown_version_runs_what_looks_new() {
        let newer = PythonVersion {
            major: 3,
            minor: 99,
        };
        // 3.14's RESUME; an instruction that nobody knows; 3.11 and 3.12.
        for (bytecode, fits) in [
            (&b"C\x06\x80\0T\0#\0"[..], true),
            (b"C\x04\xfe\0#\0", true),
            (SAME, false),
        ] {
            let evidence = read(&code(BUILTIN_TYPE, bytecode));
            assert_eq!(evidence.check(None, newer, "python").is_ok(), fits);
        }
    }

    #[test]
    fn survives_anything() {
        let mut state = 7_u32;
        for _ in 0..20_000 {
            let bytes: Vec<u8> = std::iter::repeat_with(|| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 24) as u8
            })
            .take(64)
            .collect();
            read(&bytes);
        }
    }
}
