//! Whole archives of both formats, opened, checked and unpacked.
#![no_main]

use htmap_exec_fuzz::{Tree, directory};
use htmap_exec_transplant::fuzzing::tree;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|made: Tree| tree(directory(), &made.made()));
