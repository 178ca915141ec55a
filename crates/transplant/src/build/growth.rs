//! Files that were longer than before when they were packed, such as logs: what was read of them over some time
//! has to be what was there at one moment.
//!
//! Whoever appends changes nothing of what there was. So it is all read again: if it is still what was packed, it
//! was there when the file was looked at first.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

use crate::archive::entry::{Entry, Kind};
use crate::archive::listing::{CHUNK, Sum};
use crate::error::Error;
use crate::relocate::content::Content;

/// Which files have `grown`, of which only the beginning was packed, by its `chunks`. Of entries that are the `same`
/// both have to be what was packed for the one.
pub(super) fn confirm(
    mut grown: BTreeSet<usize>,
    entries: &[Entry],
    contents: &[Option<Content>],
    same: &HashMap<usize, usize>,
    chunks: &[Vec<Sum>],
) -> Result<Vec<PathBuf>, Error> {
    if grown.is_empty() {
        return Ok(Vec::new());
    }
    let files: Vec<PathBuf> = grown
        .iter()
        .filter_map(|&index| match &contents[index] {
            Some(Content::OnDisk(path, _)) => Some(path.clone()),
            _ => None,
        })
        .collect();
    let others = same.iter().filter(|(_, first)| grown.contains(first));
    let others: Vec<usize> = others.map(|(&index, _)| index).collect();
    grown.extend(others);
    for index in grown {
        let (Kind::File(size), Some(Content::OnDisk(path, _))) =
            (&entries[index].kind, &contents[index])
        else {
            continue;
        };
        let failed = || Error::io("read", path);
        let file = File::open(path).map_err(failed())?;
        let mut chunk = Vec::new();
        for (number, sum) in chunks[index].iter().enumerate() {
            let from = number as u64 * CHUNK;
            let length = CHUNK.min(size - from);
            chunk.resize(usize::try_from(length).expect("a chunk is small"), 0);
            let is_there = match file.read_exact_at(&mut chunk, from) {
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => false,
                read => read.map_err(failed()).map(|()| true)?,
            };
            if !is_there || Sum::from(blake3::hash(&chunk)) != *sum {
                let path = path.clone();
                return Err(Error::Changed { path });
            }
        }
    }
    Ok(files)
}
