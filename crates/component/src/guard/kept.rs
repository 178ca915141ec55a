//! What is remembered of an unpickler's stack and memo, in bounded memory.
//!
//! Whatever leads to a code object lies close together on the stack: the callable, a mark, up to 19
//! arguments, and within one of them the same again. So of the items above one mark only the upper
//! ones are kept apart, and of very many marks only the upper ones; a memo keeps of each kind
//! what was stored or used last, and knows whether it ever lost one.

use std::collections::{HashMap, VecDeque};
use std::rc::Rc;

use crate::guard::bytecode::Facts;

/// What has to be kept of a tuple that can be the arguments of `types.CodeType`.
#[derive(Debug)]
pub(crate) struct Arguments {
    /// Of the tuple.
    pub(crate) length: u64,
    /// Without what dill puts in front.
    pub(super) count: usize,
    /// Everything in it is what a code object has in that place.
    pub(crate) certain: bool,
    pub(super) flags: Option<i64>,
    pub(super) code: Option<Rc<Facts>>,
    pub(super) consts: Option<u64>,
    pub(super) names: Option<u64>,
    pub(super) lines: Option<Rc<Facts>>,
    /// `co_name`
    pub(crate) name: Option<Rc<str>>,
}

/// Items above one mark: twice as many are folded to this many.
const APART: usize = 128;
/// Items, and marks.
const DEEPEST: usize = 1 << 14;

/// Texts that are part of a code object's recipe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Symbol {
    Types,
    Builtins,
    CodeType,
    Code,
    BuiltinType,
    LoadType,
    CreateCode,
    Marshal,
    Loads,
    Codecs,
    Encode,
}

const SYMBOLS: [(Symbol, &str); 11] = [
    (Symbol::Types, "types"),
    (Symbol::Builtins, "builtins"),
    (Symbol::CodeType, "CodeType"),
    (Symbol::Code, "code"),
    (Symbol::BuiltinType, "_builtin_type"),
    (Symbol::LoadType, "_load_type"),
    (Symbol::CreateCode, "_create_code"),
    (Symbol::Marshal, "marshal"),
    (Symbol::Loads, "loads"),
    (Symbol::Codecs, "_codecs"),
    (Symbol::Encode, "encode"),
];

impl Symbol {
    pub(crate) fn of(text: &str) -> Option<Self> {
        SYMBOLS
            .iter()
            .find(|(_, name)| *name == text)
            .map(|(symbol, _)| *symbol)
    }

    fn text(self) -> &'static str {
        SYMBOLS[self as usize].1
    }
}

/// A text: its content if it is short, and what its characters say as bytes in protocols that have none.
#[derive(Debug)]
pub(crate) struct Text {
    pub(crate) content: Option<Rc<str>>,
    pub(crate) facts: Option<Rc<Facts>>,
}

/// A callable that matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Callable {
    /// `types.CodeType`, or what makes one of the same arguments.
    CodeType,
    /// Gives a type of the name that it gets.
    TypeByName,
    /// `marshal.loads`
    Marshal,
    /// `_codecs.encode`: bytes in protocols that have none.
    Encode,
}

/// A value, as far as it matters.
#[derive(Debug, Clone)]
pub(crate) enum Kept {
    /// Nothing that leads to a code object.
    Other,
    /// As many of them.
    Others(u64),
    /// It may have been anything.
    Unknown,
    Int(i64),
    Symbol(Symbol),
    Text(Option<Rc<Text>>),
    Bytes(Option<Rc<Facts>>),
    /// A tuple of this many items.
    Tuple(u64),
    /// A tuple that can be a code object's arguments.
    Arguments(Rc<Arguments>),
    /// A tuple of one or two items, as this says, of which the first is a text.
    Names(u64, Option<Rc<Text>>),
    /// `("CodeType",)`
    NamesCodeType,
    /// `(bytes,)`, where the bytes begin like a marshalled code object.
    Marshalled,
    Callable(Callable),
}

impl Kept {
    pub(crate) fn text(&self) -> Option<Rc<str>> {
        match self {
            Self::Text(Some(text)) => text.content.clone(),
            Self::Symbol(symbol) => Some(symbol.text().into()),
            _ => None,
        }
    }

    /// The length of a tuple.
    pub(crate) fn length(&self) -> Option<u64> {
        match self {
            Self::Tuple(length) | Self::Names(length, _) => Some(*length),
            Self::Arguments(code) => Some(code.length),
            Self::NamesCodeType | Self::Marshalled => Some(1),
            _ => None,
        }
    }

