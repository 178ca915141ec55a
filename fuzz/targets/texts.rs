//! `.pth` files, finders of editable installs, and headers of bytecode.
#![no_main]

use htmap_exec_fuzz::directory;
use htmap_exec_transplant::fuzzing::texts;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| texts(directory(), data));
