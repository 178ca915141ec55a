//! Files that name the old place, or would be stale in the new one, and what they become.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use super::bytecode::{Bytecode, bytecode};
use super::old::Old;
use super::search_path::{self, Linked};
use crate::archive::place::MTIME;
use crate::error::Error;
use crate::relocate::content::{Content, Stamp};

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
    if is_sysconfig && let Some(base) = old.base.to_str().filter(|base| *base != "/usr") {
        if extension == Some(b"pyc") {
            return Ok(Mended::default());
        }
        let text = fs::read_to_string(file).map_err(Error::io("read", file))?;
        if text.contains(base) {
            return Ok(Content::Made(sysconfig(&text, base)).into());
        }
    }
    if extension == Some(b"pyc") {
        let fate = known.map_or_else(|| bytecode(old.version, file, path), Ok)?;
        return Ok(match fate {
            Bytecode::AsItIs => on_disk().into(),
            Bytecode::Stale => Mended::default(),
            Bytecode::Timed(at) => {
                let time = u32::try_from(MTIME)
                    .expect("before 2106")
                    .to_le_bytes()
                    .to_vec();
                Content::Patched(file.to_path_buf(), stamp, vec![(at, time)]).into()
            }
        });
    }
    if metadata.len() == 0 || extension == Some(b"py") {
        return Ok(on_disk().into());
    }
    let in_bin = path.parent() == Some(Path::new("bin"));
    let maybe_elf = metadata.mode() & 0o111 != 0 || path.to_string_lossy().contains(".so");
    if !in_bin && !maybe_elf {
        return Ok(on_disk().into());
    }
    let head = head(file, 4096)?;
    if head.starts_with(b"\x7fELF") {
        let mut linked = search_path::read(file, path, &|directory| old.inside(directory))?;
        let patches = std::mem::take(&mut linked.patches);
        let content = if patches.is_empty() {
            on_disk()
        } else {
            Content::Patched(file.to_path_buf(), stamp, patches)
        };
        return Ok(Mended {
            content: Some(content),
            linked: Some(linked),
        });
    }
    if in_bin
        && head.starts_with(b"#!")
        && let Some(made) = script(old, file)?
    {
        return Ok(Content::Made(made).into());
    }
    Ok(on_disk().into())
}

/// A script that names its interpreter by the place of the environment finds it beside itself.
fn script(old: &Old, file: &Path) -> Result<Option<Vec<u8>>, Error> {
    let bytes = fs::read(file).map_err(Error::io("read", file))?;
    let Some(end) = bytes.iter().position(|&byte| byte == b'\n') else {
        return Ok(None);
    };
    let line = String::from_utf8_lossy(&bytes[2..end]).trim().to_owned();
    let (line, rest) = if line == "/bin/sh" && bytes[end + 1..].starts_with(b"'''exec' ") {
        // pip's own way around a long path: https://github.com/pypa/pip/blob/main/src/pip/_vendor/distlib/scripts.py
        let second = &bytes[end + 1..];
        let Some(after) = find(second, b"\n' '''\n") else {
            return Ok(None);
        };
        let call = String::from_utf8_lossy(&second[9..after]).into_owned();
        (
            call.trim_matches('"')
                .split("\" ")
                .next()
                .unwrap_or("")
                .split(" \"$0\"")
                .next()
                .unwrap_or("")
                .to_owned(),
            &second[after + 7..],
        )
    } else {
        (line, &bytes[end + 1..])
    };
    let interpreter = line.split_whitespace().next().unwrap_or("");
    let name = old
        .inside(Path::new(interpreter))
        .and_then(|below| below.strip_prefix("bin").ok()?.to_str().map(str::to_owned))
        .filter(|name| !name.contains('/'));
    let Some(name) = name.filter(|name| name.starts_with("python")) else {
        return Ok(None);
    };
    let mut made = format!(
        "#!/bin/sh\n'''exec' \"$(dirname -- \"$(realpath -- \"$0\")\")\"/'{name}' \"$0\" \"$@\"\n' '''\n"
    )
    .into_bytes();
    made.extend_from_slice(rest);
    Ok(Some(made))
}

/// The variables that Python was built with, which name the place that it was installed to.
fn sysconfig(text: &str, base: &str) -> Vec<u8> {
    const PLACE: &str = "@htmap-exec-prefix@";
    let mut made = text.replace(base, PLACE);
    made.push_str(&format!(
        "\nimport sys\nbuild_time_vars = {{\n    \
         name: value.replace('{PLACE}', sys.base_prefix) if isinstance(value, str) else value\n    \
         for name, value in build_time_vars.items()\n}}\n"
    ));
    made.into_bytes()
}

pub(crate) fn head(file: &Path, length: u64) -> Result<Vec<u8>, Error> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    fs::File::open(file)
        .and_then(|opened| opened.take(length).read_to_end(&mut bytes))
        .map_err(Error::io("read", file))?;
    Ok(bytes)
}

pub(super) fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack
        .windows(needle.len())
        .position(|window| window == needle)
}
