//! Reads pickles without running them: how many there are, and the code objects they carry.
//!
//! Bytecode of another minor version gives silently wrong answers (`2*x` pickled on 3.13 returns
//! 21 for 21 on 3.11), so it has to be known before anything is unpickled. Only what leads to a
//! code object is kept while reading; large values are skipped.

use std::collections::HashMap;
use std::io::{self, Read};

const LONGEST_TEXT: usize = 64;
const LONGEST_CODE: u64 = 64 << 10;
const LONGEST_TUPLE: usize = 32;
const LONGEST_MEMO: usize = 256;
const MOST_MEMOS: usize = 1 << 17;

/// A code object as cloudpickle stores it: the arguments of `types.CodeType`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CodeObject {
    /// 15 arguments up to Python 3.7, 16 up to 3.10, 18 from 3.11 on.
    pub arguments: usize,
    /// `co_code`, empty where it is too long to keep.
    pub code: Vec<u8>,
    /// `len(co_consts)`, if known.
    pub consts: Option<usize>,
    /// `co_lnotab` or `co_linetable`
    pub lines: Vec<u8>,
    /// `co_name`
    pub name: String,
}

#[derive(Debug, Clone, PartialEq)]
enum Kept {
    Mark,
    Other,
    Text(String),
    Bytes(Vec<u8>),
    Tuple(Vec<Self>),
    /// A tuple that is too long or deep to keep.
    LongTuple(usize),
    Global(String),
    CodeType,
}

/// The code objects of one pickle.
pub(crate) fn code_objects(pickle: impl Read) -> io::Result<Vec<CodeObject>> {
    let mut machine = Machine::new(pickle);
    machine.run()?;
    Ok(machine.found)
}

/// How many whole pickles there are, to the end of the input.
pub(crate) fn count_pickles(input: impl Read) -> io::Result<usize> {
    let mut machine = Machine::new(io::BufReader::with_capacity(1 << 16, input));
    let mut count = 0;
    loop {
        machine.stack.clear();
        machine.memo.clear();
        machine.memo_next = 0;
        if !machine.run()? {
            return Ok(count);
        }
        count += 1;
    }
}

struct Machine<R> {
    input: R,
    stack: Vec<Kept>,
    memo: HashMap<u64, Kept>,
    memo_next: u64,
    found: Vec<CodeObject>,
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

impl<R: Read> Machine<R> {
    fn new(input: R) -> Self {
        Self {
            input,
            stack: Vec::new(),
            memo: HashMap::new(),
            memo_next: 0,
            found: Vec::new(),
        }
    }

    /// Reads one pickle; false at the end of the input.
    fn run(&mut self) -> io::Result<bool> {
        let mut first = true;
        loop {
            let mut opcode = [0];
            match self.input.read(&mut opcode)? {
                0 if first => return Ok(false),
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                _ => first = false,
            }
            if opcode[0] == b'.' {
                return Ok(true);
            }
            self.step(opcode[0])?;
        }
    }

