//! The map directory: HTMap's layout, what has been finished in it, and who runs it.

use std::fs::{self, File, TryLockError};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use flate2::read::MultiGzDecoder;
use nix::libc::{O_NOFOLLOW, O_NONBLOCK};

use super::files;
use crate::cli::Rerun;

/// Written by `htmap_exec.write_map`: the Python that pickled the map.
const SUBMIT_PYTHON: &str = "submit_python";
const LOCK: &str = ".htmap-exec-local.lock";
/// Checkpoints of components that were stopped.
const CHECKPOINTS: &str = "checkpoints";
/// More than anybody has files in a directory.
const MOST_COMPONENTS: u64 = 10_000_000;

/// What stands in the place of an output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stands {
    /// None, or none that can be read.
    Nothing,
    /// An error record.
    Error,
    Result,
}

pub(super) struct Map {
    pub(super) directory: PathBuf,
    pub(super) components: u64,
    pub(super) submit_python: Option<String>,
    /// Held for as long as the map is run.
    _lock: File,
}

impl Map {
    /// The one map of a directory, which nobody else may run meanwhile.
    pub(super) fn open(directory: &Path) -> anyhow::Result<Self> {
        const LONGEST: u64 = 1024;
        let directory = std::path::absolute(directory)?;
        let path = directory.join("num_components");
        let components = files::read_text(&path, LONGEST)
            .with_context(|| {
                format!(
                    "`{}` is no map directory: cannot read `num_components`",
                    directory.display()
                )
            })?
            .trim()
            .parse()
            .ok()
            .filter(|components| *components <= MOST_COMPONENTS)
            .with_context(|| format!("`{}` holds no number of components", path.display()))?;
        for name in ["outputs", "logs", "output_files", "records"] {
            let path = directory.join(name);
            fs::create_dir_all(&path)
                .with_context(|| format!("cannot create `{}`", path.display()))?;
        }
        let lock = lock(&directory.join(LOCK))?;
        let submit_python = files::read_text(&directory.join(SUBMIT_PYTHON), LONGEST)
            .ok()
            .map(|version| version.trim().to_owned())
            .filter(|version| !version.is_empty());
        Ok(Self {
            directory,
            components,
            submit_python,
            _lock: lock,
        })
    }

    /// The components to run, and how many others have a result or, where failed ones stay as well, an error record.
    pub(super) fn to_run(&self, rerun: Rerun) -> (Vec<u64>, u64) {
        let wanted: Vec<u64> = (0..self.components)
            .filter(|component| match rerun {
                Rerun::All => true,
                Rerun::Failed => self.stands(*component) != Stands::Result,
                Rerun::Missing => self.stands(*component) == Stands::Nothing,
            })
            .collect();
        let kept = self.components - wanted.len() as u64;
        (wanted, kept)
    }

    /// Whether an output holds a result, by the first of its two pickles.
    pub(super) fn stands(&self, component: u64) -> Stands {
        let mut head = Vec::new();
        if let Ok(file) = files::open(&self.output(component)) {
            // Damaged behind its beginning or not: as far as it can be read.
            MultiGzDecoder::new(file)
                .take(32)
                .read_to_end(&mut head)
                .ok();
        }
        // A text of 2 or 3 characters: its length, in a byte or four, or its opcode stands before it.
        let has = |texts: [&[u8]; 3]| {
            texts
                .iter()
                .filter_map(|text| head.windows(text.len()).position(|window| window == *text))
                .min()
        };
        let result = has([b"\x02OK", b"\x02\0\0\0OK", b"VOK\n"]);
        let error = has([b"\x03ERR", b"\x03\0\0\0ERR", b"VERR\n"]);
        match (result, error) {
            (None, None) => Stands::Nothing,
            (Some(result), Some(error)) if error < result => Stands::Error,
            (None, Some(_)) => Stands::Error,
            (Some(_), _) => Stands::Result,
        }
    }

    pub(super) fn function(&self) -> PathBuf {
        self.directory.join("func")
    }

    pub(super) fn input(&self, component: u64) -> PathBuf {
        self.directory
            .join("inputs")
            .join(format!("{component}.in"))
    }

