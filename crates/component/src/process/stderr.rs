//! What the component writes to stderr: passed on at once, and what reports need of it kept.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// What faulthandler's dump begins with.
const FATAL: &[u8] = b"Fatal Python error";

/// The last of it; and, from where Python's own dump began, the first.
#[derive(Debug, Default)]
pub(crate) struct StderrTail {
    tail: Vec<u8>,
    fatal: Option<Vec<u8>>,
}

impl StderrTail {
    const KEPT: usize = 32 << 10;

    /// Reads what is there; false at the end.
    pub(crate) fn pump(&mut self, pipe: &OwnedFd, buffer: &mut [u8]) -> bool {
        match nix::unistd::read(pipe, buffer) {
            Ok(0) => false,
            Ok(size) => {
                let piece = &buffer[..size];
                // Nobody reads it: that is no reason to stop the function.
                io::Write::write_all(&mut io::stderr(), piece).ok();
                self.keep(piece);
                true
            }
            Err(error) => matches!(error, Errno::EAGAIN | Errno::EINTR),
        }
    }

    /// Reads everything that is still in the pipe.
    pub(crate) fn drain(&mut self, pipe: &OwnedFd, buffer: &mut [u8]) {
        let mut waiting = [PollFd::new(pipe.as_fd(), PollFlags::POLLIN)];
        while poll(&mut waiting, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
            && self.pump(pipe, buffer)
        {}
    }

    fn keep(&mut self, piece: &[u8]) {
        if let Some(fatal) = &mut self.fatal {
            let room = Self::KEPT.saturating_sub(fatal.len());
            fatal.extend_from_slice(&piece[..piece.len().min(room)]);
        }
        // The mark may have begun in an earlier piece.
        let searched = self.tail.len().saturating_sub(FATAL.len() - 1);
        self.tail.extend_from_slice(piece);
        if self.fatal.is_none()
            && let Some(at) = self.tail[searched..]
                .windows(FATAL.len())
                .position(|window| window == FATAL)
        {
            let from = &self.tail[searched + at..];
            self.fatal = Some(from[..from.len().min(Self::KEPT)].to_vec());
        }
        if self.tail.len() > 2 * Self::KEPT {
            self.tail.drain(..self.tail.len() - Self::KEPT);
        }
    }

    /// The last lines.
    pub(crate) fn text(&self) -> String {
        let tail = &self.tail[self.tail.len().saturating_sub(Self::KEPT)..];
        String::from_utf8_lossy(tail).into_owned()
    }

    /// Python's own dump, from its first line on.
    pub(crate) fn fatal(&self) -> Option<String> {
        let fatal = self.fatal.as_ref()?;
        Some(String::from_utf8_lossy(fatal).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dump_keeps_its_head_and_the_rest_its_tail() {
        let mut stderr = StderrTail::default();
        stderr.keep(&vec![b'.'; 100_000]);
        stderr.keep(b"\nFatal Pyth");
        assert_eq!(stderr.fatal(), None);
        stderr.keep(b"on error: Segmentation fault\n\nCurrent thread");
        stderr.keep(&vec![b'x'; 100_000]);
        stderr.keep(b"the end");
        let fatal = stderr.fatal().unwrap();
        assert!(fatal.starts_with("Fatal Python error: Segmentation fault\n\nCurrent threadxxx"));
        assert_eq!(fatal.len(), StderrTail::KEPT);
        assert!(stderr.text().ends_with("xthe end"));
        assert_eq!(stderr.text().len(), StderrTail::KEPT);
    }
}
