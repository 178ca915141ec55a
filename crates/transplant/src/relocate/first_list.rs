//! The first list of what names a place: it is read for ever, and no longer written.
//!
//! It named files of text without offsets, and knew no boundary of names. The files are there when it is
//! read, so what it says is made into the table of today.

use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::edits::{Edit, Edits, Field, LARGEST_TEXT};
use super::naming::{BEFORE, namings};
use crate::error::Error;

/// What names the old prefix.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prefixes {
    /// The old prefix.
    pub old: String,
    /// Files of text, which name it anywhere: they may get longer or shorter.
    pub text: Vec<String>,
    /// Strings in binaries.
    pub binary: Vec<Field>,
}

impl Prefixes {
    /// The table of today that says the same, and what it cannot say, in sentences. `file` is that of a
    /// tree at a path, and `refused` what is wrong with the list.
    pub(super) fn edits(
        self,
        file: &dyn Fn(&str) -> Result<PathBuf, Error>,
        refused: &dyn Fn(String) -> Error,
    ) -> Result<(Edits, Vec<String>), Error> {
        let Self { old, text, binary } = self;
        if !old.starts_with('/') || old.len() < 2 {
            return Err(refused(format!("`{old}` is no prefix")));
        }
        let mut left = Vec::new();
        let mut edits = Edits {
            old: old.clone(),
            ..Edits::default()
        };
        // Two packages that have the same file name it twice.
        for path in BTreeSet::from_iter(text) {
            let place = file(&path)?;
            let bytes = read(&place).map_err(Error::io("read", &place))?;
            if bytes.len() as u64 > LARGEST_TEXT || std::str::from_utf8(&bytes).is_err() {
                left.push(format!("`{path}` still names `{old}`: it is no text"));
                continue;
            }
            let found = namings(&bytes, old.as_bytes()).into_iter();
            let edit = |at| Edit::Text {
                at: at as u64,
                length: old.len() as u64,
            };
            edits.files.insert(path, found.map(edit).collect());
        }
        let mut seen = HashSet::new();
        for field in binary {
            if !seen.insert((field.path.clone(), field.offset)) {
                continue;
            }
            let place = file(&field.path)?;
            let Some(field) = renamed(&place, &old, field).map_err(Error::io("read", &place))?
            else {
                continue;
            };
            let path = field.path.clone();
            let others = edits.files.entry(path).or_default();
            others.push(Edit::Field(field));
        }
        Ok((edits, left))
    }
}

/// Of what the list took for namings those that are some.
fn renamed(file: &Path, old: &str, field: Field) -> std::io::Result<Option<Field>> {
    let length = field.pieces.iter().map(String::len).sum::<usize>()
        + field.pieces.len().saturating_sub(1) * old.len();
    let end = field.offset.checked_add(field.length);
    let is_there = end.is_some_and(|end| fs::metadata(file).is_ok_and(|file| end <= file.len()));
    // Else it is refused for that.
    if length as u64 > field.length || !is_there {
        return Ok(Some(field));
    }
    let text = field.pieces.join(old);
    let begin = field.offset.saturating_sub(BEFORE as u64);
    let mut bytes = Vec::new();
    let mut opened = fs::File::open(file)?;
    opened.seek(SeekFrom::Start(begin))?;
    opened.take(field.offset - begin).read_to_end(&mut bytes)?;
    let before = bytes.len();
    bytes.extend_from_slice(text.as_bytes());
    let found = namings(&bytes, old.as_bytes());
    let mut pieces = Vec::new();
    let mut from = 0;
    for at in found.into_iter().filter_map(|at| at.checked_sub(before)) {
        let piece = text.get(from..at).unwrap_or_default();
        pieces.push(piece.to_owned());
        from = at + old.len();
    }
    pieces.push(text.get(from..).unwrap_or_default().to_owned());
    Ok((pieces.len() > 1).then_some(Field { pieces, ..field }))
}

/// As much as a text may have, and a byte more.
pub(super) fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let file = fs::File::open(path)?;
    file.take(LARGEST_TEXT + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}
