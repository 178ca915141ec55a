//! Scripts that begin by naming the Python of their environment, and find it beside themselves instead.
//!
//! Installers write the first line in several ways: with options, with quotes, and where the path is
//! too long for the kernel or holds a blank by way of the shell. What is none of these is a text that
//! names the old place like any other.

use std::path::Path;

use super::edits::Edit;
use super::old::Old;

/// How a script names its interpreter.
#[derive(Debug, PartialEq, Eq)]
struct Start {
    interpreter: String,
    /// Between the interpreter and the script's own name.
    options: Vec<String>,
    /// Of the lines that say so.
    length: usize,
}

/// What the first lines of a script become that will lie at `path` below the root, if they name a
/// Python of the environment.
pub(super) fn shebang(old: &Old, bytes: &[u8], path: &Path) -> Option<Edit> {
    let start = start(bytes)?;
    let below = old.inside(Path::new(&start.interpreter))?;
    let name = below.strip_prefix("bin").ok()?.to_str()?;
    let is_python = name.starts_with("python") || name.starts_with("pypy");
    let has_quotes = start.options.iter().any(|option| option.contains('\''));
    if name.contains('/') || !is_python || has_quotes {
        return None;
    }
    // From the directory of the script; in `bin` it is the same.
    let way = if path.parent() == Some(Path::new("bin")) {
        String::new()
    } else {
        format!("{}bin/", "../".repeat(path.components().count() - 1))
    };
    let mut call = quoted(&format!("{way}{name}"));
    for option in &start.options {
        call.push(' ');
        call.push_str(&quoted(option));
    }
    let lines = format!(
        "#!/bin/sh\n'''exec' \"$(dirname -- \"$(realpath -- \"$0\")\")\"/{call} \"$0\" \"$@\"\n' '''\n"
    );
    Some(Edit::Shebang {
        length: start.length as u64,
        lines: lines.into_bytes(),
    })
}

/// For the shell, in what is the first line of a Python string as well.
fn quoted(word: &str) -> String {
    format!("'{word}'")
}

fn start(bytes: &[u8]) -> Option<Start> {
    let end = bytes.iter().position(|&byte| byte == b'\n')?;
    let line = std::str::from_utf8(bytes.get(2..end)?).ok()?.trim();
    if !bytes.starts_with(b"#!") {
        return None;
    }
    let shell = line.split_whitespace().next().unwrap_or("");
    if ["sh", "bash", "dash"].contains(&shell.rsplit('/').next().unwrap_or("")) {
        return by_the_shell(bytes, end + 1);
    }
    // The kernel knows no quotes, but some installers write them.
    let (interpreter, option) = if let Some(rest) = line.strip_prefix('"') {
        rest.split_once('"')?
    } else {
        line.split_once(char::is_whitespace).unwrap_or((line, ""))
    };
    // The kernel hands over all of them as one.
    let option = option.trim();
    Some(Start {
        interpreter: interpreter.to_owned(),
        options: (!option.is_empty())
            .then(|| option.to_owned())
            .into_iter()
            .collect(),
        length: end + 1,
    })
}

/// `'''exec' "/a long path/python" -E "$0" "$@"`, and `' '''` in the next line or `#'''` behind it: what
/// the shell runs is a string for Python. As distlib (pip, virtualenv), uv and conda write it:
/// <https://github.com/pypa/distlib/blob/master/distlib/scripts.py>
fn by_the_shell(bytes: &[u8], from: usize) -> Option<Start> {
    let end = from + bytes[from..].iter().position(|&byte| byte == b'\n')?;
    let line = std::str::from_utf8(&bytes[from..end]).ok()?;
    let call = line.trim_end().strip_prefix("'''exec' ")?;
    let (call, length) = match call.strip_suffix("#'''") {
        Some(call) => (call, end + 1),
        None => {
            let last: &[u8] = b"' '''\n";
            bytes[end + 1..].starts_with(last).then_some(())?;
            (call, end + 1 + last.len())
        }
    };
    let mut words = words(call)?.into_iter();
    let interpreter = words.next()?;
    let mut options = Vec::new();
    for word in words.by_ref() {
        if word == "$0" {
            break;
        }
        options.push(word);
    }
    // What it would do besides is nothing that an installer writes.
    let is_known = words.next().as_deref() == Some("$@") && words.next().is_none();
    is_known.then_some(Start {
        interpreter,
        options,
        length,
    })
}

