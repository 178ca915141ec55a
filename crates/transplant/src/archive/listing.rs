//! The index in bytes: the listing, which the archive is named by, and the layout, which says where in
//! the file everything lies.
//!
//! The name depends on what is in the tree and on nothing else; a layout may change from version to
//! version. It can do no harm: what it leads to is compared with the digests of the listing.
//! In format 1 the layout was part of the listing, and each frame had a digest in place of each file.

use std::collections::HashSet;

use sha2::{Digest as _, Sha256};

use crate::archive::digest::Digest;
use crate::archive::encoding::{Reader, put, put_bytes};
use crate::archive::entry::{Entry, Kind, shared};
use crate::archive::frame::{Frame, Place};

/// Goes up with every change that an older reader would not understand.
const FORMAT: u8 = 2;
/// Of which the whole listing was SHA-256.
const FIRST: u8 = 1;

/// Files of more bytes have a digest for each so many.
pub(crate) const CHUNK: u64 = 256 << 10;

/// BLAKE3: of a chunk; or of a file, which is that of its only chunk or of the digests of its chunks.
pub(crate) type Sum = [u8; 32];

/// Of all paths together: each says only in what it differs from the one before, so that a small
/// index could name more than fits into memory.
const LARGEST_PATHS: usize = 256 << 20;
/// Of all names in all paths together: the kernel looks each of them up.
const MOST_NAMES: usize = 16 << 20;
/// What any archive may have: entries, bytes of paths (three hundred each), and names (twenty each).
/// Beyond, there are eight bytes of the file for each entry or name, and one for each byte of a path.
const FREE_ENTRIES: u64 = 100_000;
const FREE_PATHS: usize = 32 << 20;
const FREE_NAMES: usize = 2 << 20;
/// The kernel takes no longer one.
pub(crate) const LONGEST_PATH: usize = 4095;

/// What an index says, believed as far as it is well formed.
pub(crate) struct Claims {
    pub(crate) entries: Vec<Entry>,
    /// Of each entry that is a file.
    pub(crate) places: Vec<Option<Place>>,
    pub(crate) frames: Vec<Frame>,
    pub(crate) hot: usize,
    pub(crate) sums: Sums,
}

/// By what the bytes of files are checked.
pub(crate) enum Sums {
    /// The content of each frame: format 1.
    Frames(Vec<Sum>),
    /// Each file, by entry; and the chunks of those that have more than one, by entry as well, where
    /// no earlier entry lies at the same place.
    Files(Vec<Sum>, Vec<Vec<Sum>>),
}

/// Of a file, by those of its chunks.
pub(crate) fn of_chunks(chunks: &[Sum]) -> Sum {
    match chunks {
        [only] => *only,
        [] => blake3::hash(b"").into(),
        more => blake3::hash(more.as_flattened()).into(),
    }
}

/// The index as it is before it is compressed, and the archive's name. `chunks` are those of each entry.
pub(crate) fn encode(
    manifest: &[u8],
    entries: &[Entry],
    chunks: &[Vec<Sum>],
    (places, frames, hot): (&[Option<Place>], &[Frame], usize),
) -> (Vec<u8>, Digest) {
    let mut listing = vec![FORMAT];
    put_bytes(&mut listing, manifest);
    put_entries(&mut listing, entries, |out, index| {
        out.extend_from_slice(&of_chunks(&chunks[index]));
    });
    let digest = Digest(blake3::hash(&listing).into());
    let mut out = Vec::with_capacity(listing.len() + entries.len() * 6);
    put_bytes(&mut out, &listing);
    put(&mut out, frames.len() as u64);
    for frame in frames {
        put(&mut out, frame.length);
        put(&mut out, frame.compressed);
    }
    put(&mut out, hot as u64);
    for place in places.iter().flatten() {
        put(&mut out, place.frame as u64);
        put(&mut out, place.offset);
    }
    let mut seen = HashSet::new();
    for (place, chunks) in places.iter().zip(chunks) {
        if chunks.len() > 1 && seen.insert(*place) {
            out.extend_from_slice(chunks.as_flattened());
        }
    }
    (out, digest)
}

