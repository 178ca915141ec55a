//! Reads pickles without running them, in flat memory: a visitor is told what each opcode does to
//! the unpickler's stack and memo.
//!
//! A damaged pickle is an error; what is read of it until then has been told.

use std::io::{self, BufRead, BufReader, Read};

const BUFFER: usize = 1 << 16;
/// Of a line (names, numbers and texts of protocol 0) no more is kept.
const LONGEST_LINE: usize = 1 << 20;

/// What an opcode does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Token<'a> {
    /// Nothing that matters here.
    Nothing,
    /// Says the protocol.
    Protocol(u8),
    /// Pushes a mark.
    Mark,
    /// Pushes an integer.
    Int(i64),
    /// Pushes something else.
    Other,
    /// Takes this many items and pushes nothing, or an object if `push` says so.
    Take { items: usize, push: bool },
    /// Takes everything down to the last mark and the mark, then the same.
    TakeMarked { push: bool },
    /// Pushes the top once more.
    Duplicate,
    /// Pushes a tuple of this many items, taken from the stack.
    Tuple(usize),
    /// Pushes a tuple of what lies above the last mark.
    MarkedTuple,
    /// Pushes a module's attribute.
    Global { module: &'a str, name: &'a str },
    /// The same, with module and name taken from the stack.
    StackGlobal,
    /// Calls what lies below the arguments tuple.
    Call,
    /// The same, with a dictionary of keyword arguments above the tuple.
    CallWithKeywords,
    /// Calls a module's attribute with what lies above the last mark.
    CallGlobal { module: &'a str, name: &'a str },
    /// Calls what lies right above the last mark with the rest.
    CallMarked,
    /// Stores the top under the next number.
    Memoize,
    /// Stores the top under a number.
    Put(u64),
    /// Pushes what is stored under a number.
    Get(u64),
}

/// How the bytes of a string stand in the pickle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encoding {
    /// As they are.
    Bytes,
    /// Text in UTF-8.
    Text,
    /// Text of protocol 0: Latin-1 with escapes.
    Escaped,
}

