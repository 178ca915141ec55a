//! The variables that Python gets: HTCondor's and the user's own, and ones that work where those do not.
//!
//! In a container, or as an account that the node does not know, HOME is often `/`, which cannot be
//! written, and nobody has a name. matplotlib, `getpass.getuser()` and `~/.cache` fail then, and none of
//! that is the function's fault.

use std::ffi::{OsStr, OsString};
use std::path::Path;

use nix::unistd::{AccessFlags, access};

/// What is looked at.
pub(crate) struct Given<'a> {
    /// A variable of the runner's.
    pub variable: &'a dyn Fn(&str) -> Option<OsString>,
    /// The scratch directory, which can be written.
    pub scratch: &'a Path,
    /// Whose job this is, as HTCondor says.
    pub owner: Option<String>,
    /// Whether the node knows the account that this process runs as; asked only where it matters.
    pub is_known: &'a dyn Fn() -> bool,
    /// A name for it in any case.
    pub user: &'a str,
}

/// A variable's value, or that it goes.
type Setting = (&'static str, Option<OsString>);

/// Where programs keep what is theirs, and nobody else's.
const XDG: [&str; 5] = [
    "XDG_CACHE_HOME",
    "XDG_CONFIG_HOME",
    "XDG_DATA_HOME",
    "XDG_STATE_HOME",
    "XDG_RUNTIME_DIR",
];

impl Given<'_> {
    /// What has to be changed.
    pub(crate) fn changes(&self) -> Vec<Setting> {
        let mut changes = Vec::new();
        let given = |name: &str| (self.variable)(name).filter(|value| !value.is_empty());
        if !given("HOME").is_some_and(|home| can_be_written(&home)) {
            changes.push(("HOME", Some(self.scratch.as_os_str().to_owned())));
        }
        for name in XDG {
            // Unset, they lie below HOME. One that does not exist yet is made by who needs it.
            if given(name).is_some_and(|path| !could_be_made(Path::new(&path))) {
                changes.push((name, None));
            }
        }
        // An account of the node's has its name from there.
        if given("USER").is_none() && given("LOGNAME").is_none() && !(self.is_known)() {
            let name = self.owner.clone().unwrap_or_else(|| {
                // No space: it becomes part of file names.
                self.user.replace(' ', "")
            });
            changes
                .extend(["USER", "LOGNAME"].map(|variable| (variable, Some(name.clone().into()))));
        }
        changes
    }
}

fn can_be_written(directory: &OsStr) -> bool {
    Path::new(directory).is_dir()
        && access(directory, AccessFlags::W_OK | AccessFlags::X_OK).is_ok()
}

fn could_be_made(path: &Path) -> bool {
    let nearest = path.ancestors().find(|ancestor| ancestor.exists());
    nearest.is_some_and(|nearest| can_be_written(nearest.as_os_str()))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn changes(
        variables: &[(&str, &str)],
        is_known: bool,
    ) -> HashMap<&'static str, Option<String>> {
        let variables: HashMap<&str, &str> = variables.iter().copied().collect();
        let given = Given {
            variable: &|name| variables.get(name).map(OsString::from),
            scratch: Path::new("/scratch"),
            owner: None,
            is_known: &|| is_known,
            user: "uid 1234",
        };
        let changes = given.changes().into_iter();
        changes
            .map(|(name, value)| (name, value.map(|value| value.into_string().unwrap())))
            .collect()
    }

    #[test]
    fn what_works_stays() {
        let home = tempfile::tempdir().unwrap();
        let home = home.path().to_str().unwrap();
        let cache = format!("{home}/not/made/yet");
        assert!(changes(&[("HOME", home), ("XDG_CACHE_HOME", &cache)], true).is_empty());
        assert!(changes(&[("HOME", home), ("USER", "me")], false).is_empty());
    }

    #[test]
    fn what_does_not_work_is_replaced() {
        let found = changes(
            &[("HOME", "/dev/null"), ("XDG_CACHE_HOME", "/dev/null/x")],
            false,
        );
        assert_eq!(found["HOME"].as_deref(), Some("/scratch"));
        assert_eq!(found["XDG_CACHE_HOME"], None);
        assert_eq!(found["USER"].as_deref(), Some("uid1234"));
        assert_eq!(found["LOGNAME"].as_deref(), Some("uid1234"));
        assert_eq!(
            changes(&[("HOME", "")], true)["HOME"].as_deref(),
            Some("/scratch")
        );
        assert_eq!(changes(&[("HOME", "/nonexistent")], true).len(), 1);
    }
}
