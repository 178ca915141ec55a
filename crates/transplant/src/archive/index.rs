//! The archive's index: what is in it and where, and how to find it at the end of the file.
//!
//! An archive is zstd frames whose content is a tar, then two skippable frames, which zstd and tar
//! pass over: the index, and a trailer of fixed size that says where the index begins. The index
//! holds the listing, whose SHA-256 is the archive's digest (it names every path, mode, size and
//! the digest of every frame's content), and the compressed lengths, which depend on the level.

use std::fmt;
use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use crate::archive::encoding::{Reader, put, put_bytes};
use crate::archive::entry::{Entry, Kind, refusal};
use crate::error::Error;
use crate::parallel;

/// Goes up with every change that an older reader would not understand.
const FORMAT: u8 = 1;
/// Two of the sixteen magic numbers of skippable frames (RFC 8878, section 3.1.2).
const INDEX_MAGIC: u32 = 0x184D_2A5A;
const TRAILER_MAGIC: u32 = 0x184D_2A5B;
const SIGNATURE: &[u8; 8] = b"HTMAPEXE";
/// Magic, length, where the index begins, and the signature.
const TRAILER: usize = 4 + 4 + 8 + 8;
/// Content of a frame that is likely to be read alone.
pub(crate) const FRAME: usize = 2 << 20;
/// More than any frame of ours has: what claims more is a bomb.
const LARGEST_FRAME: u64 = 64 << 20;
/// The same for the index: 64 bytes for each of a million entries.
const LARGEST_INDEX: u64 = 64 << 20;
/// Of all paths together: each says only in what it differs from the one before, so that a small
/// index could name more than fits into memory.
const LARGEST_PATHS: usize = 256 << 20;
/// The kernel takes no longer one.
pub(crate) const LONGEST_PATH: usize = 4095;

/// How large the files may be together, as a multiple of the frames: files that are the same are
/// stored once.
const MOST_COPIES: u64 = 16;

/// What an archive is called: the SHA-256 of its listing.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 32]);

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A frame: some of the tar.
#[derive(Debug, Clone)]
pub(crate) struct Frame {
    /// Bytes of content.
    pub(crate) length: u64,
    /// Of the content.
    pub(crate) digest: [u8; 32],
    /// Bytes in the file.
    pub(crate) compressed: u64,
}

/// Where the bytes of a file begin: in this frame, at this place of its content. What does not fit
/// goes on at the beginning of the next frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) frame: usize,
    pub(crate) offset: u64,
}

/// What an archive holds.
#[derive(Debug)]
pub struct Archive {
    path: PathBuf,
    /// JSON for whoever made it: what Python it is, and what it needs.
    pub manifest: Vec<u8>,
    /// In the order of the tar.
    pub entries: Vec<Entry>,
    pub(crate) places: Vec<Option<Place>>,
    pub(crate) frames: Vec<Frame>,
    /// The archive's name.
    pub digest: Digest,
}

/// The index, as it stands in the file, with the trailer.
pub(crate) fn encode(
    manifest: &[u8],
    entries: &[Entry],
    places: &[Option<Place>],
    frames: &[Frame],
    begin: u64,
) -> std::io::Result<(Vec<u8>, Digest)> {
    let listing = listing(manifest, entries, places, frames);
    let digest = Digest(Sha256::digest(&listing).into());
    let mut plain = Vec::with_capacity(listing.len() + frames.len() * 4);
    put(&mut plain, listing.len() as u64);
    plain.extend_from_slice(&listing);
    for frame in frames {
        put(&mut plain, frame.compressed);
    }
    Ok((wrap(&plain, begin)?, digest))
}

/// Index and trailer.
pub(crate) fn wrap(plain: &[u8], begin: u64) -> std::io::Result<Vec<u8>> {
    let packed = zstd::bulk::compress(plain, 3)?;
    let mut out = Vec::with_capacity(packed.len() + 16 + TRAILER);
    let skippable = |out: &mut Vec<u8>, magic: u32, content: &[u8]| {
        let length = u32::try_from(content.len()).map_err(std::io::Error::other)?;
        out.extend_from_slice(&magic.to_le_bytes());
        out.extend_from_slice(&length.to_le_bytes());
        out.extend_from_slice(content);
        Ok::<_, std::io::Error>(())
    };
    let mut index = (plain.len() as u64).to_le_bytes().to_vec();
    index.extend_from_slice(&packed);
    skippable(&mut out, INDEX_MAGIC, &index)?;
    let mut trailer = begin.to_le_bytes().to_vec();
    trailer.extend_from_slice(SIGNATURE);
    skippable(&mut out, TRAILER_MAGIC, &trailer)?;
    Ok(out)
}

