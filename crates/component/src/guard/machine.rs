//! Follows a pickle as the unpickler would, and tells of every code object that it makes.

use std::rc::Rc;

use crate::guard::bytecode::{ALL, Reader, Versions};
use crate::guard::kept::{self, Arguments, Callable, Kept, Memo, Stack, Symbol, Text};
use crate::pickle::scanner::{Encoding, Token, Visitor};

const LONGEST_TEXT: usize = 64;
/// Protocols that have no bytes write them as a text of Latin-1; of longer ones nothing is known.
const LONGEST_LATIN: usize = 1 << 20;
/// The protocol that brought bytes.
const BYTES: u8 = 3;

/// A code object that was found.
pub(crate) struct Found {
    /// Which versions can have written it.
    pub(crate) versions: Versions,
    /// `co_name`, if it is known.
    pub(crate) name: Option<Rc<str>>,
}

/// The unpickler's state.
pub(crate) struct Machine<F> {
    stack: Stack,
    memo: Memo,
    protocol: u8,
    reader: Reader,
    encoding: Encoding,
    text: Vec<u8>,
    text_size: u64,
    found: F,
}

impl<F: FnMut(Found)> Machine<F> {
    pub(crate) fn new(found: F) -> Self {
        Self {
            stack: Stack::default(),
            memo: Memo::default(),
            protocol: 0,
            reader: Reader::new(),
            encoding: Encoding::Bytes,
            text: Vec::new(),
            text_size: 0,
            found,
        }
    }

    /// Whether a text may stand for bytes.
    fn is_latin(&self) -> bool {
        self.protocol < BYTES && self.text_size <= LONGEST_LATIN as u64
    }

    fn take(&mut self, items: usize) -> Vec<Kept> {
        let mut taken: Vec<Kept> = (0..items).map(|_| self.stack.pop()).collect();
        taken.reverse();
        taken
    }

    fn call(&mut self, callable: &Kept, arguments: &Kept) {
        let result = match (callable, arguments) {
            (Kept::Callable(Callable::TypeByName), Kept::NamesCodeType) => {
                Kept::Callable(Callable::CodeType)
            }
            (Kept::Callable(Callable::Encode), Kept::Names(_, text)) => {
                Kept::Bytes(text.as_ref().and_then(|text| text.facts.clone()))
            }
            (Kept::Callable(Callable::CodeType), Kept::Arguments(code)) => {
                self.code(code);
                Kept::Other
            }
            (Kept::Callable(Callable::CodeType), _)
            | (Kept::Callable(Callable::Marshal), Kept::Marshalled) => {
                (self.found)(Found {
                    versions: ALL,
                    name: None,
                });
                Kept::Other
            }
            // By another way to the type, or one that was forgotten.
            (_, Kept::Arguments(code)) if code.certain => {
                self.code(code);
                Kept::Other
            }
            _ => Kept::Other,
        };
        self.stack.push(result);
    }

    fn code(&mut self, code: &Arguments) {
        (self.found)(Found {
            versions: code.plausible(),
            name: code.name.clone(),
        });
    }
}

impl<F: FnMut(Found)> Visitor for Machine<F> {
    fn token(&mut self, token: Token<'_>) {
        match token {
            Token::Nothing => {}
            Token::Protocol(protocol) => self.protocol = protocol,
            Token::Mark => self.stack.mark(),
            Token::Int(number) => self.stack.push(Kept::Int(number)),
            Token::Other => self.stack.push(Kept::Other),
            Token::Take { items, push } => {
                for _ in 0..items {
                    self.stack.pop();
                }
                if push {
                    self.stack.push(Kept::Other);
                }
            }
            Token::TakeMarked { push } => {
                self.stack.pop_marked();
                if push {
                    self.stack.push(Kept::Other);
                }
            }
            Token::Duplicate => {
                let top = self.stack.pop();
                self.stack.push(top.clone());
                self.stack.push(top);
            }
            Token::Tuple(items) => {
                let items = self.take(items);
                self.stack.push(tuple(&items));
            }
            Token::MarkedTuple => {
                let made = tuple(self.stack.marked());
                self.stack.pop_marked();
                self.stack.push(made);
            }
            Token::Global { module, name } => self.stack.push(global(module, name)),
            Token::StackGlobal => {
                let name = self.stack.pop();
                let module = self.stack.pop();
                self.stack.push(match (&module, &name) {
                    (_, Kept::Unknown) | (Kept::Unknown, Kept::Symbol(_)) => Kept::Unknown,
                    _ => {
                        let module = module.text();
                        let name = name.text();
                        global(
                            module.as_deref().unwrap_or_default(),
                            name.as_deref().unwrap_or_default(),
                        )
                    }
                });
            }
            Token::Call => {
                let arguments = self.stack.pop();
                let callable = self.stack.pop();
                self.call(&callable, &arguments);
            }
            Token::CallWithKeywords => {
                self.stack.pop();
                let arguments = self.stack.pop();
                let callable = self.stack.pop();
                self.call(&callable, &arguments);
            }
            Token::CallGlobal { module, name } => {
                let arguments = tuple(self.stack.marked());
                self.stack.pop_marked();
                self.call(&global(module, name), &arguments);
            }
            Token::CallMarked => {
                let (callable, arguments) = match self.stack.marked() {
                    [callable, arguments @ ..] => (callable.clone(), tuple(arguments)),
                    [] => (Kept::Other, Kept::Other),
                };
                self.stack.pop_marked();
                self.call(&callable, &arguments);
            }
            Token::Memoize => self.memo.memoize(self.stack.top()),
            Token::Put(index) => self.memo.put(index, self.stack.top()),
            Token::Get(index) => {
                let kept = self.memo.get(index);
                self.stack.push(kept);
            }
        }
    }

