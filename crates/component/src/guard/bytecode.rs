//! What a byte string says as bytecode and as a line table, found in one pass and in flat memory.
//!
//! Every rule here follows from CPython's compiler, so that no right code object breaks one. The
//! comments say which version's compiler, where the instruction table alone does not decide.

use crate::guard::opcodes::{Instructions, KNOWN};

/// A bit for each of the known versions.
pub(crate) type Versions = u16;

pub(crate) const ALL: Versions = (1 << KNOWN.len()) - 1;
/// Longer line tables are not looked at.
const LONGEST_LINES: u64 = 1 << 20;

/// The versions that `fits` says yes to.
pub(crate) fn versions(fits: impl Fn(usize, (u8, u8)) -> bool) -> Versions {
    let known = KNOWN.iter().enumerate();
    known
        .filter(|(index, table)| fits(*index, table.version))
        .fold(0, |set, (index, _)| set | 1 << index)
}

/// All that has to be kept of a byte string.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Facts {
    /// Whose instructions it can be made of.
    pub(crate) instructions: Versions,
    /// How many constants it needs, by version.
    pub(crate) consts: [u32; KNOWN.len()],
    /// How many names it needs, by version.
    pub(crate) names: [u32; KNOWN.len()],
    pub(crate) first: u8,
    pub(crate) size: u64,
    pub(crate) lines: Option<Lines>,
}

/// A byte string as a line table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lines {
    /// How many bytes of code it covers as pairs of distances.
    pub(crate) covers: u64,
    /// It follows the grammar of 3.10 (PEP 626).
    pub(crate) ranges: bool,
    /// The first pair has no distance.
    pub(crate) at_start: bool,
}

impl Lines {
    const NONE: Self = Self {
        covers: 0,
        ranges: true,
        at_start: false,
    };
}

impl Facts {
    /// The versions that can have written this code with this line table (`co_lnotab` to 3.9,
    /// `co_linetable` of 3.10): later tables tell nothing that the instructions do not.
    pub(crate) fn lines_fit(&self, lines: &Lines) -> Versions {
        versions(|_, version| match version {
            // It covers the code exactly.
            (3, 10) => lines.ranges && lines.covers == self.size,
            // It ends where the last line starts. That is the very end of the code where the peephole
            // optimizer removed the last lines, behind a `return`: such a function has a body of
            // several lines, which starts below its `def`.
            (3, ..=9) => lines.covers < self.size || lines.covers == self.size && lines.at_start,
            _ => true,
        })
    }
}

/// Reads a byte string piece by piece.
pub(crate) struct Reader {
    walks: Vec<Walk>,
    /// The first byte of a pair whose second one is still to come.
    half: Option<u8>,
    size: u64,
    first: u8,
    lines: Lines,
}

impl Reader {
    pub(crate) fn new() -> Self {
        Self {
            walks: Vec::with_capacity(KNOWN.len()),
            half: None,
            size: 0,
            first: 0,
            lines: Lines::NONE,
        }
    }

    /// Begins another string.
    pub(crate) fn begin(&mut self) {
        self.walks.clear();
        self.walks.extend((0..KNOWN.len()).map(Walk::new));
        self.half = None;
        self.size = 0;
        self.first = 0;
        self.lines = Lines::NONE;
    }

    /// The next bytes; false where no more are needed.
    pub(crate) fn read(&mut self, piece: &[u8]) -> bool {
        let mut rest = piece;
        let Some((byte, behind)) = piece.split_first() else {
            return true;
        };
        if let Some(half) = self.half.take() {
            self.pair(half, *byte);
            rest = behind;
        }
        let pairs = rest.chunks_exact(2);
        self.half = pairs.remainder().first().copied();
        for pair in pairs {
            self.pair(pair[0], pair[1]);
            if self.walks.is_empty() && self.size > LONGEST_LINES {
                return false;
            }
        }
        true
    }

    fn pair(&mut self, first: u8, second: u8) {
        if self.size == 0 {
            self.first = first;
            self.lines.at_start = first == 0;
        }
        self.size += 2;
        self.lines.covers += u64::from(first);
        // An even distance to the end of a range, and lines in steps of at most 127.
        self.lines.ranges &=
            first.is_multiple_of(2) && (first != 0 || matches!(second.cast_signed(), 127 | -127));
        self.walks.retain_mut(|walk| walk.step(first, second));
    }

    /// What was read; `whole` is false where a part of the string is missing.
    pub(crate) fn finish(&mut self, whole: bool) -> Facts {
        let odd = self.half.is_some();
        let mut facts = Facts {
            instructions: 0,
            consts: [0; KNOWN.len()],
            names: [0; KNOWN.len()],
            first: self.first,
            size: self.size + u64::from(odd),
            lines: (whole && !odd && self.size <= LONGEST_LINES).then_some(self.lines),
        };
        if whole && !odd {
            for walk in self.walks.iter().filter(|walk| walk.ends_well()) {
                facts.instructions |= 1 << walk.index;
                facts.consts[walk.index] = walk.consts;
                facts.names[walk.index] = walk.names;
            }
        }
        facts
    }
}

/// The bytes as instructions of one version.
struct Walk {
    index: usize,
    table: &'static Instructions,
    /// How many units are behind.
    units: u64,
    extended: u64,
    caches: u8,
    /// Where `RESUME` stands, from 3.11 on.
    resume: Option<u64>,
    /// The farthest unit that is jumped to.
    target: u64,
    consts: u32,
    names: u32,
    /// The last two instructions.
    before: [(u8, u64); 2],
    /// 3.8: a `WITH_CLEANUP_START` was seen.
    with: bool,
    /// 3.8: a `SETUP_FINALLY` was seen.
    finally: bool,
}

