//! What an environment asks of a node, and what in it is large: read when it is packed, part of its
//! manifest, and so of its digest.
//!
//! A file counts when it is compiled for this machine's processors. A library counts as brought along
//! when any file of the tree has its name: how each is found is the business of whoever linked it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::elf::is_of_libc;
use crate::linkage::{self, Linkage};
use crate::source::Source;
use crate::tree::{Content, Kind};

/// How many of the largest packages are named.
const LARGEST: usize = 10;

/// Everything that was found out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Audit {
    /// The loader that the interpreter names; a node without it cannot even start it.
    pub loader: Option<String>,
    /// The highest version of glibc's symbols, such as `2.34`.
    pub glibc: Option<Need>,
    /// The highest version of libstdc++'s symbols, such as `3.4.29`, where it is not brought along.
    pub libstdcxx: Option<Need>,
    /// The highest x86-64 level that a linker noted: 2 for `x86-64-v2`. Few do; see docs.
    pub x86_64_level: Option<Need<u8>>,
    /// Libraries that a node has to have: neither brought along nor the C library's.
    pub libraries: Vec<Need>,
    /// Bytes of the largest packages.
    pub largest: Vec<Share>,
}

/// A version (or the name of a library), and the first file that asks for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Need<T = String> {
    /// What is needed.
    pub needs: T,
    /// Below the root.
    pub file: String,
}

/// What a package takes up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    /// Such as `numpy 2.4.6`; a directory for files of no package.
    pub name: String,
    /// Of its files.
    pub bytes: u64,
}

/// Looks at all of it. What cannot be read is for whoever packs it to say.
pub(crate) fn audit(source: &Source) -> Audit {
    let mut compiled: Vec<(String, Linkage)> = Vec::new();
    let mut names: HashSet<Vec<u8>> = HashSet::new();
    for (entry, content) in source.entries.iter().zip(&source.contents) {
        if entry.kind == Kind::Directory {
            continue;
        }
        let name = entry.path.rsplit(|&byte| byte == b'/').next();
        let name = name.unwrap_or(&entry.path);
        let is_library = name.windows(3).any(|three| three == b".so");
        if is_library {
            names.insert(name.to_vec());
        }
        let (Some(Content::OnDisk(file) | Content::Patched(file, _)), true) =
            (content, is_library || entry.mode & 0o111 != 0)
        else {
            continue;
        };
        if let Ok(Some(linkage)) = linkage::read(file) {
            names.extend(
                linkage
                    .soname
                    .as_ref()
                    .map(|name| name.clone().into_bytes()),
            );
            compiled.push((String::from_utf8_lossy(&entry.path).into_owned(), linkage));
        }
    }
    let mut found = Audit::default();
    let mut libraries: BTreeMap<String, String> = BTreeMap::new();
    for (file, linkage) in compiled {
        let brought = |library: &str| names.contains(library.as_bytes());
        if file == source.python {
            found.loader = linkage.loader;
        }
        for (version, library) in &linkage.versions {
            if let Some(version) = glibc_version(version) {
                raise(&mut found.glibc, version, &file);
            } else if let Some(version) = version.strip_prefix("GLIBCXX_")
                && numbers(version).is_some()
                && !brought(library)
            {
                raise(&mut found.libstdcxx, version, &file);
            }
        }
        if let Some(level) = linkage.x86_64_level.filter(|&level| level > 1)
            && found
                .x86_64_level
                .as_ref()
                .is_none_or(|need| need.needs < level)
        {
            found.x86_64_level = Some(Need {
                needs: level,
                file: file.clone(),
            });
        }
        for library in linkage.needed {
            if !brought(&library) && !is_of_libc(&library) && !library.starts_with("libc.musl") {
                libraries.entry(library).or_insert_with(|| file.clone());
            }
        }
    }
    found.libraries = libraries
        .into_iter()
        .map(|(needs, file)| Need { needs, file })
        .collect();
    found.largest = largest(source);
    found
}

fn raise(highest: &mut Option<Need>, version: &str, file: &str) {
    if highest
        .as_ref()
        .is_none_or(|need| is_older(&need.needs, version))
    {
        *highest = Some(Need {
            needs: version.to_owned(),
            file: file.to_owned(),
        });
    }
}

/// The release that a version of glibc's symbols came with.
fn glibc_version(name: &str) -> Option<&str> {
    match name {
        // No release, but no loader before that one knows it:
        // https://sourceware.org/pipermail/libc-alpha/2022-August/141193.html
        "GLIBC_ABI_DT_RELR" => Some("2.36"),
        _ => name
            .strip_prefix("GLIBC_")
            .filter(|version| numbers(version).is_some()),
    }
}

fn numbers(version: &str) -> Option<Vec<u32>> {
    version.split('.').map(|part| part.parse().ok()).collect()
}

/// Whether a version comes before another one; what is no version comes first.
pub(crate) fn is_older(one: &str, other: &str) -> bool {
    numbers(one) < numbers(other)
}

