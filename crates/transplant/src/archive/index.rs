//! What an archive is, once its index was read: entries, where their bytes lie, and by what they are
//! checked.
//!
//! Nothing that an index claims costs more than what it takes in the file: an archive that would keep a
//! reader busy is refused before anything of it is used.

use std::fs::File;
use std::path::{Path, PathBuf};

use crate::archive::digest::Digest;
use crate::archive::ending;
use crate::archive::entry::{Entry, Kind, bytes, refusal};
use crate::archive::frame::{Check, Frame, Place};
use crate::archive::listing::{self, CHUNK, Claims, Sum, Sums, of_chunks};
use crate::error::Error;
use crate::parallel;

/// More than any frame of ours has: what claims more is a bomb.
const LARGEST_FRAME: u64 = 64 << 20;
/// That of a thousand packages has a tenth of it. What it says takes forty times the room in memory.
const LARGEST_MANIFEST: usize = 4 << 20;
/// How large the files may be together, as a multiple of the frames: files that are the same are
/// stored once.
const MOST_COPIES: u64 = 16;
/// How many pieces of files may lie in a frame on average, besides one for each file: a large file that
/// is there so often is all that has more.
const MOST_PIECES: usize = 16;
/// Bytes of files that any archive may hold; beyond, no more than so often what it takes in the file.
const FREE_BYTES: u64 = 2 << 30;
const LARGEST_RATIO: u64 = 256;

/// What an archive holds.
#[derive(Debug)]
pub struct Archive {
    path: PathBuf,
    /// JSON for whoever made it: what Python it is, and what it needs.
    pub manifest: Vec<u8>,
    /// Sorted by path, a directory before what is in it.
    pub entries: Vec<Entry>,
    pub(crate) places: Vec<Option<Place>>,
    pub(crate) frames: Vec<Frame>,
    /// The archive's name.
    pub digest: Digest,
    /// Of each entry that is a file; nothing in format 1.
    sums: Option<Vec<Sum>>,
    hot: usize,
    /// In the order of the frames, and where those of each frame begin.
    checks: Vec<Check>,
    first_check: Vec<usize>,
}

/// The index of an archive, of which no entry has been looked at yet: who it is, and no leave to
/// unpack it.
#[derive(Debug)]
pub struct Index {
    path: PathBuf,
    file: File,
    /// Decompressed.
    plain: Vec<u8>,
    /// Where it stands in the file.
    begin: u64,
    /// The archive's name.
    pub digest: Digest,
    /// What it says of itself.
    pub manifest: Vec<u8>,
}

impl Index {
    /// Reads it, and nothing else of the archive.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let file = File::open(path).map_err(Error::io("open", path))?;
        let (plain, begin) = ending::index(path, &file)?;
        let (digest, manifest) = listing::identity(&plain).ok_or_else(|| Error::Damaged {
            path: path.to_path_buf(),
            reason: SENSELESS.to_owned(),
        })?;
        if manifest.len() > LARGEST_MANIFEST {
            return Err(Error::Hostile {
                path: path.to_path_buf(),
                reason: format!("its manifest has {} bytes", manifest.len()),
            });
        }
        Ok(Self {
            path: path.to_path_buf(),
            file,
            plain,
            begin,
            digest,
            manifest,
        })
    }

    /// The archive, refused where it is damaged or would do harm.
    pub fn open(&self) -> Result<(Archive, File), Error> {
        let file = self
            .file
            .try_clone()
            .map_err(Error::io("open", &self.path))?;
        Ok((Archive::of(self)?, file))
    }
}

impl Archive {
    /// Reads the index of an archive, and refuses what is damaged or would do harm.
    pub fn open(path: &Path) -> Result<(Self, File), Error> {
        Index::read(path)?.open()
    }

    /// The digest and the manifest alone.
    pub fn identify(path: &Path) -> Result<(Digest, Vec<u8>), Error> {
        let index = Index::read(path)?;
        Ok((index.digest, index.manifest))
    }

