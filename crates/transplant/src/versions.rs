//! Versions of symbols and releases, as far as they are numbers: `GLIBCXX_3.4.30`, `2.34`.

use std::cmp::Ordering;
use std::collections::BTreeMap;

fn numbers(version: &str) -> Option<Vec<u32>> {
    version.split('.').map(|part| part.parse().ok()).collect()
}

/// Whether a version comes before another one; what is no version comes first.
pub(crate) fn is_older(one: &str, other: &str) -> bool {
    numbers(one) < numbers(other)
}

/// `GLIBCXX_3.4.30` is version `3.4.30` of `GLIBCXX`; nothing for what has no numbers.
pub(crate) fn split(name: &str) -> Option<(&str, &str)> {
    let (family, version) = name.rsplit_once('_')?;
    numbers(version).map(|_| (family, version))
}

/// The highest of each family, by the families' names.
pub(crate) fn highest<'a>(names: impl IntoIterator<Item = &'a str>) -> BTreeMap<&'a str, &'a str> {
    let mut found: BTreeMap<&str, &str> = BTreeMap::new();
    for (family, version) in names.into_iter().filter_map(split) {
        let known = found.entry(family).or_insert(version);
        if is_older(known, version) {
            *known = version;
        }
    }
    found
}

/// How one library's own versions compare with another one's of the same name; nothing where neither
/// has any, or where each has something that the other one lacks.
pub(crate) fn compare<'a>(
    one: impl IntoIterator<Item = &'a str>,
    other: impl IntoIterator<Item = &'a str>,
) -> Option<Ordering> {
    let (one, other) = (highest(one), highest(other));
    let lacks = |one: &BTreeMap<&str, &str>, other: &BTreeMap<&str, &str>| {
        other
            .iter()
            .any(|(family, version)| one.get(family).is_none_or(|own| is_older(own, version)))
    };
    match (lacks(&one, &other), lacks(&other, &one)) {
        _ if one.is_empty() && other.is_empty() => None,
        (true, true) => None,
        (true, false) => Some(Ordering::Less),
        (false, true) => Some(Ordering::Greater),
        (false, false) => Some(Ordering::Equal),
    }
}

/// The release of glibc that a version of its symbols came with.
pub(crate) fn glibc(name: &str) -> Option<&str> {
    match name {
        // No release, but no loader before that one knows it:
        // https://sourceware.org/pipermail/libc-alpha/2022-August/141193.html
        "GLIBC_ABI_DT_RELR" => Some("2.36"),
        _ => split(name).and_then(|(family, version)| (family == "GLIBC").then_some(version)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_by_their_numbers() {
        assert!(is_older("2.4", "2.34"));
        assert!(is_older("2.2.5", "2.3"));
        assert!(!is_older("2.34", "2.34"));
        assert_eq!(glibc("GLIBC_2.17"), Some("2.17"));
        assert_eq!(glibc("GLIBC_PRIVATE"), None);
        assert_eq!(glibc("GLIBC_ABI_DT_RELR"), Some("2.36"));
        assert_eq!(glibc("GLIBCXX_3.4"), None);
    }

    #[test]
    fn libraries_compare_by_the_highest_of_each_family() {
        let old = [
            "GLIBCXX_3.4",
            "GLIBCXX_3.4.25",
            "CXXABI_1.3.11",
            "GLIBCXX_LDBL_3.4",
        ];
        let new = [
            "GLIBCXX_3.4.30",
            "CXXABI_1.3.13",
            "GLIBCXX_3.4.9",
            "GLIBCXX_LDBL_3.4",
        ];
        assert_eq!(compare(old, new), Some(Ordering::Less));
        assert_eq!(compare(new, old), Some(Ordering::Greater));
        assert_eq!(compare(new, new), Some(Ordering::Equal));
        assert_eq!(compare([], []), None);
        assert_eq!(compare([], new), Some(Ordering::Less));
        assert_eq!(compare(["A_1", "B_2"], ["A_2", "B_1"]), None);
    }
}