/// The words of a call without anything for the shell to work out but `$0` and `$@`.
fn words(line: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut rest = line.trim();
    while !rest.is_empty() {
        let mut word = String::new();
        loop {
            let mut characters = rest.chars();
            match characters.next() {
                Some(quote @ ('"' | '\'')) => {
                    let (inside, after) = characters.as_str().split_once(quote)?;
                    let is_plain = quote == '\'' || !inside.contains(['\\', '`', '$']);
                    if !is_plain && !["$0", "$@"].contains(&inside) {
                        return None;
                    }
                    word.push_str(inside);
                    rest = after;
                }
                None => break,
                Some(blank) if blank.is_whitespace() => break,
                Some('\\' | '`' | '$' | '|' | '&' | ';' | '<' | '>' | '(' | ')' | '*' | '#') => {
                    return None;
                }
                Some(character) => {
                    word.push(character);
                    rest = characters.as_str();
                }
            }
        }
        words.push(word);
        rest = rest.trim_start();
    }
    Some(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Option<(String, Vec<String>, &str)> {
        let start = start(text.as_bytes())?;
        Some((start.interpreter, start.options, &text[start.length..]))
    }

    #[test]
    fn how_scripts_begin() {
        let python = || "/a/bin/python".to_owned();
        let blank = || "/a b/bin/python".to_owned();
        let no: [String; 0] = [];
        for (text, interpreter, options) in [
            ("#!/a/bin/python\nx", python(), no.to_vec()),
            ("#! /a/bin/python \nx", python(), no.to_vec()),
            ("#!/a/bin/python -sE\nx", python(), vec!["-sE".to_owned()]),
            (
                "#!/a/bin/python -s -E\nx",
                python(),
                vec!["-s -E".to_owned()],
            ),
            ("#!\"/a b/bin/python\"\nx", blank(), no.to_vec()),
            (
                "#!\"/a b/bin/python\" -E\nx",
                blank(),
                vec!["-E".to_owned()],
            ),
            // distlib
            (
                "#!/bin/sh\n'''exec' /a/bin/python \"$0\" \"$@\"\n' '''\nx",
                python(),
                no.to_vec(),
            ),
            (
                "#!/bin/sh\n'''exec' \"/a b/bin/python\" \"$0\" \"$@\"\n' '''\nx",
                blank(),
                no.to_vec(),
            ),
            (
                "#!/bin/sh\n'''exec' \"/a b/bin/python\" -E \"$0\" \"$@\"\n' '''\nx",
                blank(),
                vec!["-E".to_owned()],
            ),
            // uv
            (
                "#!/bin/sh\n'''exec' '/a b/bin/python' \"$0\" \"$@\"\n' '''\nx",
                blank(),
                no.to_vec(),
            ),
            // conda
            (
                "#!/bin/sh\n'''exec' \"/a b/bin/python\" \"$0\" \"$@\" #'''\nx",
                blank(),
                no.to_vec(),
            ),
        ] {
            assert_eq!(found(text), Some((interpreter, options, "x")), "{text}");
        }
    }

    #[test]
    fn what_is_no_start_of_a_script() {
        for text in [
            "",
            "#!/a/bin/python",
            "x\n",
            "#!\"/a b/bin/python\n",
            "#!/bin/sh\nexec /a/bin/python \"$0\" \"$@\"\n",
            "#!/bin/sh\n'''exec' \"/a/bin/python\" \"$0\" \"$@\"\nx",
            "#!/bin/sh\n'''exec' \"$(dirname -- \"$0\")\"/'python' \"$0\" \"$@\"\n' '''\n",
            "#!/bin/sh\n'''exec' /a/bin/python; rm \"$0\" \"$@\"\n' '''\n",
            "#!/bin/sh\n'''exec' /a/bin/python \"$0\"\n' '''\n",
        ] {
            assert_eq!(found(text), None, "{text}");
        }
    }
}
