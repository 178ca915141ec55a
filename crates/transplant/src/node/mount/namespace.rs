//! The namespace that a mount lives in: made by a process of its own, which hands it over and ends.
//! It is started before anybody knows what there is to mount, and makes it meanwhile.
//!
//! A user namespace can only be made by a process with one thread, and the runner stays outside:
//! one that reads what it serves itself, and is killed meanwhile, waits for itself for ever. The
//! device has to be opened inside, too: the kernel compares who opened it with who mounts.
//! <https://man7.org/linux/man-pages/man7/user_namespaces.7.html>

use std::fs::{self, File};
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd as _, AsRawFd, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg,
    sendmsg, setsockopt, socketpair, sockopt,
};
use nix::sys::time::TimeVal;
use nix::unistd::{getegid, geteuid};

use super::Refusal;

const DEVICE: &str = "/dev/fuse";
/// As `mount` shows it.
const TYPE: &str = "fuse.htmap-exec";
/// Making a namespace takes a millisecond or two.
const LIMIT: TimeVal = TimeVal::new(10, 0);
/// What the other process waits for.
const GO: &str = "mount";

/// A mount that nobody answers for yet.
pub(super) struct Made {
    pub(super) device: OwnedFd,
    pub(super) namespaces: Vec<OwnedFd>,
}

/// The other process, which has its namespace made and waits to be told to mount.
#[derive(Debug)]
pub struct Holder {
    socket: OwnedFd,
    child: Child,
}

impl Holder {
    /// Has [`hold`] called in another process, by `command` of this program, whose only argument is
    /// where to mount. There need be nothing yet.
    pub fn start(command: &str, target: &Path) -> Result<Self, Refusal> {
        let (ours, theirs) = socketpair(
            AddressFamily::Unix,
            SockType::SeqPacket,
            None,
            SockFlag::SOCK_CLOEXEC,
        )
        .map_err(|error| Refusal::new("make a socket", &error.into()))?;
        setsockopt(&ours, sockopt::ReceiveTimeout, &LIMIT)
            .map_err(|error| Refusal::new("make a socket", &error.into()))?;
        let child = Command::new("/proc/self/exe")
            .arg(command)
            .arg(target)
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .spawn()
            .map_err(|error| Refusal::new("start another process of this program", &error))?;
        Ok(Self {
            socket: ours,
            child,
        })
    }

    /// Has it mount, now that there is something to mount at.
    pub(super) fn mount(self) -> Result<Made, Refusal> {
        // One that has refused and ended takes no message, and has left one.
        send(self.socket.as_fd(), GO, &[]).ok();
        let received = receive(self.socket.as_fd());
        let (said, mut descriptors) =
            received.map_err(|error| Refusal::new("hear of the namespace", &error))?;
        if !said.is_empty() {
            return Err(Refusal(said));
        }
        if descriptors.len() < 2 {
            return Err(Refusal("the process that was to mount it died".to_owned()));
        }
        let namespaces = descriptors.split_off(1);
        Ok(Made {
            device: descriptors.remove(0),
            namespaces,
        })
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        // It has ended, or hangs, or nobody needs it any more.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn send(socket: BorrowedFd<'_>, text: &str, descriptors: &[RawFd]) -> nix::Result<usize> {
    let rights = [ControlMessage::ScmRights(descriptors)];
    // The zero: a message of no bytes is taken for the end.
    let text = format!("{text}\0");
    sendmsg::<()>(
        socket.as_raw_fd(),
        &[IoSlice::new(text.as_bytes())],
        if descriptors.is_empty() { &[] } else { &rights },
        MsgFlags::MSG_NOSIGNAL,
        None,
    )
}

/// A message without a word has descriptors, one with words is the reason why not.
fn receive(socket: BorrowedFd<'_>) -> io::Result<(String, Vec<OwnedFd>)> {
    let mut text = [0; 1 << 10];
    let mut space = nix::cmsg_space!([RawFd; 3]);
    let mut slices = [IoSliceMut::new(&mut text)];
    let message = recvmsg::<()>(
        socket.as_raw_fd(),
        &mut slices,
        Some(&mut space),
        MsgFlags::MSG_CMSG_CLOEXEC,
    )?;
    let length = message.bytes;
    let mut descriptors = Vec::new();
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(numbers) = control {
            for number in numbers {
                // SAFETY: the kernel has just made it, for nobody else.
                #[allow(unsafe_code)]
                descriptors.push(unsafe { OwnedFd::from_raw_fd(number) });
            }
        }
    }
    let said = text[..length]
        .strip_suffix(b"\0")
        .unwrap_or(&text[..length]);
    Ok((String::from_utf8_lossy(said).into_owned(), descriptors))
}

