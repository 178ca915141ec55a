//! Bytes with some of them replaced, of which any part can be had without the rest.
//!
//! This is the one place where an edit meets bytes: those of a file that is packed, of one that was
//! unpacked, or of one that is mounted and never whole in memory.

use crate::archive::encoding::{put, put_bytes};

/// `length` bytes at `at` become `bytes`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Splice {
    pub(crate) at: u64,
    pub(crate) length: u64,
    pub(crate) bytes: Vec<u8>,
}

impl Splice {
    fn end(&self) -> u64 {
        self.at + self.length
    }
}

/// The splices of one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spliced {
    /// In their order, and apart from each other.
    splices: Vec<Splice>,
    /// Where each begins in the new bytes.
    starts: Vec<u64>,
    size: u64,
}

impl Spliced {
    /// Of a file of this size; nothing if they overlap, or lie behind its end.
    pub(crate) fn new(mut splices: Vec<Splice>, size: u64) -> Option<Self> {
        splices.sort_by_key(|splice| splice.at);
        let mut starts = Vec::with_capacity(splices.len());
        let (mut old, mut new) = (0, 0_u64);
        for splice in &splices {
            let end = splice.at.checked_add(splice.length)?;
            new = new.checked_add(splice.at.checked_sub(old)?)?;
            starts.push(new);
            new = new.checked_add(splice.bytes.len() as u64)?;
            old = end;
        }
        let size = new.checked_add(size.checked_sub(old)?)?;
        Some(Self {
            splices,
            starts,
            size,
        })
    }

    /// Of the new bytes.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// Those that have changed.
    pub(crate) fn splices(&self) -> &[Splice] {
        &self.splices
    }

    /// Whether every byte stays where it is.
    pub(crate) fn is_in_place(&self) -> bool {
        let mut each = self.splices.iter();
        each.all(|splice| splice.length == splice.bytes.len() as u64)
    }

    /// Appends some of the new bytes, as far as they go. `original` appends some of the old ones: so
    /// many, from there.
    pub(crate) fn read<E>(
        &self,
        from: u64,
        length: u64,
        out: &mut Vec<u8>,
        mut original: impl FnMut(u64, u64, &mut Vec<u8>) -> Result<(), E>,
    ) -> Result<(), E> {
        let end = from.saturating_add(length).min(self.size);
        let ends_at = |index: usize| self.starts[index] + self.splices[index].bytes.len() as u64;
        // The last one that begins before; it may end before as well.
        let begun = self.starts.partition_point(|&start| start <= from);
        let mut index = begun.saturating_sub(1);
        while index < self.splices.len() && ends_at(index) <= from {
            index += 1;
        }
        let mut place = from;
        while place < end {
            let start = self.starts.get(index).copied().unwrap_or(self.size);
            if place < start {
                let behind = match index.checked_sub(1) {
                    Some(last) => self.splices[last].end() + (place - ends_at(last)),
                    None => place,
                };
                let count = start.min(end) - place;
                original(behind, count, out)?;
                place += count;
            } else {
                let bytes = &self.splices[index].bytes;
                let begin = usize::try_from(place - start).expect("it is in memory");
                let count = usize::try_from(end - place).unwrap_or(usize::MAX);
                let count = count.min(bytes.len() - begin);
                out.extend_from_slice(&bytes[begin..begin + count]);
                place += count as u64;
                index += 1;
            }
        }
        Ok(())
    }

    /// All of it, from all of the old bytes.
    pub(crate) fn whole(&self, old: &[u8]) -> Vec<u8> {
        let mut new = Vec::new();
        let copied = self.read(0, self.size, &mut new, |from, length, out| {
            let range = usize::try_from(from).ok().zip(usize::try_from(length).ok());
            let part = range.and_then(|(from, length)| old.get(from..from.checked_add(length)?));
            out.extend_from_slice(part.ok_or(())?);
            Ok::<_, ()>(())
        });
        debug_assert_eq!(copied, Ok(()), "made for bytes of this size");
        new
    }

    /// All that the new bytes depend on but the old ones.
    pub(super) fn describe(&self, out: &mut Vec<u8>) {
        for splice in &self.splices {
            put(out, splice.at);
            put(out, splice.length);
            put_bytes(out, &splice.bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::noise::Noise;

    fn splice(at: u64, length: u64, bytes: &[u8]) -> Splice {
        let bytes = bytes.to_vec();
        Splice { at, length, bytes }
    }

    #[test]
    fn splices_that_do_not_fit_are_none() {
        for (splices, size) in [
            (vec![splice(0, 3, b"")], 2),
            (vec![splice(u64::MAX, 3, b"")], 2),
            (vec![splice(3, 0, b"x")], 2),
            (vec![splice(0, 2, b""), splice(1, 1, b"")], 9),
        ] {
            assert_eq!(Spliced::new(splices, size), None);
        }
    }

    /// Every part of the new bytes is what it is in the whole of them, however the splices lie.
    #[test]
    fn any_part_is_the_part_of_the_whole() {
        let mut noise = Noise(1);
        let mut below = |bound: usize| noise.below(bound);
        let letters = |count: usize, from: u8| -> Vec<u8> { (from..).take(count).collect() };
        for _ in 0..500 {
            let old = letters(below(60), b'A');
            let (mut splices, mut expected, mut at) = (Vec::new(), Vec::new(), 0);
            while at < old.len() {
                let length = below(4).min(old.len() - at);
                if below(2) == 0 {
                    let bytes = letters(below(5), 200);
                    expected.extend_from_slice(&bytes);
                    splices.push(splice(at as u64, length as u64, &bytes));
                    at += length;
                }
                if at < old.len() {
                    expected.push(old[at]);
                    at += 1;
                }
            }
            let spliced = Spliced::new(splices, old.len() as u64).expect("they fit");
            assert_eq!(spliced.size(), expected.len() as u64);
            assert_eq!(spliced.whole(&old), expected);
            for _ in 0..20 {
                let (from, length) = (below(70), below(70));
                let mut part = Vec::new();
                let read = spliced.read(from as u64, length as u64, &mut part, |at, count, out| {
                    let at = usize::try_from(at)?;
                    out.extend_from_slice(&old[at..at + usize::try_from(count)?]);
                    Ok::<_, std::num::TryFromIntError>(())
                });
                assert_eq!(read, Ok(()));
                let end = (from + length).min(expected.len());
                assert_eq!(part, expected.get(from..end).unwrap_or(&[]));
            }
        }
    }
}
