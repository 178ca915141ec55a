//! Which of the libraries that came along this node uses, and which of its own.
//!
//! The search path of the Python leads to those that came along. Two kinds are the node's business all
//! the same: where its own is newer, its other libraries may need that one (a driver's, OpenGL's); and
//! where its glibc is too old for one that came along, its own is the only one that works. Python is
//! told to load these by their paths when it starts. So are libstdc++ and libgcc_s that came along,
//! where the node has none or an older one: its own is taken otherwise.

use std::cmp::Ordering;
use std::collections::HashSet;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use super::c_library::Node;
use crate::archive::manifest::{Audit, Bundled, Manifest};
use crate::archive::place::{COMMON, LIBRARIES};
use crate::elf::linkage;
use crate::elf::loader::Loader;
use crate::versions::{compare, highest, is_older, split};

/// What has to be said to a Python of an archive.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Libraries {
    /// Directories for `LD_LIBRARY_PATH`.
    pub search: Vec<PathBuf>,
    /// Libraries to load before all others, in this order.
    pub preload: Vec<PathBuf>,
    /// What is of no use here, each in a sentence.
    pub remarks: Vec<String>,
}

/// A library of the node's own.
struct Own {
    path: PathBuf,
    versions: Vec<String>,
    needed: Vec<String>,
}

/// For the tree of an archive, in an environment with that value of `LD_LIBRARY_PATH`.
pub fn libraries(
    root: &Path,
    manifest: &Manifest,
    node: &Node,
    library_path: Option<&OsStr>,
) -> Libraries {
    let (places, audit) = (&manifest.places, &manifest.audit);
    let mut found = Libraries::default();
    if audit.bundled.is_empty() && places.common.is_empty() {
        if places.libraries && !places.has_search_path {
            found.search.push(root.join(LIBRARIES));
        }
        return found;
    }
    let loader = Loader::new(library_path);
    let own = |name: &str| own(&loader, name);
    if !audit.bundled.is_empty() {
        found = decide(root, &audit.bundled, node.c_library.release(), &own);
    } else if places.common.iter().any(|name| own(name).is_none()) {
        // Of an archive that says no more of them.
        found.search.push(root.join(COMMON));
    }
    if places.libraries && !places.has_search_path {
        found.search.insert(0, root.join(LIBRARIES));
    }
    found
}

fn own(loader: &Loader, name: &str) -> Option<Own> {
    let path = loader.find(name)?;
    let linkage = linkage::read(&path).ok().flatten()?;
    Some(Own {
        path,
        versions: linkage.defined,
        needed: linkage.needed,
    })
}

fn is_common(library: &Bundled) -> bool {
    Path::new(&library.file).starts_with(COMMON)
}

/// Whether a glibc of this release is new enough for it; one that is unknown is better tried.
fn fits(library: &Bundled, glibc: Option<&str>) -> bool {
    match (&library.glibc, glibc) {
        (Some(needed), Some(glibc)) => !is_older(glibc, needed),
        _ => true,
    }
}

fn names(versions: &[String]) -> impl Iterator<Item = &str> {
    versions.iter().map(String::as_str)
}

fn decide(
    root: &Path,
    bundled: &[Bundled],
    glibc: Option<&str>,
    own: &dyn Fn(&str) -> Option<Own>,
) -> Libraries {
    let mut found = Libraries::default();
    let mut nodes: Vec<&str> = Vec::new();
    for library in bundled {
        let fits = fits(library, glibc);
        let nodes_own = own(&library.name);
        let compared = nodes_own
            .as_ref()
            .map(|own| compare(names(&own.versions), names(&library.versions)));
        match compared {
            None if !fits => found.remarks.push(format!(
                "`{}` is not there: the one that came along needs glibc {}, and this node has {}",
                library.name,
                library.glibc.as_deref().unwrap_or_default(),
                glibc.unwrap_or_default()
            )),
            None | Some(Some(Ordering::Less)) if is_common(library) => {
                if !fits {
                    continue;
                }
                if library.starts {
                    // It is loaded before anything could be said to Python.
                    if found.search.is_empty() {
                        found.search.push(root.join(COMMON));
                    }
                } else {
                    found.preload.push(root.join(&library.file));
                }
            }
            Some(compared)
                if !library.starts
                    && !is_common(library)
                    && (!fits || compared == Some(Ordering::Greater)) =>
            {
                nodes.push(&library.name);
            }
            _ => {}
        }
    }
    let is_bundled = |name: &str| {
        bundled
            .iter()
            .any(|each| each.name == name && !each.starts && !is_common(each))
    };
    // What they need comes before them, and is the node's as well: theirs fit each other.
    let mut done: HashSet<String> = HashSet::new();
    let mut waiting: Vec<(String, bool)> = nodes
        .iter()
        .rev()
        .map(|name| ((*name).to_owned(), false))
        .collect();
    while let Some((name, is_ready)) = waiting.pop() {
        let Some(library) = own(&name) else {
            continue;
        };
        if is_ready {
            found.preload.push(library.path);
        } else if done.insert(name.clone()) {
            waiting.push((name, true));
            let needed = library.needed.into_iter();
            waiting.extend(
                needed
                    .filter(|needed| is_bundled(needed))
                    .map(|needed| (needed, false)),
            );
        }
    }
    found
}

