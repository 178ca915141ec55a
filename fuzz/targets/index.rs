//! The index of an archive: two bytes say how many at the end are the table of compressed lengths,
//! the rest is the listing. Lengths are made right, so that what is read is the content.
#![no_main]

use htmap_exec_fuzz::directory;
use htmap_exec_transplant::fuzzing::index;
use libfuzzer_sys::fuzz_target;

fn number(out: &mut Vec<u8>, mut number: usize) {
    while number > 0x7f {
        out.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fuzz_target!(|data: &[u8]| {
    let Some((head, rest)) = data.split_first_chunk::<2>() else {
        return;
    };
    let table = usize::from(u16::from_le_bytes(*head)).min(rest.len());
    let (listing, table) = rest.split_at(rest.len() - table);
    let mut plain = Vec::new();
    number(&mut plain, listing.len());
    plain.extend_from_slice(listing);
    plain.extend_from_slice(table);
    // As many bytes of frames as a table of small numbers says.
    let begin = table.iter().map(|&byte| u64::from(byte & 0x7f)).sum();
    index(&directory().join("index"), &plain, begin);
});
