//! The scratch directory as a tree of text, for people.
//!
//! Never follows a symbolic link, and stops after a number of lines: 50,000 files cost the reader
//! a line that says so, and the runner no memory. A name may hold anything but `/` and NUL; what
//! would break a line, or the order in which it is read, is escaped.

use std::collections::BinaryHeap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, FileType};
use std::io;
use std::path::Path;

use crate::names;

const LINES: usize = 400;
const LINES_A_DIRECTORY: usize = 100;

/// One line an entry, directories marked by `* `, as HTMap's documentation shows them.
pub(crate) fn tree(root: &Path) -> String {
    let mut text = String::new();
    let mut left = LINES;
    list(root, "", &mut left, &mut text);
    text
}

/// The first entries of a directory by name, and how many there are in all.
struct First {
    entries: Vec<OsString>,
    all: usize,
}

impl First {
    fn read(directory: &Path, most: usize) -> io::Result<Self> {
        let mut heap = BinaryHeap::with_capacity(most + 1);
        let mut all = 0;
        let entries = fs::read_dir(directory)?.filter_map(Result::ok);
        for name in entries.map(|entry| entry.file_name()) {
            if is_ours(&name) {
                continue;
            }
            all += 1;
            heap.push(name);
            if heap.len() > most {
                heap.pop();
            }
        }
        Ok(Self {
            entries: heap.into_sorted_vec(),
            all,
        })
    }
}

fn list(directory: &Path, prefix: &str, left: &mut usize, text: &mut String) {
    let budget = LINES_A_DIRECTORY.min(*left);
    let First { entries, all } = match First::read(directory, budget) {
        Ok(first) => first,
        Err(error) => {
            text.push_str(&format!("{prefix}\\- (cannot be read: {})\n", error.kind()));
            return;
        }
    };
    // One left out would cost the same line as showing it.
    let shown = if all > budget {
        budget.saturating_sub(1)
    } else {
        all
    };
    let left_out = all - shown;
    *left -= shown.min(*left);
    for (index, entry) in entries.iter().take(shown).enumerate() {
        let last = index + 1 == all;
        let branch = if last { "\\-" } else { "|-" };
        let name = on_one_line(entry);
        let path = directory.join(entry);
        let kind = path.symlink_metadata().ok().map(|found| found.file_type());
        if kind.as_ref().is_some_and(FileType::is_dir) {
            text.push_str(&format!("{prefix}{branch} * {name}\n"));
            // Thousands of files that nobody put there.
            if prefix.is_empty() && entry == names::TRANSPLANT_DIR {
                continue;
            }
            let deeper = format!("{prefix}{}", if last { "   " } else { "|  " });
            list(&path, &deeper, left, text);
        } else if kind.as_ref().is_some_and(FileType::is_symlink) {
            let target = fs::read_link(&path).unwrap_or_default();
            let target = on_one_line(target);
            text.push_str(&format!("{prefix}{branch} {name} -> {target}\n"));
        } else {
            text.push_str(&format!("{prefix}{branch} {name}\n"));
        }
    }
    if left_out > 0 {
        *left = left.saturating_sub(1);
        text.push_str(&format!("{prefix}\\- ... {left_out} more not shown\n"));
    }
}

/// Whether nobody else put it there, or needs to know of it.
fn is_ours(name: &OsStr) -> bool {
    let name = name.as_encoded_bytes();
    name.starts_with(names::PRIVATE_PREFIX.as_bytes())
}

/// The absolute paths of the top level, sorted, for the error record.
pub(crate) fn top_level(root: &Path) -> Vec<String> {
    const MOST: usize = 500;
    let shown_root = on_one_line(root);
    let Ok(First { entries, all }) = First::read(root, MOST) else {
        return vec![format!("{shown_root} (cannot be read)")];
    };
    let left_out = all - entries.len();
    let mut paths: Vec<String> = entries
        .iter()
        .map(|entry| on_one_line(root.join(entry)))
        .collect();
    if left_out > 0 {
        paths.push(format!("... {left_out} more not shown"));
    }
    paths
}

/// A name as people can read it: control characters, line ends and marks that turn the direction
/// of writing are escaped.
pub fn on_one_line(name: impl AsRef<OsStr>) -> String {
    let name = name.as_ref().to_string_lossy();
    let mut text = String::with_capacity(name.len());
    for character in name.chars() {
        let breaks = character.is_control()
            || matches!(character, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if breaks {
            text.extend(character.escape_default());
        } else {
            text.push(character);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn draws_what_htmap_draws() {
        let scratch = tempfile::tempdir().unwrap();
        let root = scratch.path();
        fs::create_dir_all(root.join("a/b")).unwrap();
        fs::write(root.join("a/b/file"), "").unwrap();
        fs::write(root.join("func"), "").unwrap();
        symlink("..", root.join("a/up")).unwrap();
        assert_eq!(
            tree(root),
            "|- * a\n|  |- * b\n|  |  \\- file\n|  \\- up -> ..\n\\- func\n"
        );
    }

    #[test]
    fn says_what_it_leaves_out() {
        let scratch = tempfile::tempdir().unwrap();
        for number in 0..5000 {
            fs::write(scratch.path().join(format!("{number:05}")), "").unwrap();
        }
        let text = tree(scratch.path());
        assert_eq!(text.lines().count(), LINES_A_DIRECTORY);
        assert!(text.ends_with("\\- ... 4901 more not shown\n"), "{text}");
    }

    #[test]
    fn no_name_breaks_a_line() {
        let scratch = tempfile::tempdir().unwrap();
        let root = scratch.path();
        fs::write(root.join("a\nb\x1b[2J"), "").unwrap();
        symlink("to\rhere", root.join("link")).unwrap();
        fs::write(root.join("\u{202e}txt.exe"), "").unwrap();
        assert_eq!(
            tree(root),
            "|- a\\nb\\u{1b}[2J\n|- link -> to\\rhere\n\\- \\u{202e}txt.exe\n"
        );
        assert!(top_level(root)[0].ends_with("/a\\nb\\u{1b}[2J"));
    }

    #[test]
    fn the_top_level_has_a_bound() {
        let scratch = tempfile::tempdir().unwrap();
        for number in 0..600 {
            fs::write(scratch.path().join(format!("{number:05}")), "").unwrap();
        }
        let paths = top_level(scratch.path());
        assert!(paths[0].ends_with("/00000"), "{paths:?}");
        assert_eq!(paths[500], "... 100 more not shown");
    }
}
