//! `htmap-exec transplant build`: packs what has changed since the last time, and says what became of it.

use std::cell::Cell;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use htmap_exec_component::on_one_line;
use htmap_exec_interpreter::{Interpreter, probe};
use htmap_exec_transplant::{
    self as transplant, Archive, Error, Format, Included, Manifest, Memory, Packed, Source,
};
use serde_json::json;

use super::progress::Progress;
use super::{cache, describe, directory, manifest, print_path, size, text};
use crate::cli::{TransplantBuild, TransplantFormat};
use crate::commands::{counted, python};

/// How often an environment is packed that changes meanwhile.
const ATTEMPTS: usize = 3;
/// An installer writes one file after the other.
const PAUSE: Duration = Duration::from_secs(1);

/// What is packed, and how.
struct Build<'a> {
    options: &'a TransplantBuild,
    begun: Instant,
    directory: PathBuf,
    interpreter: Interpreter,
    excluded: Vec<glob::Pattern>,
    included: Vec<Included>,
    /// What is known about this environment, if it was packed before.
    place: Option<PathBuf>,
}

struct Built {
    path: PathBuf,
    packed: Packed,
    manifest: Manifest,
    source: Source,
}

pub(super) fn build(options: &TransplantBuild) -> anyhow::Result<()> {
    let begun = Instant::now();
    let interpreter = match &options.python {
        Some(path) => probe(path).with_context(|| format!("cannot use `{}`", path.display()))?,
        None => python::discover()?,
    };
    let excluded = options.exclude.iter().map(|pattern| {
        glob::Pattern::new(pattern).with_context(|| format!("`{pattern}` is no pattern"))
    });
    let included = options.include.iter().map(|text| Included::new(text));
    let included = included.collect::<Result<Vec<_>, _>>()?;
    let how = format!(
        "level {} exclude {:?} include {included:?} compile {}",
        options.level, options.exclude, !options.no_compile
    );
    let place = cache().map(|cache| transplant::place(&cache, &interpreter, &how));
    Build {
        options,
        begun,
        directory: directory(options.dir.clone())?,
        excluded: excluded.collect::<anyhow::Result<_>>()?,
        included,
        interpreter,
        place,
    }
    .run()
}