fn listing(
    manifest: &[u8],
    entries: &[Entry],
    places: &[Option<Place>],
    frames: &[Frame],
) -> Vec<u8> {
    let mut out = vec![FORMAT];
    put_bytes(&mut out, manifest);
    put(&mut out, frames.len() as u64);
    for frame in frames {
        put(&mut out, frame.length);
        out.extend_from_slice(&frame.digest);
    }
    put(&mut out, entries.len() as u64);
    let mut last: &[u8] = b"";
    for (entry, place) in entries.iter().zip(places) {
        let shared = last
            .iter()
            .zip(&entry.path)
            .take_while(|(one, other)| one == other)
            .count();
        put(&mut out, shared as u64);
        put_bytes(&mut out, &entry.path[shared..]);
        put(&mut out, u64::from(entry.mode));
        match &entry.kind {
            Kind::Directory => out.push(b'd'),
            Kind::Symlink(target) => {
                out.push(b'l');
                put_bytes(&mut out, target);
            }
            Kind::File(size) => {
                out.push(b'f');
                put(&mut out, *size);
                let place = place.unwrap_or(Place {
                    frame: 0,
                    offset: 0,
                });
                put(&mut out, place.frame as u64);
                put(&mut out, place.offset);
            }
        }
        last = &entry.path;
    }
    out
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
        let (plain, begin) = index(path, &file)?;
        let (digest, manifest) = identity(&plain).ok_or_else(|| Error::Damaged {
            path: path.to_path_buf(),
            reason: "its index makes no sense".to_owned(),
        })?;
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

    /// How many frames at the beginning of the file are the hot list: what nearly every import reads,
    /// in that order. None where the format has no such list.
    #[allow(clippy::unused_self)]
    pub(crate) fn hot(&self) -> usize {
        0
    }

    fn of(index: &Index) -> Result<Self, Error> {
        let damaged = |reason: &str| Error::Damaged {
            path: index.path.clone(),
            reason: reason.to_owned(),
        };
        let hostile = |reason: String| Error::Hostile {
            path: index.path.clone(),
            reason,
        };
        let begin = index.begin;
        let archive = parse(index).ok_or_else(|| damaged("its index makes no sense"))?;
        let compressed = archive
            .frames
            .iter()
            .try_fold(0_u64, |sum, frame| sum.checked_add(frame.compressed));
        if compressed != Some(begin) {
            return Err(damaged("it has not the length that its index says"));
        }
        if let Some(frame) = archive
            .frames
            .iter()
            .find(|frame| frame.length > LARGEST_FRAME)
        {
            return Err(hostile(format!(
                "one of its frames claims {} bytes",
                frame.length
            )));
        }
        // What memory it takes to read one does not depend on claims.
        if archive.frames.iter().any(|frame| {
            let length = usize::try_from(frame.length).expect("checked");
            frame.compressed > zstd::zstd_safe::compress_bound(length) as u64
        }) {
            return Err(damaged("one of its frames is longer than its content"));
        }
        // Two things that take long, of which neither needs the other.
        let (refused, sound) =
            parallel::both(|| refusal(&archive.entries), || archive.places_are_sound());
        if let Some(reason) = refused {
            return Err(hostile(reason));
        }
        if !sound {
            return Err(damaged("its index names places outside of its frames"));
        }
        Ok(archive)
    }

    /// Where the archive is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.entries
            .iter()
            .map(|entry| match entry.kind {
                Kind::File(size) => size,
                _ => 0,
            })
            .fold(0, u64::saturating_add)
    }

    /// Every byte of every file lies in a frame. Files share all their bytes or none, and hold no more
    /// than so often what the frames do: else a few frames could be the content of any number of
    /// files.
    fn places_are_sound(&self) -> bool {
        let mut files: Vec<(Place, u64)> = self
            .entries
            .iter()
            .zip(&self.places)
            .filter_map(|(entry, place)| match (&entry.kind, place) {
                (Kind::File(size), Some(place)) => Some((*place, *size)),
                _ => None,
            })
            .collect();
        let held: u64 = self.frames.iter().map(|frame| frame.length).sum();
        if self.bytes() > held.saturating_mul(MOST_COPIES) {
            return false;
        }
        files.sort_unstable();
        files.dedup();
        let mut free = Place {
            frame: 0,
            offset: 0,
        };
        files.into_iter().all(|(place, size)| {
            let end = (place >= free).then(|| self.end(place, size)).flatten();
            free = end.unwrap_or(free);
            end.is_some()
        })
    }

    /// Where a file ends, if that is in a frame.
    fn end(&self, place: Place, size: u64) -> Option<Place> {
        let (mut offset, mut left) = (place.offset, size);
        for (frame, each) in self.frames.iter().enumerate().skip(place.frame) {
            let room = each.length.checked_sub(offset)?;
            if left <= room {
                let offset = offset + left;
                return Some(Place { frame, offset });
            }
            left -= room;
            offset = 0;
        }
        None
    }
}

