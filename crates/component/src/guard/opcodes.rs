//! Instruction sets of Python versions, as far as telling them apart needs.
//!
//! Made by `scripts/opcode-tables` from each version's own `opcode` module; not edited by hand.
#![cfg_attr(rustfmt, rustfmt_skip)]
#![allow(clippy::unreadable_literal)]

/// One minor version's instructions.
pub(crate) struct Instructions {
    pub(crate) version: (u8, u8),
    /// A bit for each opcode that exists.
    pub(crate) valid: [u64; 4],
    /// Opcodes that are followed by empty cache entries, and how many (3.11 and later).
    pub(crate) caches: &'static [(u8, u8)],
    /// Opcodes whose argument is an index of a constant.
    pub(crate) consts: &'static [u8],
    /// Opcodes whose argument is an index of a name, and how many bits of flags are below it.
    pub(crate) names: &'static [(u8, u8)],
    /// Opcodes that jump to an absolute place (3.10 and earlier).
    pub(crate) absolute: &'static [u8],
    /// Opcodes that jump ahead, counted from the instruction behind them.
    pub(crate) forward: &'static [u8],
    /// Opcodes that jump back, counted from the instruction behind them (3.11 and later).
    pub(crate) backward: &'static [u8],
    /// `COMPARE_OP` and the number of its operators.
    pub(crate) compare: (u8, u16),
    /// `EXTENDED_ARG`
    pub(crate) extended: u8,
    /// `RESUME`, which opens every code object (3.11 and later).
    pub(crate) resume: Option<u8>,
    /// What may come before `RESUME`: it sets up cells and generators.
    pub(crate) prefix: &'static [u8],
}

