//! Answers what the kernel asks about the mounted tree.
//!
//! Nothing in it ever changes, so every answer is good for ever, and the kernel asks each thing
//! once. <https://docs.kernel.org/filesystems/fuse/fuse.html>

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fuser::{
    Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, InitFlags,
    KernelConfig, LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyDirectoryPlus,
    ReplyEntry, ReplyOpen, ReplyStatfs, Request,
};

use super::Refusal;
use super::content::Served;
use super::edited::Edited;
use super::nodes::{self, Nodes};
use crate::archive::entry::Kind;
use crate::archive::index::Archive;
use crate::archive::place::MTIME;

/// A year: what the kernel can count in ticks, on every kernel.
const FOREVER: Duration = Duration::from_hours(365 * 24);
const BLOCK: u64 = 512;
const PAGE: u32 = 4096;
/// Of one request; the kernel has a limit of 256 pages.
const REQUEST: u32 = 1 << 20;

/// An archive, as a file system.
pub(super) struct Server {
    pub(super) archive: Arc<Archive>,
    pub(super) nodes: Arc<Nodes>,
    pub(super) content: Arc<Served>,
    pub(super) edited: Edited,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// The kernel opens files, and directories, without asking.
    pub(super) opens: bool,
    pub(super) opens_directories: bool,
}

impl Server {
    /// Of an archive that is to be seen at `target`.
    pub(super) fn new(
        archive: &Arc<Archive>,
        nodes: Arc<Nodes>,
        content: Arc<Served>,
        target: &Path,
    ) -> Result<Self, Refusal> {
        Ok(Self {
            edited: Edited::new(archive, &nodes, &content, target)?,
            archive: Arc::clone(archive),
            nodes,
            content,
            uid: nix::unistd::geteuid().as_raw(),
            gid: nix::unistd::getegid().as_raw(),
            opens: false,
            opens_directories: false,
        })
    }

    pub(super) fn attributes(&self, number: u64) -> Option<FileAttr> {
        let entry = match nodes::entry(number) {
            Some(index) => Some((index, self.archive.entries.get(index)?)),
            None => None,
        };
        let (kind, size, mode) = match entry.map(|(index, entry)| (index, &entry.kind, entry.mode))
        {
            None => (FileType::Directory, 0, 0o755),
            Some((_, Kind::Directory, mode)) => (FileType::Directory, 0, mode),
            Some((index, Kind::File(size), mode)) => {
                (FileType::RegularFile, self.edited.size(index, *size), mode)
            }
            Some((_, Kind::Symlink(target), _)) => (FileType::Symlink, target.len() as u64, 0o777),
        };
        // A `.pyc` is good for a source of this very time: PEP 552.
        let time =
            SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(MTIME).expect("after 1970"));
        Some(FileAttr {
            ino: INodeNo(number),
            size,
            blocks: size.div_ceil(BLOCK),
            atime: time,
            mtime: time,
            ctime: time,
            crtime: time,
            kind,
            perm: u16::try_from(mode & 0o777).expect("nine bits"),
            nlink: if kind == FileType::Directory { 2 } else { 1 },
            uid: self.uid,
            gid: self.gid,
            rdev: 0,
            blksize: PAGE,
            flags: 0,
        })
    }

    /// Of what has this name. Number 0 says that nothing has, and that this may be remembered.
    pub(super) fn child(&self, parent: u64, name: &[u8]) -> Option<FileAttr> {
        let found = self.nodes.find(&self.archive, parent, name);
        let number = found.map_or(0, nodes::number);
        let mut attributes = self.attributes(if number == 0 { nodes::ROOT } else { number })?;
        attributes.ino = INodeNo(number);
        Some(attributes)
    }

    /// Where a link leads to.
    pub(super) fn target(&self, number: u64) -> Option<&[u8]> {
        match &self.archive.entries.get(nodes::entry(number)?)?.kind {
            Kind::Symlink(target) => Some(target),
            _ => None,
        }
    }

    /// `.`, `..` and what lies in a directory, from the one at `offset` on, until `add` is full.
    pub(super) fn list(
        &self,
        directory: u64,
        offset: u64,
        mut add: impl FnMut(u64, u64, &[u8]) -> bool,
    ) -> bool {
        let Some(children) = self.nodes.children(&self.archive, directory) else {
            return false;
        };
        let dots: [(u64, &[u8]); 2] = [(directory, b"."), (self.nodes.parent(directory), b"..")];
        // Not by going through all of them each time: there may be a million.
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        let rest = children.get(offset.saturating_sub(dots.len())..);
        let names = rest
            .unwrap_or_default()
            .iter()
            .map(|&child| (nodes::number(child), nodes::name(&self.archive, child)));
        let names = dots.into_iter().skip(offset).chain(names);
        for ((number, name), at) in names.zip((offset as u64).saturating_add(1)..) {
            if add(number, at, name) {
                break;
            }
        }
        true
    }
}

