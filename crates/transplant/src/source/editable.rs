//! Editable installs: packages whose source lies elsewhere on the submit machine.
//!
//! Their `.pth` files name a directory, or start a finder that maps names to directories (PEP 660,
//! setuptools). In an archive the sources lie beside the packages, and nothing points elsewhere.

use std::path::{Path, PathBuf};

/// What a line of a `.pth` file makes importable.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Line {
    /// A directory on `sys.path`.
    Directory(PathBuf),
    /// A finder of setuptools, in the module of this name.
    Finder(String),
    /// Anything else: it stays as it is.
    Other,
}

/// Reads a line as Python's `site` does: one that begins with `import` is executed.
pub(crate) fn line(text: &str) -> Line {
    if text.starts_with("import ") || text.starts_with("import\t") {
        let module = text["import ".len()..]
            .split(';')
            .next()
            .unwrap_or("")
            .trim();
        if module.starts_with("__editable___") && module.ends_with("_finder") {
            return Line::Finder(module.to_owned());
        }
        return Line::Other;
    }
    if text.starts_with('/') {
        return Line::Directory(PathBuf::from(text.trim_end()));
    }
    Line::Other
}

/// The names and places in setuptools' finder: its line `MAPPING: dict[str, str] = {...}`.
pub(crate) fn mapping(module: &str) -> Option<Vec<(String, PathBuf)>> {
    let line = module
        .lines()
        .find(|line| line.starts_with("MAPPING") && line.contains('{'))?;
    let inside = line.split_once('{')?.1.rsplit_once('}')?.0;
    let mut strings = Vec::new();
    let mut rest = inside;
    while let Some(start) = rest.find(['\'', '"']) {
        let quote = rest.as_bytes()[start] as char;
        let (string, after) = literal(&rest[start + 1..], quote)?;
        strings.push(string);
        rest = after;
    }
    if strings.len() % 2 != 0 {
        return None;
    }
    Some(
        strings
            .chunks(2)
            .map(|pair| (pair[0].clone(), PathBuf::from(&pair[1])))
            .collect(),
    )
}

/// A string up to its closing quote, as `repr` writes paths: only quotes and backslashes are escaped.
fn literal(text: &str, quote: char) -> Option<(String, &str)> {
    let mut string = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        if character == quote {
            return Some((string, &text[at + 1..]));
        }
        if character == '\\' {
            let (_, escaped) = characters.next()?;
            if !matches!(escaped, '\\' | '\'' | '"') {
                return None;
            }
            string.push(escaped);
        } else {
            string.push(character);
        }
    }
    None
}

/// What lies in a source directory and is no part of the package.
pub(crate) fn is_development(path: &Path) -> bool {
    path.file_name().is_some_and(|name| {
        matches!(
            name.to_str(),
            Some(
                ".git"
                    | ".hg"
                    | ".svn"
                    | ".tox"
                    | ".nox"
                    | ".venv"
                    | "venv"
                    | "node_modules"
                    | ".mypy_cache"
                    | ".pytest_cache"
                    | ".ruff_cache"
            )
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_pth_files() {
        assert_eq!(line("/home/me/src"), Line::Directory("/home/me/src".into()));
        assert_eq!(line("../beside"), Line::Other);
        assert_eq!(line("# a comment"), Line::Other);
        assert_eq!(line("import os; os.x()"), Line::Other);
        assert_eq!(
            line("import __editable___mine_1_0_finder; __editable___mine_1_0_finder.install()"),
            Line::Finder("__editable___mine_1_0_finder".to_owned())
        );
    }

    #[test]
    fn the_mapping_of_a_finder() {
        let text = "import sys\nMAPPING: dict[str, str] = {'a': '/src/a', 'b': \"/it's/b\", 'c.d': '/x\\\\y'}\n";
        assert_eq!(
            mapping(text),
            Some(vec![
                ("a".to_owned(), "/src/a".into()),
                ("b".to_owned(), "/it's/b".into()),
                ("c.d".to_owned(), "/x\\y".into()),
            ])
        );
        assert_eq!(mapping("MAPPING: dict[str, str] = {}"), Some(vec![]));
        assert_eq!(mapping("x = 1"), None);
        assert_eq!(mapping("MAPPING = {'a': '\\x41'}"), None);
    }
}
