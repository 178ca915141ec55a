//! File names and source lines of code that was sent by value, for frames that Python could not look up.
//!
//! After a deadly signal faulthandler prints names and numbers only, and cloudpickle 3.1.3 has taken the
//! file's name out of the code. The submit side's `_htmap_source.json` knows both (docs/error-record.md).
//! While Python lives, `failure.py` reads the same file, and knows the code object itself.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::failure::{Failure, Frame};
use crate::names;
use crate::regular;
use crate::scratch::Scratch;

/// The submit side writes no larger one.
const LARGEST: u64 = 1 << 20;

/// The number of the first line, and the texts of all.
type Run = (i64, Vec<String>);

#[derive(Debug, Default, Deserialize)]
struct Sources {
    /// Name, and runs of lines.
    files: Vec<(String, Vec<Run>)>,
    /// `first line:checksum:name` of a code object, and its file.
    codes: BTreeMap<String, usize>,
}

/// Names the files of frames that have none. Whatever is wrong with what was sent, they stay as they are.
pub(crate) fn fill(failure: &mut Failure, scratch: &Scratch) {
    if !failure.frames.iter().any(is_nameless) {
        return;
    }
    let sources: Sources = regular::read(&scratch.root().join(names::SOURCE_LINES), LARGEST)
        .ok()
        .and_then(|text| serde_json::from_slice(&text).ok())
        .unwrap_or_default();
    for frame in failure.frames.iter_mut().filter(|frame| is_nameless(frame)) {
        let Some((file, line)) = sources.find(&frame.name, frame.lineno) else {
            continue;
        };
        let printed = |file: &str| format!("\"{file}\", line {} in {}", frame.lineno, frame.name);
        failure.traceback = failure
            .traceback
            .replace(&printed(&frame.filename), &printed(file));
        line.trim().clone_into(&mut frame.line);
        file.clone_into(&mut frame.filename);
    }
}

fn is_nameless(frame: &Frame) -> bool {
    frame.line.is_empty() && frame.filename.starts_with('<')
}

impl Sources {
    /// The file and the line of a function at this line, unless it may be one of several.
    fn find(&self, name: &str, lineno: i64) -> Option<(&str, &str)> {
        let mut found: Vec<(i64, &str, &str)> = self
            .codes
            .iter()
            .filter_map(|(key, index)| {
                let mut fields = key.splitn(3, ':');
                let first: i64 = fields.next()?.parse().ok()?;
                let is_it = fields.nth(1)? == name && first <= lineno;
                let (file, runs) = is_it.then(|| self.files.get(*index))??;
                let line = runs.iter().find_map(|(start, lines)| {
                    lines.get(usize::try_from(lineno.checked_sub(*start)?).ok()?)
                })?;
                Some((first, file.as_str(), line.as_str()))
            })
            .collect();
        // Of functions with one name in one file, the last that begins before the line.
        found.sort_unstable();
        let (_, file, line) = *found.last()?;
        let only = found.iter().all(|(_, other, _)| *other == file);
        only.then_some((file, line))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::{Cause, Stage};

    const SENT: &str = r#"{"files": [["/a.py", [[3, ["def f():", "    crash()"]]]], ["/b.py", [[4, ["x"]]]]],
        "codes": {"3:0a:f": 0, "4:0b:g": 1, "3:0c:g": 0, "99:0d:h": 7}}"#;

    fn filled(name: &str, lineno: i64, sent: &str) -> (Frame, String) {
        let directory = tempfile::tempdir().unwrap();
        let scratch = Scratch::prepare(directory.path(), 0).unwrap();
        std::fs::write(directory.path().join(names::SOURCE_LINES), sent).unwrap();
        let mut failure = Failure::new(Stage::RunningFunction, Cause::Died, "died");
        failure.traceback = format!("  File \"<dynamic-code>\", line {lineno} in {name}\n");
        failure.frames.push(Frame {
            filename: "<dynamic-code>".to_owned(),
            lineno,
            name: name.to_owned(),
            ..Frame::default()
        });
        fill(&mut failure, &scratch);
        (failure.frames.remove(0), failure.traceback)
    }

    #[test]
    fn a_frame_gets_its_file_and_line() {
        let (frame, traceback) = filled("f", 4, SENT);
        assert_eq!(
            (frame.filename.as_str(), frame.line.as_str()),
            ("/a.py", "crash()")
        );
        assert_eq!(traceback, "  File \"/a.py\", line 4 in f\n");
    }

    #[test]
    fn what_is_not_certain_stays() {
        // Two files, no such line, an index to nowhere, nonsense.
        for (name, lineno, sent) in [
            ("g", 4, SENT),
            ("f", 5, SENT),
            ("f", i64::MIN, SENT),
            ("h", 99, SENT),
            ("f", 4, "nonsense"),
        ] {
            let (frame, _) = filled(name, lineno, sent);
            assert_eq!(frame.filename, "<dynamic-code>", "{name} {lineno} {sent}");
        }
    }
}
