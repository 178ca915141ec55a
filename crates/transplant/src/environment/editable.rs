//! Editable installs: packages whose source lies elsewhere on the submit machine.
//!
//! Their `.pth` files name a directory, or start a finder that maps names to directories: setuptools'
//! own (PEP 660), or that of the `editables` distribution (hatchling, PDM). In an archive the sources
//! lie beside the packages, and nothing points elsewhere.

use std::path::{Path, PathBuf};

/// What a line of a `.pth` file makes importable.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Line {
    /// A directory on `sys.path`, maybe relative to the file's own.
    Directory(PathBuf),
    /// A module that is imported, and perhaps a finder.
    Import(String),
    /// Nothing.
    Other,
}

/// Reads a line as Python's `site` does: one that begins with `import` is executed.
pub(crate) fn line(text: &str) -> Line {
    let text = text.trim_end();
    if text.starts_with("import ") || text.starts_with("import\t") {
        let module = text["import ".len()..]
            .split([';', ',', '#'])
            .next()
            .unwrap_or("")
            .trim();
        return Line::Import(module.to_owned());
    }
    if text.is_empty() || text.starts_with('#') {
        return Line::Other;
    }
    Line::Directory(PathBuf::from(text))
}

/// A module that a `.pth` file imports.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Finder {
    /// Names of modules and packages, and where they are.
    Mapping(Vec<(String, PathBuf)>),
    /// The loader of a build backend, which builds anew what it finds changed: of this tool.
    Builder(&'static str),
    /// No finder.
    None,
}

pub(crate) fn finder(name: &str, text: &str) -> Finder {
    if name.starts_with("__editable___") && name.ends_with("_finder") {
        if let Some(mapping) = mapping(text) {
            return Finder::Mapping(mapping);
        }
        return Finder::Builder("setuptools");
    }
    if text.contains("editables.redirector") {
        return redirected(text).map_or(Finder::Builder("editables"), Finder::Mapping);
    }
    if name.ends_with("_editable_loader") {
        return Finder::Builder("meson-python");
    }
    if name.starts_with('_') && name.ends_with("_editable") {
        return Finder::Builder("scikit-build-core");
    }
    Finder::None
}

/// The calls `F.map_module('name', '/src/name/__init__.py')` of what `editables` writes.
fn redirected(text: &str) -> Option<Vec<(String, PathBuf)>> {
    let mut found = Vec::new();
    for line in text.lines() {
        let Some((_, call)) = line.split_once(".map_module(") else {
            continue;
        };
        let strings = strings(call)?;
        let [name, file] = strings.as_slice() else {
            return None;
        };
        let file = Path::new(file);
        let place = if file.file_name().is_some_and(|name| name == "__init__.py") {
            file.parent()?.to_path_buf()
        } else {
            file.with_extension("")
        };
        found.push((name.clone(), place));
    }
    Some(found)
}

/// A `.pth` file of setuptools' namespace packages, in which `place` says where a directory lies as seen from the
/// file's own. What that gives nothing for stays as it is.
pub(crate) fn with_namespaces(
    text: &str,
    mut place: impl FnMut(&Path) -> Option<String>,
) -> String {
    const JOIN: &str = "os.path.join(";
    let mut made = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(JOIN) {
        let (before, call) = rest.split_at(at + JOIN.len());
        made.push_str(before);
        rest = call;
        let quote = call
            .chars()
            .next()
            .filter(|quote| matches!(quote, '\'' | '"'));
        let Some((named, after)) = quote.and_then(|quote| literal(&call[1..], quote)) else {
            continue;
        };
        if let Some(place) = Path::new(&named)
            .is_absolute()
            .then(|| place(Path::new(&named)))
            .flatten()
        {
            // As setuptools writes it for what lies beside the file: `site` has that variable.
            let quoted = place.replace('\\', "\\\\").replace('\'', "\\'");
            made.push_str(&format!("sys._getframe(1).f_locals['sitedir'], '{quoted}'"));
            rest = after;
        }
    }
    made + rest
}

/// The names and places in setuptools' finder: its line `MAPPING: dict[str, str] = {...}`.
pub(crate) fn mapping(module: &str) -> Option<Vec<(String, PathBuf)>> {
    let line = module
        .lines()
        .find(|line| line.starts_with("MAPPING") && line.contains('{'))?;
    let inside = line.split_once('{')?.1.rsplit_once('}')?.0;
    let strings = strings(inside)?;
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

fn strings(mut rest: &str) -> Option<Vec<String>> {
    let mut strings = Vec::new();
    while let Some(start) = rest.find(['\'', '"']) {
        let quote = rest.as_bytes()[start] as char;
        let (string, after) = literal(&rest[start + 1..], quote)?;
        strings.push(string);
        rest = after;
    }
    Some(strings)
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

/// What lies in a source directory and cannot be imported by any name. Packages may be called `venv`: an
/// environment is known by what is in it.
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
                    | ".eggs"
                    | ".mypy_cache"
                    | ".pytest_cache"
                    | ".ruff_cache"
                    | ".ipynb_checkpoints"
            )
        )
    })
}

/// What npm installs into the top of a source directory, where that is no package.
pub(crate) fn is_of_npm(source: &Path, below: &Path) -> bool {
    below == Path::new("node_modules") && !source.join(below).join("__init__.py").is_file()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_pth_files() {
        assert_eq!(line("/home/me/src"), Line::Directory("/home/me/src".into()));
        assert_eq!(line("../beside\r"), Line::Directory("../beside".into()));
        assert_eq!(line("# a comment"), Line::Other);
        assert_eq!(line(""), Line::Other);
        assert_eq!(line("import os; os.x()"), Line::Import("os".to_owned()));
    }

    #[test]
    fn namespaces_of_development_installs() {
        let line = |root: &str| {
            format!(
                "import sys, types, os;p = os.path.join({root}, *('ns',));m = os.path.dirname(p)"
            )
        };
        let place = |named: &Path| (named == Path::new("/src/it's")).then(|| "../x's".to_owned());
        assert_eq!(
            with_namespaces(&line("\"/src/it's\""), place),
            line("sys._getframe(1).f_locals['sitedir'], '../x\\'s'")
        );
        for other in ["'/elsewhere'", "sys._getframe(1).f_locals['sitedir']", "'"] {
            assert_eq!(with_namespaces(&line(other), place), line(other));
        }
    }

    #[test]
    fn finders() {
        let text = "from editables.redirector import RedirectingFinder as F\nF.install()\nF.map_module('a', '/src/a/__init__.py')\nF.map_module('b', '/src/b.py')";
        assert_eq!(
            finder("_editable_impl_a", text),
            Finder::Mapping(vec![
                ("a".to_owned(), "/src/a".into()),
                ("b".to_owned(), "/src/b".into()),
            ])
        );
        assert_eq!(
            finder("_a_editable_loader", ""),
            Finder::Builder("meson-python")
        );
        assert_eq!(
            finder("__editable___a_finder", "x"),
            Finder::Builder("setuptools")
        );
        assert_eq!(finder("os", ""), Finder::None);
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
