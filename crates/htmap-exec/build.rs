//! Says to `--version` what was built from which commit, by which compiler: `HTMAP_EXEC_BUILD`.
//!
//! Nothing of it depends on the time or the place, so that the same commit gives the same bytes.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=HTMAP_EXEC_COMMIT");
    let commit = env::var("HTMAP_EXEC_COMMIT")
        .ok()
        .filter(|commit| !commit.is_empty())
        .or_else(commit_of_checkout)
        .unwrap_or_else(|| "unknown commit".to_owned());
    let target = env::var("TARGET").expect("cargo sets it for build scripts");
    let rustc = rustc_version().unwrap_or_else(|| "of unknown version".to_owned());
    println!("cargo::rustc-env=HTMAP_EXEC_BUILD={commit}, {target}, rustc {rustc}");
}

/// As in `0123456789ab 2026-11-23`; nothing for a source package, and without git.
fn commit_of_checkout() -> Option<String> {
    let package = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR")?);
    let workspace = package.ancestors().nth(2)?.canonicalize().ok()?;
    // A source package may have been unpacked inside of another project's checkout.
    let checkout = git(&workspace, &["rev-parse", "--show-toplevel"])?;
    if Path::new(&checkout).canonicalize().ok()? != workspace {
        return None;
    }
    watch(&workspace);
    let (commit, date) = git(
        &workspace,
        &["show", "--no-patch", "--format=%H %cs", "HEAD"],
    )
    .and_then(|line| {
        line.split_once(' ')
            .map(|(hash, date)| (hash.to_owned(), date.to_owned()))
    })?;
    // Cut here: how far git shortens depends on what else is in the repository.
    Some(format!("{} {date}", commit.get(..12)?))
}

/// Runs this again when another commit is checked out. Never names a file that does not exist: cargo
/// would take that for a change at each call.
fn watch(workspace: &Path) {
    let branch = git(workspace, &["symbolic-ref", "--quiet", "HEAD"]);
    let names = ["HEAD", "logs/HEAD", "packed-refs"];
    for name in names.into_iter().chain(branch.as_deref()) {
        let path = git(
            workspace,
            &["rev-parse", "--path-format=absolute", "--git-path", name],
        );
        if let Some(path) = path.filter(|path| Path::new(path).exists()) {
            println!("cargo::rerun-if-changed={path}");
        }
    }
}

fn git(directory: &Path, arguments: &[&str]) -> Option<String> {
    let output = Command::new("git")
        .arg("-C")
        .arg(directory)
        .args(arguments)
        .output()
        .ok()?;
    let line = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (output.status.success() && !line.is_empty()).then_some(line)
}

/// As in `1.96.0`.
fn rustc_version() -> Option<String> {
    let output = Command::new(env::var_os("RUSTC")?)
        .arg("--version")
        .output()
        .ok()?;
    let line = String::from_utf8(output.stdout).ok()?;
    Some(line.split_whitespace().nth(1)?.to_owned())
}
