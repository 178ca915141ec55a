//! What an archive says of itself: which Python it is, what is installed in it, and what it needs.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Component, Path};

use serde::{Deserialize, Serialize};

use crate::archive::place::ROOT;
use crate::versions::is_older;

/// Part of what the digest is made of: so it names nothing of the time, place or tool of its making.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Such as `3.11.7`.
    pub python_version: String,
    /// Such as `CPython`.
    pub implementation: String,
    /// The interpreter, below the root.
    pub python: String,
    /// As `uname -m` names the processors that it is for.
    pub machine: String,
    /// What the file names of its extension modules end in, such as `.cpython-311-x86_64-linux-gnu.so`.
    #[serde(default)]
    pub extension_suffix: String,
    /// Whether it was a virtual environment, and programs may ask for `VIRTUAL_ENV`.
    #[serde(default)]
    pub virtual_env: bool,
    /// What activating it takes.
    #[serde(default)]
    pub places: Places,
    /// As `pip freeze` lists them.
    pub packages: Vec<String>,
    /// What it needs.
    #[serde(default)]
    pub audit: Audit,
}

/// What of the tree the variables of an activated environment depend on; so that activating does not
/// have to look at a tree that may be one that is mounted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
// Each is a fact of its own about the tree.
#[allow(clippy::struct_excessive_bools)]
#[serde(default)]
pub struct Places {
    /// Whether conda manages it.
    pub conda: bool,
    /// Whether shared libraries of the operating system came along.
    pub libraries: bool,
    /// Names of libraries that came along for nodes that lack one of them.
    pub common: Vec<String>,
    /// Whether the interpreter finds its libraries by a search path of its own, before any other's, so
    /// that no variable has to lead to them.
    pub has_search_path: bool,
    /// Whether there are files that name the place where they lie (`Prefixes`).
    pub prefixes: bool,
    /// Whether there is a database of terminals.
    pub terminals: bool,
    /// Names of its libpython, in `lib`.
    pub libpythons: Vec<String>,
    /// Files of certificates: conda's, and those of the package certifi.
    pub certificates: Vec<String>,
    /// Scripts that conda packages want sourced, in this order.
    pub scripts: Vec<String>,
    /// Variables that conda sets when it activates the environment, with [`ROOT`] for where it lies.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub variables: BTreeMap<String, String>,
}

impl Places {
    /// What conda sets when it activates the environment, if it lies there.
    pub fn variables_at(&self, root: &Path) -> impl Iterator<Item = (&str, OsString)> {
        self.variables.iter().map(move |(name, value)| {
            let mut parts = value.split(ROOT);
            let mut there = OsString::from(parts.next().unwrap_or_default());
            for part in parts {
                there.push(root);
                there.push(part);
            }
            (name.as_str(), there)
        })
    }
}

/// What it asks of a node, as far as that could be found out.
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
    /// Libraries of the machine that it was built on.
    pub bundled: Vec<Bundled>,
    /// The oldest branch of NVIDIA's driver that a GPU can be used with, such as `525`.
    pub gpu_driver: Option<Need>,
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

/// A library of the machine that it was built on. A node uses it where its own is missing or older, and
/// where the node's glibc is new enough for it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Bundled {
    /// As others ask for it, such as `libstdc++.so.6`.
    pub name: String,
    /// Below the root.
    pub file: String,
    /// Whether the interpreter cannot start without it; then its needs are the archive's as well.
    pub starts: bool,
    /// The highest version of glibc's symbols that it needs itself.
    pub glibc: Option<String>,
    /// The highest versions of its own symbols, such as `GLIBCXX_3.4.30`.
    pub versions: Vec<String>,
    /// The highest of these that other files ask for.
    pub asked: Vec<Need>,
}

/// What a package takes up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    /// Such as `numpy 2.4.6`; a directory for files of no package.
    pub name: String,
    /// Of its files.
    pub bytes: u64,
}

impl Manifest {
    /// A path that it names and that does not lie below the root.
    pub fn outside(&self) -> Option<&str> {
        let places = &self.places;
        let named = [&self.python].into_iter().chain(&places.scripts);
        let named = named
            .chain(&places.certificates)
            .chain(&places.libpythons)
            .chain(&places.common)
            .chain(self.audit.bundled.iter().map(|bundled| &bundled.file));
        let is_below = |path: &str| {
            let mut names = Path::new(path).components();
            names.all(|name| matches!(name, Component::Normal(_)))
        };
        named.map(String::as_str).find(|path| !is_below(path))
    }

    /// Sentences about what it needs, for people: a name and what there is to say of it.
    pub fn needs(&self) -> Vec<(&'static str, String)> {
        let Audit {
            loader: _,
            glibc,
            libstdcxx,
            x86_64_level,
            libraries,
            bundled,
            gpu_driver,
            largest,
        } = &self.audit;
        let mut lines = Vec::new();
        if let Some(need) = glibc {
            lines.push((
                "glibc",
                format!("{} or later, for `{}`", need.needs, need.file),
            ));
        }
        if let Some(need) = libstdcxx {
            lines.push((
                "libstdc++",
                format!("with GLIBCXX_{}, for `{}`", need.needs, need.file),
            ));
        }
        if let Some(need) = x86_64_level {
            lines.push((
                "Processor",
                format!("x86-64-v{}, for `{}`", need.needs, need.file),
            ));
        }
        if !self.extension_suffix.is_empty() {
            lines.push(("ABI", self.extension_suffix.clone()));
        }
        for need in libraries {
            lines.push((
                "From node",
                format!("`{}`, for `{}`", need.needs, need.file),
            ));
        }
        if let Some(need) = gpu_driver {
            lines.push((
                "GPU driver",
                format!("NVIDIA's {} or later, for `{}`", need.needs, need.file),
            ));
        }
        if !bundled.is_empty() {
            lines.push(("Bundled", said_of(bundled, glibc.as_ref())));
        }
        for share in largest {
            lines.push((
                "Largest",
                format!("{} MiB  {}", share.bytes.div_ceil(1 << 20), share.name),
            ));
        }
        lines
    }
}

/// How many there are, and which of them a node may have to do without that can run all the rest.
fn said_of(bundled: &[Bundled], glibc: Option<&Need>) -> String {
    let count = bundled.len();
    let mut text = match count {
        1 => "1 library of the machine that it was built on".to_owned(),
        _ => format!("{count} libraries of the machine that it was built on"),
    };
    let floor = glibc.map_or("", |need| need.needs.as_str());
    for library in bundled {
        if let Some(needs) = &library.glibc
            && is_older(floor, needs)
        {
            text.push_str(&format!(
                "; `{}` with glibc {needs} or later only",
                library.name
            ));
        }
    }
    text
}
