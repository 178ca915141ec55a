//! A transplant that is mounted rather than unpacked, where the node and the user let it be.

use std::ffi::OsStr;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use htmap_exec_component::Served;
use htmap_exec_transplant::{self as transplant, Archive, Manifest};

/// `0` there means what `--no-mount` means.
const ENV_MOUNT: &str = "HTMAP_EXEC_MOUNT";
/// The command of ours that holds the namespace until it is handed over.
const HOLDER: &str = "mount-holder";

/// None: it has to be unpacked, and why was said.
pub(crate) fn mount(
    archive: &Arc<Archive>,
    file: &File,
    manifest: &Manifest,
    target: &Path,
    may_mount: bool,
) -> Option<Served> {
    if !may_mount || std::env::var_os(ENV_MOUNT).as_deref() == Some(OsStr::new("0")) {
        tracing::info!("the transplant is unpacked, as is wished");
        return None;
    }
    let begun = std::time::Instant::now();
    match transplant::mount(archive, file, target, HOLDER) {
        Ok(mounted) => {
            let seconds = begun.elapsed().as_secs_f64();
            tracing::info!("mounted the transplant in {seconds:.3} s");
            Some(Served {
                root: target.to_path_buf(),
                packages: manifest.packages.clone(),
                namespaces: mounted.namespaces,
                device: mounted.device,
                failure: mounted.failure,
            })
        }
        Err(refusal) => {
            tracing::info!("the transplant cannot be mounted here, so it is unpacked: {refusal}");
            None
        }
    }
}