    pub(super) fn output(&self, component: u64) -> PathBuf {
        self.directory
            .join("outputs")
            .join(format!("{component}.out"))
    }

    pub(super) fn record(&self, component: u64) -> PathBuf {
        self.directory
            .join("records")
            .join(format!("{component}.json"))
    }

    pub(super) fn output_files(&self, component: u64) -> PathBuf {
        self.directory
            .join("output_files")
            .join(component.to_string())
    }

    pub(super) fn log(&self, component: u64, kind: &str) -> PathBuf {
        self.directory
            .join("logs")
            .join(format!("{component}.{kind}"))
    }

    pub(super) fn checkpoint(&self, component: u64) -> PathBuf {
        self.directory.join(CHECKPOINTS).join(component.to_string())
    }
}

/// The kernel gives it up however this process ends.
fn lock(path: &Path) -> anyhow::Result<File> {
    let cannot = || format!("cannot create `{}`", path.display());
    let mut file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .custom_flags(O_NOFOLLOW | O_NONBLOCK)
        .open(path)
        .with_context(cannot)?;
    if !file.metadata().with_context(cannot)?.is_file() {
        bail!("`{}` is no file\nhint: remove it", path.display());
    }
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut who = String::new();
            (&file).take(200).read_to_string(&mut who).ok();
            let who = who.lines().next().filter(|who| !who.is_empty());
            bail!(
                "another `htmap-exec local` runs this map: {}\nhint: wait for it, or end it with SIGTERM",
                who.unwrap_or("it has not said which process it is")
            );
        }
        Err(TryLockError::Error(error)) => {
            // Some network file systems know no locks.
            tracing::warn!(
                "cannot lock `{}`, so nothing keeps another `htmap-exec local` from this map: {error}",
                path.display()
            );
        }
    }
    let host = nix::unistd::gethostname().unwrap_or_default();
    file.set_len(0)
        .and_then(|()| {
            writeln!(
                file,
                "process {} on `{}`",
                std::process::id(),
                host.display()
            )
        })
        .with_context(|| format!("cannot write `{}`", path.display()))?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(directory: &Path) -> Map {
        fs::write(directory.join("num_components"), "1").expect("it is written");
        Map::open(directory).expect("a map directory")
    }

    #[test]
    fn knows_a_result_by_its_first_pickle() {
        let directory = tempfile::tempdir().expect("a directory");
        let map = map(directory.path());
        let stands = |pickled: &[u8]| {
            let file = File::create(map.output(0)).expect("a file");
            let mut gzip = flate2::write::GzEncoder::new(file, flate2::Compression::fast());
            gzip.write_all(pickled).expect("it is written");
            gzip.finish().expect("it is written");
            map.stands(0)
        };
        assert_eq!(map.stands(0), Stands::Nothing);
        // As pickle.dumps writes them, with what may follow.
        for result in [
            b"VOK\np0\n.I1\n." as &[u8],
            b"X\x02\0\0\0OKq\0.",
            b"\x80\x02X\x02\0\0\0OKq\0.\x80\x02X\x03\0\0\0ERR",
            b"\x80\x04\x95\x06\0\0\0\0\0\0\0\x8c\x02OK\x94.",
        ] {
            assert_eq!(stands(result), Stands::Result, "{result:?}");
        }
        for error in [
            b"VERR\np0\n." as &[u8],
            b"\x80\x02X\x03\0\0\0ERRq\0.\x80\x02X\x02\0\0\0OK",
            b"\x80\x05\x95\x07\0\0\0\0\0\0\0\x8c\x03ERR\x94.",
        ] {
            assert_eq!(stands(error), Stands::Error, "{error:?}");
        }
        assert_eq!(stands(b"\x80\x04N."), Stands::Nothing);
        fs::write(map.output(0), "no gzip").expect("it is written");
        assert_eq!(map.stands(0), Stands::Nothing);
    }

    #[test]
    fn one_at_a_time() {
        let directory = tempfile::tempdir().expect("a directory");
        let _first = map(directory.path());
        let second = Map::open(directory.path()).err().expect("it is locked");
        let who = format!("runs this map: process {}", std::process::id());
        assert!(second.to_string().contains(&who), "{second}");
    }
}
