//! The component's output, `N.out`: written under another name, whole or not at all.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;

use crate::error::Error;
use crate::names;
use crate::pickle::{Value, dumps};
use crate::scratch::gzip::ParallelGzip;
use crate::scratch::{Scratch, clear};

/// An output that does not stand yet; dropped, it is gone.
pub(crate) struct Output {
    gzip: Option<ParallelGzip<BufWriter<File>>>,
    unfinished: PathBuf,
    place: PathBuf,
}

impl Output {
    /// Begins a successful output: the pickle of the result follows.
    pub(crate) fn begin(scratch: &Scratch) -> Result<Self, Error> {
        Self::with_status(scratch, names::STATUS_OK)
    }

    /// Writes the whole output of a failed component.
    pub(crate) fn write_failure(scratch: &Scratch, record: &[u8]) -> Result<(), Error> {
        let mut output = Self::with_status(scratch, names::STATUS_ERR)?;
        output.write(record)?;
        output.commit(scratch)
    }

    fn with_status(scratch: &Scratch, status: &str) -> Result<Self, Error> {
        let unfinished = scratch.unfinished_output();
        let file = File::create(&unfinished).map_err(Error::io("create", &unfinished))?;
        let mut output = Self {
            gzip: Some(ParallelGzip::new(BufWriter::with_capacity(1 << 16, file))),
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
    pub(crate) fn commit(mut self, scratch: &Scratch) -> Result<(), Error> {
        let gzip = self.gzip.take().expect("only commit() takes it");
        let written: io::Result<()> = (|| {
            let file = gzip
                .finish()?
                .into_inner()
                .map_err(io::IntoInnerError::into_error)?;
            file.sync_all()
        })();
        written.map_err(Error::io("write the output", &self.place))?;
        // The function may have removed it.
        scratch.make_directories()?;
        // Before the output stands: with it, they are not looked at again.
        scratch.deliver_output_files()?;
        clear(&self.place, fs::Metadata::is_file)
            .and_then(|()| fs::rename(&self.unfinished, &self.place))
            .map_err(Error::io("write the output", &self.place))?;
        let directory = scratch.transfer();
        File::open(&directory)
            .and_then(|directory| directory.sync_all())
            .map_err(Error::io("write the output in", &directory))
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        fs::remove_file(&self.unfinished).ok();
    }
}