impl Filesystem for Server {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        let mut has = |flag| config.add_capabilities(flag).is_ok();
        self.opens = has(InitFlags::FUSE_NO_OPEN_SUPPORT);
        self.opens_directories = has(InitFlags::FUSE_NO_OPENDIR_SUPPORT);
        for flag in [
            InitFlags::FUSE_ASYNC_READ,
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_CACHE_SYMLINKS,
            InitFlags::FUSE_MAX_PAGES,
            InitFlags::FUSE_EXPLICIT_INVAL_DATA,
        ] {
            has(flag);
        }
        // The size of a request follows from it, and nothing is ever written.
        config.set_max_write(REQUEST).ok();
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.child(parent.0, name.as_bytes()) {
            Some(attributes) => reply.entry(&FOREVER, &attributes, Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, number: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.attributes(number.0) {
            Some(attributes) => reply.attr(&FOREVER, &attributes),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn readlink(&self, _: &Request, number: INodeNo, reply: ReplyData) {
        match self.target(number.0) {
            Some(target) => reply.data(target),
            None => reply.error(Errno::EINVAL),
        }
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        if self.opens {
            reply.error(Errno::ENOSYS);
        } else {
            reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE);
        }
    }

    fn opendir(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        if self.opens_directories {
            reply.error(Errno::ENOSYS);
        } else {
            let flags = FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_CACHE_DIR;
            reply.opened(FileHandle(0), flags);
        }
    }

    fn read(
        &self,
        _: &Request,
        number: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let Some(entry) = nodes::entry(number.0) else {
            return reply.error(Errno::EISDIR);
        };
        let mut reply = Some(reply);
        let take = |bytes: &[u8]| {
            if let Some(reply) = reply.take() {
                reply.data(bytes);
            }
        };
        let (content, length) = (&self.content, size as usize);
        let read = self.edited.read(content, entry, offset, length, take);
        if let (None, Some(reply)) = (read, reply) {
            reply.error(Errno::EIO);
        }
    }

    fn readdir(
        &self,
        _: &Request,
        number: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let listed = self.list(number.0, offset, |child, at, name| {
            let kind = self
                .attributes(child)
                .map_or(FileType::RegularFile, |attributes| attributes.kind);
            reply.add(INodeNo(child), at, kind, OsStr::from_bytes(name))
        });
        if listed {
            reply.ok();
        } else {
            reply.error(Errno::ENOTDIR);
        }
    }

    fn readdirplus(
        &self,
        _: &Request,
        number: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let listed = self.list(number.0, offset, |child, at, name| {
            self.attributes(child).is_some_and(|attributes| {
                let name = OsStr::from_bytes(name);
                reply.add(
                    INodeNo(child),
                    at,
                    name,
                    &FOREVER,
                    &attributes,
                    Generation(0),
                )
            })
        });
        if listed {
            reply.ok();
        } else {
            reply.error(Errno::ENOTDIR);
        }
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let blocks = self.archive.bytes().div_ceil(u64::from(PAGE));
        let files = self.archive.entries.len() as u64;
        reply.statfs(blocks, 0, 0, files, 0, PAGE, 255, PAGE);
    }
}