pub(crate) const KNOWN: &[Instructions] = &[
    Instructions {
        version: (3, 6),
        valid: [0xfb9c00003fdb9e3e, 0xf79ffff7fffffbff, 0x000000007fffe7bc, 0x0000000000000000],
        caches: &[],
        consts: &[100],
        names: &[(90, 0), (91, 0), (95, 0), (96, 0), (97, 0), (98, 0), (101, 0), (106, 0), (108, 0), (109, 0), (116, 0), (127, 0)],
        absolute: &[111, 112, 113, 114, 115, 119],
        forward: &[93, 110, 120, 121, 122, 143, 154],
        backward: &[],
        compare: (107, 12),
        extended: 144,
        resume: None,
        prefix: &[],
    },
    Instructions {
        version: (3, 7),
        valid: [0xfb9c00003fdb9e3e, 0x779ffff7fffffbff, 0x000000037fffe7bc, 0x0000000000000000],
        caches: &[],
        consts: &[100],
        names: &[(90, 0), (91, 0), (95, 0), (96, 0), (97, 0), (98, 0), (101, 0), (106, 0), (108, 0), (109, 0), (116, 0), (160, 0)],
        absolute: &[111, 112, 113, 114, 115, 119],
        forward: &[93, 110, 120, 121, 122, 143, 154],
        backward: &[],
        compare: (107, 12),
        extended: 144,
        resume: None,
        prefix: &[],
    },
    Instructions {
        version: (3, 8),
        valid: [0xfbfc00003fdb9e7e, 0x741ffff7fffefbff, 0x0000000f7fffe7bc, 0x0000000000000000],
        caches: &[],
        consts: &[100],
        names: &[(90, 0), (91, 0), (95, 0), (96, 0), (97, 0), (98, 0), (101, 0), (106, 0), (108, 0), (109, 0), (116, 0), (160, 0)],
        absolute: &[111, 112, 113, 114, 115],
        forward: &[93, 110, 122, 143, 154, 162],
        backward: &[],
        compare: (107, 12),
        extended: 144,
        resume: None,
        prefix: &[],
    },
    Instructions {
        version: (3, 9),
        valid: [0xfbdf00003fdb9e7e, 0x767ffff7fefcffff, 0x0000003f3c1fe7bc, 0x0000000000000000],
        caches: &[],
        consts: &[100],
        names: &[(90, 0), (91, 0), (95, 0), (96, 0), (97, 0), (98, 0), (101, 0), (106, 0), (108, 0), (109, 0), (116, 0), (160, 0)],
        absolute: &[111, 112, 113, 114, 115, 121],
        forward: &[93, 110, 122, 143, 154],
        backward: &[],
        compare: (107, 6),
        extended: 144,
        resume: None,
        prefix: &[],
    },
    Instructions {
        version: (3, 10),
        valid: [0xfbde0007ffdb9e7e, 0x76fffffffefcffff, 0x0000003f3d1fe7be, 0x0000000000000000],
        caches: &[],
        consts: &[100],
        names: &[(90, 0), (91, 0), (95, 0), (96, 0), (97, 0), (98, 0), (101, 0), (106, 0), (108, 0), (109, 0), (116, 0), (160, 0)],
        absolute: &[111, 112, 113, 114, 115, 121],
        forward: &[93, 110, 122, 143, 154],
        backward: &[],
        compare: (107, 6),
        extended: 144,
        resume: None,
        prefix: &[],
    },
    Instructions {
        version: (3, 11),
        valid: [0x307e003bc2009e07, 0x7dfdfffffffc0cf0, 0x0001f87d39bf5fff, 0x0000000000000000],
        caches: &[(25, 4), (60, 1), (92, 1), (95, 4), (106, 4), (107, 2), (116, 5), (122, 1), (160, 10), (166, 1), (171, 4)],
        consts: &[100, 172],
        names: &[(90, 0), (91, 0), (95, 0), (96, 0), (97, 0), (98, 0), (101, 0), (106, 0), (108, 0), (109, 0), (116, 1), (160, 0)],
        absolute: &[],
        forward: &[93, 110, 111, 112, 114, 115, 123, 128, 129],
        backward: &[134, 140, 173, 174, 175, 176],
        compare: (107, 6),
        extended: 144,
        resume: Some(151),
        prefix: &[1, 75, 135, 144, 149],
    },
    Instructions {
        version: (3, 12),
        valid: [0x30fe003bce029a3f, 0xfffc7ffffea80cb0, 0x0001f83c39efffff, 0x0000000000000000],
        caches: &[(25, 1), (60, 1), (92, 1), (93, 1), (95, 4), (106, 9), (107, 1), (116, 4), (122, 1), (123, 1), (141, 1), (171, 3)],
        consts: &[100, 121, 172],
        names: &[(90, 0), (91, 0), (95, 0), (96, 0), (97, 0), (98, 0), (101, 0), (106, 1), (108, 0), (109, 0), (116, 1), (141, 2), (175, 0)],
        absolute: &[],
        forward: &[93, 110, 114, 115, 123, 128, 129],
        backward: &[134, 140],
        compare: (107, 256),
        extended: 144,
        resume: Some(151),
        prefix: &[1, 75, 135, 144, 149],
    },
    Instructions {
        version: (3, 13),
        valid: [0xfffffffffffffff7, 0x007fffffffffffff, 0x0000000000200000, 0x0000000000000000],
        caches: &[(5, 1), (39, 1), (40, 3), (45, 1), (53, 3), (58, 1), (59, 1), (72, 1), (77, 1), (82, 9), (91, 4), (93, 1), (97, 1), (98, 1), (99, 1), (100, 1), (104, 1), (108, 4), (117, 1)],
        consts: &[83, 103],
        names: &[(63, 0), (66, 0), (67, 0), (74, 0), (75, 0), (82, 1), (90, 0), (91, 1), (92, 0), (93, 2), (108, 0), (113, 0), (114, 0)],
        absolute: &[],
        forward: &[72, 79, 97, 98, 99, 100, 104],
        backward: &[77, 78],
        compare: (58, 256),
        extended: 71,
        resume: Some(149),
        prefix: &[32, 35, 62, 71, 94],
    },
    Instructions {
        version: (3, 14),
        valid: [0xfffffffffffffff7, 0x01ffffffffffffff, 0x0000000000000001, 0x8000000000000000],
        caches: &[(38, 1), (39, 3), (44, 5), (52, 3), (55, 3), (56, 1), (57, 1), (70, 1), (75, 1), (80, 9), (92, 4), (96, 1), (100, 1), (101, 1), (102, 1), (103, 1), (106, 1), (110, 4), (119, 1)],
        consts: &[82],
        names: &[(61, 0), (64, 0), (65, 0), (72, 0), (73, 0), (80, 1), (91, 0), (92, 1), (93, 0), (96, 2), (110, 0), (115, 0), (116, 0)],
        absolute: &[],
        forward: &[70, 77, 100, 101, 102, 103, 106],
        backward: &[75, 76],
        compare: (56, 256),
        extended: 69,
        resume: Some(128),
        prefix: &[31, 34, 60, 69, 97],
    },
];
