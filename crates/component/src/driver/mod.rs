//! The driver: the Python program that calls the function, and the messages it sends.
//!
//! Its sources are embedded here and go over the channel, so that no file of ours lies where a
//! user's module could be found, or find it.

pub(crate) mod workers;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use htmap_exec_interpreter::PythonVersion;
use serde::Deserialize;

use crate::failure::{Frame, Stage};
use crate::session::channel::Connection;

/// Given to Python with `-c`.
pub(crate) const BOOT: &str = include_str!("boot.py");

/// The variable that names the channel; the driver removes it before anything else runs.
pub(crate) const ENV_CHANNEL: &str = "HTMAP_EXEC_CHANNEL";

const HTMAP: &str = include_str!("htmap.py");

const SOURCES: [(u8, &str); 4] = [
    (b'P', include_str!("driver.py")),
    (b'Y', include_str!("display.py")),
    (b'F', include_str!("failure.py")),
    (b'M', HTMAP),
];

/// What Python says of itself first.
#[derive(Debug, Clone)]
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

/// A message of the driver.
#[derive(Debug)]
pub(crate) enum Message {
    /// Python has started.
    Hello(Hello),
    /// What it does next.
    Stage(Stage),
    /// The function and its input are there; it waits for the go.
    Loaded(Loaded),
    /// The function returned: the pickle of the result follows as data.
    Returned,
    /// Something was raised: stage, class and missing module.
    Raised {
        stage: Stage,
        kind: String,
        missing_module: String,
    },
    /// More about it.
    Described(Described),
    /// A local variable: frame, name, text.
    Local(usize, String, String),
    /// A note on why the description is not complete.
    Note(String),
    /// The end of a result or of a description.
    End,
}

impl Message {
    /// Reads one; `None` for what no driver sends.
    pub(crate) fn parse(kind: u8, payload: &[u8]) -> Option<Self> {
        let mut fields = payload
            .split(|byte| *byte == 0)
            .map(|field| String::from_utf8_lossy(field).into_owned());
        Some(match kind {
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
            b'L' => Self::Loaded(Loaded {
                function: fields.next()?,
                args: fields.next()?,
                kwargs: fields.next()?,
            }),
            b'R' => Self::Returned,
            b'X' => Self::Raised {
                stage: Stage::parse(&fields.next()?)?,
                kind: fields.next()?,
                missing_module: fields.next()?,
            },
            b'F' => Self::Described(serde_json::from_slice(payload).ok()?),
            b'V' => Self::Local(fields.next()?.parse().ok()?, fields.next()?, fields.next()?),
            b'N' => Self::Note(fields.next()?),
            b'E' => Self::End,
            _ => return None,
        })
    }
}

/// Queues the driver's sources and options, and the go that ends the boot.
pub(crate) fn queue_program(
    connection: &mut Connection,
    component: u64,
    scratch: &[u8],
    cloudpickle: &[u8],
    show_arguments: bool,
) {
    for (kind, source) in SOURCES {
        connection.queue(kind, source.as_bytes());
    }
    let component = component.to_string();
    connection.queue(
        b'O',
        &[
            component.as_bytes(),
            scratch,
            cloudpickle,
            if show_arguments { b"1" } else { b"" },
        ]
        .join(&0),
    );
    connection.queue(b'G', &[]);
}
