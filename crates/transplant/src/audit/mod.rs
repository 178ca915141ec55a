//! What an environment asks of a node, and what in it is large: read when it is packed, part of its
//! manifest, and so of its digest.
//!
//! A file counts when it is compiled for this machine's processors. Libraries of this machine that came
//! along are told apart: a node uses each only where it can, so none of them sets what the node must be.

mod driver;

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::PathBuf;
use std::time::Instant;

use serde::Deserialize;

use crate::archive::entry::{Entry, Kind};
use crate::archive::manifest::{Audit, Bundled, Need, Share};
use crate::elf::linkage::{self, Linkage};
use crate::environment::{Source, Taken};
use crate::parallel;
use crate::relocate::content::Content;
use crate::versions;

/// How many of the largest packages are named.
const LARGEST: usize = 10;

/// Looks at all of it. What cannot be read is for whoever packs it to say.
pub(crate) fn audit(source: &Source) -> Audit {
    let begun = Instant::now();
    let mut maybe_compiled: Vec<(&Entry, &PathBuf)> = Vec::new();
    for (entry, content) in source.entries.iter().zip(&source.contents) {
        let name = entry.path.rsplit(|&byte| byte == b'/').next();
        let name = name.unwrap_or(&entry.path);
        let is_library = name.windows(3).any(|three| three == b".so");
        if let (Some(Content::OnDisk(file, _) | Content::Patched(file, ..)), true) =
            (content, is_library || entry.mode & 0o111 != 0)
        {
            maybe_compiled.push((entry, file));
        }
    }
    let read = parallel::map(&maybe_compiled, |(_, file)| linkage::read(file));
    let mut compiled: Vec<(String, Linkage)> = Vec::new();
    for ((entry, _), linkage) in maybe_compiled.into_iter().zip(read) {
        if let Ok(Some(linkage)) = linkage {
            compiled.push((String::from_utf8_lossy(&entry.path).into_owned(), linkage));
        }
    }
    let count = compiled.len();
    let mut found = Audit {
        libraries: source.lacking.clone(),
        bundled: bundled(source, &compiled),
        gpu_driver: driver::branch(source, &text),
        largest: largest(source),
        ..Audit::default()
    };
    let is_lacking = |library: &str| source.lacking.iter().any(|need| need.needs == library);
    for (file, linkage) in compiled {
        if file == source.python {
            found.loader = linkage.loader;
        }
        // A node need not use those that came along.
        if is_optional(source, &file) {
            continue;
        }
        for (version, library) in &linkage.versions {
            if let Some(version) = versions::glibc(version) {
                raise(&mut found.glibc, version, &file);
            } else if let Some(("GLIBCXX", version)) = versions::split(version)
                && is_lacking(library)
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
    }
    let seconds = begun.elapsed().as_secs_f64();
    tracing::debug!("looked into {count} compiled files in {seconds:.3} s");
    found
}

/// Whether it is a library of this machine that the interpreter starts without.
fn is_optional(source: &Source, file: &str) -> bool {
    let mut taken = source.taken.iter();
    taken.any(|taken| !taken.starts && taken.place == file)
}

/// What each library of this machine needs itself, and what others ask of it.
fn bundled(source: &Source, compiled: &[(String, Linkage)]) -> Vec<Bundled> {
    let one = |taken: &Taken| {
        let (_, linkage) = compiled.iter().find(|(file, _)| *file == taken.place)?;
        let glibc = linkage.versions.iter();
        let glibc = glibc.filter_map(|(version, _)| versions::glibc(version));
        let own = linkage.defined.iter().map(String::as_str);
        let mut asked: BTreeMap<&str, Need> = BTreeMap::new();
        for (file, linkage) in compiled {
            for (version, library) in &linkage.versions {
                if *library == taken.library
                    && !is_optional(source, file)
                    && let Some((family, number)) = versions::split(version)
                    && asked.get(family).is_none_or(|known| {
                        let (_, known) = versions::split(&known.needs).unwrap_or_default();
                        versions::is_older(known, number)
                    })
                {
                    let (needs, file) = (version.clone(), file.clone());
                    asked.insert(family, Need { needs, file });
                }
            }
        }
        Some(Bundled {
            name: taken.library.clone(),
            file: taken.place.clone(),
            starts: taken.starts,
            glibc: glibc
                .reduce(|one, other| {
                    if versions::is_older(one, other) {
                        other
                    } else {
                        one
                    }
                })
                .map(str::to_owned),
            versions: versions::highest(own)
                .into_iter()
                .map(|(family, version)| format!("{family}_{version}"))
                .collect(),
            asked: asked.into_values().collect(),
        })
    };
    source.taken.iter().filter_map(one).collect()
}

fn raise(highest: &mut Option<Need>, version: &str, file: &str) {
    if highest
        .as_ref()
        .is_none_or(|need| versions::is_older(&need.needs, version))
    {
        *highest = Some(Need {
            needs: version.to_owned(),
            file: file.to_owned(),
        });
    }
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
