//! The end of an archive: the index in one skippable frame, and in another one where that begins.
//!
//! zstd and tar pass over skippable frames (RFC 8878, section 3.1.2). Nothing here knows what the
//! index says.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use crate::error::Error;

/// Two of the sixteen magic numbers of skippable frames.
const INDEX_MAGIC: u32 = 0x184D_2A5A;
const TRAILER_MAGIC: u32 = 0x184D_2A5B;
const SIGNATURE: &[u8; 8] = b"HTMAPEXE";
/// Magic, length, where the index begins, and the signature.
const TRAILER: usize = 4 + 4 + 8 + 8;
/// 64 bytes for each of a million entries.
const LARGEST_INDEX: u64 = 64 << 20;

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

/// The index as it was before it was packed, and where it begins in the file.
pub(crate) fn index(path: &Path, file: &File) -> Result<(Vec<u8>, u64), Error> {
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