fn put_entries(out: &mut Vec<u8>, entries: &[Entry], file: impl Fn(&mut Vec<u8>, usize)) {
    put(out, entries.len() as u64);
    let mut last: &[u8] = b"";
    for (index, entry) in entries.iter().enumerate() {
        let shared = shared(last, &entry.path);
        put(out, shared as u64);
        put_bytes(out, &entry.path[shared..]);
        put(out, u64::from(entry.mode));
        match &entry.kind {
            Kind::Directory => out.push(b'd'),
            Kind::Symlink(target) => {
                out.push(b'l');
                put_bytes(out, target);
            }
            Kind::File(size) => {
                out.push(b'f');
                put(out, *size);
                file(out, index);
            }
        }
        last = &entry.path;
    }
}

/// The name and the manifest, of any format.
pub(crate) fn identity(plain: &[u8]) -> Option<(Digest, Vec<u8>)> {
    let listing = Reader(plain).sized()?;
    let mut reader = Reader(listing);
    let digest = name(reader.byte()?, listing)?;
    Some((digest, reader.sized()?.to_vec()))
}

fn name(format: u8, listing: &[u8]) -> Option<Digest> {
    match format {
        FIRST => Some(Digest(Sha256::digest(listing).into())),
        FORMAT => Some(Digest(blake3::hash(listing).into())),
        _ => None,
    }
}

/// What the index of an archive of so many bytes says besides its name and manifest.
pub(crate) fn parse(plain: &[u8], size: u64) -> Option<Claims> {
    let mut layout = Reader(plain);
    let listing = layout.sized()?;
    let mut reader = Reader(listing);
    let format = reader.byte()?;
    reader.sized()?;
    let claims = match format {
        FIRST => first(&mut reader, &mut layout, size)?,
        FORMAT => second(&mut reader, &mut layout, size)?,
        _ => return None,
    };
    (reader.0.is_empty() && layout.0.is_empty()).then_some(claims)
}

fn first(listing: &mut Reader, table: &mut Reader, size: u64) -> Option<Claims> {
    let count = listing.count(33)?;
    let mut frames = Vec::with_capacity(count);
    let mut sums = Vec::with_capacity(count);
    for _ in 0..count {
        let length = listing.number()?;
        sums.push(listing.bytes(32)?.try_into().ok()?);
        let compressed = table.number()?;
        frames.push(Frame { length, compressed });
    }
    let mut places = Vec::new();
    let entries = entries(listing, size, |listing, is_file| {
        places.push(if is_file { Some(place(listing)?) } else { None });
        Some(())
    })?;
    Some(Claims {
        entries,
        places,
        frames,
        hot: 0,
        sums: Sums::Frames(sums),
    })
}

fn second(listing: &mut Reader, layout: &mut Reader, size: u64) -> Option<Claims> {
    let mut sums = Vec::new();
    let entries = entries(listing, size, |listing, is_file| {
        sums.push(if is_file {
            listing.bytes(32)?.try_into().ok()?
        } else {
            [0; 32]
        });
        Some(())
    })?;
    let count = layout.count(2)?;
    let mut frames = Vec::with_capacity(count);
    for _ in 0..count {
        frames.push(Frame {
            length: layout.number()?,
            compressed: layout.number()?,
        });
    }
    let hot = usize::try_from(layout.number()?).ok()?;
    let mut places = Vec::with_capacity(entries.len());
    for entry in &entries {
        let is_file = matches!(entry.kind, Kind::File(_));
        places.push(if is_file { Some(place(layout)?) } else { None });
    }
    let mut seen = HashSet::new();
    let mut chunks = vec![Vec::new(); entries.len()];
    for (index, entry) in entries.iter().enumerate() {
        if let Kind::File(size) = entry.kind
            && size > CHUNK
            && seen.insert(places[index])
        {
            let count = usize::try_from(size.div_ceil(CHUNK)).ok()?;
            let bytes = layout.bytes(count.checked_mul(32)?)?;
            chunks[index] = bytes.as_chunks().0.to_vec();
        }
    }
    (hot <= frames.len()).then_some(Claims {
        entries,
        places,
        frames,
        hot,
        sums: Sums::Files(sums, chunks),
    })
}