/// What the other process does: its standard input is the socket.
pub fn hold(target: &Path) {
    let socket = io::stdin();
    let (said, made) = match enter().and_then(|device| {
        // Nothing, where the runner has found that it needs no mount, or was killed.
        let told = receive(socket.as_fd()).is_ok_and(|(text, _)| text == GO);
        told.then(|| mount_at(target, device)).transpose()
    }) {
        Ok(None) => return,
        Ok(Some(made)) => (String::new(), made),
        Err(Refusal(reason)) => (reason, Vec::new()),
    };
    let numbers: Vec<RawFd> = made.iter().map(AsRawFd::as_raw_fd).collect();
    send(socket.as_fd(), &said, &numbers).ok();
}

/// Into a namespace of its own, with the device opened there.
fn enter() -> Result<OwnedFd, Refusal> {
    let failed = |action: &'static str| move |error: io::Error| Refusal::new(action, &error);
    let (uid, gid) = (geteuid(), getegid());
    // Root would lose in a user namespace what makes it root, and needs none.
    if uid.is_root() {
        unshare(CloneFlags::CLONE_NEWNS)
            .map_err(|error| Refusal::new("make a mount namespace", &error.into()))?;
        // What is mounted outside still appears inside, an automounted home directory for one.
        let flags = MsFlags::MS_REC | MsFlags::MS_SLAVE;
        mount(None::<&str>, "/", None::<&str>, flags, None::<&str>)
            .map_err(|error| Refusal::new("make a mount namespace", &error.into()))?;
    } else {
        unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS)
            .map_err(|error| Refusal::new("make a user namespace", &error.into()))?;
        // Without it the kernel refuses the map of groups: user_namespaces(7).
        fs::write("/proc/self/setgroups", "deny").map_err(failed("map groups"))?;
        fs::write("/proc/self/uid_map", format!("{uid} {uid} 1")).map_err(failed("map users"))?;
        fs::write("/proc/self/gid_map", format!("{gid} {gid} 1")).map_err(failed("map groups"))?;
    }
    let device = File::options().read(true).write(true).open(DEVICE);
    device
        .map(OwnedFd::from)
        .map_err(|error| Refusal(format!("cannot open `{DEVICE}`: {error}")))
}

fn mount_at(target: &Path, device: OwnedFd) -> Result<Vec<OwnedFd>, Refusal> {
    let failed = |action: &'static str| move |error: io::Error| Refusal::new(action, &error);
    let (uid, gid) = (geteuid(), getegid());
    let target = fs::canonicalize(target).map_err(failed("find where to mount"))?;
    let mut options = format!(
        "fd={},rootmode=40000,user_id={uid},group_id={gid},default_permissions",
        device.as_raw_fd()
    );
    if uid.is_root() {
        // Whom root becomes in the function.
        options.push_str(",allow_other");
    }
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOATIME;
    mount(
        Some("htmap-exec"),
        &target,
        Some(TYPE),
        flags,
        Some(options.as_str()),
    )
    .map_err(|error| Refusal::new("mount by FUSE", &error.into()))?;
    let mut made = vec![device];
    if !uid.is_root() {
        made.push(open("/proc/self/ns/user")?);
    }
    let namespace = open("/proc/self/ns/mnt")?;
    // Whoever enters a namespace stands at its root, which is not that of a chroot.
    setns(&namespace, CloneFlags::CLONE_NEWNS)
        .map_err(|error| Refusal::new("enter the mount namespace", &error.into()))?;
    let mounts = fs::read("/proc/self/mountinfo").map_err(failed("look at the mounts"))?;
    if !is_mounted(&mounts, &target) {
        return Err(Refusal("this is a chroot".to_owned()));
    }
    made.push(namespace);
    Ok(made)
}

/// Asks the list of mounts, and not the mount: nobody would answer yet.
fn is_mounted(mounts: &[u8], target: &Path) -> bool {
    // Blanks are written as octal numbers: proc_pid_mountinfo(5).
    let mut escaped = Vec::new();
    for &byte in target.as_os_str().as_bytes() {
        match byte {
            b' ' | b'\t' | b'\n' | b'\\' => escaped.extend(format!("\\{byte:03o}").bytes()),
            _ => escaped.push(byte),
        }
    }
    mounts.split(|&byte| byte == b'\n').any(|line| {
        let mut fields = line.split(|&byte| byte == b' ');
        fields.nth(4) == Some(&escaped[..]) && fields.any(|field| field == TYPE.as_bytes())
    })
}

fn open(path: &str) -> Result<OwnedFd, Refusal> {
    File::open(path)
        .map(OwnedFd::from)
        .map_err(|error| Refusal(format!("cannot open `{path}`: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_a_mount_with_blanks_in_its_path() {
        let mounts = b"1 2 0:1 / / rw - ext4 /dev/x rw\n\
            3 1 0:9 / /a\\040b/t ro,nosuid shared:1 - fuse.htmap-exec htmap-exec ro\n";
        assert!(is_mounted(mounts, Path::new("/a b/t")));
        assert!(!is_mounted(mounts, Path::new("/a b")));
        assert!(!is_mounted(mounts, Path::new("/")));
    }
}
