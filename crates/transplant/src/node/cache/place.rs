//! Whether a directory is one that a cache may be in: this node's, and nobody's but ours; and which
//! part of it is this node's where others share it after all.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use nix::sys::statfs::statfs;
use nix::sys::statvfs::{FsFlags, statvfs};

use super::PassedOver;

/// File systems that several machines share: locks may mean nothing there, and another node's trees
/// look like ones from before the boot. <https://man7.org/linux/man-pages/man2/statfs.2.html>
const SHARED: [(i64, &str); 13] = [
    (0x6969, "NFS"),
    (0x517b, "SMB"),
    (0xff53_4d42, "CIFS"),
    (0xfe53_4d42, "SMB2"),
    (0x5346_414f, "AFS"),
    (0x0bd0_0bd0, "Lustre"),
    (0x6573_5546, "FUSE"),
    (0x00c3_6400, "Ceph"),
    (0x4750_4653, "GPFS"),
    (0x0102_1997, "9P"),
    (0x1983_0326, "BeeGFS"),
    (0x7461_636f, "OCFS2"),
    (0x0116_1970, "GFS2"),
];

/// What a machine was called when it was installed: machine-id(5). Containers often have none, or an
/// empty one, and nodes that start from one image may have the same.
const MACHINE: [&str; 2] = ["/etc/machine-id", "/var/lib/dbus/machine-id"];

/// The name of this node's part. A file system that several nodes share may give each of them locks of
/// its own, so what this node locks and clears must be nothing of another one's.
pub(super) fn of_this_node(boot: &str) -> String {
    let is_one = |id: &str| id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    let id = MACHINE
        .iter()
        .filter_map(|path| fs::read_to_string(path).ok())
        .map(|text| text.trim().to_owned())
        .find(|id| is_one(id));
    let id = id.as_deref().unwrap_or(boot);
    let host = nix::unistd::gethostname().unwrap_or_default();
    // Its documentation asks not to show it to everybody.
    let digest = blake3::hash(format!("htmap-exec cache {id} {}", host.display()).as_bytes());
    digest.to_hex()[..16].to_owned()
}

/// Whether nobody else can bend what is in it, locks hold, and programs run.
pub(super) fn suits(directory: &Path) -> Result<(), PassedOver> {
    for above in directory.ancestors() {
        belongs_to_nobody_else(above)?;
    }
    let kind = statfs(directory)
        .map_err(|error| PassedOver::io("look at", directory)(error.into()))?
        .filesystem_type()
        .0;
    // A word of another size with another C library, and of another sign.
    #[allow(clippy::cast_lossless, clippy::unnecessary_cast)]
    let kind = (kind as i64) & 0xffff_ffff;
    if let Some((_, name)) = SHARED.iter().find(|(magic, _)| *magic == kind) {
        return Err(PassedOver(format!(
            "`{}` is on {name}, and not this node's own",
            directory.display()
        )));
    }
    let flags = statvfs(directory)
        .map_err(|error| PassedOver::io("look at", directory)(error.into()))?
        .flags();
    if flags.contains(FsFlags::ST_NOEXEC) {
        return Err(PassedOver(format!(
            "nothing in `{}` may be executed (noexec)",
            directory.display()
        )));
    }
    Ok(())
}

/// Only root or this user may have put something else in the place of it.
fn belongs_to_nobody_else(path: &Path) -> Result<(), PassedOver> {
    let metadata = fs::symlink_metadata(path).map_err(PassedOver::io("look at", path))?;
    let owner = metadata.uid();
    if owner != 0 && owner != nix::unistd::geteuid().as_raw() {
        return Err(PassedOver(format!(
            "`{}` belongs to another user ({owner})",
            path.display()
        )));
    }
    // In a sticky directory nobody can rename what is another's.
    if metadata.mode() & 0o022 != 0 && metadata.mode() & 0o1000 == 0 {
        return Err(PassedOver(format!(
            "others may write to `{}`",
            path.display()
        )));
    }
    Ok(())
}

/// A real directory of this user, which nobody else may enter.
pub(super) fn is_private(path: &Path) -> Result<(), PassedOver> {
    let metadata = fs::symlink_metadata(path).map_err(PassedOver::io("look at", path))?;
    let own = metadata.uid() == nix::unistd::geteuid().as_raw();
    if metadata.is_dir() && own && metadata.mode().trailing_zeros() >= 6 {
        return Ok(());
    }
    Err(PassedOver(format!(
        "`{}` is not a directory of this user's alone",
        path.display()
    )))
}
