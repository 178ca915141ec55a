//! Reads HTCondor's `.job.ad` and `.machine.ad`: old-style ClassAds, one `Name = expression` a line.
//!
//! Only constants and plain arithmetic are evaluated (`MachineMaxVacateTime` is `10 * 60` by
//! default); any other expression counts as absent. Users can put what they like into their job's
//! ad, so everything here has a bound.
//! <https://htcondor.readthedocs.io/en/latest/classads/classad-mechanism.html>

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Read as _};
use std::path::Path;

use crate::regular;

/// No ad of HTCondor's comes near it.
const LARGEST_AD: u64 = 16 << 20;
/// Of a value that is kept: an `Environment` may be longer, and nobody asks for it.
const LONGEST_VALUE: usize = 64 << 10;
/// Of parentheses and signs within one another.
const DEEPEST: usize = 32;

/// One ad; names compare without case.
#[derive(Debug, Default)]
pub struct ClassAd(HashMap<String, String>);

impl ClassAd {
    /// Reads an ad; a file that is missing or cannot be read is an empty ad.
    pub(crate) fn read(path: &Path) -> Self {
        let read = regular::open_linked(path)
            .and_then(|file| Self::lines(BufReader::new(file.take(LARGEST_AD))));
        read.unwrap_or_else(|error| {
            if error.kind() != io::ErrorKind::NotFound {
                tracing::warn!("cannot read the ad `{}`: {error}", path.display());
            }
            Self::default()
        })
    }

    #[cfg(test)]
    pub(crate) fn parse(text: &str) -> Self {
        Self::lines(text.as_bytes()).unwrap_or_default()
    }

    /// A line at a time. Where a name comes twice, the last one counts, as in HTCondor.
    fn lines(mut from: impl BufRead) -> io::Result<Self> {
        let mut ad = HashMap::new();
        let mut line = Vec::new();
        loop {
            line.clear();
            if from.read_until(b'\n', &mut line)? == 0 {
                return Ok(Self(ad));
            }
            let Some(equals) = line.iter().position(|&byte| byte == b'=') else {
                continue;
            };
            let (name, value) = (line[..equals].trim_ascii(), line[equals + 1..].trim_ascii());
            let is_name = name
                .iter()
                .all(|&byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'.');
            if is_name && value.len() <= LONGEST_VALUE {
                let name = String::from_utf8_lossy(name).to_ascii_lowercase();
                ad.insert(name, String::from_utf8_lossy(value).into_owned());
            }
        }
    }

    /// A string attribute, without its quotes.
    pub fn string(&self, name: &str) -> Option<String> {
        let value = self.0.get(&name.to_ascii_lowercase())?;
        let inner = value.strip_prefix('"')?.strip_suffix('"')?;
        // Old-style ads escape the quote and nothing else: any other backslash is one.
        let mut text = String::with_capacity(inner.len());
        let mut characters = inner.chars().peekable();
        while let Some(character) = characters.next() {
            match character {
                '\\' if characters.peek() == Some(&'"') => text.extend(characters.next()),
                // Not one constant, but an expression of several.
                '"' => return None,
                other => text.push(other),
            }
        }
        Some(text)
    }

    /// An integer attribute, or arithmetic on integers.
    pub fn integer(&self, name: &str) -> Option<i64> {
        let value = self.0.get(&name.to_ascii_lowercase())?;
        let mut parser = Arithmetic {
            rest: value.as_bytes(),
            depth: 0,
        };
        let number = parser.sum()?;
        parser
            .rest
            .iter()
            .all(u8::is_ascii_whitespace)
            .then_some(number)
    }
}

struct Arithmetic<'a> {
    rest: &'a [u8],
    depth: usize,
}

