//! A Python's minor version: what bytecode and site-packages depend on.

use std::fmt;
use std::str::FromStr;

/// The oldest Python that can run a component.
pub const MINIMUM_VERSION: PythonVersion = PythonVersion { major: 3, minor: 6 };

/// Such as 3.11.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PythonVersion {
    /// The 3 of 3.11.
    pub major: u8,
    /// The 11 of 3.11.
    pub minor: u8,
}

/// The text is no version.
#[derive(Debug, thiserror::Error)]
#[error("not a Python version such as 3.11: `{0}`")]
pub struct InvalidVersion(String);

impl FromStr for PythonVersion {
    type Err = InvalidVersion;

    /// Takes a patch level as well, and leaves it out: `3.11.7`, `3.13.0rc1`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parts = text.trim().splitn(3, '.');
        let mut next = || parts.next().and_then(|part| part.parse().ok());
        match (next(), next()) {
            (Some(major), Some(minor)) => Ok(Self { major, minor }),
            _ => Err(InvalidVersion(text.to_owned())),
        }
    }
}

impl fmt::Display for PythonVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_versions() {
        let version = |text: &str| {
            text.parse::<PythonVersion>()
                .map(|version| version.to_string())
        };
        assert_eq!(version("3.11").unwrap(), "3.11");
        assert_eq!(version("3.13.0rc1").unwrap(), "3.13");
        for text in ["", "3", "3.x", "three.eleven", "3.999"] {
            assert!(version(text).is_err(), "{text}");
        }
    }
}
