//! The component's stdout around the function's own prints: the sections HTMap's users know.
//!
//! A stdout that nobody can write to any more is no reason to fail.

use std::io::{self, Write as _};

use crate::failure::{Failure, PythonFacts};
use crate::names;
use crate::node::{self, NodeFacts};
use crate::scratch::listing::on_one_line;
use crate::session::protocol::Loaded;

fn say(text: &str) {
    let mut stdout = io::stdout().lock();
    let _ = stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush());
}

/// First of all.
pub(crate) fn landed(node: &NodeFacts) {
    // Its user may be called anything: the variable USER says.
    say(&format!("{}\n\n", on_one_line(node.to_string())));
}

/// The scratch directory and the Python, before the run.
pub(crate) fn surroundings(tree: &str, python: Option<&PythonFacts>) {
    let mut text = format!("Scratch directory contents before run:\n{tree}\n");
    match python {
        Some(PythonFacts {
            executable,
            version,
            packages,
        }) => {
            text.push_str(&on_one_line(format!(
                "Python executable is {executable} (version {version})"
            )));
            text.push('\n');
            text.push_str("with installed packages\n");
            for line in packages {
                text.push_str(&format!("  {}\n", on_one_line(line)));
            }
        }
        None => text.push_str("Python executable information not available\n"),
    }
    text.push('\n');
    say(&text);
}

/// Right before the function.
pub(crate) fn running(component: u64, loaded: &Loaded) {
    let Loaded {
        function,
        args,
        kwargs,
    } = loaded;
    say(&format!(
        "Running component {component}\n  {function}\nwith args\n  {args}\nand kwargs\n  {kwargs}\n\n{}\n\n",
        names::OUTPUT_START
    ));
}

/// Right after the function returned.
pub(crate) fn returned() {
    say(&format!("\n{}\n\n", names::OUTPUT_END));
}

/// In its place if there is no result; the traceback also goes to stderr.
pub(crate) fn failed(failure: &Failure) {
    let headline = failure.message.lines().next().unwrap_or_default();
    let mut text = failure.traceback.trim_end().to_owned();
    if text.is_empty() {
        text.clone_from(&failure.message);
    } else if !text.contains(headline) {
        text.push_str("\n\n");
        text.push_str(headline);
    }
    for hint in &failure.hints {
        text.push_str(&format!("\nhint: {hint}"));
    }
    say(&format!(
        "\n{}\n\n{text}\n\n{}\n\n",
        names::ERROR_START,
        names::ERROR_END
    ));
    let _ = writeln!(io::stderr(), "{text}");
}

/// Last of all.
pub(crate) fn finished(tree: &str) {
    say(&format!(
        "Finished executing component at {}\n\nScratch directory contents after run:\n{tree}",
        node::python_time(node::now())
    ));
}