    fn string(&mut self, encoding: Encoding, size: u64) {
        self.encoding = encoding;
        self.text.clear();
        self.text_size = size;
        if encoding == Encoding::Bytes {
            self.reader.begin();
        }
    }

    fn piece(&mut self, piece: &[u8]) -> bool {
        if self.encoding == Encoding::Bytes {
            return self.reader.read(piece);
        }
        let wanted = self.text_size <= LONGEST_TEXT as u64 || self.is_latin();
        if wanted {
            self.text.extend_from_slice(piece);
        }
        wanted
    }

    fn string_end(&mut self, whole: bool) {
        if self.encoding == Encoding::Bytes {
            let facts = self.reader.finish(whole);
            self.stack.push(Kept::Bytes(Some(Rc::new(facts))));
            return;
        }
        if !whole {
            self.stack.push(Kept::Text(None));
            return;
        }
        let text = String::from_utf8_lossy(&self.text);
        if let Some(symbol) = Symbol::of(&text) {
            self.stack.push(Kept::Symbol(symbol));
            return;
        }
        let content = (text.len() <= LONGEST_TEXT).then(|| Rc::from(&*text));
        let facts = if self.is_latin() {
            latin(&self.text, self.encoding).map(|bytes| {
                self.reader.begin();
                let whole = self.reader.read(&bytes);
                Rc::new(self.reader.finish(whole))
            })
        } else {
            None
        };
        let known = content.is_some() || facts.is_some();
        self.stack
            .push(Kept::Text(known.then(|| Rc::new(Text { content, facts }))));
    }
}

fn global(module: &str, name: &str) -> Kept {
    Kept::Callable(match (module, name) {
        ("types", "CodeType") | ("builtins", "code") | (_, "_create_code") => Callable::CodeType,
        // cloudpickle's and dill's, which others carry along under their own names.
        (_, "_builtin_type" | "_load_type") => Callable::TypeByName,
        ("marshal", "loads") => Callable::Marshal,
        ("_codecs", "encode") => Callable::Encode,
        _ => return Kept::Other,
    })
}

fn tuple(items: &[Kept]) -> Kept {
    match items {
        [Kept::Symbol(Symbol::CodeType)] => return Kept::NamesCodeType,
        [Kept::Bytes(Some(facts))] if facts.first & 0x7f == b'c' => return Kept::Marshalled,
        [Kept::Text(text)] | [Kept::Text(text), _] => {
            return Kept::Names(items.len() as u64, text.clone());
        }
        _ => {}
    }
    let size = kept::count(items);
    // A run of values that are not kept apart has more items than a code object has arguments.
    if size == items.len() as u64
        && let Some(code) = Arguments::of(items)
    {
        return Kept::Arguments(Rc::new(code));
    }
    Kept::Tuple(size)
}

/// A text as the bytes that it stands for, if it can stand for bytes.
fn latin(text: &[u8], encoding: Encoding) -> Option<Vec<u8>> {
    if encoding == Encoding::Text {
        let text = std::str::from_utf8(text).ok()?;
        return text.chars().map(|char| u8::try_from(char).ok()).collect();
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((byte, behind)) = rest.split_first() {
        // `\u000a`; a backslash itself is written so, too.
        if let Some(digits) = behind.strip_prefix(b"u").and_then(|rest| rest.get(..4))
            && *byte == b'\\'
        {
            let digits = std::str::from_utf8(digits).ok()?;
            bytes.push(u8::try_from(u32::from_str_radix(digits, 16).ok()?).ok()?);
            rest = &behind[5..];
        } else {
            bytes.push(*byte);
            rest = behind;
        }
    }
    Some(bytes)
}