    fn count(&self) -> u64 {
        match self {
            Self::Others(count) => *count,
            _ => 1,
        }
    }

    /// Which ring of the memo holds it, and how many there are in one.
    fn ring(&self) -> Option<(usize, usize)> {
        Some(match self {
            Self::Symbol(symbol) => (RINGS + *symbol as usize, 256),
            Self::Callable(_) | Self::Arguments(_) => (0, 1024),
            Self::Bytes(_) => (1, 8192),
            Self::Tuple(_) | Self::Names(..) | Self::NamesCodeType | Self::Marshalled => (2, 8192),
            Self::Text(_) => (3, 8192),
            Self::Other | Self::Others(_) | Self::Unknown | Self::Int(_) => return None,
        })
    }
}

const RINGS: usize = 4;

/// The number of items in a row.
pub(crate) fn count(items: &[Kept]) -> u64 {
    items.iter().map(Kept::count).sum()
}

/// The unpickler's stack.
#[derive(Debug, Default)]
pub(crate) struct Stack {
    items: Vec<Kept>,
    /// Where the items above each mark begin.
    marks: Vec<usize>,
}

impl Stack {
    fn base(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    pub(crate) fn push(&mut self, kept: Kept) {
        self.items.push(kept);
        let base = self.base();
        if self.items.len() - base > 2 * APART {
            let fold = base..self.items.len() - APART;
            let folded = count(&self.items[fold.clone()]);
            self.items.splice(fold, [Kept::Others(folded)]);
        }
        if self.items.len() > DEEPEST {
            self.forget();
        }
    }

    pub(crate) fn mark(&mut self) {
        self.marks.push(self.items.len());
        if self.marks.len() > DEEPEST {
            self.forget();
        }
    }

    /// Lets go of the lower half of the marks, with the items below.
    fn forget(&mut self) {
        let half = self.marks.len() / 2;
        let below = self.marks.get(half).copied().unwrap_or(0);
        self.items.drain(..below);
        self.marks.drain(..half);
        for mark in &mut self.marks {
            *mark -= below;
        }
    }

    pub(crate) fn top(&self) -> Option<&Kept> {
        self.items.last()
    }

    pub(crate) fn pop(&mut self) -> Kept {
        if self.items.len() == self.base() {
            return Kept::Other;
        }
        match self.items.last_mut() {
            Some(Kept::Others(count)) if *count > 1 => {
                *count -= 1;
                Kept::Other
            }
            Some(Kept::Others(_)) => {
                self.items.pop();
                Kept::Other
            }
            _ => self.items.pop().unwrap_or(Kept::Other),
        }
    }

    /// What lies above the last mark.
    pub(crate) fn marked(&self) -> &[Kept] {
        &self.items[self.base()..]
    }

    /// Takes it away, with the mark.
    pub(crate) fn pop_marked(&mut self) {
        self.items.truncate(self.base());
        self.marks.pop();
    }
}

/// The unpickler's memo.
#[derive(Debug, Default)]
pub(crate) struct Memo {
    /// Each with whether it was used since it was last considered to be let go.
    kept: HashMap<u64, (Kept, bool)>,
    rings: [VecDeque<u64>; RINGS + SYMBOLS.len()],
    next: u64,
    /// Something that matters was let go.
    lost: bool,
}

impl Memo {
    pub(crate) fn memoize(&mut self, kept: Option<&Kept>) {
        self.put(self.next, kept);
    }

    pub(crate) fn put(&mut self, index: u64, kept: Option<&Kept>) {
        self.next = self.next.max(index.saturating_add(1));
        let Some((kept, (ring, most))) = kept.and_then(|kept| Some((kept, kept.ring()?))) else {
            if !self.kept.is_empty() {
                self.kept.remove(&index);
            }
            return;
        };
        let ring = &mut self.rings[ring];
        while ring.len() >= most
            && let Some(oldest) = ring.pop_front()
        {
            match self.kept.get_mut(&oldest) {
                Some((_, used)) if *used => {
                    *used = false;
                    ring.push_back(oldest);
                }
                _ => {
                    self.kept.remove(&oldest);
                    self.lost = true;
                }
            }
        }
        ring.push_back(index);
        self.kept.insert(index, (kept.clone(), false));
    }

    pub(crate) fn get(&mut self, index: u64) -> Kept {
        match self.kept.get_mut(&index) {
            Some((kept, used)) => {
                *used = true;
                kept.clone()
            }
            None if self.lost => Kept::Unknown,
            None => Kept::Other,
        }
    }
}