impl Arithmetic<'_> {
    fn next(&mut self, wanted: &[u8]) -> Option<u8> {
        self.rest = self.rest.trim_ascii_start();
        let first = *self.rest.first()?;
        wanted.contains(&first).then(|| {
            self.rest = &self.rest[1..];
            first
        })
    }

    fn sum(&mut self) -> Option<i64> {
        let mut left = self.product()?;
        while let Some(operator) = self.next(b"+-") {
            let right = self.product()?;
            left = if operator == b'+' {
                left.checked_add(right)?
            } else {
                left.checked_sub(right)?
            };
        }
        Some(left)
    }

    fn product(&mut self) -> Option<i64> {
        let mut left = self.atom()?;
        while let Some(operator) = self.next(b"*/") {
            let right = self.atom()?;
            left = if operator == b'*' {
                left.checked_mul(right)?
            } else {
                left.checked_div(right)?
            };
        }
        Some(left)
    }

    fn atom(&mut self) -> Option<i64> {
        if self.depth == DEEPEST {
            return None;
        }
        self.depth += 1;
        let atom = self.atom_within();
        self.depth -= 1;
        atom
    }

    fn atom_within(&mut self) -> Option<i64> {
        if self.next(b"(").is_some() {
            let inner = self.sum()?;
            return self.next(b")").map(|_| inner);
        }
        if self.next(b"-").is_some() {
            return self.atom()?.checked_neg();
        }
        self.rest = self.rest.trim_ascii_start();
        let digits = self
            .rest
            .iter()
            .take_while(|byte| byte.is_ascii_digit())
            .count();
        let (number, rest) = self.rest.split_at(digits);
        self.rest = rest;
        std::str::from_utf8(number).ok()?.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_strings_and_arithmetic() {
        let ad = ClassAd::parse(
            "Machine = \"node1.example.org\"\nMachineMaxVacateTime = 10 * 60\nA = (2+3)*-4\n\
             Quoted = \"a \\\"b\\\"\"\nRank = ifThenElse(x, 1, 2)\nDeep = 9223372036854775807 * 2\n",
        );
        assert_eq!(ad.string("machine").as_deref(), Some("node1.example.org"));
        assert_eq!(ad.string("Quoted").as_deref(), Some("a \"b\""));
        assert_eq!(ad.integer("MachineMaxVacateTime"), Some(600));
        assert_eq!(ad.integer("A"), Some(-20));
        assert_eq!(ad.integer("Rank"), None);
        assert_eq!(ad.integer("Deep"), None);
        assert_eq!(ad.integer("Absent"), None);
    }

    #[test]
    fn strings_escape_the_quote_and_nothing_else() {
        let ad = ClassAd::parse(
            "Quote = \"\\\"\"\nBackslashes = \"a\\\\b\"\nBoth = \"a\\\\\"b\"\nEnd = \"C:\\\"\n\
             Line = \"a\\nb\"\nSum = \"a\" + \"b\"\nHalf = \"a\nOne = \"\n",
        );
        assert_eq!(ad.string("Quote").as_deref(), Some("\""));
        assert_eq!(ad.string("Backslashes").as_deref(), Some("a\\\\b"));
        assert_eq!(ad.string("Both").as_deref(), Some("a\\\"b"));
        assert_eq!(ad.string("End").as_deref(), Some("C:\\"));
        assert_eq!(ad.string("Line").as_deref(), Some("a\\nb"));
        for broken in ["Sum", "Half", "One"] {
            assert_eq!(ad.string(broken), None, "{broken}");
        }
    }

    #[test]
    fn parentheses_have_a_bound() {
        let many = 100_000;
        for (open, close) in [("(", ")"), ("-", "")] {
            let deep = format!("A = {}1{}\n", open.repeat(many), close.repeat(many));
            assert_eq!(ClassAd::parse(&deep).integer("A"), None);
            let short = format!("A = {}1{}\n", open.repeat(30), close.repeat(30));
            assert_eq!(ClassAd::parse(&short).integer("A"), Some(1));
        }
    }

    #[test]
    fn the_last_one_of_a_name_counts_in_any_case() {
        let ad = ClassAd::parse("Cpus = 1\r\nno line\n= 3\ncPUS = 2");
        assert_eq!(ad.integer("Cpus"), Some(2));
    }

    #[test]
    fn what_is_no_ad_is_an_empty_one() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        nix::unistd::mkfifo(&at("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(ClassAd::read(&at("fifo")).0.is_empty());
        assert!(ClassAd::read(&at("missing")).0.is_empty());
        std::fs::write(at("bytes"), b"A = \"\xff\"\n\xff = 1\nB = 2").unwrap();
        let ad = ClassAd::read(&at("bytes"));
        assert_eq!(ad.string("A").as_deref(), Some("\u{fffd}"));
        assert_eq!((ad.integer("B"), ad.0.len()), (Some(2), 2));
    }

    #[test]
    fn an_ad_has_a_bound() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ad");
        let long = format!("A = 1\nEnvironment = \"{}\"\nB = 2\n", "x".repeat(1 << 20));
        std::fs::write(&path, long).unwrap();
        let ad = ClassAd::read(&path);
        assert_eq!((ad.integer("B"), ad.string("Environment")), (Some(2), None));
        // As long as a disk is large, without taking its room.
        let file = std::fs::File::options().write(true).open(&path).unwrap();
        file.set_len(1 << 40).unwrap();
        assert_eq!(ClassAd::read(&path).integer("A"), Some(1));
    }
}