/// Who wants to know what is in a pickle.
pub(crate) trait Visitor {
    /// An opcode that is no string's.
    fn token(&mut self, token: Token<'_>);
    /// A string begins that is this long in the pickle.
    fn string(&mut self, encoding: Encoding, size: u64);
    /// Its next bytes; false where the rest does not matter.
    fn piece(&mut self, piece: &[u8]) -> bool;
    /// The string has ended, and is pushed. `whole` is false where only a part of it was told.
    fn string_end(&mut self, whole: bool);
}

/// Reads one pickle.
pub(crate) fn read(pickle: impl Read, visitor: &mut impl Visitor) -> io::Result<()> {
    let mut scanner = Scanner {
        input: BufReader::with_capacity(BUFFER, pickle),
        visitor,
    };
    scanner.run().map(|_| ())
}

/// How many whole pickles there are, to the end of the input.
pub(crate) fn count_pickles(input: impl Read) -> io::Result<usize> {
    struct Nobody;
    impl Visitor for Nobody {
        fn token(&mut self, _: Token<'_>) {}
        fn string(&mut self, _: Encoding, _: u64) {}
        fn piece(&mut self, _: &[u8]) -> bool {
            false
        }
        fn string_end(&mut self, _: bool) {}
    }
    let mut scanner = Scanner {
        input: BufReader::with_capacity(BUFFER, input),
        visitor: &mut Nobody,
    };
    let mut count = 0;
    while scanner.run()? {
        count += 1;
    }
    Ok(count)
}

struct Scanner<'a, R, V> {
    input: R,
    visitor: &'a mut V,
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

impl<R: BufRead, V: Visitor> Scanner<'_, R, V> {
    /// Reads one pickle; false at the end of the input.
    fn run(&mut self) -> io::Result<bool> {
        if self.input.fill_buf()?.is_empty() {
            return Ok(false);
        }
        loop {
            let opcode = self.byte()?;
            if opcode == b'.' {
                return Ok(true);
            }
            self.step(opcode)?;
        }
    }

    fn step(&mut self, opcode: u8) -> io::Result<()> {
        let token = match opcode {
            0x80 => Token::Protocol(self.byte()?),
            // FRAME
            0x95 => self.skipped(8, Token::Nothing)?,
            // READONLY_BUFFER
            0x98 => Token::Nothing,
            b'(' => Token::Mark,
            b'0' => take(1, false),
            b'1' => Token::TakeMarked { push: false },
            b'2' => Token::Duplicate,
            // None, booleans, empty containers, NEXT_BUFFER.
            b'N' | 0x88 | 0x89 | b'}' | b']' | 0x8f | 0x97 => Token::Other,
            b')' => Token::Tuple(0),
            // Numbers.
            b'I' | b'L' => {
                let (line, _) = self.line()?;
                let digits = line.strip_suffix('L').unwrap_or(&line);
                // `I01` is True.
                match digits.parse() {
                    Ok(number) if !matches!(digits, "00" | "01") => Token::Int(number),
                    _ => Token::Other,
                }
            }
            b'F' => {
                self.line()?;
                Token::Other
            }
            b'J' => {
                let mut bytes = [0; 4];
                self.input.read_exact(&mut bytes)?;
                Token::Int(i64::from(i32::from_le_bytes(bytes)))
            }
            b'K' => Token::Int(i64::from(self.byte()?)),
            b'M' => Token::Int(self.number(2)?.cast_signed()),
            b'G' => self.skipped(8, Token::Other)?,
            0x8a => {
                let size = self.number(1)?;
                self.skipped(size, Token::Other)?
            }
            0x8b => {
                let size = self.number(4)?;
                self.skipped(size, Token::Other)?
            }
            // Texts.
            b'X' => return self.string(4, Encoding::Text),
            0x8c => return self.string(1, Encoding::Text),
            0x8d => return self.string(8, Encoding::Text),
            b'S' | b'V' => return self.string_line(),
            // SHORT_BINBYTES, BINBYTES, BINBYTES8, BINSTRING, SHORT_BINSTRING, BYTEARRAY8.
            b'C' | b'U' => return self.string(1, Encoding::Bytes),
            b'B' | b'T' => return self.string(4, Encoding::Bytes),
            0x8e | 0x96 => return self.string(8, Encoding::Bytes),
            0x85 => Token::Tuple(1),
            0x86 => Token::Tuple(2),
            0x87 => Token::Tuple(3),
            b't' => Token::MarkedTuple,
            // LIST, DICT, FROZENSET.
            b'l' | b'd' | 0x91 => Token::TakeMarked { push: true },
            // APPEND, SETITEM, APPENDS, SETITEMS, ADDITEMS, BUILD.
            b'a' | b'b' => take(1, false),
            b's' => take(2, false),
            b'e' | b'u' | 0x90 => Token::TakeMarked { push: false },
            b'c' | b'i' => {
                let (module, _) = self.line()?;
                let (name, _) = self.line()?;
                let (module, name) = (module.as_str(), name.as_str());
                self.visitor.token(if opcode == b'c' {
                    Token::Global { module, name }
                } else {
                    Token::CallGlobal { module, name }
                });
                return Ok(());
            }
            0x93 => Token::StackGlobal,
            // REDUCE, NEWOBJ.
            b'R' | 0x81 => Token::Call,
            0x92 => Token::CallWithKeywords,
            b'o' => Token::CallMarked,
            // Persistent and extension objects.
            b'P' => {
                self.line()?;
                Token::Other
            }
            b'Q' => take(1, true),
            0x82 => self.skipped(1, Token::Other)?,
            0x83 => self.skipped(2, Token::Other)?,
            0x84 => self.skipped(4, Token::Other)?,
            // Memo.
            0x94 => Token::Memoize,
            b'q' => Token::Put(self.number(1)?),
            b'r' => Token::Put(self.number(4)?),
            b'p' => Token::Put(self.number_line()?),
            b'h' => Token::Get(self.number(1)?),
            b'j' => Token::Get(self.number(4)?),
            b'g' => Token::Get(self.number_line()?),
            _ => return Err(invalid("no pickle opcode")),
        };
        self.visitor.token(token);
        Ok(())
    }

    fn byte(&mut self) -> io::Result<u8> {
        let mut byte = [0];
        self.input.read_exact(&mut byte)?;
        Ok(byte[0])
    }

    fn number(&mut self, size: usize) -> io::Result<u64> {
        let mut bytes = [0; 8];
        self.input.read_exact(&mut bytes[..size])?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// A line without its end, and whether that is all of it.
    fn line_bytes(&mut self) -> io::Result<(Vec<u8>, bool)> {
        let mut line = Vec::new();
        let mut whole = true;
        loop {
            let buffer = self.input.fill_buf()?;
            if buffer.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let end = buffer.iter().position(|byte| *byte == b'\n');
            let content = &buffer[..end.unwrap_or(buffer.len())];
            let room = LONGEST_LINE - line.len();
            whole &= content.len() <= room;
            line.extend_from_slice(&content[..content.len().min(room)]);
            let used = content.len() + usize::from(end.is_some());
            self.input.consume(used);
            if end.is_some() {
                return Ok((line, whole));
            }
        }
    }

    fn line(&mut self) -> io::Result<(String, bool)> {
        let (line, whole) = self.line_bytes()?;
        Ok((String::from_utf8_lossy(&line).into_owned(), whole))
    }

    fn number_line(&mut self) -> io::Result<u64> {
        let (line, _) = self.line()?;
        line.parse()
            .map_err(|_| invalid("a place in the memo that is no number"))
    }

    fn skipped<'a>(&mut self, size: u64, token: Token<'a>) -> io::Result<Token<'a>> {
        self.pieces(size, |_, _| false)?;
        Ok(token)
    }

