use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;

use sha2::{Digest as _, Sha256};

use super::super::adopt;
use super::*;
use crate::hex::hex;

fn scratch(directory: &Path) -> Scratch {
    Scratch::prepare(directory, 0).unwrap()
}

fn write(path: &Path, content: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

fn manifest(directory: &Path, text: &str) {
    write(&directory.join(names::CHECKPOINT_MANIFEST), text);
}

fn generation(directory: &Path, number: u64, content: &str) {
    write(&directory.join("d/state"), content);
    let sha256 = hex(&Sha256::digest(content));
    let size = content.len();
    manifest(
        directory,
        &format!(
            r#"{{"version": 1, "generation": {number}, "files": {{"d/state": {{"size": {size}, "sha256": "{sha256}"}}}}}}"#
        ),
    );
}

fn restored(scratch: &Scratch) -> usize {
    adopt(scratch).unwrap();
    restore(scratch, &AtomicBool::new(false)).unwrap().files
}

fn state(root: &Path) -> String {
    fs::read_to_string(root.join("d/state")).unwrap()
}

#[test]
fn the_newest_complete_generation_wins_wherever_it_lies() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    let scratch = scratch(root);
    generation(&root.join(names::CHECKPOINT_CURRENT), 2, "two");
    generation(&root.join(names::CHECKPOINT_OLD), 1, "one");
    generation(&scratch.transfer().join(names::CHECKPOINT_PREP), 3, "three");
    assert_eq!(restored(&scratch), 1);
    assert_eq!(state(root), "three");
    // What was restored may change without the checkpoint.
    write(&root.join("d/state"), "changed");
    let kept = scratch.transfer().join(names::CHECKPOINT_CURRENT);
    assert_eq!(state(&kept), "three");
    assert_eq!(candidates(&scratch), [kept]);
    assert!(!staging(&scratch).exists());
}

#[test]
fn a_damaged_generation_leaves_no_trace_and_is_kept() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    let scratch = scratch(root);
    // Of the same size: only the digest tells.
    let current = root.join(names::CHECKPOINT_CURRENT);
    generation(&current, 2, "two");
    write(&current.join("d/state"), "owt");
    write(&current.join("stray"), "");
    generation(&root.join(names::CHECKPOINT_OLD), 1, "one");
    restored(&scratch);
    assert_eq!(state(root), "one");
    let transfer = scratch.transfer();
    assert_eq!(state(&transfer.join(names::CHECKPOINT_CURRENT)), "one");
    let aside = transfer.join(format!("{}.1", names::CHECKPOINT_CURRENT));
    assert_eq!(state(&aside), "owt");
    // Once more, as in the next attempt.
    restored(&scratch);
    assert_eq!(state(root), "one");
}

#[test]
fn an_input_file_stays_where_no_generation_is_sound() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    let scratch = scratch(root);
    write(&root.join("d/state"), "input");
    let current = root.join(names::CHECKPOINT_CURRENT);
    generation(&current, 2, "two");
    write(&current.join("d/state"), "owt");
    assert_eq!(restored(&scratch), 0);
    assert_eq!(state(root), "input");
    assert_eq!(candidates(&scratch).len(), 1);
}

#[test]
fn htmaps_own_layout_is_restored() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    let scratch = scratch(root);
    // An eviction during HTMap's first copy leaves the current one empty.
    fs::create_dir(root.join(names::CHECKPOINT_CURRENT)).unwrap();
    write(&root.join(names::CHECKPOINT_OLD).join("state"), "old");
    restored(&scratch);
    assert_eq!(fs::read_to_string(root.join("state")).unwrap(), "old");
}

#[test]
fn what_a_newer_version_wrote_is_not_taken_for_htmaps_layout() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    let scratch = scratch(root);
    let current = root.join(names::CHECKPOINT_CURRENT);
    write(&current.join("state"), "of the future");
    manifest(&current, r#"{"version": 3, "generation": 9, "files": {}}"#);
    assert_eq!(restored(&scratch), 0);
    assert!(!root.join("state").exists());
    assert_eq!(candidates(&scratch).len(), 1);
}

