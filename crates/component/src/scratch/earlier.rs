//! What earlier attempts left finished: an output, its run record, and output files.
//!
//! After an eviction they lie at the top level, beside the user's input files, which may have the
//! same names; after a restart in the same sandbox they lie in `_htmap_transfer/` still. So output
//! files wait under a name of ours until the output stands, and what is the user's is left alone.

use std::fs;
use std::io::{BufReader, Read};
use std::path::Path;

use flate2::read::MultiGzDecoder;

use crate::error::Error;
use crate::names;
use crate::node::classad::ClassAd;
use crate::pickle::scanner::count_pickles;
use crate::regular;
use crate::scratch::Scratch;
use crate::scratch::files::{clear, merge, relocate, remove};

/// Whether the job ad says that this is a later attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Attempt {
    First,
    Later,
    /// There is no ad that can be read.
    Unknown,
}

impl Attempt {
    fn of(job_ad: &ClassAd) -> Self {
        let starts = (
            job_ad.integer("NumShadowStarts"),
            job_ad.integer("NumJobStarts"),
        );
        match starts {
            (None, None) => Self::Unknown,
            (shadows, jobs) if shadows.unwrap_or(0) > 1 || jobs.unwrap_or(0) > 0 => Self::Later,
            _ => Self::First,
        }
    }
}

/// Where the output of an earlier attempt was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Earlier {
    /// Nowhere.
    Unfinished,
    /// Where it has to be: this is the sandbox of that attempt.
    Here,
    /// At the top level: HTCondor brought it back.
    CameBack,
}

impl Scratch {
    /// Takes over what earlier attempts left. True if one had finished: its output stands.
    pub(crate) fn take_over(&self, job_ad: &ClassAd) -> Result<bool, Error> {
        let attempt = Attempt::of(job_ad);
        let earlier = self.adopt_output(attempt)?;
        self.adopt_output_files(job_ad, attempt, earlier)?;
        if earlier == Earlier::Unfinished {
            return Ok(false);
        }
        self.deliver_output_files()?;
        Ok(true)
    }

    /// Puts the output of an attempt that had finished into its place.
    fn adopt_output(&self, attempt: Attempt) -> Result<Earlier, Error> {
        let place = self.output();
        let record = self.run_record();
        // In the transfer directory, only an attempt in this very sandbox can have left one.
        if is_whole(&place) {
            clear(&record, fs::Metadata::is_file).map_err(Error::io("remove", &record))?;
            return Ok(Earlier::Here);
        }
        for path in [&place, &record] {
            // HTCondor would take them back.
            remove(path).map_err(Error::io("remove what is left at", path))?;
        }
        let earlier = self.root().join(self.output_name());
        if attempt == Attempt::First || !is_whole(&earlier) {
            return Ok(Earlier::Unfinished);
        }
        fs::rename(&earlier, &place).map_err(Error::io("move the finished output to", &place))?;
        let earlier = self.root().join(self.record_name());
        if earlier
            .symlink_metadata()
            .is_ok_and(|found| found.is_file())
            && let Err(error) = fs::rename(&earlier, &record)
        {
            tracing::warn!(
                "the run record cannot be moved to `{}`: {error}",
                record.display()
            );
        }
        Ok(Earlier::CameBack)
    }

    /// Collects the output files of earlier attempts.
    fn adopt_output_files(
        &self,
        job_ad: &ClassAd,
        attempt: Attempt,
        earlier: Earlier,
    ) -> Result<(), Error> {
        let place = self.output_files();
        let came_back = self.root().join(names::OUTPUT_FILES);
        let moved = |source| Error::Io {
            action: "move the output files of an earlier attempt to",
            path: place.clone(),
            source,
        };
        clear(&place, fs::Metadata::is_dir).map_err(moved)?;
        let ours_came_back = is_directory(&came_back);
        if ours_came_back {
            gather(&came_back, &place).map_err(moved)?;
        }
        // HTMap's own script has no other place for them.
        let came_back = self.root().join(self.component().to_string());
        let are_ours =
            attempt == Attempt::Later && !ours_came_back && !may_be_input(job_ad, self.component());
        // A run that is over needs no inputs: an output file too many is better than one too few.
        let is_over = earlier == Earlier::CameBack;
        if is_directory(&came_back) && (are_ours || is_over) {
            gather(&came_back, &place).map_err(moved)?;
        }
        Ok(())
    }

    /// Puts output files to where HTCondor brings them home from.
    pub(crate) fn deliver_output_files(&self) -> Result<(), Error> {
        let waiting = self.output_files();
        if !is_directory(&waiting) {
            return Ok(());
        }
        let place = self.user_transfer();
        merge(&waiting, &place).map_err(Error::io("move the output files to", &place))
    }
}

fn is_directory(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|found| found.is_dir())
}

/// Moves a directory, or what is in it if there is one already.
fn gather(from: &Path, into: &Path) -> std::io::Result<()> {
    if is_directory(into) {
        merge(from, into)
    } else {
        relocate(from, into)
    }
}