    fn of(index: &Index) -> Result<Self, Error> {
        let Index {
            path, file, begin, ..
        } = index;
        let damaged = |reason: &str| Error::Damaged {
            path: path.clone(),
            reason: reason.to_owned(),
        };
        let hostile = |reason: String| Error::Hostile {
            path: path.clone(),
            reason,
        };
        let size = file.metadata().map_err(Error::io("read", path))?.len();
        let claims = listing::parse(&index.plain, size).ok_or_else(|| damaged(SENSELESS))?;
        let frames = &claims.frames;
        let sum = |of: fn(&Frame) -> u64| {
            (frames.iter()).try_fold(0_u64, |sum, frame| sum.checked_add(of(frame)))
        };
        if sum(|frame| frame.compressed) != Some(*begin) {
            return Err(damaged("it has not the length that its index says"));
        }
        if let Some(frame) = frames.iter().find(|frame| frame.length > LARGEST_FRAME) {
            return Err(hostile(format!(
                "one of its frames claims {} bytes",
                frame.length
            )));
        }
        if frames.iter().any(|frame| frame.length == 0) {
            return Err(hostile("one of its frames has no content".to_owned()));
        }
        // What memory it takes to read one does not depend on claims.
        if frames.iter().any(|frame| {
            let length = usize::try_from(frame.length).expect("checked");
            frame.compressed > zstd::zstd_safe::compress_bound(length) as u64
        }) {
            return Err(damaged("one of its frames is longer than its content"));
        }
        let held = sum(|frame| frame.length).ok_or_else(|| damaged(SENSELESS))?;
        let bytes = bytes(&claims.entries);
        let most = FREE_BYTES.max(begin.saturating_mul(LARGEST_RATIO));
        if held.max(bytes) > most {
            let claimed = held.max(bytes);
            return Err(hostile(format!("it claims to hold {claimed} bytes")));
        }
        if bytes > held.saturating_mul(MOST_COPIES) {
            return Err(damaged(OUTSIDE));
        }
        // Two things that take long, of which neither needs the other.
        let (refused, checks) = parallel::both(|| refusal(&claims.entries), || checks(&claims));
        if let Some(reason) = refused {
            return Err(hostile(reason));
        }
        let (checks, first_check) = checks.map_err(damaged)?;
        let Claims {
            entries,
            places,
            frames,
            hot,
            sums,
        } = claims;
        Ok(Self {
            path: path.clone(),
            manifest: index.manifest.clone(),
            entries,
            places,
            frames,
            digest: index.digest,
            sums: match sums {
                Sums::Frames(_) => None,
                Sums::Files(sums, _) => Some(sums),
            },
            hot,
            checks,
            first_check,
        })
    }

    /// Where the archive is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        bytes(&self.entries)
    }

    /// How many frames at its beginning hold what is likely to be read first: none in format 1.
    pub fn hot(&self) -> usize {
        self.hot
    }

    pub(crate) fn is_first_format(&self) -> bool {
        self.sums.is_none()
    }

    /// By what a frame's content is checked.
    pub(crate) fn checks(&self, frame: usize) -> &[Check] {
        &self.checks[self.first_check[frame]..self.first_check[frame + 1]]
    }

    /// Of a file's bytes and size: files with the same are the same. Nothing in format 1.
    pub(crate) fn sum(&self, entry: usize) -> Option<Sum> {
        self.sums.as_ref().map(|sums| sums[entry])
    }
}

const SENSELESS: &str = "its index makes no sense";
const OUTSIDE: &str = "its index names places outside of its frames";

/// By what each frame is checked, and where those of each begin; or what is wrong. Every byte of every
/// file lies in a frame, and files share all their bytes or none: else a few frames could be the content
/// of any number of files.
fn checks(claims: &Claims) -> Result<(Vec<Check>, Vec<usize>), &'static str> {
    let mut files: Vec<(Place, u64, usize)> = Vec::new();
    for (entry, place) in claims.places.iter().enumerate() {
        if let (Kind::File(size), Some(place)) = (&claims.entries[entry].kind, place) {
            files.push((*place, *size, entry));
        }
    }
    files.sort_unstable();
    let mut found = Checks {
        claims,
        all: Vec::new(),
        first: Vec::with_capacity(claims.frames.len() + 1),
    };
    let most = MOST_PIECES * claims.frames.len();
    let mut pieces = 0_usize;
    let mut free = Place {
        frame: 0,
        offset: 0,
    };
    for same in files.chunk_by(|one, other| (one.0, one.1) == (other.0, other.1)) {
        let (place, size, entry) = same[0];
        if place < free {
            return Err(OUTSIDE);
        }
        free = found.add(place, size, entry)?;
        if let Sums::Files(sums, _) = &claims.sums
            && same.iter().any(|(_, _, other)| sums[*other] != sums[entry])
        {
            return Err("its index has two digests for the same bytes");
        }
        pieces = pieces.saturating_add(same.len().saturating_mul(free.frame - place.frame));
        if pieces > most {
            return Err("its files lie in too many pieces");
        }
    }
    if let Sums::Frames(sums) = &claims.sums {
        for (frame, &sum) in sums.iter().enumerate() {
            let length = usize::try_from(claims.frames[frame].length).expect("checked");
            found.check(frame, 0, length, sum);
        }
    }
    found.first.resize(claims.frames.len() + 1, found.all.len());
    Ok((found.all, found.first))
}

