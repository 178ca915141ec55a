//! A conda prefix: its records say which files name the place that it was installed to.
//!
//! A record says how a file was installed, and not how it lies there now: pip may have put another in
//! its place. So the records only say where to look, and what is found in the file counts
//! (<https://docs.conda.io/projects/conda-build/en/stable/resources/make-relocatable.html>).

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::edits::Field;
use super::naming::namings;
use crate::error::Error;

/// One installed package, `conda-meta/NAME-VERSION-BUILD.json`.
#[derive(Deserialize)]
struct Record {
    #[serde(default)]
    paths_data: PathsData,
}

#[derive(Deserialize, Default)]
struct PathsData {
    #[serde(default)]
    paths: Vec<Installed>,
}

#[derive(Deserialize)]
struct Installed {
    #[serde(rename = "_path")]
    path: String,
    prefix_placeholder: Option<String>,
    file_mode: Option<String>,
}

/// A file that conda changed for the place where it installed it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Changed {
    /// Below the prefix.
    pub(super) path: String,
    /// How long the path is that was there before, in a binary: so much room is there.
    pub(super) binary: Option<usize>,
}

/// What the records of the prefix `base` say, by path; nothing if it is none of conda's.
pub(super) fn changed(base: &Path, remarks: &mut Vec<String>) -> Result<Vec<Changed>, Error> {
    let Ok(records) = fs::read_dir(base.join("conda-meta")) else {
        return Ok(Vec::new());
    };
    let mut files: Vec<PathBuf> = records
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|end| end == "json"))
        .collect();
    files.sort();
    let mut changed: BTreeMap<String, Option<usize>> = BTreeMap::new();
    for file in files {
        let bytes = fs::read(&file).map_err(Error::io("read", &file))?;
        let Ok(record) = serde_json::from_slice::<Record>(&bytes) else {
            remarks.push(format!(
                "`{}` is no record of conda's: whether its files name their place is not known",
                file.display()
            ));
            continue;
        };
        for installed in record.paths_data.paths {
            if let Some(placeholder) = installed.prefix_placeholder {
                let is_binary = installed.file_mode.as_deref() == Some("binary");
                changed.insert(installed.path, is_binary.then_some(placeholder.len()));
            }
        }
    }
    let each = changed.into_iter();
    Ok(each
        .map(|(path, binary)| Changed { path, binary })
        .collect())
}

/// The strings in a binary that name the prefix. conda pads them with NUL: so much room is there
/// for each time that the prefix is named, if nothing else lies there.
pub(super) fn fields(path: &str, bytes: &[u8], old: &str, placeholder: usize) -> Vec<Field> {
    let room = placeholder.saturating_sub(old.len());
    let mut found = Vec::new();
    let mut namings = namings(bytes, old.as_bytes()).into_iter().peekable();
    while let Some(at) = namings.next() {
        let end = bytes[at..]
            .iter()
            .position(|&byte| byte == 0)
            .map_or(bytes.len(), |length| at + length);
        // One in another encoding is no path.
        let Ok(text) = std::str::from_utf8(&bytes[at..end]) else {
            continue;
        };
        let mut pieces = vec![String::new()];
        let mut from = old.len();
        while let Some(next) = namings.next_if(|&next| next < end) {
            pieces.push(text[from..next - at].to_owned());
            from = next - at + old.len();
        }
        pieces.push(text[from..].to_owned());
        // A string that ends nowhere cannot grow.
        let padding = bytes[end..].iter().take_while(|&&byte| byte == 0).count();
        let room = (room * (pieces.len() - 1)).min(padding.saturating_sub(1));
        found.push(Field {
            path: path.to_owned(),
            offset: at as u64,
            length: (end - at + room) as u64,
            pieces,
        });
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_that_name_the_prefix() {
        let bytes = b"x\0/old/lib:/old/share\0\0\0\0\0\0\0y\0/old\0z";
        let [first, second] = &fields("x", bytes, "/old", 7)[..] else {
            panic!("two strings");
        };
        assert_eq!((first.offset, first.length), (2, 19 + 6));
        assert_eq!(first.pieces, ["", "/lib:", "/share"]);
        // Nothing but the end of the string follows.
        assert_eq!((second.offset, second.length), (30, 4));
    }

    #[test]
    fn only_names_of_the_prefix_itself() {
        let bytes = b"\0/srv/old/x\0/old-other\0/old:/old2:/old/x\0\0\0\0\0\0\0";
        let [field] = &fields("x", bytes, "/old", 6)[..] else {
            panic!("one string");
        };
        assert_eq!(field.pieces, ["", ":/old2:", "/x"]);
        assert_eq!(field.length, 17 + 4);
    }
}
