//! What became of a run, for people: whatever many components have in common is said once.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::component::{Came, Done};
use super::map::Map;
use crate::cli::Rerun;

/// Of different failures, and of ranges of components.
const MOST_LINES: usize = 20;
const MOST_RANGES: usize = 8;

#[derive(Default)]
pub(super) struct Summary {
    pub(super) results: u64,
    pub(super) failed: u64,
    /// What is said, with those of whom it is said.
    said: BTreeMap<String, Vec<u64>>,
    notes: BTreeMap<String, Vec<u64>>,
    left: BTreeMap<u64, (usize, PathBuf)>,
    /// Errors of those that missed a file.
    not_found: BTreeMap<u64, String>,
}

impl Summary {
    pub(super) fn add(&mut self, component: u64, done: Done) {
        let said = match done.came {
            Came::Result => {
                self.results += 1;
                None
            }
            Came::Stopped => return,
            Came::Error(error, class) => {
                if class == "FileNotFoundError" {
                    self.not_found.insert(component, error.clone());
                }
                Some(format!("failed: {error}"))
            }
            Came::Nothing(why) => Some(format!("has no output: {why}")),
        };
        if let Some(said) = said {
            self.failed += 1;
            self.said.entry(said).or_default().push(component);
        }
        for note in done.notes {
            self.notes.entry(note).or_default().push(component);
        }
        if let Some(left) = done.left {
            self.left.insert(component, left);
        }
    }

    pub(super) fn print(
        &self,
        map: &Map,
        kept: u64,
        rerun: Rerun,
        out: &mut impl Write,
    ) -> io::Result<()> {
        let results = match rerun {
            // Error records are among those that are kept.
            Rerun::Missing => self.results,
            _ => self.results + kept,
        };
        write!(
            out,
            "{results} of {} components have a result",
            map.components
        )?;
        match rerun {
            _ if kept == 0 => writeln!(out)?,
            Rerun::Missing => writeln!(
                out,
                ", and {kept} had an output already (--rerun failed runs those without a result)"
            )?,
            _ => writeln!(
                out,
                ": {kept} had one already (--rerun all runs them again)"
            )?,
        }
        lines(&self.said, out)?;
        if let Some(error) = self.not_found.values().next() {
            writeln!(out, "{}", hint_of_inputs(error))?;
        }
        lines(&self.notes, out)?;
        self.print_left(out)?;
        writeln!(
            out,
            "outputs, logs, output files and run records are in `{}`",
            map.directory.display()
        )
    }

    fn print_left(&self, out: &mut impl Write) -> io::Result<()> {
        let Some((component, (count, first))) = self.left.first_key_value() else {
            return Ok(());
        };
        let files = |count: usize| match count {
            1 => "1 file".to_owned(),
            more => format!("{more} files"),
        };
        if self.left.len() == 1 {
            write!(
                out,
                "component {component} left {} in its scratch directory that nobody asked for, such as `{}`",
                files(*count),
                first.display()
            )?;
        } else {
            let all = self.left.values().map(|(count, _)| count).sum();
            write!(
                out,
                "{} components left {} in their scratch directories that nobody asked for, such as `{}` of component {component}",
                self.left.len(),
                files(all),
                first.display()
            )?;
        }
        writeln!(out, ": htmap.transfer_output_files keeps files")
    }
}

fn lines(said: &BTreeMap<String, Vec<u64>>, out: &mut impl Write) -> io::Result<()> {
    let mut said: Vec<_> = said.iter().collect();
    said.sort_by_key(|(_, components)| components.iter().min().copied());
    for (text, components) in said.iter().take(MOST_LINES) {
        let (noun, text) = if components.len() == 1 {
            ("component", (*text).clone())
        } else {
            (
                "components",
                text.replacen("has no output", "have no output", 1),
            )
        };
        writeln!(out, "  {noun} {} {text}", ranges(components))?;
    }
    if said.len() > MOST_LINES {
        let more: usize = said[MOST_LINES..]
            .iter()
            .map(|(_, components)| components.len())
            .sum();
        writeln!(out, "  and {more} more: htmap_exec.report shows each")?;
    }
    Ok(())
}

/// `0-3, 7`
fn ranges(components: &[u64]) -> String {
    let mut components = components.to_vec();
    components.sort_unstable();
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    for component in &components {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == *component => *last = *component,
            _ => ranges.push((*component, *component)),
        }
    }
    let shown: Vec<String> = ranges
        .iter()
        .take(MOST_RANGES)
        .map(|(first, last)| match last - first {
            0 => first.to_string(),
            1 => format!("{first}, {last}"),
            _ => format!("{first}-{last}"),
        })
        .collect();
    let shown = shown.join(", ");
    if ranges.len() > MOST_RANGES {
        format!("{shown}, ... ({} in all)", components.len())
    } else {
        shown
    }
}

/// Whoever starts a script beside its data expects to find them there.
fn hint_of_inputs(error: &str) -> String {
    // FileNotFoundError: [Errno 2] No such file or directory: 'data.csv'
    let named = error
        .strip_suffix('\'')
        .and_then(|error| error.rsplit_once('\''))
        .map(|(_, name)| name)
        .filter(|name| Path::new(name).is_relative());
    let option = match named {
        Some(name) if Path::new(name).exists() => {
            // What is brought arrives under its last name.
            let first = Path::new(name).components().next();
            let first = first.map_or(Path::new(name), |first| Path::new(first.as_os_str()));
            format!("`--input {}` brings it there", first.display())
        }
        _ => "`--input PATH` brings files there".to_owned(),
    };
    format!(
        "hint: each component runs in a scratch directory of its own: {option}, and a function can open a file of this machine by its absolute path"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_components_are_a_few_ranges() {
        assert_eq!(ranges(&[3]), "3");
        assert_eq!(ranges(&[5, 1, 0, 2, 7, 8]), "0-2, 5, 7, 8");
        let odd: Vec<u64> = (0..10).map(|n| 2 * n + 1).collect();
        assert_eq!(ranges(&odd), "1, 3, 5, 7, 9, 11, 13, 15, ... (10 in all)");
    }
}
