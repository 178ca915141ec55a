//! Whole archives, opened and unpacked.
#![no_main]

use htmap_exec_fuzz::{Node, directory, entries};
use htmap_exec_transplant::fuzzing::tree;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (Vec<Node>, Vec<Vec<u8>>)| {
    tree(directory(), &entries(&input.0), &input.1);
});
