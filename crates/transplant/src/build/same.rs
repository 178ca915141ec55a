//! Files whose bytes are the same: an archive holds them once.

use std::collections::HashMap;

use crate::archive::entry::{Entry, Kind};
use crate::error::Error;
use crate::parallel;
use crate::relocate::content::Content;
use crate::relocate::content::read;

/// Below this, what finding out would cost is more than what is gained.
const LEAST: u64 = 16 << 10;

/// For each entry that another one stands for, which comes before it in `order`: which one.
pub(crate) fn same(
    entries: &[Entry],
    contents: &[Option<Content>],
    order: &[usize],
) -> Result<HashMap<usize, usize>, Error> {
    // A link has the mode of what it leads to.
    let mut alike: HashMap<(u64, u32), Vec<usize>> = HashMap::new();
    for &index in order {
        if let Kind::File(size) = entries[index].kind
            && size >= LEAST
        {
            let key = (size, entries[index].mode);
            alike.entry(key).or_default().push(index);
        }
    }
    let candidates: Vec<(u64, usize)> = alike
        .into_iter()
        .filter(|(_, indices)| indices.len() > 1)
        .flat_map(|((size, _), indices)| indices.into_iter().map(move |index| (size, index)))
        .collect();
    let digests = parallel::map(&candidates, |&(size, index)| {
        let mut bytes = Vec::new();
        if let Some(content) = &contents[index] {
            read(content, 0, size, &mut bytes)?;
        }
        Ok::<_, Error>(blake3::hash(&bytes))
    });
    let mut first = HashMap::new();
    let mut same = HashMap::new();
    for (&(_, index), digest) in candidates.iter().zip(digests) {
        match first.entry((digest?, entries[index].mode)) {
            std::collections::hash_map::Entry::Vacant(entry) => {
                entry.insert(index);
            }
            std::collections::hash_map::Entry::Occupied(entry) => {
                same.insert(index, *entry.get());
            }
        }
    }
    Ok(same)
}
