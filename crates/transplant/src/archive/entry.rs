//! The tree that an archive holds: paths, kinds and contents, and which of them are safe to make.
//!
//! Paths are bytes, relative, with `/` between names. Entries are in the order of their paths, a
//! directory before what is in it.

use std::cmp::Ordering;
use std::collections::HashMap;

/// One thing in the tree.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Below the root of the tree.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// Permissions, of the owner mostly: what is unpacked belongs to whoever unpacks it.
    pub mode: u32,
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Directory,
    /// A file of so many bytes.
    File(u64),
    /// A symbolic link to this target, which lies in the tree.
    Symlink(Vec<u8>),
}

/// How many bytes of paths are looked at to follow the links of a tree: twenty times what one of ten
/// thousand links takes.
const LONGEST_WALK: usize = 64 << 20;

/// Why a tree is refused, or nothing.
pub(crate) fn refusal(entries: &[Entry]) -> Option<String> {
    // Never a link: whatever is written goes through real directories.
    let mut directories: Vec<&[u8]> = Vec::new();
    let mut last: &[u8] = b"";
    let links: HashMap<&[u8], &[u8]> = entries
        .iter()
        .filter_map(|entry| match &entry.kind {
            Kind::Symlink(target) => Some((entry.path.as_slice(), target.as_slice())),
            _ => None,
        })
        .collect();
    let mut walked = 0;
    for entry in entries {
        let path = entry.path.as_slice();
        let shown = || String::from_utf8_lossy(path).into_owned();
        // The names that the last path has as well were looked at.
        let alike = shared(last, path);
        let begin = path[..alike].iter().rposition(|&byte| byte == b'/');
        let mut names = path[begin.map_or(0, |slash| slash + 1)..].split(|&byte| byte == b'/');
        if path.is_empty() || names.any(|name| !is_plain(name)) {
            return Some(format!("it holds the path `{}`", shown()));
        }
        if compare_behind(alike, last, path) != Ordering::Less {
            return Some(format!("it holds `{}` twice, or too late", shown()));
        }
        last = path;
        if let Some(end) = path.iter().rposition(|&byte| byte == b'/') {
            // Those that are left behind have nothing more in them.
            while directories
                .pop_if(|directory| !is_same(directory, &path[..end]))
                .is_some()
            {}
            if directories.is_empty() {
                return Some(format!("`{}` lies in no directory of the archive", shown()));
            }
        }
        if entry.kind == Kind::Directory {
            directories.push(path);
        }
        if let Kind::Symlink(target) = &entry.kind
            && !stays_inside(&links, path, target, &mut walked)
        {
            if walked > LONGEST_WALK {
                return Some("its links lead through too many others".to_owned());
            }
            return Some(format!(
                "the link `{}` leads out of it, to `{}`",
                shown(),
                String::from_utf8_lossy(target)
            ));
        }
        if entry.mode & !0o777 != 0 {
            return Some(format!("`{}` has the mode {:o}", shown(), entry.mode));
        }
    }
    None
}

/// The order of paths in which each directory comes right before what is in it.
pub(crate) fn compare(one: &[u8], other: &[u8]) -> Ordering {
    compare_behind(shared(one, other), one, other)
}

fn compare_behind(alike: usize, one: &[u8], other: &[u8]) -> Ordering {
    let key = |path: &[u8]| {
        path.get(alike)
            .map(|&byte| if byte == b'/' { 0 } else { byte })
    };
    key(one).cmp(&key(other))
}

/// How many bytes two paths begin with alike. By words, since those of neighbours are mostly the same and a
/// mount waits for this.
pub(crate) fn shared(one: &[u8], other: &[u8]) -> usize {
    let words = one.as_chunks::<8>().0.iter().zip(other.as_chunks::<8>().0);
    let words = 8 * words.take_while(|(one, other)| one == other).count();
    let bytes = one[words..].iter().zip(&other[words..]);
    words + bytes.take_while(|(one, other)| one == other).count()
}

/// Whether two paths are the same.
pub(crate) fn is_same(one: &[u8], other: &[u8]) -> bool {
    one.len() == other.len() && shared(one, other) == one.len()
}

/// Of all files.
pub(crate) fn bytes(entries: &[Entry]) -> u64 {
    let sizes = entries.iter().map(|entry| match entry.kind {
        Kind::File(size) => size,
        _ => 0,
    });
    sizes.fold(0, u64::saturating_add)
}

fn is_plain(name: &[u8]) -> bool {
    !name.is_empty() && name != b"." && name != b".." && !name.contains(&0)
}

