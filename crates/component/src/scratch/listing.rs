//! The scratch directory as a tree of text, for people.
//!
//! Never follows a symbolic link, and stops after a number of lines: 50,000 files cost the reader
//! a line that says so.

use std::ffi::OsStr;
use std::fs;
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

fn list(directory: &Path, prefix: &str, left: &mut usize, text: &mut String) {
    let mut entries: Vec<fs::DirEntry> = match fs::read_dir(directory) {
        Ok(entries) => entries.filter_map(Result::ok).collect(),
        Err(error) => {
            text.push_str(&format!("{prefix}\\- (cannot be read: {})\n", error.kind()));
            return;
        }
    };
    if prefix.is_empty() {
        entries.retain(|entry| !is_ours(&entry.file_name()));
    }
    entries.sort_by_key(fs::DirEntry::file_name);
    let budget = LINES_A_DIRECTORY.min(*left);
    // One left out would cost the same line as showing it.
    let shown = if entries.len() > budget {
        budget.saturating_sub(1)
    } else {
        entries.len()
    };
    let left_out = entries.len() - shown;
    *left -= shown.min(*left);
    for (index, entry) in entries.iter().take(shown).enumerate() {
        let last = index + 1 == entries.len();
        let branch = if last { "\\-" } else { "|-" };
        let name = entry.file_name();
        let name = name.display();
        let kind = entry.file_type().ok();
        if kind.is_some_and(|kind| kind.is_dir()) {
            text.push_str(&format!("{prefix}{branch} * {name}\n"));
            // Thousands of files that nobody put there.
            if prefix.is_empty() && entry.file_name() == names::TRANSPLANT_DIR {
                continue;
            }
            let deeper = format!("{prefix}{}", if last { "   " } else { "|  " });
            list(&entry.path(), &deeper, left, text);
        } else if kind.is_some_and(|kind| kind.is_symlink()) {
            let target = fs::read_link(entry.path()).unwrap_or_default();
            text.push_str(&format!(
                "{prefix}{branch} {name} -> {}\n",
                target.display()
            ));
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
    let Ok(entries) = fs::read_dir(root) else {
        return vec![format!("{} (cannot be read)", root.display())];
    };
    let mut paths: Vec<String> = entries
        .filter_map(Result::ok)
        .filter(|entry| !is_ours(&entry.file_name()))
        .map(|entry| entry.path().display().to_string())
        .collect();
    paths.sort();
    let left_out = paths.len().saturating_sub(MOST);
    paths.truncate(MOST);
    if left_out > 0 {
        paths.push(format!("... {left_out} more not shown"));
    }
    paths
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
}
