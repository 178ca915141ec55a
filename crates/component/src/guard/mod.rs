//! The version guard: bytecode runs only on the Python minor version that wrote it.
//!
//! The submit side says its version; where it does not (stock HTMap), the bytecode itself is
//! compared with the instruction sets that are known.

mod opcodes;

use htmap_exec_interpreter::PythonVersion;

use crate::failure::{Cause, Failure, Stage};
use crate::guard::opcodes::{Instructions, KNOWN};
use crate::pickle::scanner::CodeObject;

/// Whether code made by `submit` (if that is known) may run on `node`.
pub(crate) fn check(
    codes: &[CodeObject],
    submit: Option<PythonVersion>,
    node: PythonVersion,
    executable: &str,
) -> Result<(), Failure> {
    let Some(first) = codes.first() else {
        return Ok(());
    };
    let (made_by, fix) = match submit {
        Some(submit) if submit == node => return Ok(()),
        Some(submit) => (format!("Python {submit}"), submit.to_string()),
        None => {
            let plausible = plausible(codes);
            let (major, minor) = (node.major, node.minor);
            let known = KNOWN.iter().any(|table| table.version == (major, minor));
            // Nothing known fits: the code is of a version newer than this program's tables.
            let fits = plausible.contains(&(major, minor)) || (plausible.is_empty() && !known);
            if fits {
                return Ok(());
            }
            let names: Vec<String> = plausible
                .iter()
                .map(|(major, minor)| format!("{major}.{minor}"))
                .collect();
            match names.as_slice() {
                [] => (
                    "another Python".to_owned(),
                    "the submit side's version".to_owned(),
                ),
                _ => (format!("Python {}", names.join(" or ")), names.join(" or ")),
            }
        }
    };
    Err(Failure {
        stage: Stage::CheckingVersion,
        cause: Cause::VersionMismatch,
        message: format!(
            "the map was pickled by {made_by}, and this execute node would run it on Python {node} \
             (`{executable}`): it holds bytecode (of `{}` and {} more), which only the version \
             that wrote it runs rightly",
            first.name,
            codes.len() - 1
        ),
        ..Failure::default()
    }
    .hint(format!(
        "give the execute node Python {fix} (another image, `--python PATH`, a transplant), or \
         submit the map from Python {node}; `--allow-python-mismatch` runs it all the same"
    )))
}

/// The known versions whose instructions all of the code is made of.
fn plausible(codes: &[CodeObject]) -> Vec<(u8, u8)> {
    KNOWN
        .iter()
        .filter(|table| codes.iter().all(|code| fits(code, table)))
        .map(|table| table.version)
        .collect()
}

fn fits(object: &CodeObject, table: &Instructions) -> bool {
    let shape = match table.version {
        (3, ..=7) => 15,
        (3, ..=10) => 16,
        _ => 18,
    };
    if object.arguments != shape || !object.code.len().is_multiple_of(2) {
        return false;
    }
    object.code.is_empty() || lines_fit(object, table) && instructions_fit(object, table)
}

/// Line tables cover the code exactly in 3.10 (PEP 626) and from 3.11 on (PEP 657); before that
/// they end where the last line starts.
fn lines_fit(object: &CodeObject, table: &Instructions) -> bool {
    let size = object.code.len();
    let pairs = || {
        object
            .lines
            .chunks(2)
            .map(|pair| usize::from(pair[0]))
            .sum::<usize>()
    };
    match table.version.1 {
        ..=9 => pairs() < size,
        10 => pairs() == size,
        _ => {
            let entries = object.lines.iter().filter(|byte| **byte & 0x80 != 0);
            entries.map(|byte| usize::from(byte & 7) + 1).sum::<usize>() * 2 == size
        }
    }
}

fn instructions_fit(object: &CodeObject, table: &Instructions) -> bool {
    let units: Vec<(u8, u8)> = object
        .code
        .chunks_exact(2)
        .map(|unit| (unit[0], unit[1]))
        .collect();
    let mut index = 0;
    let mut extended = 0_usize;
    // Only what sets up cells and generators comes before it.
    if let Some(resume) = table.resume
        && !units.iter().take(64).any(|(opcode, _)| *opcode == resume)
    {
        return false;
    }
    while let Some(&(opcode, low)) = units.get(index) {
        index += 1;
        let bit = usize::from(opcode);
        if table.valid[bit / 64] >> (bit % 64) & 1 == 0 || opcode == 0 {
            return false;
        }
        let argument = extended << 8 | usize::from(low);
        extended = 0;
        if opcode == table.extended {
            extended = argument;
            continue;
        }
        if table.consts.contains(&opcode) && object.consts.is_some_and(|size| argument >= size) {
            return false;
        }
        let (compare, operators) = table.compare;
        if opcode == compare && table.version < (3, 12) && argument >= usize::from(operators) {
            return false;
        }
        if table.absolute.contains(&opcode) {
            let target = if table.version >= (3, 10) {
                argument * 2
            } else {
                argument
            };
            if target >= object.code.len() || !target.is_multiple_of(2) {
                return false;
            }
        }
        if opcode < table.argument && low != 0 {
            return false;
        }
        if let Some((_, entries)) = table.caches.iter().find(|(cached, _)| *cached == opcode) {
            for _ in 0..*entries {
                if units.get(index) != Some(&(0, 0)) {
                    return false;
                }
                index += 1;
            }
        }
    }
    true
}
