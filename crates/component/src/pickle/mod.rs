//! Writes pickles: protocol 2, which every Python 3 reads, and only names of the standard library.
//!
//! Opcodes: <https://github.com/python/cpython/blob/main/Lib/pickletools.py>

pub(crate) mod scanner;

/// A value to be pickled.
#[derive(Debug, Clone)]
pub(crate) enum Value {
    /// `None`
    None,
    /// `True` or `False`
    Bool(bool),
    /// `int`
    Int(i64),
    /// `str`
    Str(String),
    /// `tuple`
    Tuple(Vec<Self>),
    /// `list`
    List(Vec<Self>),
    /// `dict`
    Dict(Vec<(Self, Self)>),
    /// A module's attribute.
    Global(&'static str, &'static str),
    /// What a callable returns for positional arguments.
    Call(Box<Self>, Vec<Self>),
    /// An object whose state is set, as `object.__setstate__` does.
    State(Box<Self>, Box<Self>),
    /// A list object (first) that is extended by items.
    Extended(Box<Self>, Vec<Self>),
}

impl Value {
    /// A string value.
    pub(crate) fn str(text: impl Into<String>) -> Self {
        Self::Str(text.into())
    }

    /// The value or `None`.
    pub(crate) fn or_none<T>(value: Option<T>, make: impl FnOnce(T) -> Self) -> Self {
        value.map_or(Self::None, make)
    }
}

/// The bytes of one pickle.
pub(crate) fn dumps(value: &Value) -> Vec<u8> {
    let mut out = vec![0x80, 2];
    write(&mut out, value);
    out.push(b'.');
    out
}

fn write(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::None => out.push(b'N'),
        Value::Bool(true) => out.push(0x88),
        Value::Bool(false) => out.push(0x89),
        Value::Int(number) => match i32::try_from(*number) {
            Ok(small) => {
                out.push(b'J');
                out.extend(small.to_le_bytes());
            }
            Err(_) => {
                out.extend([0x8a, 8]);
                out.extend(number.to_le_bytes());
            }
        },
        Value::Str(text) => {
            let size = u32::try_from(text.len()).expect("texts in a record are bounded");
            out.push(b'X');
            out.extend(size.to_le_bytes());
            out.extend(text.as_bytes());
        }
        Value::Tuple(items) => {
            out.push(b'(');
            write_all(out, items);
            out.push(b't');
        }
        Value::List(items) => {
            out.push(b']');
            append(out, items);
        }
        Value::Dict(items) => {
            out.extend(*b"}(");
            for (key, value) in items {
                write(out, key);
                write(out, value);
            }
            out.push(b'u');
        }
        Value::Global(module, name) => {
            out.extend(format!("c{module}\n{name}\n").as_bytes());
        }
        Value::Call(callable, arguments) => {
            write(out, callable);
            write(out, &Value::Tuple(arguments.clone()));
            out.push(b'R');
        }
        Value::State(object, state) => {
            write(out, object);
            write(out, state);
            out.push(b'b');
        }
        Value::Extended(object, items) => {
            write(out, object);
            append(out, items);
        }
    }
}

fn append(out: &mut Vec<u8>, items: &[Value]) {
    out.push(b'(');
    write_all(out, items);
    out.push(b'e');
}

fn write_all(out: &mut Vec<u8>, items: &[Value]) {
    for item in items {
        write(out, item);
    }
}
