//! The function and the component's arguments: gzip files that become streams of pickle bytes.
//!
//! The first part is unpacked at once, while Python starts, so that a file that is missing or
//! damaged is known by its name before anything runs. Memory stays flat for any size.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;

use crate::failure::{Cause, Failure, Stage};
use crate::regular;

const CHUNK: usize = 1 << 20;
const AT_ONCE: usize = 4 << 20;

/// What is wrong with an input file.
#[derive(Debug)]
pub(crate) struct BadInput {
    path: PathBuf,
    problem: String,
}

impl BadInput {
    /// As the component's failure.
    pub(crate) fn failure(self, stage: Stage) -> Failure {
        Failure::new(stage, Cause::BadInput, format!("the input file `{}` {}", self.path.display(), self.problem))
            .hint("the file did not come from the submit side whole: look at the map's directory there and at the job's file transfer, then rerun the component")
    }
}

/// One input file.
#[derive(Debug)]
pub(crate) struct Input {
    path: PathBuf,
    /// Unpacked already.
    head: Vec<u8>,
    rest: Option<MultiGzDecoder<BufReader<File>>>,
}

impl Input {
    /// Opens it and unpacks its first part.
    pub(crate) fn open(path: &Path) -> Result<Self, BadInput> {
        let bad = |problem: String| BadInput {
            path: path.to_path_buf(),
            problem,
        };
        let file = regular::open_linked(path).map_err(|error| bad(describe(&error)))?;
        let size = file.metadata().map_or(0, |metadata| metadata.len());
        if size == 0 {
            return Err(bad("is empty".to_owned()));
        }
        let mut decoder = MultiGzDecoder::new(BufReader::with_capacity(1 << 16, file));
        let mut head = Vec::new();
        decoder
            .by_ref()
            .take(AT_ONCE as u64)
            .read_to_end(&mut head)
            .map_err(|error| bad(describe(&error)))?;
        let rest = (head.len() == AT_ONCE).then_some(decoder);
        if rest.is_none() && head.last() != Some(&b'.') {
            let problem = if head.is_empty() {
                "holds nothing"
            } else {
                "is truncated or holds something else than one pickle"
            };
            return Err(bad(problem.to_owned()));
        }
        Ok(Self {
            path: path.to_path_buf(),
            head,
            rest,
        })
    }

    /// The whole of it once more, for the version guard.
    pub(crate) fn reopen(&self) -> io::Result<impl Read> {
        let rest = match self.rest {
            None => None,
            Some(_) => Some(MultiGzDecoder::new(BufReader::new(regular::open_linked(
                &self.path,
            )?))),
        };
        let head: &[u8] = if rest.is_some() { &[] } else { &self.head };
        let rest: Box<dyn Read> =
            rest.map_or_else(|| Box::new(io::empty()) as _, |rest| Box::new(rest) as _);
        Ok(head.chain(rest))
    }

    /// The next piece, empty at the end.
    pub(crate) fn next(&mut self) -> Result<Vec<u8>, BadInput> {
        if !self.head.is_empty() {
            return Ok(std::mem::take(&mut self.head));
        }
        let Some(rest) = &mut self.rest else {
            return Ok(Vec::new());
        };
        let mut chunk = Vec::with_capacity(CHUNK);
        match rest.take(CHUNK as u64).read_to_end(&mut chunk) {
            Ok(_) => Ok(chunk),
            Err(error) => Err(BadInput {
                path: self.path.clone(),
                problem: describe(&error),
            }),
        }
    }
}

fn describe(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "is missing".to_owned(),
        io::ErrorKind::IsADirectory => "is a directory".to_owned(),
        io::ErrorKind::PermissionDenied => "cannot be read: permission denied".to_owned(),
        io::ErrorKind::UnexpectedEof => "is truncated".to_owned(),
        io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData => {
            format!("is damaged: {error}")
        }
        _ => format!("cannot be read: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    fn gzip(data: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    fn problem(content: &[u8]) -> String {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("func");
        std::fs::write(&path, content).unwrap();
        Input::open(&path)
            .unwrap_err()
            .failure(Stage::LoadingFunction)
            .message
            .replace(directory.path().to_str().unwrap(), "")
    }

    #[test]
    fn names_what_is_wrong() {
        let whole = gzip(b"\x80\x02N.");
        assert_eq!(problem(b""), "the input file `/func` is empty");
        assert_eq!(
            problem(&whole[..whole.len() - 3]),
            "the input file `/func` is truncated"
        );
        assert!(problem(b"garbage garbage garbage").contains("is damaged"));
        assert!(problem(&gzip(b"\x80\x02N")).contains("truncated or holds something else"));
        assert!(Input::open(Path::new("/nonexistent")).is_err());
    }
}
