//! The second way: the archive itself is mounted, where the node and the user let it be.

use std::ffi::OsStr;

use htmap_exec_component::Served;
use htmap_exec_transplant::{self as transplant, Holder, Refusal};

use super::{Request, Suited, Tree};

/// `0` there means what `--no-mount` means.
const ENV_MOUNT: &str = "HTMAP_EXEC_MOUNT";
/// The command of ours that holds the namespace until it is handed over.
const HOLDER: &str = "mount-holder";

/// Has a namespace made, while it is found out what there is to mount; nothing if none may be.
pub(super) fn start(request: &Request<'_>) -> Option<Result<Holder, Refusal>> {
    if !request.may_mount || std::env::var_os(ENV_MOUNT).as_deref() == Some(OsStr::new("0")) {
        return None;
    }
    Some(Holder::start(HOLDER, &request.root()))
}

pub(super) fn mounted(suited: &Suited<'_>) -> anyhow::Result<Option<Tree>> {
    let holder = suited.holder.take();
    let Some(holder) = holder.or_else(|| start(suited.request)) else {
        tracing::info!("the transplant is unpacked, as is wished");
        return Ok(None);
    };
    let begun = std::time::Instant::now();
    let mounted = match holder {
        Ok(holder) => {
            let (archive, file) = suited.open()?;
            transplant::mount(&archive, &file, &suited.new_root()?, holder)
        }
        Err(refusal) => Err(refusal),
    };
    let mounted = match mounted {
        Ok(mounted) => mounted,
        Err(refusal) => {
            tracing::info!("the transplant cannot be mounted here, so it is unpacked: {refusal}");
            return Ok(None);
        }
    };
    let root = suited.request.root();
    let seconds = begun.elapsed().as_secs_f64();
    tracing::info!("mounted the transplant in {seconds:.3} s");
    Ok(Some(Tree {
        root: root.clone(),
        // Read-only by itself; what else Python imports may have its bytecode.
        shared: false,
        keep: None,
        served: Some(Served {
            root,
            packages: suited.manifest.packages.clone(),
            namespaces: mounted.namespaces,
            device: mounted.device,
            failure: mounted.failure,
        }),
    }))
}