    fn step(&mut self, opcode: u8) -> io::Result<()> {
        match opcode {
            // PROTO, FRAME: no effect.
            0x80 => self.skip(1)?,
            0x95 => self.skip(8)?,
            b'(' => self.stack.push(Kept::Mark),
            b'0' => drop(self.pop()),
            b'1' => drop(self.pop_mark()),
            b'2' => {
                let top = self.stack.last().cloned().unwrap_or(Kept::Other);
                self.stack.push(top);
            }
            // None, booleans, empty containers, NEXT_BUFFER.
            b'N' | 0x88 | 0x89 | b'}' | b']' | 0x8f | 0x97 => self.stack.push(Kept::Other),
            b')' => self.stack.push(Kept::Tuple(Vec::new())),
            // Numbers.
            b'I' | b'L' | b'F' => {
                self.line()?;
                self.stack.push(Kept::Other);
            }
            b'J' => self.skipped(4)?,
            b'K' => self.skipped(1)?,
            b'M' => self.skipped(2)?,
            b'G' => self.skipped(8)?,
            0x8a => {
                let size = self.number(1)?;
                self.skipped(size)?;
            }
            0x8b => {
                let size = self.number(4)?;
                self.skipped(size)?;
            }
            // Texts.
            b'X' => self.text(4)?,
            0x8c => self.text(1)?,
            0x8d => self.text(8)?,
            b'S' | b'V' => {
                let line = self.line()?;
                self.stack.push(Kept::Text(line));
            }
            // Bytes: SHORT_BINBYTES, BINBYTES, BINBYTES8, BINSTRING, SHORT_BINSTRING, BYTEARRAY8.
            b'C' | b'U' => self.bytes(1)?,
            b'B' | b'T' => self.bytes(4)?,
            0x8e | 0x96 => self.bytes(8)?,
            // Tuples.
            0x85 => self.tuple(1),
            0x86 => self.tuple(2),
            0x87 => self.tuple(3),
            b't' => {
                let items = self.pop_mark();
                self.push_tuple(items);
            }
            // What takes items off the stack and leaves a container.
            b'l' | b'd' | 0x91 => {
                self.pop_mark();
                self.stack.push(Kept::Other);
            }
            b'a' => drop(self.pop()),
            b's' => {
                self.pop();
                self.pop();
            }
            b'e' | b'u' | 0x90 => drop(self.pop_mark()),
            // Globals.
            b'c' => {
                let module = self.line()?;
                let name = self.line()?;
                self.push_global(&module, &name);
            }
            0x93 => {
                let name = self.pop();
                let module = self.pop();
                match (module, name) {
                    (Kept::Text(module), Kept::Text(name)) => self.push_global(&module, &name),
                    _ => self.stack.push(Kept::Other),
                }
            }
            b'R' => self.reduce(),
            0x81 => {
                self.pop();
                self.pop();
                self.stack.push(Kept::Other);
            }
            0x92 => {
                self.pop();
                self.pop();
                self.pop();
                self.stack.push(Kept::Other);
            }
            b'b' => drop(self.pop()),
            b'i' => {
                self.line()?;
                self.line()?;
                self.pop_mark();
                self.stack.push(Kept::Other);
            }
            b'o' => {
                self.pop_mark();
                self.stack.push(Kept::Other);
            }
            0x98 => {}
            // Persistent and extension objects.
            b'P' => {
                self.line()?;
                self.stack.push(Kept::Other);
            }
            b'Q' => {
                self.pop();
                self.stack.push(Kept::Other);
            }
            0x82 => self.skipped(1)?,
            0x83 => self.skipped(2)?,
            0x84 => self.skipped(4)?,
            // Memo.
            0x94 => {
                self.memoize(self.memo_next);
            }
            b'q' => {
                let index = self.number(1)?;
                self.memoize(index);
            }
            b'r' => {
                let index = self.number(4)?;
                self.memoize(index);
            }
            b'p' => {
                let index = self
                    .line()?
                    .parse()
                    .map_err(|_| invalid("PUT without a number"))?;
                self.memoize(index);
            }
            b'h' => {
                let index = self.number(1)?;
                self.recall(index);
            }
            b'j' => {
                let index = self.number(4)?;
                self.recall(index);
            }
            b'g' => {
                let index = self
                    .line()?
                    .parse()
                    .map_err(|_| invalid("GET without a number"))?;
                self.recall(index);
            }
            _ => return Err(invalid("no pickle opcode")),
        }
        Ok(())
    }

    fn pop(&mut self) -> Kept {
        self.stack.pop().unwrap_or(Kept::Other)
    }

    fn pop_mark(&mut self) -> Vec<Kept> {
        let mark = self
            .stack
            .iter()
            .rposition(|kept| *kept == Kept::Mark)
            .unwrap_or(0);
        let items = self.stack.split_off(mark);
        items
            .into_iter()
            .filter(|kept| *kept != Kept::Mark)
            .collect()
    }

    fn number(&mut self, size: usize) -> io::Result<u64> {
        let mut bytes = [0; 8];
        self.input.read_exact(&mut bytes[..size])?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = Vec::new();
        let mut byte = [0];
        loop {
            self.input.read_exact(&mut byte)?;
            if byte[0] == b'\n' {
                return Ok(String::from_utf8_lossy(&line).into_owned());
            }
            if line.len() < 1 << 20 {
                line.push(byte[0]);
            }
        }
    }

    fn skip(&mut self, size: u64) -> io::Result<()> {
        let skipped = io::copy(&mut self.input.by_ref().take(size), &mut io::sink())?;
        if skipped < size {
            Err(io::ErrorKind::UnexpectedEof.into())
        } else {
            Ok(())
        }
    }

    fn skipped(&mut self, size: u64) -> io::Result<()> {
        self.stack.push(Kept::Other);
        self.skip(size)
    }

    fn text(&mut self, width: usize) -> io::Result<()> {
        let size = self.number(width)?;
        if size > LONGEST_TEXT as u64 {
            return self.skipped(size);
        }
        let mut bytes = Vec::new();
        self.input.by_ref().take(size).read_to_end(&mut bytes)?;
        self.stack
            .push(Kept::Text(String::from_utf8_lossy(&bytes).into_owned()));
        Ok(())
    }

