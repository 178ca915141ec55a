//! A conda prefix: its records say which files name the place that it was installed to.
//!
//! A record says how a file was installed, and not how it lies there now: pip may have put another in
//! its place. So the records only say where to look, and what is found in the file counts
//! (<https://docs.conda.io/projects/conda-build/en/stable/resources/make-relocatable.html>).

use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::prefixes::{Field, Prefixes};
use crate::error::Error;
use crate::relocate::content::Content;

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

/// Where files name the prefix, for whoever unpacks them elsewhere; nothing if none does. `named` is the
/// prefix `base` as its files call it, and `content_at` knows the file at a path below the root.
pub(crate) fn prefixes<'a>(
    base: &Path,
    named: &Path,
    content_at: &dyn Fn(&Path) -> Option<&'a Content>,
    remarks: &mut Vec<String>,
) -> Result<Option<Prefixes>, Error> {
    let Ok(records) = fs::read_dir(base.join("conda-meta")) else {
        return Ok(None);
    };
    let mut files: Vec<PathBuf> = records
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|end| end == "json"))
        .collect();
    files.sort();
    let old = named.to_string_lossy().into_owned();
    let mut prefixes = Prefixes {
        old: old.clone(),
        ..Prefixes::default()
    };
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
            let Some(placeholder) = &installed.prefix_placeholder else {
                continue;
            };
            let (path, patches) = match content_at(Path::new(&installed.path)) {
                Some(Content::OnDisk(path, _)) => (path, &[][..]),
                Some(Content::Patched(path, _, patches)) => (path, patches.as_slice()),
                // Made to fit any place already, or excluded.
                Some(Content::Made(_)) | None => continue,
            };
            let bytes = fs::read(path).map_err(Error::io("read", path))?;
            if installed.file_mode.as_deref() == Some("binary") {
                let room = placeholder.len().saturating_sub(old.len());
                for mut field in fields(&bytes, old.as_bytes(), room) {
                    let is_relative = patches
                        .iter()
                        .any(|(at, patch)| (*at..at + patch.len() as u64).contains(&field.offset));
                    if !is_relative {
                        field.path.clone_from(&installed.path);
                        prefixes.binary.push(field);
                    }
                }
            } else if find(&bytes, old.as_bytes()).is_some() {
                prefixes.text.push(installed.path);
            }
        }
    }
    let is_empty = prefixes.text.is_empty() && prefixes.binary.is_empty();
    Ok((!is_empty).then_some(prefixes))
}

/// The strings in a binary that name the prefix. conda pads them with NUL: so much room is there
/// for each time that the prefix is named, if nothing else lies there.
fn fields(bytes: &[u8], old: &[u8], room: usize) -> Vec<Field> {
    let mut found = Vec::new();
    let mut from = 0;
    while let Some(at) = find(&bytes[from..], old).map(|at| from + at) {
        let end = bytes[at..]
            .iter()
            .position(|&byte| byte == 0)
            .map_or(bytes.len(), |length| at + length);
        from = end;
        // A string that ends nowhere cannot grow, and one in another encoding is no path.
        let Ok(text) = std::str::from_utf8(&bytes[at..end]) else {
            from = at + old.len();
            continue;
        };
        let old = String::from_utf8_lossy(old);
        let pieces: Vec<String> = text.split(&*old).map(str::to_owned).collect();
        let padding = bytes[end..].iter().take_while(|&&byte| byte == 0).count();
        let room = (room * (pieces.len() - 1)).min(padding.saturating_sub(1));
        found.push(Field {
            path: String::new(),
            offset: at as u64,
            length: (end - at + room) as u64,
            pieces,
        });
    }
    found
}

/// Paths begin with a slash, which is rare in a binary.
fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    let first = *needle.first()?;
    let mut from = 0;
    while let Some(at) = haystack[from..].iter().position(|&byte| byte == first) {
        if haystack[from + at..].starts_with(needle) {
            return Some(from + at);
        }
        from += at + 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_that_name_the_prefix() {
        let bytes = b"x\0/old/lib:/old/share\0\0\0\0\0\0\0y/old\0z";
        let [first, second] = &fields(bytes, b"/old", 3)[..] else {
            panic!("two strings");
        };
        assert_eq!((first.offset, first.length), (2, 19 + 6));
        assert_eq!(first.pieces, ["", "/lib:", "/share"]);
        // Nothing but the end of the string follows.
        assert_eq!((second.offset, second.length), (29, 4));
    }
}
