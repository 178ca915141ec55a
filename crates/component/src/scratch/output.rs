//! The component's output, `N.out`: written under another name, whole or not at all.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;

use super::gzip::ParallelGzip;
use super::reserve::{Reserve, WithReserve};
use super::{Scratch, clear};
use crate::error::Error;
use crate::names;
use crate::pickle::{Value, dumps};
use crate::regular;

type Sink<'a> = ParallelGzip<BufWriter<WithReserve<'a, File>>>;

/// An output that does not stand yet; dropped, it is gone.
pub(crate) struct Output<'a> {
    gzip: Option<Sink<'a>>,
    scratch: &'a Scratch,
    unfinished: PathBuf,
    place: PathBuf,
}

impl<'a> Output<'a> {
    /// Begins a successful output: the pickle of the result follows. So many threads compress it.
    pub(crate) fn begin(
        scratch: &'a Scratch,
        reserve: &'a Reserve,
        threads: usize,
    ) -> Result<Self, Error> {
        Self::with_status(scratch, reserve, threads, names::STATUS_OK)
    }

    /// Writes the whole output of a failed component. The room that was kept is for this.
    pub(crate) fn write_failure(
        scratch: &'a Scratch,
        reserve: &'a Reserve,
        record: &[u8],
    ) -> Result<(), Error> {
        reserve.give_up();
        let mut output = Self::with_status(scratch, reserve, 1, names::STATUS_ERR)?;
        output.write(record)?;
        output.commit()
    }

    fn with_status(
        scratch: &'a Scratch,
        reserve: &'a Reserve,
        threads: usize,
        status: &str,
    ) -> Result<Self, Error> {
        let unfinished = scratch.unfinished_output();
        let create = || {
            clear(&unfinished, fs::Metadata::is_file)?;
            regular::create(&unfinished)
        };
        let file = match create() {
            Err(error) if regular::is_lack_of_room(&error) && reserve.give_up() => create(),
            other => other,
        }
        .map_err(Error::io("create", &unfinished))?;
        let file = BufWriter::with_capacity(1 << 16, WithReserve::new(file, reserve));
        let mut output = Self {
            gzip: Some(ParallelGzip::new(file, threads)),
            scratch,
            unfinished,
            place: scratch.output(),
        };
        output.write(&dumps(&Value::str(status)))?;
        Ok(output)
    }

    /// Adds bytes of the pickle.
    pub(crate) fn write(&mut self, data: &[u8]) -> Result<(), Error> {
        let gzip = self.gzip.as_mut().expect("only commit() takes it");
        gzip.write_all(data)
            .map_err(Error::io("write the output", &self.place))
    }

    /// Puts the output in its place, on disk.
    pub(crate) fn commit(mut self) -> Result<(), Error> {
        let gzip = self.gzip.take().expect("only commit() takes it");
        let written: io::Result<()> = (|| {
            let file = gzip
                .finish()?
                .into_inner()
                .map_err(io::IntoInnerError::into_error)?;
            file.into_inner().sync_all()
        })();
        written.map_err(Error::io("write the output", &self.place))?;
        // The function may have removed it.
        self.scratch.make_directories()?;
        // Before the output stands: with it, they are not looked at again.
        self.scratch.deliver_output_files()?;
        clear(&self.place, fs::Metadata::is_file)
            .and_then(|()| fs::rename(&self.unfinished, &self.place))
            .map_err(Error::io("write the output", &self.place))?;
        // It stands, whatever this says: only a crash of the machine could still undo the name.
        let directory = self.scratch.transfer();
        if let Err(error) = File::open(&directory).and_then(|directory| directory.sync_all()) {
            tracing::warn!("cannot sync `{}`: {error}", directory.display());
        }
        Ok(())
    }
}

impl Drop for Output<'_> {
    fn drop(&mut self) {
        fs::remove_file(&self.unfinished).ok();
    }
}
