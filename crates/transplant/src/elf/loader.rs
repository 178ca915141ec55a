//! Where this machine's loader looks for libraries: `LD_LIBRARY_PATH`, the list that `ldconfig` made of
//! `/etc/ld.so.conf`, and the directories that need no mention.
//!
//! Subdirectories for special processors (`glibc-hwcaps`) are passed over: another machine's processor
//! may be another one. <https://man7.org/linux/man-pages/man8/ld.so.8.html>

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read as _;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use super::layout::word;
use super::linkage;

pub(crate) const CACHE: &str = "/etc/ld.so.cache";
/// More than the list of any machine.
const LARGEST_CACHE: u64 = 16 << 20;
const LONGEST: usize = 4096;
/// How the list begins, since glibc 2.2: `sysdeps/generic/dl-cache.h`. Behind it are the number of
/// entries and, up to 48 bytes, the sizes of what follows.
const MAGIC: &[u8] = b"glibc-ld.so.cache1.1";
const HEADER: usize = 48;
/// Of one entry: flags, name, path, version of the kernel, processor.
const ENTRY: usize = 24;
/// `FLAG_ELF_LIBC6`, and the mark of this processor's libraries.
const FLAGS: u32 = if cfg!(target_arch = "aarch64") {
    0x0a03
} else {
    0x0303
};

/// What a loader goes by that was started with some environment.
#[derive(Debug, Default)]
pub(crate) struct Loader {
    /// Of `LD_LIBRARY_PATH`.
    path: Vec<PathBuf>,
    listed: HashMap<OsString, Vec<PathBuf>>,
    own: Vec<PathBuf>,
}

impl Loader {
    /// This machine's, with that value of `LD_LIBRARY_PATH`.
    pub(crate) fn new(library_path: Option<&OsStr>) -> Self {
        let mut bytes = Vec::new();
        if let Ok(file) = File::open(CACHE) {
            // What cannot be read is no list.
            let _ = file.take(LARGEST_CACHE).read_to_end(&mut bytes);
        }
        let triplet = format!("{}-linux-gnu", std::env::consts::ARCH);
        let own = ["/lib", "/usr/lib"].iter().flat_map(|root| {
            [
                Path::new(root).join(&triplet),
                PathBuf::from(format!("{root}64")),
                PathBuf::from(root),
            ]
        });
        Self {
            path: directories(library_path.unwrap_or_default()),
            listed: listed(&bytes),
            own: own.collect(),
        }
    }

    /// In `LD_LIBRARY_PATH`, which goes before a RUNPATH.
    pub(crate) fn in_path(&self, library: &str) -> Option<PathBuf> {
        first(&self.path, library)
    }

    /// Everywhere that comes after a file's own search paths.
    pub(crate) fn at_last(&self, library: &str) -> Option<PathBuf> {
        let mut listed = self.listed.get(OsStr::new(library)).into_iter().flatten();
        listed
            .find(|path| is_library(path))
            .cloned()
            .or_else(|| first(&self.own, library))
    }

    /// Where it may lie, now or later.
    pub(crate) fn candidates(&self, library: &str) -> Vec<PathBuf> {
        let directories = self.path.iter().chain(&self.own);
        let paths = directories.map(|directory| directory.join(library));
        let listed = self.listed.get(OsStr::new(library));
        paths.chain(listed.into_iter().flatten().cloned()).collect()
    }

    /// For a file without search paths.
    pub(crate) fn find(&self, library: &str) -> Option<PathBuf> {
        self.in_path(library).or_else(|| self.at_last(library))
    }
}

/// The first that the loader would take: it passes over other processors' and what is no library.
pub(crate) fn first(directories: &[PathBuf], library: &str) -> Option<PathBuf> {
    let mut paths = directories.iter().map(|directory| directory.join(library));
    paths.find(|path| is_library(path))
}

fn is_library(path: &Path) -> bool {
    path.is_file() && matches!(linkage::read(path), Ok(Some(_)))
}

/// Of a search path. Relative ones depend on where a program is started.
fn directories(path: &OsStr) -> Vec<PathBuf> {
    path.as_bytes()
        .split(|&byte| byte == b':' || byte == b';')
        .map(|part| Path::new(OsStr::from_bytes(part)))
        .filter(|part| part.is_absolute())
        .map(Path::to_path_buf)
        .collect()
}