/// The index as it was before it was packed, and where it begins in the file.
fn index(path: &Path, file: &File) -> Result<(Vec<u8>, u64), Error> {
    let damaged = |reason: &str| Error::Damaged {
        path: path.to_path_buf(),
        reason: reason.to_owned(),
    };
    let hostile = |reason: String| Error::Hostile {
        path: path.to_path_buf(),
        reason,
    };
    let size = file.metadata().map_err(Error::io("read", path))?.len();
    let read = |offset: u64, length: usize| {
        let mut bytes = vec![0; length];
        file.read_exact_at(&mut bytes, offset)
            .map_err(Error::io("read", path))
            .map(|()| bytes)
    };
    let at_end = size
        .checked_sub(TRAILER as u64)
        .ok_or_else(|| damaged("it is too short"))?;
    let trailer = read(at_end, TRAILER)?;
    let expected = [TRAILER_MAGIC.to_le_bytes(), 16_u32.to_le_bytes()].concat();
    if trailer[..8] != expected[..] || trailer[16..] != SIGNATURE[..] {
        let magic = read(0, 4)?;
        return Err(damaged(
            if magic.starts_with(b"\x1f\x8b") || magic.starts_with(b"PK") {
                "it is for other tools, which alone read gzip and zip; name the archive that lies beside it"
            } else {
                "its end is not that of an archive of htmap-exec"
            },
        ));
    }
    let begin = u64::from_le_bytes(trailer[8..16].try_into().expect("eight bytes"));
    let length = at_end
        .checked_sub(begin)
        .filter(|&length| (16..LARGEST_INDEX).contains(&length))
        .ok_or_else(|| damaged("its index is not where its end says"))?;
    let index = read(begin, usize::try_from(length).expect("checked"))?;
    let inner = u32::from_le_bytes(index[4..8].try_into().expect("four bytes"));
    if index[..4] != INDEX_MAGIC.to_le_bytes() || u64::from(inner) + 8 != length {
        return Err(damaged("its index is not where its end says"));
    }
    let plain_length = u64::from_le_bytes(index[8..16].try_into().expect("eight bytes"));
    if plain_length > LARGEST_INDEX {
        return Err(hostile(format!("its index claims {plain_length} bytes")));
    }
    let mut plain = Vec::new();
    // As it comes, and not as it claims.
    zstd::Decoder::with_buffer(&index[16..])
        .and_then(|decoder| {
            let mut bounded = decoder.single_frame().take(plain_length + 1);
            bounded.read_to_end(&mut plain)
        })
        .map_err(|error| damaged(&format!("its index cannot be read: {error}")))?;
    if plain.len() as u64 != plain_length {
        return Err(damaged("its index is not as long as it says"));
    }
    Ok((plain, begin))
}

fn identity(plain: &[u8]) -> Option<(Digest, Vec<u8>)> {
    let mut reader = Reader(plain);
    let length = usize::try_from(reader.number()?).ok()?;
    let listing = reader.bytes(length)?;
    let digest = Digest(Sha256::digest(listing).into());
    let mut reader = Reader(listing);
    if reader.byte()? != FORMAT {
        return None;
    }
    Some((digest, reader.sized()?.to_vec()))
}

