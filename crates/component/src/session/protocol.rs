//! The protocol between the runner and its driver in Python: every message, in one table.
//!
//! A frame is one letter, 16 hexadecimal digits of length, and the payload. Fields of a payload are
//! separated by NUL. `docs/runner.md` tells the conversation as a story; a test holds the letters
//! in the driver's sources to [`TABLE`].

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use htmap_exec_interpreter::PythonVersion;
use serde::Deserialize;

use crate::failure::{Frame, Raised, Stage};

/// Letter and length.
pub(crate) const HEADER: usize = 17;
/// What a connection shows first.
pub(crate) const TOKEN: usize = 32;
/// No message but the data of a result is longer.
pub(crate) const LONGEST_MESSAGE: usize = 8 << 20;

/// Who says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Side {
    /// Python says it.
    Driver,
    /// The runner says it.
    Runner,
}

/// A message: its letter, who says it, and what is in it.
#[derive(Debug)]
pub(crate) struct Kind {
    /// The first byte of its frame.
    pub(crate) letter: u8,
    /// Who says it.
    pub(crate) side: Side,
    /// What it says.
    #[cfg_attr(
        not(test),
        expect(dead_code, reason = "for people, and docs/runner.md")
    )]
    pub(crate) meaning: &'static str,
}

const fn driver(letter: u8, meaning: &'static str) -> Kind {
    Kind {
        letter,
        side: Side::Driver,
        meaning,
    }
}

const fn runner(letter: u8, meaning: &'static str) -> Kind {
    Kind {
        letter,
        side: Side::Runner,
        meaning,
    }
}

/// Every message, in the order of a run. No letter means two things.
pub(crate) const TABLE: [Kind; 17] = [
    driver(
        b'H',
        "hello: minor version, full version, sys.executable, each entry of sys.path",
    ),
    runner(b'P', "a part of the driver: its name, its source"),
    runner(
        b'O',
        "options: component, scratch directory, cloudpickle sent along, whether to prefer it, whether to show the arguments",
    ),
    runner(b'B', "begin: all parts are there"),
    driver(b'S', "the stage that begins"),
    driver(b'K', "the cloudpickle that is used: version, file"),
    runner(b'C', "a chunk of an input's pickle"),
    runner(b'Z', "the end of an input"),
    driver(
        b'L',
        "loaded, and waiting for the go: texts of function, args, kwargs",
    ),
    runner(b'G', "go: call the function"),
    driver(
        b'R',
        "the function returned: its pickle follows; said again, it starts anew",
    ),
    driver(b'D', "data of the result's pickle, of any length"),
    driver(
        b'X',
        "an exception: stage, class, built-in classes that it is one of, missing module, errno, file; its description follows",
    ),
    driver(
        b'F',
        "the description, in JSON: message, traceback, frames, left_out",
    ),
    driver(b'V', "a local variable: index of the frame, name, text"),
    driver(b'N', "why the description is not complete"),
    driver(b'E', "the end of a result or of a description"),
];

/// What Python says of itself first.
#[derive(Debug, Clone, Default)]
pub(crate) struct Hello {
    /// Major and minor version, if it is a Python at all.
    pub version: Option<PythonVersion>,
    /// Such as `3.11.7`.
    pub full_version: String,
    /// `sys.executable`
    pub executable: String,
    /// `sys.path` without the scratch directory.
    pub sys_path: Vec<PathBuf>,
}

/// The function and its input, as texts.
#[derive(Debug, Clone, Default)]
pub(crate) struct Loaded {
    /// `repr` of the function.
    pub function: String,
    /// `repr` of the positional arguments.
    pub args: String,
    /// `repr` of the keyword arguments.
    pub kwargs: String,
}

/// The description of an exception, without local variables.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Described {
    /// The exception, its members and its causes.
    pub message: String,
    /// As Python prints it.
    pub traceback: String,
    /// File name, line number, function, source line; outermost first.
    pub frames: Vec<(String, i64, String, String)>,
    /// Frames that were too many.
    pub left_out: u64,
}