#[test]
fn half_a_generation_is_no_generation() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    let scratch = scratch(root);
    write(
        &scratch
            .transfer()
            .join(names::CHECKPOINT_PREP)
            .join("state"),
        "half",
    );
    write(&root.join(names::CHECKPOINT_PREP).join("state"), "half");
    assert_eq!(restored(&scratch), 0);
    assert!(!root.join("state").exists());
    assert!(candidates(&scratch).is_empty());
}

#[test]
fn names_modes_times_and_links_come_back() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    let scratch = scratch(root);
    let current = root.join(names::CHECKPOINT_CURRENT);
    let name = Path::new(std::ffi::OsStr::from_bytes(b"d/caf\xe9\n"));
    fs::create_dir_all(current.join("d")).unwrap();
    fs::write(current.join(name), "").unwrap();
    let empty = hex(&Sha256::digest(""));
    manifest(
        &current,
        &format!(
            r#"{{"version": 2, "generation": 1, "files": {{
            "d": {{"directory": true, "mode": 365, "mtime": 2000000000}},
            "d/caf%E9%0A": {{"size": 0, "blocks": "{empty}", "mode": 292, "mtime": 1000000000}},
            "link": {{"link": "%FF"}}}}}}"#
        ),
    );
    assert_eq!(restored(&scratch), 2);
    let file = root.join(name).metadata().unwrap();
    assert_eq!((file.mode() & 0o777, file.mtime()), (0o444, 1));
    let above = root.join("d").metadata().unwrap();
    assert_eq!((above.mode() & 0o777, above.mtime()), (0o555, 2));
    let link = fs::read_link(root.join("link")).unwrap();
    assert_eq!(link.as_os_str().as_bytes(), b"\xff");
    remove(&root.join("d")).unwrap();
}

#[test]
fn names_of_the_contract_are_not_restored() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    let scratch = scratch(root);
    write(&root.join("func"), "ours");
    let current = root.join(names::CHECKPOINT_CURRENT);
    for name in ["func", "0.in", ".job.ad", "_htmap_transfer/0.out", "mine"] {
        write(&current.join(name), "theirs");
    }
    assert_eq!(restored(&scratch), 1);
    assert_eq!(fs::read_to_string(root.join("func")).unwrap(), "ours");
    assert!(!root.join("0.in").exists() && !scratch.output().exists());
}

#[test]
fn what_stands_in_the_way_is_replaced_and_no_link_is_followed() {
    let directory = tempfile::tempdir().unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let root = directory.path();
    let scratch = scratch(root);
    symlink(elsewhere.path(), root.join("d")).unwrap();
    generation(&root.join(names::CHECKPOINT_CURRENT), 1, "one");
    restored(&scratch);
    assert_eq!(state(root), "one");
    assert_eq!(fs::read_dir(elsewhere.path()).unwrap().count(), 0);
}

#[test]
fn a_restore_that_is_stopped_loses_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    let scratch = scratch(root);
    generation(&root.join(names::CHECKPOINT_CURRENT), 2, "two");
    generation(&root.join(names::CHECKPOINT_OLD), 1, "one");
    adopt(&scratch).unwrap();
    let stopped = restore(&scratch, &AtomicBool::new(true));
    assert!(matches!(stopped, Err(NotRestored::Stopped)));
    super::super::tidy(&scratch).unwrap();
    assert_eq!(candidates(&scratch).len(), 2);
    restored(&scratch);
    assert_eq!(state(root), "two");
}

#[test]
fn a_restore_that_fails_says_so_and_keeps_the_checkpoint() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    let scratch = scratch(root);
    let current = root.join(names::CHECKPOINT_CURRENT);
    write(&current.join("state"), "");
    // What no file system takes.
    let name = format!("{}/state", "n".repeat(300));
    manifest(
        &current,
        &format!(r#"{{"version": 2, "generation": 1, "files": {{"{name}": {{"link": "x"}}}}}}"#),
    );
    adopt(&scratch).unwrap();
    let Err(NotRestored::Failed(failure)) = restore(&scratch, &AtomicBool::new(false)) else {
        panic!("it was restored");
    };
    assert_eq!(
        (failure.stage, failure.cause.clone()),
        (Stage::RestoringCheckpoint, Cause::NodeFile)
    );
    assert!(
        failure.message.contains("File name too long"),
        "{}",
        failure.message
    );
    assert_eq!(candidates(&scratch).len(), 1);
    assert!(!staging(&scratch).exists());
}
