//! The scratch directory: the paths of the contract, and what earlier attempts left there.
//!
//! HTCondor brings the content of `_htmap_transfer/` and `_htmap_user_transfer/N` back to the top
//! level after an eviction, because HTMap lists them with a trailing slash and by path. Files of
//! these names may be anything: the function, or the user's input files, may have put them there.

pub(crate) mod checkpoint;
mod earlier;
mod files;
mod gzip;
pub(crate) mod input;
pub(crate) mod listing;
pub(crate) mod output;
pub(crate) mod reserve;

use std::fs;
use std::path::{Path, PathBuf};

pub(crate) use self::files::{clear, remove};

use crate::error::Error;
use crate::names;
use crate::regular;

/// A component's scratch directory.
#[derive(Debug, Clone)]
pub(crate) struct Scratch {
    root: PathBuf,
    component: u64,
}

impl Scratch {
    /// Creates every path that `transfer_output_files` names: an eviction before they exist puts
    /// the job on hold (hold code 12, "No such file or directory").
    pub(crate) fn prepare(root: &Path, component: u64) -> Result<Self, Error> {
        let scratch = Self {
            root: root.to_path_buf(),
            component,
        };
        scratch.make_directories()?;
        let marker = root.join(names::TRANSFER_PLUGIN_MARKER);
        clear(&marker, fs::Metadata::is_file)
            .and_then(|()| match marker.symlink_metadata() {
                Ok(_) => Ok(()),
                Err(_) => regular::create(&marker).map(drop),
            })
            .map_err(Error::io("create", &marker))?;
        Ok(scratch)
    }

    /// Also after the run: the function may have removed them.
    pub(crate) fn make_directories(&self) -> Result<(), Error> {
        for path in [
            self.transfer(),
            // Before what is in it: a link would lead elsewhere.
            self.root.join(names::USER_TRANSFER_DIR),
            self.user_transfer(),
            self.root.join(names::TRANSFER_PLUGIN_CACHE),
        ] {
            clear(&path, fs::Metadata::is_dir)
                .and_then(|()| fs::create_dir_all(&path))
                .map_err(Error::io("create the directory", &path))?;
        }
        Ok(())
    }

    /// The scratch directory itself.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// The component's number.
    pub(crate) fn component(&self) -> u64 {
        self.component
    }

    /// `_htmap_transfer`
    pub(crate) fn transfer(&self) -> PathBuf {
        self.root.join(names::TRANSFER_DIR)
    }

    /// `_htmap_user_transfer/N`
    pub(crate) fn user_transfer(&self) -> PathBuf {
        self.root
            .join(names::USER_TRANSFER_DIR)
            .join(self.component.to_string())
    }

    /// `_htmap_transfer/_htmap_output_files`
    fn output_files(&self) -> PathBuf {
        self.transfer().join(names::OUTPUT_FILES)
    }

    /// `func`
    pub(crate) fn function(&self) -> PathBuf {
        self.root.join(names::FUNC)
    }

    /// `N.in`
    pub(crate) fn input(&self) -> PathBuf {
        self.root.join(format!("{}.in", self.component))
    }

    /// `_htmap_transfer/N.out`
    pub(crate) fn output(&self) -> PathBuf {
        self.transfer().join(self.output_name())
    }

    /// Where the output is written until it is whole: outside of what HTCondor takes back.
    pub(crate) fn unfinished_output(&self) -> PathBuf {
        self.root
            .join(format!(".htmap-exec-{}.part", self.output_name()))
    }

    /// Room for the report.
    pub(crate) fn reserve(&self) -> PathBuf {
        self.root.join(format!(
            "{}{}.reserve",
            names::PRIVATE_PREFIX,
            self.component
        ))
    }

    /// `_htmap_transfer/N.json`
    pub(crate) fn run_record(&self) -> PathBuf {
        self.transfer().join(self.record_name())
    }

    fn record_name(&self) -> String {
        format!("{}.json", self.component)
    }

    /// `N.json`, where an eviction brings it back to.
    pub(crate) fn earlier_run_record(&self) -> PathBuf {
        self.root.join(self.record_name())
    }

    fn output_name(&self) -> String {
        format!("{}.out", self.component)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn whatever_is_in_the_place_of_a_path_of_the_contract_goes() {
        let elsewhere = tempfile::tempdir().unwrap();
        fs::write(elsewhere.path().join("theirs"), "").unwrap();
        let fifo = |path: &Path| nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let link = |path: &Path| symlink(elsewhere.path(), path).unwrap();
        let file = |path: &Path| fs::write(path, "").unwrap();
        let dangling = |path: &Path| symlink("nowhere", path).unwrap();
        let kinds: [&dyn Fn(&Path); 4] = [&fifo, &link, &file, &dangling];
        for make in kinds {
            let directory = tempfile::tempdir().unwrap();
            for name in [
                names::TRANSFER_DIR,
                names::USER_TRANSFER_DIR,
                names::TRANSFER_PLUGIN_CACHE,
            ] {
                make(&directory.path().join(name));
            }
            let marker = directory.path().join(names::TRANSFER_PLUGIN_MARKER);
            fifo(&marker);
            let scratch = Scratch::prepare(directory.path(), 7).unwrap();
            for path in [scratch.transfer(), scratch.user_transfer()] {
                assert!(path.symlink_metadata().unwrap().is_dir());
            }
            assert!(marker.symlink_metadata().unwrap().is_file());
            // Once more, as in an attempt in the same sandbox.
            Scratch::prepare(directory.path(), 7).unwrap();
        }
        assert_eq!(fs::read_dir(elsewhere.path()).unwrap().count(), 1);
    }
}