impl Walk {
    fn new(index: usize) -> Self {
        Self {
            index,
            table: &KNOWN[index],
            units: 0,
            extended: 0,
            caches: 0,
            resume: None,
            target: 0,
            consts: 0,
            names: 0,
            before: [(0, 0); 2],
            with: false,
            finally: false,
        }
    }

    /// The next two bytes; false where they cannot be this version's.
    fn step(&mut self, opcode: u8, low: u8) -> bool {
        self.units += 1;
        if self.caches > 0 {
            self.caches -= 1;
            return (opcode, low) == (0, 0);
        }
        let bit = usize::from(opcode);
        if opcode == 0 || self.table.valid[bit / 64] >> (bit % 64) & 1 == 0 {
            return false;
        }
        let argument = self.extended << 8 | u64::from(low);
        if let Some(resume) = self.table.resume
            && self.resume.is_none()
        {
            if opcode == resume {
                self.resume = Some(self.units - 1);
            } else if !self.table.prefix.contains(&opcode) {
                return false;
            }
        }
        if opcode == self.table.extended {
            self.extended = argument;
            return argument < 1 << 24;
        }
        self.extended = 0;
        self.caches = pick(self.table.caches, opcode).unwrap_or(0);
        let fits = self.argument_fits(opcode, argument) && self.order_fits(opcode, argument);
        self.before = [self.before[1], (opcode, argument)];
        fits
    }

    fn argument_fits(&mut self, opcode: u8, argument: u64) -> bool {
        let table = self.table;
        let needed = |index: u64| u32::try_from(index + 1).unwrap_or(u32::MAX);
        if table.consts.contains(&opcode) {
            self.consts = self.consts.max(needed(argument));
        }
        if let Some(shift) = pick(table.names, opcode) {
            self.names = self.names.max(needed(argument >> shift));
        }
        if opcode == table.compare.0 && argument >= u64::from(table.compare.1) {
            return false;
        }
        // Up to 3.9, jumps count bytes.
        let bytes = table.version < (3, 10);
        if bytes
            && !argument.is_multiple_of(2)
            && (table.absolute.contains(&opcode) || table.forward.contains(&opcode))
        {
            return false;
        }
        let distance = if bytes { argument / 2 } else { argument };
        let behind = self.units + u64::from(self.caches);
        if table.absolute.contains(&opcode) {
            self.target = self.target.max(distance);
        }
        if table.forward.contains(&opcode) {
            self.target = self.target.max(behind + distance);
        }
        if table.backward.contains(&opcode) {
            // A loop holds its own jump, and begins after the function does.
            return distance > u64::from(self.caches)
                && self
                    .resume
                    .is_some_and(|resume| behind.saturating_sub(distance) > resume);
        }
        true
    }

    /// Instructions whose arguments or neighbours are always the same.
    fn order_fits(&mut self, opcode: u8, argument: u64) -> bool {
        let [earlier, last] = self.before;
        match self.table.version {
            // `async for` and `async` comprehensions: GET_AITER, LOAD_CONST None, YIELD_FROM in 3.6 only.
            (3, 6) => {
                (last.0 != 50 || opcode == 100)
                    && ((earlier.0, last.0) != (50, 100) || opcode == 72)
            }
            (3, 7) => last.0 != 50 || opcode != 100,
            // WITH_CLEANUP_FINISH comes after WITH_CLEANUP_START, and POP_FINALLY after SETUP_FINALLY
            // or right behind WITH_CLEANUP_FINISH.
            (3, 8) => {
                self.with |= opcode == 81;
                self.finally |= opcode == 122;
                (opcode != 82 || self.with) && (opcode != 163 || self.finally || last.0 == 82)
            }
            // LIST_EXTEND and SET_UPDATE: the numbers of 3.8's CALL_FINALLY and POP_FINALLY.
            (3, 9) => !matches!(opcode, 162 | 163) || argument == 1,
            // GEN_START stands at the start only.
            (3, 10) => {
                (!matches!(opcode, 162 | 163) || argument == 1)
                    && (opcode != 129 || self.units == 1)
            }
            // ASYNC_GEN_WRAP (3.12's LOAD_LOCALS) comes before YIELD_VALUE. The rest are jumps back to
            // the beginning of a loop, if a value is None or not: 3.12's CALL_INTRINSIC_1 and _2, which
            // take lists, new tuples and functions, names and what was imported, or stand before RERAISE.
            (3, 11) => {
                let calls = matches!(last.0, 99 | 100 | 102 | 108 | 132 | 145 | 162);
                (last.0 != 87 || opcode == 86)
                    && (!matches!(opcode, 173 | 174) || !calls)
                    && (last != (173, 3) || opcode != 119 || argument != 1)
            }
            // CALL_INTRINSIC_1 and _2: few functions, two of them with one use each.
            // LOAD_FROM_DICT_OR_GLOBALS and _DEREF (3.11's POP_JUMP_BACKWARD_IF_FALSE and _IF_TRUE)
            // take what LOAD_LOCALS or LOAD_DEREF gave.
            (3, 12) => {
                (opcode != 173 || argument <= 11)
                    && (opcode != 174 || argument <= 4)
                    && (last != (173, 3) || opcode == 119)
                    && (last != (173, 4) || opcode == 150)
                    && (!matches!(opcode, 175 | 176) || matches!(last.0, 87 | 137))
            }
            _ => true,
        }
    }

    fn ends_well(&self) -> bool {
        self.caches == 0
            && self.extended == 0
            && (self.units == 0
                || self.target < self.units
                    && (self.table.resume.is_none() || self.resume.is_some()))
    }
}

fn pick(pairs: &[(u8, u8)], opcode: u8) -> Option<u8> {
    pairs
        .iter()
        .find(|(number, _)| *number == opcode)
        .map(|(_, value)| *value)
}
