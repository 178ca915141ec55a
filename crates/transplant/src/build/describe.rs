//! What an archive is to say of itself, from the interpreter and the tree that was collected for it.

use htmap_exec_interpreter::Interpreter;

use crate::archive::manifest::{Manifest, Places};
use crate::archive::place::{COMMON, EDITS, LIBRARIES};
use crate::audit::audit;
use crate::environment::Source;

/// With these packages, as `pip freeze` lists them.
pub fn describe(interpreter: &Interpreter, source: &Source, packages: Vec<String>) -> Manifest {
    Manifest {
        python_version: interpreter.full_version.clone(),
        implementation: interpreter.implementation.clone(),
        python: source.python.clone(),
        machine: std::env::consts::ARCH.to_owned(),
        extension_suffix: interpreter.extension_suffix.clone(),
        virtual_env: interpreter.prefix != interpreter.base_prefix,
        places: places(source),
        packages,
        audit: audit(source),
    }
}

fn places(source: &Source) -> Places {
    let mut found = Places {
        has_search_path: source.has_search_path,
        ..Places::default()
    };
    for entry in &source.entries {
        let Ok(path) = std::str::from_utf8(&entry.path) else {
            continue;
        };
        match path {
            "conda-meta" => found.conda = true,
            LIBRARIES => found.libraries = true,
            EDITS => found.prefixes = true,
            "share/terminfo" => found.terminals = true,
            "ssl/cacert.pem" => found.certificates.push(path.to_owned()),
            _ if path.ends_with("/site-packages/certifi/cacert.pem") => {
                found.certificates.push(path.to_owned());
            }
            _ => {
                if let Some(name) = path.strip_prefix(COMMON)
                    && let Some(name) = name.strip_prefix('/')
                {
                    found.common.push(name.to_owned());
                } else if let Some(name) = path.strip_prefix("lib/libpython") {
                    if !name.contains('/') {
                        found.libpythons.push(format!("libpython{name}"));
                    }
                } else if path
                    .strip_prefix("etc/conda/activate.d/")
                    .and_then(|name| name.strip_suffix(".sh"))
                    .is_some_and(|name| !name.contains('/'))
                {
                    found.scripts.push(path.to_owned());
                }
            }
        }
    }
    found
}