impl Build<'_> {
    fn run(&self) -> anyhow::Result<()> {
        if let Some(path) = self.unchanged() {
            return self.nothing_to_do(&path);
        }
        let waited = Cell::new(false);
        let waiting = || {
            // Failing to say so is no reason not to.
            let _ = writeln!(
                io::stderr(),
                "waiting for another build of `{}`",
                self.prefix()
            );
            waited.set(true);
        };
        let place = self.place.as_deref();
        let _lock = place.and_then(|place| transplant::alone(place, waiting));
        if waited.get()
            && let Some(path) = self.unchanged()
        {
            return self.nothing_to_do(&path);
        }
        let mut attempt = 1;
        loop {
            match self.pack() {
                Err(error @ Error::Changed { .. }) if attempt < ATTEMPTS => {
                    tracing::warn!("{error}: it is packed again");
                    attempt += 1;
                    std::thread::sleep(PAUSE);
                }
                built => return self.report(&built?),
            }
        }
    }

    /// The archive of the same environment, if there is one.
    fn unchanged(&self) -> Option<PathBuf> {
        let (place, check) = (self.place.as_deref()?, !self.options.no_check);
        let found = transplant::unchanged(place, &self.interpreter, &self.directory, check);
        self.passed("compared");
        found
    }

    fn nothing_to_do(&self, path: &Path) -> anyhow::Result<()> {
        let mut path = path.to_path_buf();
        if self.options.json || !matches!(self.options.format, TransplantFormat::TarZst) {
            let (archive, _) = Archive::open(&path)?;
            let exported = self.export(&path, &manifest(&archive)?)?;
            if self.options.json {
                let mut values = describe(&path, &archive);
                values["exported"] = json!(exported.as_deref().map(text));
                writeln!(io::stdout(), "{values}")?;
                return Ok(());
            }
            path = exported.unwrap_or(path);
        }
        print_path(io::stdout(), &path)?;
        writeln!(
            io::stderr(),
            "nothing to do: no file of `{}` has changed since this archive was built",
            self.prefix()
        )?;
        Ok(())
    }

    fn pack(&self) -> Result<Built, Error> {
        let place = self.place.as_deref();
        let memory = place.map_or_else(Memory::default, Memory::load);
        let excluded =
            |path: &Path| (self.excluded.iter()).any(|pattern| pattern.matches_path(path));
        let mut source = transplant::collect(&self.interpreter, &excluded, &self.included)?;
        self.passed("collected");
        let progress = Progress::begin(&format!("packing `{}`", self.prefix()), source.bytes());
        if !self.options.no_compile {
            let kept = place.map(transplant::beside);
            let compiled =
                transplant::compile(&self.interpreter, &mut source, &excluded, kept.as_deref());
            self.passed(&format!(
                "compiled {} modules, {} were compiled before, {} do not compile",
                compiled.made, compiled.known, compiled.failed
            ));
        }
        progress.set_total(source.bytes());
        let level = self.options.level;
        let add = |bytes| progress.add(bytes);
        // While it is packed, since that leaves processors idle at its beginning and end.
        let aside = || -> Result<_, Error> {
            let checked = (!self.options.no_check)
                .then(|| transplant::check(&self.interpreter, &source, &memory))
                .transpose()?;
            let manifest = transplant::describe(&self.interpreter, &source)?;
            self.passed("checked and audited");
            Ok((manifest, checked))
        };
        let mut checked = None;
        let built = std::thread::scope(|scope| {
            let aside = scope.spawn(aside);
            let manifest = || {
                let (manifest, found) = aside.join().expect("it does not panic")?;
                checked = found;
                Ok(manifest)
            };
            let directory = &self.directory;
            transplant::build(directory, &source, level, &memory, &add, manifest)
        });
        drop(progress);
        let (path, packed, manifest) = built?;
        let remark = checked.as_ref().and_then(|checked| checked.remark.clone());
        source.remarks.extend(remark);
        source.remarks.extend(packed.grown.iter().map(|path| {
            format!(
                "`{}` grew while it was packed: what was written to it meanwhile is left out",
                path.display()
            )
        }));
        self.passed("packed");
        if let (Some(place), true) = (place, source.ledger.is_settled())
            && let Err(error) = (source.ledger)
                .keep(place, &self.interpreter, &path, checked.is_some())
                .and_then(|()| transplant::keep(place, &path, &packed, checked.as_ref()))
        {
            let cache = place.parent().unwrap_or(place).display();
            tracing::warn!("cannot remember the archive in `{cache}`: {error}");
        }
        Ok(Built {
            path,
            packed,
            manifest,
            source,
        })
    }

    /// For other tools, if asked for.
    fn export(&self, path: &Path, manifest: &Manifest) -> Result<Option<PathBuf>, Error> {
        let format = match self.options.format {
            TransplantFormat::TarZst => return Ok(None),
            TransplantFormat::TarGz => Format::TarGz,
            TransplantFormat::Zip => Format::Zip,
        };
        if manifest.places.prefixes {
            tracing::warn!(
                "files in it name the place of the environment, which no other tool mends"
            );
        }
        transplant::export(path, format, &manifest.packages).map(Some)
    }

    fn report(&self, built: &Built) -> anyhow::Result<()> {
        let (packed, source) = (&built.packed, &built.source);
        let exported = self.export(&built.path, &built.manifest)?;
        let mut said = io::stderr();
        for remark in &source.remarks {
            writeln!(said, "warning: {}", on_one_line(remark))?;
        }
        let mut out = io::stdout().lock();
        if self.options.json {
            let values = json!({
                "digest": packed.digest.to_string(),
                "path": text(&built.path),
                "exported": exported.as_deref().map(text),
                "size": packed.size,
                "content": packed.content,
                "entries": source.entries.len(),
                "remarks": source.remarks,
                "taken": all(&taken_along(source)).collect::<Vec<_>>(),
                "left": all(&left_behind(source)).collect::<Vec<_>>(),
            });
            writeln!(out, "{values}")?;
            return Ok(());
        }
        print_path(&mut out, exported.as_ref().unwrap_or(&built.path))?;
        let manifest = &built.manifest;
        writeln!(
            said,
            "{} {} with {} from `{}`: {} files and directories, {} in {}, {:.1} s",
            manifest.implementation,
            manifest.python_version,
            counted(manifest.packages.len(), "package"),
            self.prefix(),
            source.entries.len(),
            size(packed.content),
            size(packed.size),
            self.begun.elapsed().as_secs_f64(),
        )?;
        self.account(&mut said, source)?;
        Ok(())
    }

    /// What was taken from where, and what was left, in a line; and each thing, if asked for.
    fn account(&self, said: &mut impl io::Write, source: &Source) -> io::Result<()> {
        let (taken, left) = (taken_along(source), left_behind(source));
        let parts = [("taken along", counts(&taken)), ("left", counts(&left))];
        let parts = parts.iter().filter(|(_, what)| !what.is_empty());
        let parts: Vec<String> = parts.map(|(how, what)| format!("{how}: {what}")).collect();
        if parts.is_empty() {
            return Ok(());
        }
        let parts = parts.join("; ");
        if !self.options.verbose {
            return writeln!(said, "{parts} (-v lists them)");
        }
        writeln!(said, "{parts}")?;
        for each in all(&taken).chain(all(&left)) {
            writeln!(said, "  {}", on_one_line(each))?;
        }
        Ok(())
    }

    fn prefix(&self) -> impl std::fmt::Display {
        on_one_line(&self.interpreter.prefix)
    }

    fn passed(&self, what: &str) {
        tracing::debug!("{what} after {:.2?}", self.begun.elapsed());
    }
}

/// Things of a kind: what one and what many are called, and each in a sentence.
type Kind = (&'static str, &'static str, Vec<String>);

fn taken_along(source: &Source) -> [Kind; 3] {
    let noted = &source.noted;
    let libraries = (source.taken.iter())
        .map(|taken| format!("{} from `{}`", taken.library, taken.from.display()));
    [
        (
            "editable install",
            "editable installs",
            noted.editables.clone(),
        ),
        (
            "directory behind a link",
            "directories behind links",
            noted.directories.clone(),
        ),
        (
            "library of this machine",
            "libraries of this machine",
            libraries.collect(),
        ),
    ]
}

fn left_behind(source: &Source) -> [Kind; 2] {
    let noted = &source.noted;
    [
        (
            "device, pipe or socket",
            "devices, pipes or sockets",
            noted.devices.clone(),
        ),
        (
            "environment inside",
            "environments inside",
            noted.environments.clone(),
        ),
    ]
}

/// `2 editable installs, 1 library of this machine`, without what there is none of.
fn counts(kinds: &[Kind]) -> String {
    let some = kinds.iter().filter(|(.., each)| !each.is_empty());
    let some = some.map(|(one, many, each)| {
        format!(
            "{} {}",
            each.len(),
            if each.len() == 1 { one } else { many }
        )
    });
    some.collect::<Vec<_>>().join(", ")
}

fn all(kinds: &[Kind]) -> impl Iterator<Item = &String> {
    kinds.iter().flat_map(|(.., each)| each)
}
