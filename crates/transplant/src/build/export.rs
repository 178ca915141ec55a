//! An archive as other tools read it: its tar compressed by gzip, or its files in a zip.

use std::ffi::OsStr;
use std::fmt;
use std::fs::File;
use std::io::{self, BufWriter, Seek, Write};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use zip::result::ZipError;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, DateTime, ZipWriter};

use crate::archive::entry::Kind;
use crate::archive::frame::{FrameReader, offsets};
use crate::archive::index::Archive;
use crate::archive::outline::Outline;
use crate::build::pack::in_order;
use crate::error::Error;
use crate::store::names;

/// What other tools read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `tar -xzf`, and Python's `tarfile`.
    TarGz,
    /// `unzip`, and Python's `zipfile`, which makes neither links nor programs of it.
    Zip,
}

impl Format {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::TarGz, Self::Zip];

    /// Where an archive's lies: beside it.
    pub fn path(self, archive: &Path) -> PathBuf {
        archive.with_extension(self.to_string())
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TarGz => "tar.gz",
            Self::Zip => "zip",
        })
    }
}

/// Written beside the archive, whole or not at all, unless it is there already.
pub fn export(path: &Path, format: Format, packages: &[String]) -> Result<PathBuf, Error> {
    let out = format.path(path);
    if out.is_file() {
        return Ok(out);
    }
    let (archive, file) = Archive::open(path)?;
    let directory = path.parent().unwrap_or(path);
    let mut made = names::unfinished(directory)?;
    match format {
        Format::TarGz => tar_gz(&archive, &file, &mut made)?,
        Format::Zip => zip(&archive, &file, &mut made)?,
    }
    names::publish_packages(directory, &out, packages)?;
    names::publish(made, &out)?;
    Ok(out)
}

fn not_written(error: io::Error) -> Error {
    Error::io("write", Path::new("the archive"))(error)
}

/// As many members as frames (RFC 1952, section 2.2), so that all processors share the work.
fn tar_gz(archive: &Archive, file: &File, out: &mut (impl Write + Send)) -> Result<(), Error> {
    let offsets = offsets(archive);
    let outline = Outline::of(archive)?;
    in_order(
        archive.frames.len(),
        || {
            let reader = FrameReader::new(archive).map_err(io::Error::other)?;
            Ok((reader, Vec::new()))
        },
        |(reader, content), index| {
            reader.read(archive, file, index, offsets[index], content)?;
            outline.compare(index, content)?;
            let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
            gzip.write_all(content)
                .and_then(|()| gzip.finish())
                .map_err(Error::io("compress", archive.path()))
        },
        |bytes: Vec<u8>| out.write_all(&bytes).map_err(not_written),
    )
}

fn zip(archive: &Archive, file: &File, out: &mut (impl Write + Seek)) -> Result<(), Error> {
    let failed = |error: ZipError| match error {
        ZipError::Io(error) => not_written(error),
        error => not_written(io::Error::other(error)),
    };
    let time = DateTime::from_date_and_time(2020, 1, 1, 0, 0, 0).expect("a date");
    let mut content = Contents::new(archive, file)?;
    let mut zip = ZipWriter::new(BufWriter::with_capacity(1 << 20, out));
    // Each frame is read once, but for those of large files that are the same as others.
    let mut order: Vec<usize> = (0..archive.entries.len()).collect();
    order.sort_by_key(|&index| archive.places[index]);
    for index in order {
        let entry = &archive.entries[index];
        let Ok(name) = str::from_utf8(&entry.path) else {
            return Err(Error::Unsupported {
                path: OsStr::from_bytes(&entry.path).into(),
                reason: "a zip takes names in UTF-8 alone".to_owned(),
            });
        };
        let options = SimpleFileOptions::default()
            .compression_method(CompressionMethod::Deflated)
            .last_modified_time(time)
            .unix_permissions(entry.mode);
        match &entry.kind {
            Kind::Directory => zip.add_directory(name, options).map_err(failed)?,
            Kind::Symlink(target) => {
                let target = String::from_utf8_lossy(target);
                zip.add_symlink(name, target, options).map_err(failed)?;
            }
            Kind::File(size) => {
                let is_large = *size >= u64::from(u32::MAX);
                zip.start_file(name, options.large_file(is_large))
                    .map_err(failed)?;
                content.write(index, *size, &mut zip)?;
            }
        }
    }
    zip.finish().map_err(failed)?.flush().map_err(not_written)
}

/// The bytes of files, frame by frame.
struct Contents<'a> {
    archive: &'a Archive,
    file: &'a File,
    offsets: Vec<u64>,
    reader: FrameReader,
    frame: Option<usize>,
    bytes: Vec<u8>,
}

impl<'a> Contents<'a> {
    fn new(archive: &'a Archive, file: &'a File) -> Result<Self, Error> {
        Ok(Self {
            archive,
            file,
            offsets: offsets(archive),
            reader: FrameReader::new(archive)?,
            frame: None,
            bytes: Vec::new(),
        })
    }

    fn write(&mut self, entry: usize, size: u64, out: &mut impl Write) -> Result<(), Error> {
        let Some(place) = self.archive.places[entry] else {
            return Ok(());
        };
        let (mut frame, mut begin, mut left) = (place.frame, place.offset, size);
        while left > 0 {
            if self.frame.replace(frame) != Some(frame) {
                let offset = self.offsets[frame];
                self.reader
                    .read(self.archive, self.file, frame, offset, &mut self.bytes)?;
            }
            let rest = &self.bytes[usize::try_from(begin).expect("within a frame")..];
            let length = rest.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            out.write_all(&rest[..length]).map_err(not_written)?;
            left -= length as u64;
            frame += 1;
            begin = 0;
        }
        Ok(())
    }
}
