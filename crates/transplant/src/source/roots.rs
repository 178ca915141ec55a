//! Which directories and files make up an environment: whether one changed shows in their metadata.

use std::fs;
use std::path::{Path, PathBuf};

use htmap_exec_interpreter::Interpreter;

use super::editable;
use super::system::is_system;

/// The directories and files that [`super::collect`] looks at.
pub(crate) fn roots(interpreter: &Interpreter) -> Vec<PathBuf> {
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
    roots.extend(editable_sources(interpreter));
    roots.retain(|root| root.exists());
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
            let name = entry.file_name();
            if name.to_str().is_some_and(|name| {
                name.starts_with("__editable___") && name.ends_with("_finder.py")
            }) {
                let mapping = fs::read_to_string(entry.path())
                    .ok()
                    .and_then(|text| editable::mapping(&text));
                for (_, source) in mapping.unwrap_or_default() {
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
