//! Where bytes name a directory, and not another one whose path holds the same letters.
//!
//! `/opt/base` is named in `PATH=/opt/base/bin:` and in `-I/opt/base/include`, and neither in
//! `/opt/base-other` nor in `/srv/opt/base`. The same rule holds in texts, in binaries and in what
//! Python says of its own build; it is decided once, when an archive is built.

/// How much in front of a naming is looked at.
pub(super) const BEFORE: usize = 32;

/// Options of compilers and linkers that a directory may follow at once.
const OPTIONS: [&[u8]; 4] = [b"-isystem", b"-idirafter", b"-iquote", b"-rpath"];

/// Where `bytes` name the directory `old`, by a path without a slash at its end.
pub(super) fn namings(bytes: &[u8], old: &[u8]) -> Vec<usize> {
    let mut found = Vec::new();
    let Some(&first) = old.first() else {
        return found;
    };
    let mut from = 0;
    // Paths begin with a slash, which is rare in a binary.
    while let Some(at) = bytes[from..].iter().position(|&byte| byte == first) {
        let at = from + at;
        from = at + 1;
        if bytes[at..].starts_with(old) && begins(&bytes[..at]) && ends(&bytes[at + old.len()..]) {
            found.push(at);
            from = at + old.len();
        }
    }
    found
}

/// Whether a byte may be in the middle of a name. Bytes of letters beyond ASCII may.
fn is_of_a_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte >= 0x80 || b"_-.~+@%".contains(&byte)
}

/// Whether a path may begin behind this.
fn begins(before: &[u8]) -> bool {
    let Some((&last, rest)) = before.split_last() else {
        return true;
    };
    match last {
        b'/' => before.ends_with(b"file://"),
        // What was put in front of it by a variable or a pattern: `${root}/opt`, `*/opt`.
        b'}' | b')' | b']' | b'*' | b'\\' | b'.' | b'~' | b'_' | b'%' => false,
        // `${X:-/opt}`, `@/opt/file`, and not `x-/opt`.
        b'-' | b'+' | b'@' => rest.last().is_none_or(|&byte| !is_of_a_path(byte)),
        _ if last.is_ascii_alphabetic() => {
            is_option(before) || is_escape(before) || before.ends_with(b"file://localhost")
        }
        _ => !is_of_a_name(last),
    }
}

fn is_of_a_path(byte: u8) -> bool {
    byte == b'/' || is_of_a_name(byte)
}

/// `-I`, `-L` and the like, as words of their own.
fn is_option(before: &[u8]) -> bool {
    let is_word = |length: usize| {
        let begin = before.len().checked_sub(length);
        begin.is_some_and(|begin| begin == 0 || !is_of_a_path(before[begin - 1]))
    };
    let is_short = before.len() >= 2 && before[before.len() - 2] == b'-' && is_word(2);
    is_short
        || OPTIONS
            .iter()
            .any(|option| before.ends_with(option) && is_word(option.len()))
}

/// The letter of `\n` in a string of JSON, C or Python.
fn is_escape(before: &[u8]) -> bool {
    let Some((last, rest)) = before.split_last() else {
        return false;
    };
    let backslashes = rest.iter().rev().take_while(|&&byte| byte == b'\\').count();
    b"abfnrtv".contains(last) && backslashes % 2 == 1
}

/// Whether a path that is a directory's may end before this.
fn ends(after: &[u8]) -> bool {
    match after {
        [] | [b'/', ..] => true,
        // The end of a sentence.
        [b'.', rest @ ..] => rest.first().is_none_or(|&byte| !is_of_a_path(byte)),
        [next, ..] => !is_of_a_name(*next),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_names_a_directory() {
        for text in [
            "/opt/base",
            "/opt/base/bin/python",
            "#!/opt/base/bin/python",
            "home = /opt/base",
            "x=/opt/base:y",
            "\"/opt/base\"",
            "'/opt/base'",
            "[/opt/base, {/opt/base}]",
            "(/opt/base)",
            "-I/opt/base/include",
            "cc -L/opt/base/lib",
            "-isystem/opt/base/include",
            "-Wl,-rpath,/opt/base/lib",
            "-Wl,-rpath/opt/base/lib",
            "--prefix=/opt/base",
            "@/opt/base/options",
            "${X:-/opt/base}",
            "${X:+/opt/base}",
            "file:///opt/base/x",
            "file://localhost/opt/base/x",
            r#""a\n/opt/base/x""#,
            "a\t/opt/base\n",
            "\0/opt/base\0",
            "It lies in /opt/base.",
            "/opt/base.\n",
            "<dir>/opt/base</dir>",
            "a;/opt/base;b",
            "`/opt/base/bin/x`",
            "$(/opt/base/bin/x)",
        ] {
            let found = namings(text.as_bytes(), b"/opt/base");
            assert!(!found.is_empty(), "{text}");
        }
    }

    #[test]
    fn what_names_another_one() {
        for text in [
            "/opt/base-other",
            "/opt/base2",
            "/opt/base_x/y",
            "/opt/base.d/x",
            "/opt/base~",
            "/opt/base+x",
            "/opt/base@1",
            "/opt/base%s",
            "/opt/baseé",
            "/srv/opt/base/y",
            "//opt/base",
            "x/opt/base",
            "é/opt/base",
            "~/opt/base",
            "./opt/base",
            "../opt/base",
            "${HOME}/opt/base",
            "$(HOME)/opt/base",
            "$HOME/opt/base",
            "%(here)s/opt/base",
            "/srv/*/opt/base",
            "x-/opt/base",
            "x-I/opt/base",
            r"\\n/opt/base",
            r"s/\/opt/base/",
            "http://opt/base",
            "/opt/bas",
            "",
        ] {
            let found = namings(text.as_bytes(), b"/opt/base");
            assert!(found.is_empty(), "{text}");
        }
        let program = b"#!/usr/bin/env python\nexec /env/bin/x /usr/bin/env";
        assert_eq!(namings(program, b"/env"), [27]);
    }

    #[test]
    fn each_is_found() {
        let text = b"/a:/a/b:/ab:/a";
        assert_eq!(namings(text, b"/a"), [0, 3, 12]);
        assert!(namings(text, b"").is_empty());
    }
}
