//! What the dynamic loader says when a compiled module does not load.
//!
//! Python hands on its sentence and nothing else, so this is the one place that reads a text.
//! glibc's are in elf/dl-load.c, dl-lookup.c and dl-version.c, musl's in ldso/dynlink.c.

/// What is wrong with a library.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Loader<'a> {
    /// It is nowhere that the loader looks.
    Missing { library: &'a str },
    /// It is older than what needs it.
    TooOld { library: &'a str, version: &'a str },
    /// It was built beside another one.
    NoSymbol { symbol: &'a str },
}

impl<'a> Loader<'a> {
    /// Finds the sentence in an exception's message.
    pub(crate) fn find(message: &'a str) -> Option<Self> {
        message.lines().find_map(|line| {
            glibc_missing(line)
                .or_else(|| musl_missing(line))
                .or_else(|| too_old(line))
                .or_else(|| no_symbol(line))
        })
    }
}

/// `libx.so.1: cannot open shared object file: No such file or directory`
fn glibc_missing(line: &str) -> Option<Loader<'_>> {
    let (before, _) =
        line.split_once(": cannot open shared object file: No such file or directory")?;
    let library = before.rsplit_once(": ").map_or(before, |(_, last)| last);
    Some(Loader::Missing {
        library: library.trim(),
    })
}

/// `Error loading shared library libx.so.1: No such file or directory (needed by /a/y.so)`
fn musl_missing(line: &str) -> Option<Loader<'_>> {
    let (_, after) = line.split_once("Error loading shared library ")?;
    let (library, _) = after.split_once(": No such file or directory")?;
    Some(Loader::Missing { library })
}

/// ``/lib/libc.so.6: version `GLIBC_2.38' not found (required by /a/y.so)``
fn too_old(line: &str) -> Option<Loader<'_>> {
    let (before, after) = line.split_once(": version `")?;
    let (version, _) = after.split_once("' not found (required by ")?;
    let library = before.rsplit_once(": ").map_or(before, |(_, last)| last);
    Some(Loader::TooOld {
        library: library.trim(),
        version,
    })
}

/// `/a/y.so: undefined symbol: f, version V` and `Error relocating /a/y.so: f: symbol not found`
fn no_symbol(line: &str) -> Option<Loader<'_>> {
    if let Some((_, symbol)) = line.split_once(": undefined symbol: ") {
        let symbol = symbol.split(',').next().unwrap_or(symbol);
        return Some(Loader::NoSymbol { symbol });
    }
    let (_, after) = line.split_once("Error relocating ")?;
    let (before, _) = after.split_once(": symbol not found")?;
    let (_, symbol) = before.rsplit_once(": ")?;
    Some(Loader::NoSymbol { symbol })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_both_loaders() {
        let missing = |library| Some(Loader::Missing { library });
        for (message, found) in [
            (
                "ImportError: libfoo.so.1: cannot open shared object file: No such file or directory",
                missing("libfoo.so.1"),
            ),
            (
                "OSError: /a b/libfoo.so: cannot open shared object file: No such file or directory",
                missing("/a b/libfoo.so"),
            ),
            (
                "ImportError: read this\ncaused by: ImportError: libblas.so.3: cannot open shared \
                 object file: No such file or directory",
                missing("libblas.so.3"),
            ),
            (
                "ImportError: Error loading shared library libfoo.so.1: No such file or directory \
                 (needed by /x/_foo.so)",
                missing("libfoo.so.1"),
            ),
            (
                "ImportError: /lib/libc.so.6: version `GLIBC_2.38' not found (required by /x/_foo.so)",
                Some(Loader::TooOld {
                    library: "/lib/libc.so.6",
                    version: "GLIBC_2.38",
                }),
            ),
            (
                "ImportError: /x/_foo.so: undefined symbol: bar, version FOO_1",
                Some(Loader::NoSymbol { symbol: "bar" }),
            ),
            (
                "ImportError: Error relocating /x/_foo.so: bar: symbol not found",
                Some(Loader::NoSymbol { symbol: "bar" }),
            ),
            (
                "OSError: libfoo.so: cannot open shared object file: Permission denied",
                None,
            ),
            ("ImportError: cannot import name 'x' from 'y'", None),
        ] {
            assert_eq!(Loader::find(message), found, "{message}");
        }
    }
}
