//! An archive on `sys.path`: an egg, or a wheel, with the metadata inside.
//!
//! Archives that are larger than any package's are passed over before their directory is read.

use std::fs::File;
use std::io::{self, BufReader, Read as _, Seek as _, SeekFrom};
use std::path::Path;

use zip::ZipArchive;

use super::head::{self, Head};
use crate::regular;

/// Where eggs have their metadata.
pub(super) const EGG_INFO: &str = "EGG-INFO";
/// Of the list of its files.
const LARGEST_DIRECTORY: u32 = 16 << 20;

/// The metadata of all distributions that it holds.
pub(super) fn heads(archive: &Path) -> Vec<Head> {
    read(archive).unwrap_or_default()
}

fn read(path: &Path) -> io::Result<Vec<Head>> {
    let mut file = regular::open(path)?;
    if !is_of_sensible_size(&mut file)? {
        return Ok(Vec::new());
    }
    file.rewind()?;
    let mut archive = ZipArchive::new(BufReader::new(file))?;
    let mut names: Vec<String> = archive
        .file_names()
        .filter_map(Result::ok)
        .filter(|name| is_metadata(name))
        .map(std::borrow::Cow::into_owned)
        .collect();
    names.sort();
    Ok(names
        .iter()
        .filter_map(|name| head::read(archive.by_name(name).ok()?).ok())
        .collect())
}

fn is_metadata(name: &str) -> bool {
    name.split_once('/').is_some_and(|(directory, file)| {
        let directory = directory.to_ascii_lowercase();
        match file {
            "METADATA" => directory.ends_with(".dist-info"),
            "PKG-INFO" => directory == "egg-info" || directory.ends_with(".egg-info"),
            _ => false,
        }
    })
}

/// By what stands at its end, which is no larger than a comment can be. An archive with more files than 65,534
/// has a second form there, which counts as too large.
fn is_of_sensible_size(file: &mut File) -> io::Result<bool> {
    const END: &[u8] = b"PK\x05\x06";
    const SIZE: usize = 22;
    let size = file.metadata()?.len();
    file.seek(SeekFrom::Start(size.saturating_sub(SIZE as u64 + 0xffff)))?;
    let mut end = Vec::new();
    file.take(SIZE as u64 + 0xffff).read_to_end(&mut end)?;
    let Some(at) = end.windows(END.len()).rposition(|window| window == END) else {
        return Ok(false);
    };
    let Some(&[files_low, files_high, a, b, c, d]) = end.get(at + 10..at + 16) else {
        return Ok(false);
    };
    let files = u16::from_le_bytes([files_low, files_high]);
    Ok(files != u16::MAX && u32::from_le_bytes([a, b, c, d]) <= LARGEST_DIRECTORY)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use zip::ZipWriter;
    use zip::write::SimpleFileOptions;

    use super::*;

    fn archive(path: &Path, files: &[(&str, &str)]) {
        let mut writer = ZipWriter::new(File::create(path).unwrap());
        for (name, text) in files {
            writer
                .start_file(*name, SimpleFileOptions::default())
                .unwrap();
            writer.write_all(text.as_bytes()).unwrap();
        }
        writer.finish().unwrap();
    }

    #[test]
    fn finds_metadata_at_the_top() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.egg");
        archive(
            &path,
            &[
                ("EGG-INFO/PKG-INFO", "Name: a\nVersion: 1\n\ntext"),
                ("b-2.dist-info/METADATA", "Name: b\nVersion: 2\n"),
                ("deep/c-3.dist-info/METADATA", "Name: c\nVersion: 3\n"),
                ("d-4.dist-info/METADATA", "no fields"),
            ],
        );
        let names: Vec<String> = heads(&path).iter().map(|head| head[0].1.clone()).collect();
        assert_eq!(names, ["a", "b"]);
    }

    #[test]
    fn what_is_no_archive_has_none() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.egg");
        archive(&path, &[("EGG-INFO/PKG-INFO", "Name: a\nVersion: 1\n")]);
        let whole = std::fs::read(&path).unwrap();
        for length in 0..whole.len() {
            std::fs::write(&path, &whole[..length]).unwrap();
            assert!(heads(&path).is_empty(), "{length}");
        }
        // As if its directory had 4 GB.
        let mut large = whole.clone();
        let end = large.len() - 22;
        large[end + 12..end + 16].fill(0xff);
        std::fs::write(&path, large).unwrap();
        assert!(heads(&path).is_empty());
        let fifo = directory.path().join("fifo.egg");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(heads(&fifo).is_empty());
    }
}