impl Described {
    /// The frames, without local variables.
    pub(crate) fn frames(&self) -> Vec<Frame> {
        self.frames
            .iter()
            .map(|(filename, lineno, name, line)| Frame {
                filename: filename.clone(),
                lineno: *lineno,
                name: name.clone(),
                line: line.clone(),
                locals: Vec::new(),
            })
            .collect()
    }
}

/// A message of the driver's; data is not among them, since it has no bound.
#[derive(Debug)]
pub(crate) enum Said {
    /// `H`
    Hello(Hello),
    /// `S`
    Stage(Stage),
    /// `K`
    Cloudpickle { version: String, file: String },
    /// `L`
    Loaded(Loaded),
    /// `R`
    Returned,
    /// `X`
    Raised(Stage, Raised),
    /// `F`
    Described(Described),
    /// `V`
    Variable(usize, String, String),
    /// `N`
    Note(String),
    /// `E`
    End,
}

impl Said {
    /// Reads one; `None` for what no driver says.
    pub(crate) fn parse(letter: u8, payload: &[u8]) -> Option<Self> {
        let mut fields = payload
            .split(|byte| *byte == 0)
            .map(|field| String::from_utf8_lossy(field).into_owned());
        Some(match letter {
            b'H' => {
                let version = fields.next()?.parse().ok();
                let (full_version, executable) = (fields.next()?, fields.next()?);
                let sys_path = payload
                    .split(|byte| *byte == 0)
                    .skip(3)
                    .map(|entry| PathBuf::from(OsStr::from_bytes(entry)))
                    .collect();
                Self::Hello(Hello {
                    version,
                    full_version,
                    executable,
                    sys_path,
                })
            }
            b'S' => Self::Stage(Stage::parse(&fields.next()?)?),
            b'K' => Self::Cloudpickle {
                version: fields.next()?,
                file: fields.next()?,
            },
            b'L' => Self::Loaded(Loaded {
                function: fields.next()?,
                args: fields.next()?,
                kwargs: fields.next()?,
            }),
            b'R' => Self::Returned,
            b'X' => {
                let stage = Stage::parse(&fields.next()?)?;
                let (class, lineage) = (fields.next()?, fields.next()?);
                let raised = Raised {
                    class,
                    lineage: lineage.split(' ').map(str::to_owned).collect(),
                    missing_module: fields.next()?,
                    errno: fields.next()?.parse().ok(),
                    filename: fields.next()?,
                };
                Self::Raised(stage, raised)
            }
            b'F' => Self::Described(serde_json::from_slice(payload).ok()?),
            b'V' => Self::Variable(fields.next()?.parse().ok()?, fields.next()?, fields.next()?),
            b'N' => Self::Note(fields.next()?),
            b'E' => Self::End,
            _ => return None,
        })
    }
}

/// A message of the runner's.
#[derive(Debug)]
pub(crate) enum Say<'a> {
    /// `P`
    Part { name: &'a str, source: &'a str },
    /// `O`
    Options(&'a DriverOptions),
    /// `B`
    Begin,
    /// `C`
    Chunk(&'a [u8]),
    /// `Z`
    InputEnd,
    /// `G`
    Go,
}

/// What the driver has to know.
#[derive(Debug, Clone, Default)]
pub(crate) struct DriverOptions {
    /// The component's number.
    pub component: u64,
    /// The scratch directory.
    pub scratch: PathBuf,
    /// The cloudpickle that came along, empty if none did.
    pub cloudpickle: PathBuf,
    /// It is used in place of the one that is installed.
    pub prefer_it: bool,
    /// Texts of the arguments are made.
    pub show_arguments: bool,
}

impl Say<'_> {
    /// Adds its frame.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Part { name, source } => {
                frame(b'P', &[name.as_bytes(), source.as_bytes()].join(&0), out);
            }
            Self::Options(options) => {
                let flag = |set: bool| if set { &b"1"[..] } else { b"" };
                let component = options.component.to_string();
                let fields = [
                    component.as_bytes(),
                    options.scratch.as_os_str().as_bytes(),
                    options.cloudpickle.as_os_str().as_bytes(),
                    flag(options.prefer_it),
                    flag(options.show_arguments),
                ];
                frame(b'O', &fields.join(&0), out);
            }
            Self::Begin => frame(b'B', &[], out),
            Self::Chunk(chunk) => frame(b'C', chunk, out),
            Self::InputEnd => frame(b'Z', &[], out),
            Self::Go => frame(b'G', &[], out),
        }
    }
}

