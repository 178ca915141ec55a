//! Which links are refused.
#![no_main]

use htmap_exec_fuzz::{Node, directory, entries};
use htmap_exec_transplant::{Entry, fuzzing::links};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|nodes: Vec<Node>| {
    let entries: Vec<Entry> = entries(&nodes, &[])
        .into_iter()
        .map(|(entry, _)| entry)
        .collect();
    links(directory(), &entries);
});
