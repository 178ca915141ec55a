//! Which packages of Debian have a library: as this machine's `dpkg` says, and by a table where there is none.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use crate::runtime;

/// Names of Debian 12; Debian 13 knows them, too.
const PACKAGES: [(&str, &str); 45] = [
    ("libGL.so.1", "libgl1"),
    ("libEGL.so.1", "libegl1"),
    ("libGLU.so.1", "libglu1-mesa"),
    ("libOpenGL.so.0", "libopengl0"),
    ("libOSMesa.so.8", "libosmesa6"),
    ("libglib-2.0.so.0", "libglib2.0-0"),
    ("libgthread-2.0.so.0", "libglib2.0-0"),
    ("libgobject-2.0.so.0", "libglib2.0-0"),
    ("libgomp.so.1", "libgomp1"),
    ("libgfortran.so.5", "libgfortran5"),
    ("libquadmath.so.0", "libquadmath0"),
    ("libatomic.so.1", "libatomic1"),
    ("libX11.so.6", "libx11-6"),
    ("libXext.so.6", "libxext6"),
    ("libXrender.so.1", "libxrender1"),
    ("libXi.so.6", "libxi6"),
    ("libXt.so.6", "libxt6"),
    ("libXcursor.so.1", "libxcursor1"),
    ("libXft.so.2", "libxft2"),
    ("libSM.so.6", "libsm6"),
    ("libICE.so.6", "libice6"),
    ("libxcb.so.1", "libxcb1"),
    ("libxkbcommon.so.0", "libxkbcommon0"),
    ("libdbus-1.so.3", "libdbus-1-3"),
    ("libfontconfig.so.1", "libfontconfig1"),
    ("libfreetype.so.6", "libfreetype6"),
    ("libcairo.so.2", "libcairo2"),
    ("libpango-1.0.so.0", "libpango-1.0-0"),
    ("libpq.so.5", "libpq5"),
    ("libmariadb.so.3", "libmariadb3"),
    ("libodbc.so.2", "libodbc2"),
    ("libcurl.so.4", "libcurl4"),
    ("libxml2.so.2", "libxml2"),
    ("libxslt.so.1", "libxslt1.1"),
    ("libsndfile.so.1", "libsndfile1"),
    ("libusb-1.0.so.0", "libusb-1.0-0"),
    ("libopenblas.so.0", "libopenblas0"),
    ("libblas.so.3", "libblas3"),
    ("liblapack.so.3", "liblapack3"),
    ("libfftw3.so.3", "libfftw3-double3"),
    ("libgsl.so.27", "libgsl27"),
    ("libmpi.so.40", "libopenmpi3"),
    ("libnuma.so.1", "libnuma1"),
    ("libtbb.so.12", "libtbb12"),
    ("libgmp.so.10", "libgmp10"),
];

/// Where the loader looks without being told.
const LOADERS: [&str; 5] = ["/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib"];

/// The packages of these files of `/usr/lib`, which may be libraries or, for linkers, links to them.
pub(crate) fn packages<'a>(names: impl Iterator<Item = &'a String>) -> BTreeMap<String, String> {
    let names: Vec<&String> = names.filter(|name| is_plain(name)).collect();
    let mut found = BTreeMap::new();
    let asked = ask(&names);
    for name in names {
        let mut owners: Vec<&Owner> = asked.iter().filter(|owner| owner.file == *name).collect();
        // What is elsewhere is a choice among several, such as one of the BLAS.
        owners.sort_by_key(|owner| !owner.is_loaders);
        let table = PACKAGES.iter().find(|(library, _)| library == name);
        let package = match (owners.first(), table) {
            (Some(owner), None) => owner.package.clone(),
            (Some(owner), _) if owner.is_loaders => owner.package.clone(),
            (_, Some((_, package))) => (*package).to_owned(),
            (None, None) => continue,
        };
        found.insert(name.clone(), package);
    }
    found
}