fn frame(letter: u8, payload: &[u8], out: &mut Vec<u8>) {
    debug_assert!(is_of(letter, Side::Runner));
    out.push(letter);
    out.extend(format!("{:016x}", payload.len()).as_bytes());
    out.extend(payload);
}

/// Whether the table has this message of this side's.
pub(crate) fn is_of(letter: u8, side: Side) -> bool {
    TABLE
        .iter()
        .any(|kind| kind.letter == letter && kind.side == side)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::driver;

    /// The letters in a source, `b"X"`, and whether they are heard (compared, looked up) or said.
    fn letters(source: &str) -> BTreeSet<(u8, Side)> {
        let parts: Vec<&str> = source.split("b\"").collect();
        parts
            .windows(2)
            .filter_map(|pair| match pair[1].as_bytes() {
                [letter @ b'A'..=b'Z', b'"', ..] => {
                    let heard = ["== ", "!= ", "sources["];
                    let heard = heard.iter().any(|before| pair[0].ends_with(before));
                    Some((*letter, if heard { Side::Runner } else { Side::Driver }))
                }
                _ => None,
            })
            .collect()
    }

    #[test]
    fn the_driver_says_and_hears_what_the_table_has() {
        let mut used = letters(driver::BOOT);
        for (_, source) in driver::PARTS {
            used.extend(letters(source));
        }
        let text = |letters: BTreeSet<(u8, Side)>| {
            let text = |side| {
                let mine = letters.iter().filter(|(_, whose)| *whose == side);
                mine.map(|(letter, _)| char::from(*letter)).collect()
            };
            let (driver, runner): (String, String) = (text(Side::Driver), text(Side::Runner));
            format!("driver {driver}, runner {runner}")
        };
        let known = TABLE.iter().map(|kind| (kind.letter, kind.side)).collect();
        assert_eq!(text(used), text(known));
        let once: BTreeSet<u8> = TABLE.iter().map(|kind| kind.letter).collect();
        assert_eq!(once.len(), TABLE.len(), "a letter means two things");
    }

    #[test]
    fn every_message_of_the_driver_is_read() {
        for kind in TABLE.iter().filter(|kind| kind.side == Side::Driver) {
            let payload: &[u8] = match kind.letter {
                b'H' => b"3.11\x003.11.7\0/usr/bin/python3\0/usr/lib/python3",
                b'S' => b"loading the function",
                b'X' => b"running the function\0ImportError\0ImportError Exception\0numpy\0\0",
                b'F' => br#"{"message": "m", "traceback": "t", "frames": [], "left_out": 0}"#,
                b'V' => b"0\0name\0text",
                _ => b"one\0two\0three",
            };
            // Data has no bound, and is no message.
            let read = kind.letter == b'D' || Said::parse(kind.letter, payload).is_some();
            assert!(read, "{}", kind.meaning);
        }
    }

    #[test]
    fn every_message_of_the_runner_is_in_the_table() {
        let options = DriverOptions::default();
        let mut out = Vec::new();
        for say in [
            Say::Part {
                name: "boot",
                source: "pass",
            },
            Say::Options(&options),
            Say::Begin,
            Say::Chunk(b"x"),
            Say::InputEnd,
            Say::Go,
        ] {
            out.clear();
            say.write(&mut out);
            assert!(is_of(out[0], Side::Runner));
        }
    }
}