/// Whether a link leads to somewhere in the tree, or nowhere. It is followed as the kernel would,
/// through other links of the tree: `..` after a link goes up from where that leads to.
fn stays_inside<'a>(
    links: &HashMap<&'a [u8], &'a [u8]>,
    path: &[u8],
    target: &'a [u8],
    walked: &mut usize,
) -> bool {
    let up = |place: &mut Vec<u8>| {
        let end = place.iter().rposition(|&byte| byte == b'/');
        place.truncate(end.unwrap_or(0));
    };
    let mut place = path.to_vec();
    up(&mut place);
    let mut ahead: Vec<&[u8]> = Vec::new();
    let follow = |ahead: &mut Vec<&'a [u8]>, target: &'a [u8]| {
        let sound = !target.is_empty() && !target.starts_with(b"/") && !target.contains(&0);
        ahead.extend(target.split(|&byte| byte == b'/').rev());
        sound
    };
    if !follow(&mut ahead, target) {
        return false;
    }
    // A loop leads nowhere; the kernel gives up at 40.
    let mut links_left = 40;
    while let Some(name) = ahead.pop() {
        match name {
            b"" | b"." => {}
            b".." if place.is_empty() => return false,
            b".." => up(&mut place),
            _ => {
                if !place.is_empty() {
                    place.push(b'/');
                }
                place.extend_from_slice(name);
                *walked += place.len();
                if *walked > LONGEST_WALK {
                    return false;
                }
                if let Some(&next) = links.get(place.as_slice()) {
                    up(&mut place);
                    links_left -= 1;
                    if links_left == 0 {
                        return true;
                    }
                    if !follow(&mut ahead, next) {
                        return false;
                    }
                }
            }
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(path: &str, kind: Kind) -> Entry {
        Entry {
            path: path.into(),
            kind,
            mode: 0o755,
        }
    }

    fn link(target: &str) -> Kind {
        Kind::Symlink(target.into())
    }

    #[test]
    fn an_ordinary_tree_is_taken() {
        let tree = [
            entry("bin", Kind::Directory),
            entry("bin/python", link("python3")),
            entry("bin/python3", Kind::File(3)),
            entry("lib", Kind::Directory),
            entry("lib/x", link("../bin/python3")),
            entry("lib64", link("lib")),
            entry("lib64-x", Kind::Directory),
            entry("lib64-x/a", Kind::File(1)),
        ];
        assert_eq!(refusal(&tree), None);
    }

    #[test]
    fn paths_are_in_the_order_of_their_names() {
        let paths = [
            "a",
            "a/b",
            "a/b/c-long-name",
            "a/b/c-long-name/x",
            "a/b/c-long-names",
            "a-b",
            "b",
        ];
        for (index, one) in paths.iter().enumerate() {
            for (place, other) in paths.iter().enumerate() {
                let (one, other) = (one.as_bytes(), other.as_bytes());
                assert_eq!(compare(one, other), index.cmp(&place));
                assert_eq!(is_same(one, other), index == place);
            }
        }
        assert_eq!(shared(b"a/b/c-long-name/x", b"a/b/c-long-names"), 15);
        assert_eq!(shared(b"0123456789", b"0123456789"), 10);
    }

    #[test]
    fn what_leaves_the_root_is_refused() {
        for path in [
            "/etc",
            "../x",
            "a/../../x",
            "",
            "a//b",
            "a/",
            "./a",
            "a\0b",
            "a/.",
            "a/..",
            "a/b/..",
        ] {
            let tree = [
                entry("a", Kind::Directory),
                entry("a/b", Kind::Directory),
                entry(path, Kind::File(0)),
            ];
            assert!(refusal(&tree).is_some(), "{path}");
        }
        for target in ["/etc/passwd", "..", "../..", "x/../../..", ""] {
            assert!(refusal(&[entry("a", link(target))]).is_some(), "{target}");
        }
    }

    #[test]
    fn links_through_links_are_followed() {
        let tree = |last: &str| {
            [
                entry("d", Kind::Directory),
                entry("d/e", Kind::Directory),
                entry("d/e/up", link("..")),
                entry("m", link(last)),
            ]
        };
        assert_eq!(refusal(&tree("d/e/up/..")), None);
        assert!(refusal(&tree("d/e/up/../..")).is_some());
        assert_eq!(
            refusal(&[entry("a", link("b")), entry("b", link("a"))]),
            None
        );
    }

    #[test]
    fn links_that_are_long_to_follow_are_refused() {
        let tree: Vec<Entry> = (0..2_000)
            .map(|name| entry(&format!("{name:04}"), link(&"a/".repeat(2_000))))
            .collect();
        let reason = refusal(&tree).expect("refused");
        assert_eq!(reason, "its links lead through too many others");
    }

    #[test]
    fn nothing_is_written_through_a_link_or_twice() {
        let through = [entry("a", link("b")), entry("a/x", Kind::File(0))];
        assert!(refusal(&through).is_some());
        let file = [entry("a", Kind::File(0)), entry("a/x", Kind::File(0))];
        assert!(refusal(&file).is_some());
        let twice = [entry("a", link("b")), entry("a", Kind::File(0))];
        assert!(refusal(&twice).is_some());
        let setuid = [Entry {
            mode: 0o4755,
            ..entry("a", Kind::File(0))
        }];
        assert!(refusal(&setuid).is_some());
    }
}
