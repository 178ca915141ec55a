//! The arguments of a code object, and which versions can have written it.

use crate::guard::bytecode::{ALL, Versions, versions};
use crate::guard::kept::{Arguments, Kept};

/// `CO_GENERATOR`, `CO_COROUTINE` and `CO_ASYNC_GENERATOR`
const GENERATORS: i64 = 0x20 | 0x80 | 0x200;
/// 3.10 only.
const GEN_START: u8 = 129;

impl Arguments {
    /// Of a tuple; none where its size is none that a code object has.
    pub(crate) fn of(items: &[Kept]) -> Option<Self> {
        let all = items.len();
        // dill puts `co_lnotab` in front.
        let items = match items {
            [Kept::Bytes(_) | Kept::Unknown, rest @ ..] if matches!(items.len(), 17 | 19) => rest,
            _ => items,
        };
        // 3.6 and 3.7; positional-only arguments from 3.8 on; a qualified name and the exception
        // table from 3.11 on.
        let (code, lines) = match items.len() {
            15 => (5, 12),
            16 => (6, 13),
            18 => (6, 14),
            _ => return None,
        };
        let name = code + 5;
        let certain = items.iter().enumerate().all(|(index, item)| {
            if index < code || index + 1 == lines {
                matches!(item, Kept::Int(_))
            } else if index == code || index == lines {
                matches!(item, Kept::Bytes(_) | Kept::Unknown)
            } else if index <= code + 3 || index + 2 >= items.len() {
                item.length().is_some() || matches!(item, Kept::Unknown)
            } else if index <= name {
                matches!(item, Kept::Text(_) | Kept::Symbol(_) | Kept::Unknown)
            } else {
                true
            }
        });
        let bytes = |index: usize| match &items[index] {
            Kept::Bytes(facts) => facts.clone(),
            _ => None,
        };
        Some(Self {
            length: all as u64,
            count: items.len(),
            certain,
            flags: match items[code - 1] {
                Kept::Int(flags) => Some(flags),
                _ => None,
            },
            code: bytes(code),
            consts: items[code + 1].length(),
            names: items[code + 2].length(),
            lines: bytes(lines),
            name: items[name].text(),
        })
    }

    /// The versions that can have written such a code object.
    pub(crate) fn plausible(&self) -> Versions {
        let shape = versions(|_, version| match self.count {
            15 => version <= (3, 7),
            16 => ((3, 8)..=(3, 10)).contains(&version),
            _ => version >= (3, 11),
        });
        let Some(code) = self.code.as_deref().filter(|code| code.size > 0) else {
            return shape;
        };
        let mut fitting = shape & code.instructions;
        fitting &= versions(|index, version| {
            let enough =
                |size: Option<u64>, needed: u32| size.is_none_or(|size| u64::from(needed) <= size);
            // 3.10's generators begin with an instruction of their own.
            let generator = version != (3, 10)
                || self
                    .flags
                    .is_none_or(|flags| (flags & GENERATORS != 0) == (code.first == GEN_START));
            enough(self.consts, code.consts[index])
                && enough(self.names, code.names[index])
                && generator
        });
        let lines = self
            .lines
            .as_deref()
            .and_then(|facts| facts.lines.as_ref())
            .map_or(ALL, |lines| code.lines_fit(lines));
        // cloudpickle before 2.0 passes the old form on 3.10: where the line table contradicts every
        // instruction set that fits, the instructions are right.
        if fitting & lines == 0 {
            fitting
        } else {
            fitting & lines
        }
    }
}