fn parse(index: &Index) -> Option<Archive> {
    let mut reader = Reader(&index.plain);
    let length = usize::try_from(reader.number()?).ok()?;
    let listing = reader.bytes(length)?;
    let mut table = reader;
    let mut reader = Reader(listing);
    if reader.byte()? != FORMAT {
        return None;
    }
    let manifest = reader.sized()?.to_vec();
    let count = reader.count(33)?;
    let mut frames = Vec::with_capacity(count);
    for _ in 0..count {
        frames.push(Frame {
            length: reader.number()?,
            digest: reader.bytes(32)?.try_into().ok()?,
            compressed: table.number()?,
        });
    }
    let count = reader.count(4)?;
    let mut entries: Vec<Entry> = Vec::with_capacity(count);
    let mut places = Vec::with_capacity(count);
    let mut paths = 0;
    for _ in 0..count {
        let shared = usize::try_from(reader.number()?).ok()?;
        let rest = reader.sized()?;
        let last = entries.last().map_or(&b""[..], |entry| &entry.path);
        let path = [last.get(..shared)?, rest].concat();
        paths += path.len();
        if path.len() > LONGEST_PATH || paths > LARGEST_PATHS {
            return None;
        }
        let mode = u32::try_from(reader.number()?).ok()?;
        let (kind, place) = match reader.byte()? {
            b'd' => (Kind::Directory, None),
            b'l' => {
                let target = reader.sized()?;
                if target.len() > LONGEST_PATH {
                    return None;
                }
                (Kind::Symlink(target.to_vec()), None)
            }
            b'f' => {
                let size = reader.number()?;
                let place = Place {
                    frame: usize::try_from(reader.number()?).ok()?,
                    offset: reader.number()?,
                };
                (Kind::File(size), Some(place))
            }
            _ => return None,
        };
        entries.push(Entry { path, kind, mode });
        places.push(place);
    }
    (reader.0.is_empty() && table.0.is_empty()).then_some(Archive {
        path: index.path.clone(),
        manifest,
        entries,
        places,
        frames,
        digest: index.digest,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listing_comes_back() {
        let entry = |path: &str, kind| Entry {
            path: path.into(),
            kind,
            mode: 0o755,
        };
        let entries = [
            entry("lib", Kind::Directory),
            entry("lib/a", Kind::File(5)),
            entry("lib/b", Kind::Symlink(b"a".to_vec())),
        ];
        let places = [
            None,
            Some(Place {
                frame: 0,
                offset: 512,
            }),
            None,
        ];
        let frames = [Frame {
            length: 1024,
            digest: [7; 32],
            compressed: 99,
        }];
        let (bytes, digest) = encode(b"{}", &entries, &places, &frames, 99).unwrap();
        let mut file = tempfile::NamedTempFile::new().unwrap();
        std::io::Write::write_all(&mut file, &[vec![0; 99], bytes].concat()).unwrap();
        let (archive, _) = Archive::open(file.path()).unwrap();
        assert_eq!(archive.digest, digest);
        assert_eq!(archive.manifest, b"{}");
        assert_eq!(archive.places, places);
        assert_eq!(archive.entries[2].kind, Kind::Symlink(b"a".to_vec()));
        assert_eq!(archive.entries[1].path, b"lib/a");
    }

    fn refused(entries: &[Entry], places: &[Option<Place>], frames: &[Frame]) -> String {
        let begin = frames.iter().map(|frame| frame.compressed).sum();
        let (bytes, _) = encode(b"{}", entries, places, frames, begin).unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        // Sparse, where it claims to be long.
        file.as_file().set_len(begin).unwrap();
        file.as_file().write_all_at(&bytes, begin).unwrap();
        Archive::open(file.path()).unwrap_err().to_string()
    }

    /// Each of these made a reader ask for more memory than there is, or work for hours.
    #[test]
    fn little_that_claims_much_is_refused() {
        let file = |name: usize, size| Entry {
            path: format!("{name:06}").into_bytes(),
            kind: Kind::File(size),
            mode: 0o644,
        };
        let frame = |length, compressed| Frame {
            length,
            digest: [0; 32],
            compressed,
        };
        let at = |frame, offset| Some(Place { frame, offset });
        // Every file in every frame: 10^10 pieces.
        let frames = vec![frame(1, 1); 100_000];
        let files: Vec<Entry> = (0..100_000).map(|name| file(name, 100_000)).collect();
        let reason = refused(&files, &vec![at(0, 0); files.len()], &frames);
        assert!(reason.contains("places outside"), "{reason}");
        let two = [file(1, 8), file(2, 8)];
        let reason = refused(&two, &[at(0, 0), at(0, 7)], &[frame(16, 16)]);
        assert!(reason.contains("places outside"), "{reason}");
        // A frame of a terabyte.
        let reason = refused(&[file(1, 8)], &[at(0, 0)], &[frame(16, 1 << 40)]);
        assert!(reason.contains("longer than its content"), "{reason}");
        // A path that grows with every entry.
        let long = |length: usize| Entry {
            path: vec![b'x'; length],
            kind: Kind::Directory,
            mode: 0o755,
        };
        let grown: Vec<Entry> = (1..20_000).map(long).collect();
        let reason = refused(&grown, &vec![None; grown.len()], &[]);
        assert!(reason.contains("makes no sense"), "{reason}");
    }
}
