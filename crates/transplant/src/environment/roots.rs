//! Which directories and files make up an environment: whether one changed shows in their metadata.

use std::fs;
use std::path::{Path, PathBuf};

use htmap_exec_interpreter::Interpreter;

use super::editable;
use super::system::is_system;

/// The directories and files that [`super::collect`] looks at.
pub(crate) fn roots(interpreter: &Interpreter) -> Vec<PathBuf> {
    let mut roots = homes(interpreter);
    roots.extend(editable_sources(interpreter));
    roots.retain(|root| root.exists());
    roots
}

/// Those that are the Python's own.
pub(crate) fn homes(interpreter: &Interpreter) -> Vec<PathBuf> {
    let base = &interpreter.base_prefix;
    let mut roots = if is_system(base) {
        let name = format!("python{}", interpreter.version);
        vec![
            base.join("bin").join(&name),
            base.join("lib").join(&name),
            base.join("lib64").join(&name),
            base.join("lib/python3"),
            base.join("local/lib").join(&name),
        ]
    } else {
        vec![base.clone()]
    };
    if interpreter.prefix != *base {
        roots.push(interpreter.prefix.clone());
    }
    roots
}

/// Outside of the prefix, and yet part of the environment.
fn editable_sources(interpreter: &Interpreter) -> Vec<PathBuf> {
    let outside = |path: &Path| {
        !path.starts_with(&interpreter.prefix) && !path.starts_with(&interpreter.base_prefix)
    };
    let mut found = Vec::new();
    for directory in &interpreter.sys_path {
        // A line of a `.pth` file has become a part of the path already.
        if outside(directory) && directory.is_dir() {
            found.push(directory.clone());
        }
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            let (name, path) = (entry.file_name(), entry.path());
            let Some(module) = name.to_str().and_then(|name| name.strip_suffix(".py")) else {
                continue;
            };
            if !module.contains("editable_") {
                continue;
            }
            let text = fs::read_to_string(&path).unwrap_or_default();
            if let editable::Finder::Mapping(mapping) = editable::finder(module, &text) {
                for (_, source) in mapping {
                    found.push(if source.is_dir() {
                        source
                    } else {
                        source.with_extension("py")
                    });
                }
            }
        }
    }
    found
}
