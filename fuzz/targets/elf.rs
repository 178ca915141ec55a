//! Programs and libraries: their search paths, and what they need of a node.
#![no_main]

use htmap_exec_fuzz::directory;
use htmap_exec_transplant::fuzzing::elf;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| elf(&directory().join("x.so"), data));