/// The libraries of `ld.so.cache`; an older list may stand before the one that is read.
pub(crate) fn listed(cache: &[u8]) -> HashMap<OsString, Vec<PathBuf>> {
    let mut found: HashMap<OsString, Vec<PathBuf>> = HashMap::new();
    let begin = cache
        .windows(MAGIC.len())
        .position(|window| window == MAGIC);
    let Some(cache) = begin.map(|begin| &cache[begin..]) else {
        return found;
    };
    let Some(count) = word(cache, MAGIC.len()) else {
        return found;
    };
    let entries = cache.get(HEADER..).unwrap_or_default().chunks_exact(ENTRY);
    for entry in entries.take(count as usize) {
        let is_plain = entry[16..].iter().all(|&byte| byte == 0);
        let (Some(flags), Some(name), Some(path)) =
            (word(entry, 0), word(entry, 4), word(entry, 8))
        else {
            continue;
        };
        if flags != FLAGS || !is_plain {
            continue;
        }
        if let (Some(name), Some(path)) = (text(cache, name), text(cache, path)) {
            found.entry(name).or_default().push(path.into());
        }
    }
    found
}

fn text(bytes: &[u8], at: u32) -> Option<OsString> {
    let rest = bytes.get(usize::try_from(at).ok()?..)?;
    let rest = &rest[..rest.len().min(LONGEST)];
    let end = rest.iter().position(|&byte| byte == 0)?;
    Some(OsString::from_vec(rest[..end].to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With entries of flags, name, path and processor.
    fn cache(entries: &[(u32, &str, &str, u64)]) -> Vec<u8> {
        let mut strings = Vec::new();
        let mut table = Vec::new();
        let base = HEADER + ENTRY * entries.len();
        let mut put = |text: &str| {
            let at = u32::try_from(base + strings.len()).unwrap();
            strings.extend_from_slice(text.as_bytes());
            strings.push(0);
            at
        };
        for (flags, name, path, processor) in entries {
            for number in [*flags, put(name), put(path), 0] {
                table.extend_from_slice(&number.to_le_bytes());
            }
            table.extend_from_slice(&processor.to_le_bytes());
        }
        let mut header = MAGIC.to_vec();
        header.extend_from_slice(&u32::try_from(entries.len()).unwrap().to_le_bytes());
        header.resize(HEADER, 0);
        [header, table, strings].concat()
    }

    #[test]
    fn reads_the_list_of_ldconfig() {
        let made = cache(&[
            (FLAGS, "libx.so.1", "/opt/v3/libx.so.1", 1 << 62),
            (FLAGS, "libx.so.1", "/opt/x/libx.so.1", 0),
            (0x0003, "liby.so.1", "/lib32/liby.so.1", 0),
        ]);
        // As glibc before 2.32 has it: another list goes before.
        for made in [
            made.clone(),
            [b"ld.so-1.7.0\0\0\0\0\0".to_vec(), made].concat(),
        ] {
            let found = listed(&made);
            assert_eq!(found.len(), 1);
            assert_eq!(
                found[OsStr::new("libx.so.1")],
                [Path::new("/opt/x/libx.so.1")]
            );
        }
    }

    #[test]
    fn lists_that_are_cut_off_or_bent_end() {
        let made = cache(&[(FLAGS, "libx.so.1", "/opt/x/libx.so.1", 0); 8]);
        for length in 0..made.len() {
            listed(&made[..length]);
        }
        for at in 0..made.len() {
            let mut bent = made.clone();
            bent[at] ^= 0xff;
            assert!(listed(&bent).len() <= 8);
        }
        let mut many = cache(&[]);
        many[MAGIC.len()..MAGIC.len() + 4].fill(0xff);
        assert!(listed(&many).is_empty());
    }

    #[test]
    fn relative_directories_are_passed_over() {
        let found = directories(OsStr::new("/a::b:/c;/d:"));
        assert_eq!(found, [Path::new("/a"), Path::new("/c"), Path::new("/d")]);
    }

    #[test]
    fn finds_the_c_library() {
        assert!(Loader::new(None).find("libc.so.6").is_some());
        assert!(Loader::new(None).find("libno-such.so.6").is_none());
    }
}
