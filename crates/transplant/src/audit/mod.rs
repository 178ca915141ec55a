//! What an environment asks of a node, and what in it is large: read when it is packed, part of its
//! manifest, and so of its digest.
//!
//! A file counts when it is compiled for this machine's processors. A library counts as brought along
//! when any file of the tree has its name: how each is found is the business of whoever linked it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::path::PathBuf;
use std::time::Instant;

use serde::Deserialize;

use crate::archive::entry::{Entry, Kind};
use crate::archive::manifest::{Audit, Need, Share};
use crate::elf::libraries::is_of_libc;
use crate::elf::linkage::{self, Linkage};
use crate::environment::Source;
use crate::parallel;
use crate::relocate::content::Content;

/// How many of the largest packages are named.
const LARGEST: usize = 10;

/// Looks at all of it. What cannot be read is for whoever packs it to say.
pub(crate) fn audit(source: &Source) -> Audit {
    let begun = Instant::now();
    let mut compiled: Vec<(String, Linkage)> = Vec::new();
    let mut names: HashSet<Vec<u8>> = HashSet::new();
    let mut maybe_compiled: Vec<(&Entry, &PathBuf)> = Vec::new();
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
        if let (Some(Content::OnDisk(file, _) | Content::Patched(file, ..)), true) =
            (content, is_library || entry.mode & 0o111 != 0)
        {
            maybe_compiled.push((entry, file));
        }
    }
    let read = parallel::map(&maybe_compiled, |(_, file)| linkage::read(file));
    for ((entry, _), linkage) in maybe_compiled.into_iter().zip(read) {
        if let Ok(Some(linkage)) = linkage {
            names.extend(
                linkage
                    .soname
                    .as_ref()
                    .map(|name| name.clone().into_bytes()),
            );
            compiled.push((String::from_utf8_lossy(&entry.path).into_owned(), linkage));
        }
    }
    let count = compiled.len();
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
    let seconds = begun.elapsed().as_secs_f64();
    tracing::debug!("looked into {count} compiled files in {seconds:.3} s");
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
    // Each with its size, until a package claims it.
    let mut sizes: HashMap<&[u8], u64> = HashMap::with_capacity(source.entries.len());
    for entry in &source.entries {
        if let Kind::File(size) = entry.kind {
            sizes.insert(&entry.path, size);
        }
    }
    let mut shares: BTreeMap<String, u64> = BTreeMap::new();
    for (entry, content) in source.entries.iter().zip(&source.contents) {
        if let Some(directory) = entry.path.strip_suffix(b"/RECORD")
            && let Some((site, name)) = distribution(directory)
        {
            let text = text(content.as_ref());
            let files = text.lines().filter_map(recorded);
            let bytes = files
                .filter_map(|file| sizes.remove(below(site, &file)?.as_slice()))
                .sum();
            shares.insert(name, bytes);
        } else if entry.path.starts_with(b"conda-meta/")
            && entry.path.ends_with(b".json")
            && let Ok(package) = serde_json::from_str::<CondaPackage>(&text(content.as_ref()))
        {
            let files = package.files.iter();
            let bytes = files.filter_map(|file| sizes.remove(file.as_bytes())).sum();
            shares.insert(format!("{} {}", package.name, package.version), bytes);
        }
    }
    let mut places: HashMap<&[u8], u64> = HashMap::new();
    for (path, size) in sizes {
        *places.entry(place(path)).or_default() += size;
    }
    let places = places
        .into_iter()
        .map(|(place, bytes)| (String::from_utf8_lossy(place).into_owned(), bytes));
    let mut shares: Vec<Share> = shares
        .into_iter()
        .chain(places)
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

/// `site/numpy-2.4.6.dist-info` is `numpy 2.4.6` in `site`.
fn distribution(directory: &[u8]) -> Option<(&[u8], String)> {
    let end = directory.iter().rposition(|&byte| byte == b'/')?;
    let name = std::str::from_utf8(&directory[end + 1..]).ok()?;
    let name = name.strip_suffix(".dist-info")?;
    Some((&directory[..end], name.replacen('-', " ", 1)))
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

/// A path below a directory, without `..`; nothing for one that leaves the tree.
fn below(directory: &[u8], path: &str) -> Option<Vec<u8>> {
    let mut whole = directory.to_vec();
    for name in path.split('/') {
        match name {
            "" | "." => {}
            ".." if whole.is_empty() => return None,
            ".." => {
                let end = whole.iter().rposition(|&byte| byte == b'/');
                whole.truncate(end.unwrap_or(0));
            }
            _ => {
                if !whole.is_empty() {
                    whole.push(b'/');
                }
                whole.extend_from_slice(name.as_bytes());
            }
        }
    }
    Some(whole)
}

fn text(content: Option<&Content>) -> String {
    let bytes = match content {
        Some(Content::OnDisk(path, _) | Content::Patched(path, ..)) => {
            fs::read(path).unwrap_or_default()
        }
        Some(Content::Made(bytes)) => bytes.clone(),
        None => Vec::new(),
    };
    String::from_utf8_lossy(&bytes).into_owned()
}

/// What to call a file of no package: by what lies in site-packages, or by its first two directories.
fn place(path: &[u8]) -> &[u8] {
    let end_of = |count: usize| {
        let mut ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/');
        ends.nth(count).map(|(at, _)| at + 1)
    };
    let is_site = |name: &[u8]| name == b"site-packages" || name == b"dist-packages";
    let names = path.split(|&byte| byte == b'/');
    let count = names.clone().position(is_site).map_or(1, |site| site + 1);
    let end = (0..=count).rev().find_map(end_of);
    &path[..end.unwrap_or(0)]
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
        assert_eq!(below(b"lib/site", "../../../x"), None);
        assert_eq!(below(b"lib/site", "../../bin/x").unwrap(), b"bin/x");
        assert_eq!(below(b"lib/site", "./a//b").unwrap(), b"lib/site/a/b");
        let site = b"lib/python3.11/site-packages/odd/a/b.py";
        assert_eq!(place(site), b"lib/python3.11/site-packages/odd/");
        assert_eq!(
            place(b"lib/python3.11/site-packages/odd.py"),
            b"lib/python3.11/site-packages/"
        );
        assert_eq!(place(b"lib/python3.11/os.py"), b"lib/python3.11/");
        assert_eq!(place(b"bin/x"), b"bin/");
        assert_eq!(place(b"x"), b"");
    }
}
