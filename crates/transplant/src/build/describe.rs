//! What an archive is to say of itself, from the interpreter and the tree that was collected for it.

use std::collections::BTreeMap;

use htmap_exec_interpreter::Interpreter;
use serde_json::Value;

use crate::archive::manifest::{Manifest, Places};
use crate::archive::place::{COMMON, EDITS, LIBRARIES, ROOT};
use crate::audit::audit;
use crate::environment::Source;
use crate::error::Error;
use crate::relocate::content::Content;
use crate::relocate::old::Old;

/// What conda's file of settings has for a variable that it is not to set.
const UNSET: &str = "***unset***";
/// Of a file of variables; conda's are a few lines.
const LARGEST: u64 = 1 << 20;

/// With the packages that are in it.
pub fn describe(interpreter: &Interpreter, source: &Source) -> Result<Manifest, Error> {
    let mut places = places(source);
    if places.conda {
        places.variables = variables(&Old::new(interpreter)?, source);
    }
    Ok(Manifest {
        python_version: interpreter.full_version.clone(),
        implementation: interpreter.implementation.clone(),
        python: source.python.clone(),
        machine: std::env::consts::ARCH.to_owned(),
        extension_suffix: interpreter.extension_suffix.clone(),
        virtual_env: interpreter.prefix != interpreter.base_prefix,
        places,
        packages: source.packages(interpreter.version),
        audit: audit(source),
    })
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

/// What conda sets when it activates the environment: what packages ask for, over it what the user said by
/// `conda env config vars set`
/// (<https://docs.conda.io/projects/conda/en/stable/user-guide/tasks/manage-environments.html#setting-environment-variables>).
fn variables(old: &Old, source: &Source) -> BTreeMap<String, String> {
    let (mut found, mut of_user) = (BTreeMap::new(), BTreeMap::new());
    for (entry, content) in source.entries.iter().zip(&source.contents) {
        let Some(content) = content else { continue };
        if entry.path == b"conda-meta/state" {
            of_user = strings(&json(content)["env_vars"]);
        } else if entry.path.starts_with(b"etc/conda/env_vars.d/") {
            found.extend(strings(&json(content)));
        }
    }
    found.extend(of_user);
    found.retain(|name, value| {
        // What is no variable for the kernel; PATH is ours to set.
        let is_one = !name.is_empty() && !name.contains(['=', '\0']) && !value.contains('\0');
        is_one && value != UNSET && name != "PATH"
    });
    for value in found.values_mut() {
        for (at, length) in old.namings(value.as_bytes()).into_iter().rev() {
            value.replace_range(at..at + length, ROOT);
        }
    }
    found
}

/// One that cannot be read is none: conda itself would not activate the environment either.
fn json(content: &Content) -> Value {
    let bytes = (content.size() <= LARGEST).then(|| content.whole().ok());
    let bytes = bytes.flatten().unwrap_or_default();
    serde_json::from_slice(&bytes).unwrap_or_default()
}

fn strings(object: &Value) -> BTreeMap<String, String> {
    let members = object.as_object().into_iter().flatten();
    let text = |(name, value): (&String, &Value)| Some((name.clone(), value.as_str()?.to_owned()));
    members.filter_map(text).collect()
}
