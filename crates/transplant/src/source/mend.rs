//! Files that name the old place, or would be stale in the new one, and what they become.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use super::bytecode::{Bytecode, bytecode};
use super::collector::Collector;
use crate::elf;
use crate::error::Error;
use crate::pack::MTIME;
use crate::tree::{Content, Stamp};

impl Collector<'_> {
    /// Nothing for a file that is of no use on another machine.
    pub(super) fn content(
        &mut self,
        file: &Path,
        path: &Path,
        metadata: &fs::Metadata,
    ) -> Result<Option<Content>, Error> {
        let stamp = Stamp::of(metadata);
        let on_disk = || Content::OnDisk(file.to_path_buf(), stamp);
        let extension = path.extension().map(OsStrExt::as_bytes);
        let is_sysconfig = path
            .file_name()
            .is_some_and(|name| name.as_bytes().starts_with(b"_sysconfigdata"));
        if is_sysconfig && let Some(base) = self.base.to_str().filter(|base| *base != "/usr") {
            if extension == Some(b"pyc") {
                return Ok(None);
            }
            let text = fs::read_to_string(file).map_err(Error::io("read", file))?;
            if text.contains(base) {
                return Ok(Some(Content::Made(sysconfig(&text, base))));
            }
        }
        if extension == Some(b"pyc") {
            let known = self
                .bytecode
                .remove(file)
                .map_or_else(|| bytecode(self.version, file, path), Ok);
            return known.map(|fate| match fate {
                Bytecode::AsItIs => Some(on_disk()),
                Bytecode::Stale => None,
                Bytecode::Timed(at) => {
                    let time = u32::try_from(MTIME)
                        .expect("before 2106")
                        .to_le_bytes()
                        .to_vec();
                    Some(Content::Patched(
                        file.to_path_buf(),
                        stamp,
                        vec![(at, time)],
                    ))
                }
            });
        }
        if metadata.len() == 0 || extension == Some(b"py") {
            return Ok(Some(on_disk()));
        }
        let in_bin = path.parent() == Some(Path::new("bin"));
        let maybe_elf = metadata.mode() & 0o111 != 0 || path.to_string_lossy().contains(".so");
        if !in_bin && !maybe_elf {
            return Ok(Some(on_disk()));
        }
        let head = head(file, 4096)?;
        if head.starts_with(b"\x7fELF") {
            let mut linked = elf::read(file, path, &|directory| self.inside(directory))?;
            let patches = std::mem::take(&mut linked.patches);
            self.linked.push((file.to_path_buf(), linked));
            return Ok(Some(if patches.is_empty() {
                on_disk()
            } else {
                Content::Patched(file.to_path_buf(), stamp, patches)
            }));
        }
        if in_bin
            && head.starts_with(b"#!")
            && let Some(made) = self.script(file)?
        {
            return Ok(Some(Content::Made(made)));
        }
        Ok(Some(on_disk()))
    }

    /// A script that names its interpreter by the place of the environment finds it beside itself.
    fn script(&self, file: &Path) -> Result<Option<Vec<u8>>, Error> {
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
        let name = self
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

pub(super) fn head(file: &Path, length: u64) -> Result<Vec<u8>, Error> {
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