/// Whether the top level may hold an input of the user's with the component's number for a name.
fn may_be_input(job_ad: &ClassAd, component: u64) -> bool {
    if job_ad.string("TransferInputRemaps").is_some() {
        return true;
    }
    let name = component.to_string();
    job_ad.string("TransferInput").is_some_and(|inputs| {
        inputs.split(',').map(str::trim).any(|input| {
            // Of a directory with a slash at its end the content is transferred: it may be in there.
            input.ends_with('/') || input.rsplit('/').next() == Some(&name)
        })
    })
}

/// Whether this is an output: two pickles, the first one a status, in sound gzip to its end.
fn is_whole(path: &Path) -> bool {
    let Ok(file) = regular::open(path) else {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::output::Output;
    use crate::scratch::reserve::Reserve;

    const LATER: &str = "NumShadowStarts = 2\nTransferInput = \"/m/func,/m/inputs/0.in\"";

    fn with(ad: &str, make: impl FnOnce(&Scratch)) -> (tempfile::TempDir, Scratch, bool) {
        let directory = tempfile::tempdir().unwrap();
        let scratch = Scratch::prepare(directory.path(), 0).unwrap();
        make(&scratch);
        let finished = scratch.take_over(&ClassAd::parse(ad)).unwrap();
        (directory, scratch, finished)
    }

    fn write_output(scratch: &Scratch) {
        let reserve = Reserve::take(&scratch.reserve());
        Output::write_failure(scratch, &reserve, b"\x80\x02N.").unwrap();
    }

    fn file_in(directory: &Path) {
        fs::create_dir_all(directory).unwrap();
        fs::write(directory.join("file"), "").unwrap();
    }

    #[test]
    fn an_input_directory_named_by_the_component_stays() {
        for (ad, moves) in [
            (LATER, true),
            ("", false),
            ("NumShadowStarts = 1", false),
            (
                "NumShadowStarts = 2\nTransferInput = \"/m/func, /home/u/0\"",
                false,
            ),
            (
                "NumShadowStarts = 2\nTransferInput = \"/m/func,/home/u/data/\"",
                false,
            ),
            (
                "NumShadowStarts = 2\nTransferInput = \"/m/10,/m/0.in\"",
                true,
            ),
        ] {
            let (directory, scratch, finished) =
                with(ad, |scratch| file_in(&scratch.root().join("0")));
            assert!(!finished);
            assert_eq!(!directory.path().join("0/file").exists(), moves, "{ad}");
            assert_eq!(scratch.output_files().join("file").exists(), moves, "{ad}");
        }
    }

    #[test]
    fn output_files_are_kept_apart_and_delivered_once() {
        let (directory, scratch, _) = with("", |scratch| {
            file_in(&scratch.root().join(names::OUTPUT_FILES).join("parts"));
            file_in(&scratch.root().join("0"));
        });
        assert!(scratch.output_files().join("parts/file").exists());
        scratch.deliver_output_files().unwrap();
        scratch.deliver_output_files().unwrap();
        assert!(scratch.user_transfer().join("parts/file").exists());
        assert!(!scratch.output_files().exists());
        assert!(directory.path().join("0/file").exists());
    }

    #[test]
    fn an_output_is_adopted_wherever_it_lies() {
        // In this sandbox, whatever the ad says.
        let (_directory, scratch, finished) = with("NumShadowStarts = 1", |scratch| {
            write_output(scratch);
            file_in(&scratch.output_files());
        });
        assert!(finished && scratch.output().exists());
        assert!(scratch.user_transfer().join("file").exists());
        // At the top level it may be an input file, unless this is a later attempt.
        for (ad, adopted) in [(LATER, true), ("", true), ("NumShadowStarts = 1", false)] {
            let (_directory, scratch, finished) = with(ad, |scratch| {
                write_output(scratch);
                fs::rename(scratch.output(), scratch.root().join("0.out")).unwrap();
                fs::write(scratch.root().join("0.json"), "{}").unwrap();
            });
            assert_eq!(finished, adopted, "{ad}");
            assert_eq!(scratch.output().exists(), adopted);
            assert_eq!(scratch.run_record().exists(), adopted);
        }
    }

    #[test]
    fn what_is_no_output_goes_from_the_transfer_directory() {
        let cut = |scratch: &Scratch| {
            write_output(scratch);
            let bytes = fs::read(scratch.output()).unwrap();
            fs::write(scratch.output(), &bytes[..bytes.len() - 9]).unwrap();
        };
        let fifo = |scratch: &Scratch| {
            for path in [
                scratch.output(),
                scratch.run_record(),
                scratch.root().join("0.out"),
            ] {
                nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
            }
        };
        let link = |scratch: &Scratch| {
            write_output(scratch);
            fs::rename(scratch.output(), scratch.root().join("elsewhere")).unwrap();
            std::os::unix::fs::symlink("../elsewhere", scratch.output()).unwrap();
        };
        let filled = |scratch: &Scratch| file_in(&scratch.output());
        let makes: [&dyn Fn(&Scratch); 4] = [&cut, &fifo, &link, &filled];
        for make in makes {
            let (_directory, scratch, finished) = with(LATER, make);
            assert!(!finished);
            assert_eq!(fs::read_dir(scratch.transfer()).unwrap().count(), 0);
        }
    }
}