struct Checks<'a> {
    claims: &'a Claims,
    all: Vec<Check>,
    first: Vec<usize>,
}

impl Checks<'_> {
    /// Those of a file; where it ends.
    fn add(&mut self, place: Place, size: u64, entry: usize) -> Result<Place, &'static str> {
        let sums = match &self.claims.sums {
            Sums::Frames(_) => None,
            Sums::Files(sums, chunks) => {
                let own = std::slice::from_ref(&sums[entry]);
                let chunks = if size > CHUNK { &chunks[entry] } else { own };
                let of_all = of_chunks(if size == 0 { &[] } else { chunks });
                if of_all != sums[entry] {
                    return Err("its index has chunks that are not those of their file");
                }
                Some(chunks)
            }
        };
        let (mut offset, mut at) = (place.offset, 0);
        for (frame, each) in self.claims.frames.iter().enumerate().skip(place.frame) {
            let room = each.length.checked_sub(offset).ok_or(OUTSIDE)?;
            let here = room.min(size - at);
            if let Some(sums) = sums {
                let end = at + here;
                while at < end {
                    let length = CHUNK.min(size - at);
                    if length > end - at {
                        return Err("its index has a chunk that lies in two frames");
                    }
                    let number = |number: u64| usize::try_from(number).expect("within a frame");
                    let sum = *sums.get(number(at / CHUNK)).ok_or(OUTSIDE)?;
                    self.check(frame, number(offset), number(length), sum);
                    at += length;
                    offset += length;
                }
            } else {
                at += here;
                offset += here;
            }
            if at == size {
                return Ok(Place { frame, offset });
            }
            offset = 0;
        }
        Err(OUTSIDE)
    }

    /// Comes in the order of the frames.
    fn check(&mut self, frame: usize, offset: usize, length: usize, sum: Sum) {
        if self.first.len() <= frame {
            self.first.resize(frame + 1, self.all.len());
        }
        self.all.push(Check {
            offset,
            length,
            sum,
        });
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt as _;

    use super::*;
    use crate::archive::listing::{encode, encode_first};

    fn entry(path: impl Into<Vec<u8>>, kind: Kind) -> Entry {
        Entry {
            path: path.into(),
            kind,
            mode: 0o755,
        }
    }

    fn file(name: usize, size: u64) -> Entry {
        entry(format!("{name:06}"), Kind::File(size))
    }

    // As it stands for an entry.
    #[allow(clippy::unnecessary_wraps)]
    fn at(frame: usize, offset: u64) -> Option<Place> {
        Some(Place { frame, offset })
    }

    fn frame(length: u64, compressed: u64) -> Frame {
        Frame { length, compressed }
    }

    /// Behind so many bytes of frames, of which there are none where it claims to be long.
    fn opened(index: &[u8], begin: u64) -> Result<Archive, Error> {
        let place = tempfile::NamedTempFile::new().unwrap();
        let bytes = ending::wrap(index, begin).unwrap();
        place.as_file().set_len(begin).unwrap();
        place.as_file().write_all_at(&bytes, begin).unwrap();
        Archive::open(place.path()).map(|(archive, _)| archive)
    }

    /// In both formats, each of which says why not.
    fn refused(entries: &[Entry], places: &[Option<Place>], frames: &[Frame]) -> [String; 2] {
        let begin = frames.iter().map(|frame| frame.compressed).sum();
        let summed: Vec<(Frame, Sum)> = frames.iter().map(|each| (each.clone(), [0; 32])).collect();
        let chunks: Vec<Vec<Sum>> = (entries.iter())
            .map(|entry| match entry.kind {
                Kind::File(size) => vec![[0; 32]; size.div_ceil(CHUNK).try_into().unwrap()],
                _ => Vec::new(),
            })
            .collect();
        let first = encode_first(b"{}", entries, places, &summed).0;
        let second = encode(b"{}", entries, &chunks, (places, frames, 0)).0;
        [first, second].map(|index| opened(&index, begin).unwrap_err().to_string())
    }

    fn are_refused(reason: &str, entries: &[Entry], places: &[Option<Place>], frames: &[Frame]) {
        for said in refused(entries, places, frames) {
            // Format 2 has no tiny pieces.
            let is_cut = said.contains("lies in two frames");
            assert!(is_cut || said.contains(reason), "{said}");
        }
    }

    #[test]
    fn an_index_comes_back() {
        let large = CHUNK + 5;
        let entries = [
            entry("lib", Kind::Directory),
            entry("lib/a", Kind::File(5)),
            entry("lib/b", Kind::Symlink(b"a".to_vec())),
            entry("lib/c", Kind::File(large)),
            entry("lib/d", Kind::File(0)),
            entry("lib/e", Kind::File(large)),
        ];
        let places = [None, at(0, 512), None, at(0, 1024), at(0, 512), at(0, 1024)];
        let frames = [frame(1024 + CHUNK, 99), frame(512, 9)];
        let chunks = [
            vec![],
            vec![[7; 32]],
            vec![],
            vec![[8; 32], [9; 32]],
            vec![],
            vec![[8; 32], [9; 32]],
        ];
        let (index, digest) = encode(b"{}", &entries, &chunks, (&places, &frames, 1));
        let archive = opened(&index, 108).unwrap();
        assert_eq!(archive.digest, digest);
        assert_eq!(archive.manifest, b"{}");
        assert_eq!(archive.places, places);
        assert_eq!(archive.hot(), 1);
        assert_eq!(archive.entries[2].kind, Kind::Symlink(b"a".to_vec()));
        assert_eq!(archive.entries[1].path, b"lib/a");
        let checks: Vec<Vec<(usize, usize, u8)>> = (0..2)
            .map(|frame| {
                let checks = archive.checks(frame).iter();
                checks
                    .map(|each| (each.offset, each.length, each.sum[0]))
                    .collect()
            })
            .collect();
        assert_eq!(
            checks,
            [vec![(512, 5, 7), (1024, 256 << 10, 8)], vec![(0, 5, 9)]]
        );
        // The layout is no part of the name, and the bytes of files are.
        let moved = [frame(1024 + CHUNK, 98), frame(600, 10)];
        let (_, same) = encode(b"{}", &entries, &chunks, (&places, &moved, 0));
        assert_eq!(same, digest);
        let mut other = chunks.clone();
        other[3][1] = [0; 32];
        let (index, changed) = encode(b"{}", &entries, &other, (&places, &frames, 1));
        assert_ne!(changed, digest);
        let said = opened(&index, 108).unwrap_err().to_string();
        assert!(said.contains("two digests for the same bytes"), "{said}");
    }

    #[test]
    fn a_chunk_lies_in_one_frame() {
        let entries = [file(1, 2 * CHUNK)];
        let chunks = [vec![[1; 32], [2; 32]]];
        let frames = [frame(CHUNK + 7, 9), frame(CHUNK, 9)];
        let (index, _) = encode(b"{}", &entries, &chunks, (&[at(0, 8)], &frames, 0));
        let said = opened(&index, 18).unwrap_err().to_string();
        assert!(said.contains("lies in two frames"), "{said}");
    }

    /// Each of these made a reader ask for more memory than there is, or work for hours.
    #[test]
    fn little_that_claims_much_is_refused() {
        // Every file in every frame: 10^10 pieces.
        let frames = vec![frame(1, 1); 30_000];
        let files: Vec<Entry> = (0..30_000).map(|name| file(name, 30_000)).collect();
        are_refused(OUTSIDE, &files, &vec![at(0, 0); files.len()], &frames);
        // The same, where one large frame makes up for the bytes.
        let frames = [vec![frame(1, 1); 10_000], vec![frame(64 << 20, 2048)]].concat();
        let files: Vec<Entry> = (0..10_000).map(|name| file(name, 10_000)).collect();
        are_refused(
            "too many pieces",
            &files,
            &vec![at(0, 0); files.len()],
            &frames,
        );
        let two = [file(1, 8), file(2, 8)];
        are_refused(OUTSIDE, &two, &[at(0, 0), at(0, 7)], &[frame(16, 16)]);
        // A frame of a terabyte, one of nothing, and many of much.
        let one = [file(1, 8)];
        are_refused(
            "longer than its content",
            &one,
            &[at(0, 0)],
            &[frame(16, 1 << 40)],
        );
        let frames = [vec![frame(0, 0); 10_000], vec![frame(8, 9)]].concat();
        are_refused("has no content", &one, &[at(0, 0)], &frames);
        are_refused(
            "claims to hold",
            &one,
            &[at(0, 0)],
            &vec![frame(64 << 20, 2048); 100],
        );
        // A path that grows with every entry.
        let grown: Vec<Entry> = (4000..4200)
            .map(|length| entry(vec![b'x'; length], Kind::Directory))
            .collect();
        are_refused("makes no sense", &grown, &vec![None; grown.len()], &[]);
        // A directory of more files than there are bytes.
        let many: Vec<Entry> = (0..120_000).map(|name| file(name, 0)).collect();
        are_refused(
            "makes no sense",
            &many,
            &vec![at(0, 0); many.len()],
            &[frame(8, 9)],
        );
    }
}
