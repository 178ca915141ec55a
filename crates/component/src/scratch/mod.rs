//! The scratch directory: the paths of the contract, and what earlier attempts left there.
//!
//! HTCondor brings the content of `_htmap_transfer/` and `_htmap_user_transfer/N` back to the top
//! level after an eviction, because HTMap lists them with a trailing slash and by path.

pub(crate) mod checkpoint;
mod gzip;
pub(crate) mod input;
pub(crate) mod listing;
pub(crate) mod output;
pub(crate) mod reserve;

use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;

use crate::error::Error;
use crate::names;
use crate::node::classad::ClassAd;
use crate::pickle::scanner::count_pickles;

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
        File::options()
            .append(true)
            .create(true)
            .open(&marker)
            .map_err(Error::io("create", &marker))?;
        Ok(scratch)
    }

    /// Also after the run: the function may have removed them.
    pub(crate) fn make_directories(&self) -> Result<(), Error> {
        for path in [
            self.transfer(),
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
        self.root
            .join(format!(".htmap-exec-{}.reserve", self.component))
    }

    /// `_htmap_transfer/N.json`
    pub(crate) fn run_record(&self) -> PathBuf {
        self.transfer().join(format!("{}.json", self.component))
    }

    /// `N.json`, where an eviction brings it back to.
    pub(crate) fn earlier_run_record(&self) -> PathBuf {
        self.root.join(format!("{}.json", self.component))
    }

    fn output_name(&self) -> String {
        format!("{}.out", self.component)
    }

    /// Whether this may be a later attempt. The job ad knows; without one, it may.
    pub(crate) fn restarted(job_ad: &ClassAd) -> bool {
        let starts = (
            job_ad.integer("NumShadowStarts"),
            job_ad.integer("NumJobStarts"),
        );
        match starts {
            (None, None) => true,
            (shadows, jobs) => shadows.unwrap_or(0) > 1 || jobs.unwrap_or(0) > 0,
        }
    }

    /// Moves the output of an attempt that was evicted after its end into its place.
    /// Returns whether there was a valid one.
    pub(crate) fn adopt_output(&self) -> Result<bool, Error> {
        let earlier = self.root.join(self.output_name());
        if !is_whole(&earlier) {
            return Ok(false);
        }
        let place = self.output();
        fs::rename(&earlier, &place).map_err(Error::io("move the finished output to", &place))?;
        let record = self.root.join(format!("{}.json", self.component));
        fs::rename(record, self.run_record()).ok();
        Ok(true)
    }

    /// Moves the output files of earlier attempts back to where they are collected.
    pub(crate) fn restore_output_files(&self) -> Result<(), Error> {
        let earlier = self.root.join(self.component.to_string());
        if !earlier
            .symlink_metadata()
            .is_ok_and(|metadata| metadata.is_dir())
        {
            return Ok(());
        }
        let place = self.user_transfer();
        merge(&earlier, &place).map_err(Error::io("restore the output files to", &place))
    }
}

/// Removes what the function may have put in the place of a path of the contract.
pub(crate) fn clear(path: &Path, wanted: impl Fn(&fs::Metadata) -> bool) -> io::Result<()> {
    match path.symlink_metadata() {
        Ok(metadata) if wanted(&metadata) => Ok(()),
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(_) => Ok(()),
    }
}

/// Moves what is in `from` into `into`, replacing files.
fn merge(from: &Path, into: &Path) -> io::Result<()> {
    fs::create_dir_all(into)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = into.join(entry.file_name());
        if entry.file_type()?.is_dir() && target.is_dir() {
            merge(&entry.path(), &target)?;
        } else {
            fs::rename(entry.path(), target)?;
        }
    }
    fs::remove_dir(from)
}

/// Whether this is an output: two pickles, the first one a status, in sound gzip to its end.
fn is_whole(path: &Path) -> bool {
    let Ok(file) = File::open(path) else {
        return false;
    };
    let mut decoder = BufReader::with_capacity(1 << 16, MultiGzDecoder::new(BufReader::new(file)));
    let mut head = Vec::new();
    if decoder.by_ref().take(64).read_to_end(&mut head).is_err() {
        return false;
    }
    let status = |status: &str| {
        head.windows(status.len())
            .any(|part| part == status.as_bytes())
    };
    if !status(names::STATUS_OK) && !status(names::STATUS_ERR) {
        return false;
    }
    matches!(count_pickles(head.chain(decoder)), Ok(2))
}