/// Names are looked for by patterns.
fn is_plain(name: &str) -> bool {
    name.bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b"+-._".contains(&byte))
}

#[derive(Debug, PartialEq, Eq)]
struct Owner {
    package: String,
    file: String,
    is_loaders: bool,
}

fn ask(names: &[&String]) -> Vec<Owner> {
    let Some(program) = runtime::on_path("dpkg-query") else {
        return Vec::new();
    };
    if names.is_empty() {
        return Vec::new();
    }
    let mut command = Command::new(program);
    command.env("LC_ALL", "C").arg("--search");
    command.args(names.iter().map(|name| format!("*/{name}")));
    // Its status is an error if one of many is unknown.
    runtime::output(&mut command).map_or_else(
        |_| Vec::new(),
        |output| {
            String::from_utf8_lossy(&output.stdout)
                .lines()
                .filter_map(owner)
                .collect()
        },
    )
}

/// `libacl1:amd64: /usr/lib/x86_64-linux-gnu/libacl.so.1`, the first of several packages.
fn owner(line: &str) -> Option<Owner> {
    if line.starts_with("diversion by ") {
        return None;
    }
    let (packages, path) = line.split_once(": /")?;
    let first = packages.split(", ").next()?;
    let (package, architecture) = match first.split_once(':') {
        Some((package, architecture)) => (package, Some(architecture)),
        None => (first, None),
    };
    let native = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    if architecture.is_some_and(|architecture| architecture != native && architecture != "all") {
        return None;
    }
    let path = Path::new("/").join(path);
    let directory = path.parent()?;
    let is_loaders = |directory: &Path| LOADERS.iter().any(|known| directory == Path::new(known));
    Some(Owner {
        // Where time_t grew, packages were renamed; the new ones have the old names, too.
        package: package.strip_suffix("t64").unwrap_or(package).to_owned(),
        file: path.file_name()?.to_string_lossy().into_owned(),
        // Or in a directory for the architecture: /usr/lib/x86_64-linux-gnu
        is_loaders: is_loaders(directory)
            || directory
                .file_name()
                .is_some_and(|name| name.to_string_lossy().contains("-linux-gnu"))
                && directory.parent().is_some_and(is_loaders),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(line: &str) -> Option<(String, bool)> {
        owner(line).map(|owner| (owner.package, owner.is_loaders))
    }

    #[test]
    fn what_dpkg_says() {
        let native = match std::env::consts::ARCH {
            "aarch64" => "arm64",
            _ => "amd64",
        };
        for (line, expected) in [
            (
                "libacl1:{}: /usr/lib/x86_64-linux-gnu/libacl.so.1",
                Some(("libacl1", true)),
            ),
            (
                "libglib2.0-0t64:{}: /usr/lib/x86_64-linux-gnu/libglib-2.0.so.0",
                Some(("libglib2.0-0", true)),
            ),
            (
                "libblas3:{}: /usr/lib/x86_64-linux-gnu/blas/libblas.so.3",
                Some(("libblas3", false)),
            ),
            ("one, two: /usr/lib/x.so", Some(("one", true))),
            ("libacl1:s390x: /usr/lib/s390x-linux-gnu/libacl.so.1", None),
            ("diversion by dash from: /bin/sh", None),
        ] {
            let line = line.replace("{}", native);
            assert_eq!(
                said(&line),
                expected.map(|(name, is)| (name.to_owned(), is)),
                "{line}"
            );
        }
    }

    #[test]
    fn the_table_knows_what_dpkg_does_not() {
        // Of an older release than any that this is tested on.
        let names = [
            "libOSMesa.so.8".to_owned(),
            "lib*".to_owned(),
            "libnosuch.so.9".to_owned(),
        ];
        let found = packages(names.iter());
        assert_eq!(
            found.get("libOSMesa.so.8").map(String::as_str),
            Some("libosmesa6")
        );
        assert_eq!(found.len(), 1);
    }
}