    fn bytes(&mut self, width: usize) -> io::Result<()> {
        let size = self.number(width)?;
        if size > LONGEST_CODE {
            return self.skipped(size);
        }
        let mut bytes = Vec::new();
        self.input.by_ref().take(size).read_to_end(&mut bytes)?;
        if (bytes.len() as u64) < size {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.stack.push(Kept::Bytes(bytes));
        Ok(())
    }

    fn tuple(&mut self, size: usize) {
        let items = self.stack.split_off(self.stack.len().saturating_sub(size));
        self.push_tuple(items);
    }

    fn push_tuple(&mut self, items: Vec<Kept>) {
        let keep = items.len() <= LONGEST_TUPLE;
        self.stack.push(if keep {
            Kept::Tuple(items)
        } else {
            Kept::LongTuple(items.len())
        });
    }

    fn push_global(&mut self, module: &str, name: &str) {
        let code_type = matches!((module, name), ("types", "CodeType") | ("builtins", "code"));
        self.stack.push(if code_type {
            Kept::CodeType
        } else {
            Kept::Global(name.to_owned())
        });
    }

    fn memoize(&mut self, index: u64) {
        self.memo_next = self.memo_next.max(index) + 1;
        let recalled = match self.stack.last() {
            Some(Kept::Bytes(bytes)) => bytes.len() <= LONGEST_MEMO,
            Some(Kept::Text(_) | Kept::Global(_) | Kept::CodeType) => true,
            _ => false,
        };
        if recalled && self.memo.len() < MOST_MEMOS {
            self.memo
                .extend(self.stack.last().map(|kept| (index, kept.clone())));
        }
    }

    fn recall(&mut self, index: u64) {
        self.stack
            .push(self.memo.get(&index).cloned().unwrap_or(Kept::Other));
    }

    fn reduce(&mut self) {
        let arguments = self.pop();
        let callable = self.pop();
        let result = match (&callable, &arguments) {
            // cloudpickle's name for classes that have none of their own.
            (Kept::Global(name), Kept::Tuple(names))
                if name == "_builtin_type" && *names == [Kept::Text("CodeType".to_owned())] =>
            {
                Kept::CodeType
            }
            _ => Kept::Other,
        };
        if let (Kept::CodeType, Kept::Tuple(arguments)) = (callable, arguments)
            && let Some(code) = code_object(&arguments)
        {
            self.found.push(code);
        }
        self.stack.push(result);
    }
}

fn code_object(arguments: &[Kept]) -> Option<CodeObject> {
    let first = usize::from(arguments.len() > 15);
    let (lines, name) = match arguments.len() {
        15 => (12, 10),
        16 => (13, 11),
        18 => (14, 11),
        _ => return None,
    };
    let bytes = |index: usize| match arguments.get(index) {
        Some(Kept::Bytes(bytes)) => bytes.clone(),
        _ => Vec::new(),
    };
    let code = 5 + first;
    Some(CodeObject {
        arguments: arguments.len(),
        code: bytes(code),
        consts: match arguments.get(code + 1) {
            Some(Kept::Tuple(consts)) => Some(consts.len()),
            Some(Kept::LongTuple(size)) => Some(*size),
            _ => None,
        },
        lines: bytes(lines),
        name: match arguments.get(name) {
            Some(Kept::Text(name)) => name.clone(),
            _ => "?".to_owned(),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `cloudpickle.dumps(lambda x: x)` of cloudpickle 3 on 3.11 begins like this; protocol 2 here.
    fn code(arguments: &[&[u8]]) -> Vec<u8> {
        let mut pickle =
            b"\x80\x02ccloudpickle.cloudpickle\n_builtin_type\nX\x08\0\0\0CodeType\x85q\0Rq\x01("
                .to_vec();
        for argument in arguments {
            pickle.extend_from_slice(argument);
        }
        pickle.extend_from_slice(b"tR.");
        pickle
    }

    #[test]
    fn finds_code_by_value() {
        let number: &[u8] = b"K\x01";
        let mut arguments = vec![number; 18];
        arguments[6] = b"C\x02\x97\0";
        arguments[7] = b"NK\x02\x86";
        arguments[11] = b"X\x01\0\0\0f";
        arguments[14] = b"C\x01\x80";
        let found = code_objects(&code(&arguments)[..]).unwrap();
        assert_eq!(
            found,
            [CodeObject {
                arguments: 18,
                code: b"\x97\0".to_vec(),
                consts: Some(2),
                lines: b"\x80".to_vec(),
                name: "f".to_owned()
            }]
        );
    }

    #[test]
    fn finds_none_in_data_and_references() {
        for pickle in [
            &b"\x80\x04\x95\x15\0\0\0\0\0\0\0\x8c\x04math\x94\x8c\x04sqrt\x94\x93\x94."[..],
            b"cmath\nsqrt\np0\n.",
            b"\x80\x02]q\0(K\x01X\x08\0\0\0CodeTypeq\x01e.",
        ] {
            assert!(code_objects(pickle).unwrap().is_empty());
        }
    }

    #[test]
    fn counts_whole_pickles_only() {
        assert_eq!(
            count_pickles(&b"\x80\x02X\x02\0\0\0OK.\x80\x02N."[..]).unwrap(),
            2
        );
        assert!(count_pickles(&b"\x80\x02X\x02\0\0\0OK.\x80\x02]"[..]).is_err());
        assert!(count_pickles(&b"\x80\x02X\x02\0\0\0O"[..]).is_err());
        assert!(count_pickles(&b"nonsense"[..]).is_err());
    }

    #[test]
    fn survives_anything() {
        let mut state = 7_u32;
        for _ in 0..20_000 {
            let bytes: Vec<u8> = std::iter::repeat_with(|| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 24) as u8
            })
            .take(64)
            .collect();
            let _ = code_objects(&bytes[..]);
        }
    }
}