fn place(reader: &mut Reader) -> Option<Place> {
    Some(Place {
        frame: usize::try_from(reader.number()?).ok()?,
        offset: reader.number()?,
    })
}

/// Those of an archive of so many bytes. `rest` reads what stands behind the size of a file, and hears of
/// the others.
fn entries<'a>(
    reader: &mut Reader<'a>,
    size: u64,
    mut rest: impl FnMut(&mut Reader<'a>, bool) -> Option<()>,
) -> Option<Vec<Entry>> {
    let count = reader.count(4)?;
    if count as u64 > FREE_ENTRIES + size / 8 {
        return None;
    }
    let size = usize::try_from(size).unwrap_or(usize::MAX);
    let most_paths = FREE_PATHS.saturating_add(size).min(LARGEST_PATHS);
    let most_names = (FREE_NAMES + size / 8).min(MOST_NAMES);
    let mut entries: Vec<Entry> = Vec::with_capacity(count);
    let (mut paths, mut names) = (0, 0);
    for _ in 0..count {
        let shared = usize::try_from(reader.number()?).ok()?;
        let differs = reader.sized()?;
        let last = entries.last().map_or(&b""[..], |entry| &entry.path);
        let path = [last.get(..shared)?, differs].concat();
        paths += path.len();
        names += path.split(|&byte| byte == b'/').count();
        if path.len() > LONGEST_PATH || paths > most_paths || names > most_names {
            return None;
        }
        let mode = u32::try_from(reader.number()?).ok()?;
        let kind = match reader.byte()? {
            b'd' => Kind::Directory,
            b'l' => {
                let target = reader.sized()?;
                if target.len() > LONGEST_PATH {
                    return None;
                }
                Kind::Symlink(target.to_vec())
            }
            b'f' => Kind::File(reader.number()?),
            _ => return None,
        };
        rest(reader, matches!(kind, Kind::File(_)))?;
        entries.push(Entry { path, kind, mode });
    }
    Some(entries)
}

/// An index of format 1, which nobody writes any more.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn encode_first(
    manifest: &[u8],
    entries: &[Entry],
    places: &[Option<Place>],
    frames: &[(Frame, Sum)],
) -> (Vec<u8>, Digest) {
    let mut listing = vec![FIRST];
    put_bytes(&mut listing, manifest);
    put(&mut listing, frames.len() as u64);
    for (frame, sum) in frames {
        put(&mut listing, frame.length);
        listing.extend_from_slice(sum);
    }
    put_entries(&mut listing, entries, |out, index| {
        let place = places[index].expect("of a file");
        put(out, place.frame as u64);
        put(out, place.offset);
    });
    let digest = Digest(Sha256::digest(&listing).into());
    let mut out = Vec::new();
    put_bytes(&mut out, &listing);
    for (frame, _) in frames {
        put(&mut out, frame.compressed);
    }
    (out, digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The kernel takes a path name by name, however little of the index it is.
    #[test]
    fn many_deep_paths_are_refused() {
        let index = |below: u64| {
            let mut listing = vec![FORMAT];
            put_bytes(&mut listing, b"{}");
            put(&mut listing, 1 + below);
            let deep = "x/".repeat(2000);
            let mut put_directory = |shared: usize, rest: &[u8]| {
                put(&mut listing, shared as u64);
                put_bytes(&mut listing, rest);
                put(&mut listing, 0o755);
                listing.push(b'd');
            };
            put_directory(0, deep.as_bytes());
            for number in 0..below {
                put_directory(deep.len(), format!("{number:06}").as_bytes());
            }
            let mut plain = Vec::new();
            put_bytes(&mut plain, &listing);
            // No frames, none of them hot.
            plain.extend([0, 0]);
            plain
        };
        assert!(parse(&index(10), 0).is_some());
        assert!(parse(&index(9000), 0).is_none());
    }
}
