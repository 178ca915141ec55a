//! Files that name the old place, or would be stale in the new one, and what they become.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use super::bytecode::{Bytecode, bytecode};
use super::content::{Content, Stamp, head};
use super::edits::{Edit, placeless};
use super::old::Old;
use super::script::shebang;
use super::search_path::{self, Linked};
use super::splice::{Splice, Spliced};
use crate::archive::place::ROOT;
use crate::error::Error;

/// Of the lines by which a script finds its interpreter: two paths, and more than kernels read.
const LONGEST_START: u64 = 16 << 10;

/// What a file becomes.
#[derive(Default)]
pub(crate) struct Mended {
    /// Nothing for a file that is of no use on another machine.
    pub(crate) content: Option<Content>,
    /// What it needs, if it is a program or a library.
    pub(crate) linked: Option<Linked>,
}

impl From<Content> for Mended {
    fn from(content: Content) -> Self {
        Self {
            content: Some(content),
            linked: None,
        }
    }
}

/// Of a file that will lie at `path` below the root. What is `known` of its bytecode is not read again.
pub(crate) fn mended(
    old: &Old,
    file: &Path,
    path: &Path,
    metadata: &fs::Metadata,
    known: Option<Bytecode>,
) -> Result<Mended, Error> {
    let stamp = Stamp::of(metadata);
    let on_disk = || Content::OnDisk(file.to_path_buf(), stamp);
    let extension = path.extension().map(OsStrExt::as_bytes);
    let is_sysconfig = path
        .file_name()
        .is_some_and(|name| name.as_bytes().starts_with(b"_sysconfigdata"));
    if is_sysconfig {
        if extension == Some(b"pyc") {
            // It is read once by few programs, and its source may be edited.
            return Ok(Mended::default());
        }
        let text = fs::read(file).map_err(Error::io("read", file))?;
        return Ok(sysconfig(old, &text)
            .map_or_else(on_disk, Content::Made)
            .into());
    }
    if extension == Some(b"pyc") {
        let fate = known.map_or_else(|| bytecode(old.version, file, path), Ok)?;
        return Ok(match fate {
            Bytecode::AsItIs => on_disk().into(),
            Bytecode::Stale => Mended::default(),
            Bytecode::Timed(at) => match placeless(&[Edit::Time { at }], metadata.len()) {
                Some(spliced) => Content::Patched(file.to_path_buf(), stamp, spliced).into(),
                // Cut off: of no use to any Python.
                None => Mended::default(),
            },
        });
    }
    let is_program = metadata.mode() & 0o111 != 0;
    let in_bin = path.parent() == Some(Path::new("bin"));
    // Of modules hardly one is a script, and there are many.
    let is_module = extension == Some(b"py") && (!is_program || path.starts_with("lib"));
    let may_be_one = in_bin || is_program || path.to_string_lossy().contains(".so");
    if metadata.len() == 0 || is_module && !in_bin || !may_be_one {
        return Ok(on_disk().into());
    }
    let patched = |edits: &[Edit]| {
        let changed = || Error::Changed {
            path: file.to_path_buf(),
        };
        let spliced = placeless(edits, metadata.len()).ok_or_else(changed)?;
        Ok(Content::Patched(file.to_path_buf(), stamp, spliced))
    };
    let head = head(file, LONGEST_START)?;
    if head.starts_with(b"\x7fELF") {
        let mut linked = search_path::read(file, path, &|directory| old.inside(directory))?;
        let edits = std::mem::take(&mut linked.edits);
        let content = if edits.is_empty() {
            on_disk()
        } else {
            patched(&edits)?
        };
        return Ok(Mended {
            content: Some(content),
            linked: Some(linked),
        });
    }
    Ok(match shebang(old, &head, path) {
        Some(edit) => patched(&[edit])?.into(),
        None => on_disk().into(),
    })
}

/// The variables that Python was built with, if they name the place that it was installed to.
fn sysconfig(old: &Old, text: &[u8]) -> Option<Vec<u8>> {
    const PLACE: &[u8] = ROOT.as_bytes();
    let found = old.namings_of_build(text);
    if found.is_empty() {
        return None;
    }
    let splice = |(at, length)| Splice {
        at: at as u64,
        length: length as u64,
        bytes: PLACE.to_vec(),
    };
    let spliced = Spliced::new(found.into_iter().map(splice).collect(), text.len() as u64);
    let mut made = spliced.expect("namings lie apart").whole(text);
    made.extend_from_slice(
        b"\nimport sys\nbuild_time_vars = {\n    \
          name: value.replace('@htmap-exec-prefix@', sys.base_prefix) if isinstance(value, str) else value\n    \
          for name, value in build_time_vars.items()\n}\n",
    );
    Some(made)
}