fn largest(source: &Source) -> Vec<Share> {
    let sizes: HashMap<&[u8], u64> = source
        .entries
        .iter()
        .filter_map(|entry| match entry.kind {
            Kind::File(size) => Some((entry.path.as_slice(), size)),
            _ => None,
        })
        .collect();
    let mut claimed: HashSet<Vec<u8>> = HashSet::new();
    let mut shares: BTreeMap<String, u64> = BTreeMap::new();
    let mut claim = |name: &str, path: &Path| {
        let path = path.as_os_str().as_bytes();
        if let Some(size) = sizes.get(path)
            && claimed.insert(path.to_vec())
        {
            *shares.entry(name.to_owned()).or_default() += size;
        }
    };
    for (entry, content) in source.entries.iter().zip(&source.contents) {
        let path = Path::new(OsStr::from_bytes(&entry.path));
        if let Some(directory) = path.parent()
            && let Some(name) = distribution(directory)
            && path.file_name().is_some_and(|name| name == "RECORD")
        {
            let site = directory.parent().unwrap_or(directory);
            for file in text(content.as_ref()).lines().filter_map(recorded) {
                if let Some(path) = normal(&site.join(file)) {
                    claim(&name, &path);
                }
            }
        } else if path.parent() == Some(Path::new("conda-meta"))
            && path
                .extension()
                .is_some_and(|extension| extension == "json")
        {
            let Ok(package) = serde_json::from_str::<CondaPackage>(&text(content.as_ref())) else {
                continue;
            };
            for file in &package.files {
                claim(
                    &format!("{} {}", package.name, package.version),
                    Path::new(file),
                );
            }
        }
    }
    for (&path, &size) in &sizes {
        if !claimed.contains(path) {
            let place = place(Path::new(OsStr::from_bytes(path)));
            *shares.entry(place).or_default() += size;
        }
    }
    let mut shares: Vec<Share> = shares
        .into_iter()
        .map(|(name, bytes)| Share { name, bytes })
        .collect();
    shares.sort_by(|one, other| (other.bytes, &one.name).cmp(&(one.bytes, &other.name)));
    shares.truncate(LARGEST);
    shares
}

/// Of a file that conda installed.
#[derive(Deserialize)]
struct CondaPackage {
    name: String,
    version: String,
    files: Vec<String>,
}

/// `numpy-2.4.6.dist-info` is `numpy 2.4.6`.
fn distribution(directory: &Path) -> Option<String> {
    let name = directory
        .file_name()?
        .to_str()?
        .strip_suffix(".dist-info")?;
    Some(name.replacen('-', " ", 1))
}

/// The path in a line of RECORD, a table of comma separated values.
/// <https://packaging.python.org/en/latest/specifications/recording-installed-packages/>
fn recorded(line: &str) -> Option<String> {
    match line.strip_prefix('"') {
        Some(quoted) => quoted.rsplit_once("\",").map(|(path, _)| {
            path.split("\",")
                .next()
                .unwrap_or(path)
                .replace("\"\"", "\"")
        }),
        None => line.split(',').next().map(str::to_owned),
    }
}

/// Without `..`, and nothing for what leaves the tree.
fn normal(path: &Path) -> Option<PathBuf> {
    let mut parts = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => parts.push(name),
            Component::ParentDir if parts.pop() => {}
            Component::CurDir => {}
            _ => return None,
        }
    }
    Some(parts)
}

fn text(content: Option<&Content>) -> String {
    let bytes = match content {
        Some(Content::OnDisk(path) | Content::Patched(path, _)) => {
            fs::read(path).unwrap_or_default()
        }
        Some(Content::Made(bytes)) => bytes.clone(),
        None => Vec::new(),
    };
    String::from_utf8_lossy(&bytes).into_owned()
}

/// What to call a file of no package: by what lies in site-packages, or by its first two directories.
fn place(path: &Path) -> String {
    let names: Vec<String> = path
        .iter()
        .map(|name| name.to_string_lossy().into_owned())
        .collect();
    let site = names
        .iter()
        .position(|name| name == "site-packages" || name == "dist-packages");
    let shown = site
        .map_or(2, |site| site + 2)
        .min(names.len().saturating_sub(1));
    names[..shown].join("/") + "/"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_by_their_numbers() {
        assert!(is_older("2.4", "2.34"));
        assert!(is_older("2.2.5", "2.3"));
        assert!(!is_older("2.34", "2.34"));
        assert_eq!(glibc_version("GLIBC_2.17"), Some("2.17"));
        assert_eq!(glibc_version("GLIBC_PRIVATE"), None);
        assert_eq!(glibc_version("GLIBC_ABI_DT_RELR"), Some("2.36"));
    }

    #[test]
    fn reads_lines_of_record() {
        assert_eq!(recorded("a/b.py,sha256=x,3").unwrap(), "a/b.py");
        assert_eq!(
            recorded("\"a,\"\"b\"\".py\",sha256=x,3").unwrap(),
            "a,\"b\".py"
        );
        assert_eq!(
            normal(Path::new("lib/site/../../bin/x")).unwrap(),
            Path::new("bin/x")
        );
        assert_eq!(normal(Path::new("../x")), None);
        assert_eq!(
            place(Path::new("lib/python3.11/site-packages/odd/a/b.py")),
            "lib/python3.11/site-packages/odd/"
        );
        assert_eq!(place(Path::new("lib/python3.11/os.py")), "lib/python3.11/");
        assert_eq!(place(Path::new("x")), "/");
    }
}
