//! Reads HTCondor's `.job.ad` and `.machine.ad`: old-style ClassAds, one `Name = expression` a line.
//!
//! Only constants and plain arithmetic are evaluated (`MachineMaxVacateTime` is `10 * 60` by
//! default); any other expression counts as absent.
//! <https://htcondor.readthedocs.io/en/latest/classads/classad-mechanism.html>

use std::collections::HashMap;
use std::path::Path;

/// One ad; names compare without case.
#[derive(Debug, Default)]
pub struct ClassAd(HashMap<String, String>);

impl ClassAd {
    /// Reads an ad; a file that is missing or cannot be read is an empty ad.
    pub(crate) fn read(path: &Path) -> Self {
        std::fs::read(path)
            .map(|bytes| Self::parse(&String::from_utf8_lossy(&bytes)))
            .unwrap_or_default()
    }

    pub(crate) fn parse(text: &str) -> Self {
        Self(
            text.lines()
                .filter_map(|line| line.split_once('='))
                .map(|(name, value)| (name.trim().to_ascii_lowercase(), value.trim().to_owned()))
                .collect(),
        )
    }

    /// A string attribute, without its quotes.
    pub fn string(&self, name: &str) -> Option<String> {
        let value = self.0.get(&name.to_ascii_lowercase())?;
        let inner = value.strip_prefix('"')?.strip_suffix('"')?;
        Some(inner.replace("\\\"", "\"").replace("\\\\", "\\"))
    }

    /// An integer attribute, or arithmetic on integers.
    pub fn integer(&self, name: &str) -> Option<i64> {
        let value = self.0.get(&name.to_ascii_lowercase())?;
        let mut parser = Arithmetic {
            rest: value.as_bytes(),
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
}