    fn string(&mut self, width: usize, encoding: Encoding) -> io::Result<()> {
        let size = self.number(width)?;
        self.visitor.string(encoding, size);
        let whole = self.pieces(size, Visitor::piece)?;
        self.visitor.string_end(whole);
        Ok(())
    }

    fn string_line(&mut self) -> io::Result<()> {
        let (line, whole) = self.line_bytes()?;
        self.visitor.string(Encoding::Escaped, line.len() as u64);
        let whole = whole && self.visitor.piece(&line);
        self.visitor.string_end(whole);
        Ok(())
    }

    /// Shows the next `size` bytes until nobody wants more; whether all of them were wanted.
    fn pieces(
        &mut self,
        size: u64,
        mut show: impl FnMut(&mut V, &[u8]) -> bool,
    ) -> io::Result<bool> {
        let mut left = size;
        let mut wanted = true;
        while left > 0 {
            let buffer = self.input.fill_buf()?;
            if buffer.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let length = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
            wanted = wanted && show(self.visitor, &buffer[..length]);
            self.input.consume(length);
            left -= length as u64;
        }
        Ok(wanted)
    }
}

const fn take(items: usize, push: bool) -> Token<'static> {
    Token::Take { items, push }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_whole_pickles_only() {
        assert_eq!(
            count_pickles(&b"\x80\x02X\x02\0\0\0OK.\x80\x02N."[..]).unwrap(),
            2
        );
        assert!(count_pickles(&b"\x80\x02X\x02\0\0\0OK.\x80\x02]"[..]).is_err());
        assert!(count_pickles(&b"\x80\x02X\x02\0\0\0O"[..]).is_err());
        assert!(count_pickles(&b"nonsense"[..]).is_err());
        assert_eq!(count_pickles(&b""[..]).unwrap(), 0);
    }
}