/// Versions of libstdc++ or libgcc_s that files of an archive need and that are not to be had on a node
/// with this glibc, each in a sentence.
pub(super) fn lacking(audit: &Audit, glibc: Option<&str>) -> Vec<String> {
    let mut unfit = audit
        .bundled
        .iter()
        .filter(|library| is_common(library) && !library.asked.is_empty() && !fits(library, glibc));
    let Some(first) = unfit.next() else {
        return Vec::new();
    };
    let path = std::env::var_os("LD_LIBRARY_PATH");
    let loader = Loader::new(path.as_deref());
    std::iter::once(first)
        .chain(unfit)
        .filter_map(|library| nothing_fits(library, glibc, own(&loader, &library.name).as_ref()))
        .collect()
}

fn nothing_fits(library: &Bundled, glibc: Option<&str>, own: Option<&Own>) -> Option<String> {
    let versions = own.map(|own| highest(names(&own.versions)));
    let need = library.asked.iter().find(|need| {
        let asked = split(&need.needs);
        asked.is_some_and(|(family, version)| {
            let found = versions.as_ref().and_then(|found| found.get(family));
            found.is_none_or(|found| is_older(found, version))
        })
    })?;
    let family = split(&need.needs).map_or("", |(family, _)| family);
    let nodes = match (own, versions.as_ref().and_then(|found| found.get(family))) {
        (Some(own), Some(version)) => {
            format!(
                "this node's (`{}`) ends with {family}_{version}",
                own.path.display()
            )
        }
        (Some(own), None) => format!("this node's (`{}`) has none", own.path.display()),
        (None, _) => "this node has none".to_owned(),
    };
    Some(format!(
        "`{}` needs {} of `{}`; {nodes}, and the one that came along needs glibc {}, where this node has {}",
        need.file,
        need.needs,
        library.name,
        library.glibc.as_deref().unwrap_or_default(),
        glibc.unwrap_or_default()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::manifest::Need;

    fn bundled(name: &str, directory: &str, glibc: &str, versions: &[&str]) -> Bundled {
        Bundled {
            name: name.to_owned(),
            file: format!("{directory}/{name}"),
            glibc: Some(glibc.to_owned()),
            versions: versions.iter().map(|&text| text.to_owned()).collect(),
            ..Bundled::default()
        }
    }

    fn node(libraries: &[(&str, &[&str], &[&str])]) -> impl Fn(&str) -> Option<Own> + use<> {
        let text = |all: &[&str]| all.iter().map(|&each| each.to_owned()).collect();
        let known: Vec<(String, Vec<String>, Vec<String>)> = libraries
            .iter()
            .map(|(name, versions, needed)| ((*name).to_owned(), text(versions), text(needed)))
            .collect();
        move |name: &str| {
            let (name, versions, needed) = known.iter().find(|(known, ..)| known == name)?;
            Some(Own {
                path: Path::new("/usr/lib").join(name),
                versions: versions.clone(),
                needed: needed.clone(),
            })
        }
    }

    fn preloaded(all: &[Bundled], glibc: &str, own: &dyn Fn(&str) -> Option<Own>) -> Vec<String> {
        let found = decide(Path::new("/t"), all, Some(glibc), own);
        assert!(found.search.is_empty());
        let shown = found.preload.iter().map(|path| path.display().to_string());
        shown.collect()
    }

    #[test]
    fn a_common_library_is_used_where_the_node_has_none_or_an_older_one() {
        let cpp = [bundled(
            "libstdc++.so.6",
            COMMON,
            "2.36",
            &["GLIBCXX_3.4.30"],
        )];
        let ours = ["/t/lib/htmap-exec-common/libstdc++.so.6"];
        assert_eq!(preloaded(&cpp, "2.36", &node(&[])), ours);
        let with = |version| node(&[("libstdc++.so.6", &[version], &[])]);
        assert_eq!(preloaded(&cpp, "2.36", &with("GLIBCXX_3.4.19")), ours);
        assert!(preloaded(&cpp, "2.36", &with("GLIBCXX_3.4.30")).is_empty());
        assert!(preloaded(&cpp, "2.40", &with("GLIBCXX_3.4.33")).is_empty());
        // Never one that needs a newer glibc.
        assert!(preloaded(&cpp, "2.28", &with("GLIBCXX_3.4.19")).is_empty());
        assert!(preloaded(&cpp, "2.28", &node(&[])).is_empty());
    }

    #[test]
    fn a_newer_one_of_the_node_is_used_with_what_it_needs() {
        let all = [
            bundled("libcrypto.so.3", LIBRARIES, "2.34", &[]),
            bundled("libssl.so.3", LIBRARIES, "2.34", &["OPENSSL_3.0.0"]),
            bundled("libz.so.1", LIBRARIES, "2.14", &["ZLIB_1.2.9"]),
        ];
        let newer = node(&[
            (
                "libssl.so.3",
                &["OPENSSL_3.2.0"],
                &["libcrypto.so.3", "libc.so.6"],
            ),
            ("libcrypto.so.3", &[], &["libz.so.1"]),
            ("libz.so.1", &["ZLIB_1.2.9"], &[]),
        ]);
        let found = preloaded(&all, "2.38", &newer);
        let names = ["libz.so.1", "libcrypto.so.3", "libssl.so.3"];
        assert_eq!(found, names.map(|name| format!("/usr/lib/{name}")));
        // The same, and an older one: what came along.
        let same = node(&[("libssl.so.3", &["OPENSSL_3.0.0"], &["libcrypto.so.3"])]);
        assert!(preloaded(&all, "2.38", &same).is_empty());
    }

    #[test]
    fn where_glibc_is_too_old_the_nodes_own_is_used() {
        let mut gomp = bundled("libgomp.so.1", LIBRARIES, "2.34", &["GOMP_5.0"]);
        let old = node(&[("libgomp.so.1", &["GOMP_4.5"], &[])]);
        assert_eq!(
            preloaded(&[gomp.clone()], "2.28", &old),
            ["/usr/lib/libgomp.so.1"]
        );
        let found = decide(Path::new("/t"), &[gomp.clone()], Some("2.28"), &node(&[]));
        assert_eq!(found.remarks.len(), 1, "{found:?}");
        // It is loaded already.
        gomp.starts = true;
        assert!(preloaded(&[gomp], "2.28", &old).is_empty());
    }

    #[test]
    fn what_needs_each_other_ends() {
        let all = ["a", "b"].map(|name| bundled(name, LIBRARIES, "2.34", &["V_1"]));
        let own = node(&[("a", &["V_2"], &["b"]), ("b", &["V_2"], &["a"])]);
        assert_eq!(preloaded(&all, "2.36", &own).len(), 2);
    }

    #[test]
    fn nothing_that_fits_is_said() {
        let mut cpp = bundled("libstdc++.so.6", COMMON, "2.36", &["GLIBCXX_3.4.30"]);
        cpp.asked.push(Need {
            needs: "GLIBCXX_3.4.29".to_owned(),
            file: "lib/x.so".to_owned(),
        });
        let with = |version| node(&[("libstdc++.so.6", &[version], &[])])("libstdc++.so.6");
        let said = |own: Option<Own>| nothing_fits(&cpp, Some("2.28"), own.as_ref());
        assert_eq!(
            said(with("GLIBCXX_3.4.25")).unwrap(),
            "`lib/x.so` needs GLIBCXX_3.4.29 of `libstdc++.so.6`; this node's \
             (`/usr/lib/libstdc++.so.6`) ends with GLIBCXX_3.4.25, and the one that came along needs \
             glibc 2.36, where this node has 2.28"
        );
        assert!(said(with("GLIBCXX_3.4.29")).is_none());
        assert!(said(None).unwrap().contains("this node has none"));
    }
}
