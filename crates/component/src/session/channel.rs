//! The channel between the runner and its driver in Python: framed messages on a Unix socket.
//!
//! The socket has an abstract name, so it outlives anything a function does to directories, and
//! the driver connects anew after the function, which may have closed every descriptor. A frame
//! is one byte of kind, 16 hexadecimal digits of length, and the payload.
//! <https://man7.org/linux/man-pages/man7/unix.7.html>

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};

use crate::hex::hex;
use crate::scratch::input::{BadInput, Input};

const HEADER: usize = 17;
const TOKEN: usize = 32;
/// No message of the driver but the result is longer.
const LONGEST_MESSAGE: usize = 8 << 20;

/// Where the driver connects to.
#[derive(Debug)]
pub(crate) struct Listener {
    socket: UnixListener,
    name: String,
    token: String,
}

impl Listener {
    /// Opens the socket under a name of its own.
    pub(crate) fn open() -> io::Result<Self> {
        let mut random = [0_u8; 32];
        getrandom::fill(&mut random).map_err(io::Error::other)?;
        let name = format!("htmap-exec-{}", hex(&random[16..]));
        let socket = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name)?)?;
        socket.set_nonblocking(true)?;
        Ok(Self {
            socket,
            name,
            token: hex(&random[..16]),
        })
    }

    /// What the driver finds in `HTMAP_EXEC_CHANNEL`.
    pub(crate) fn address(&self) -> String {
        format!("{}:{}", self.name, self.token)
    }

    /// The next connection, if one waits. Abstract names have no permissions: the token is what
    /// keeps other users out.
    pub(crate) fn accept(&self) -> io::Result<Option<Connection>> {
        match self.socket.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(true)?;
                Ok(Some(Connection {
                    stream,
                    token: Some(self.token.clone()),
                    received: Vec::new(),
                    in_data: 0,
                    outgoing: Vec::new(),
                    sent: 0,
                    feed: None,
                    closed: false,
                }))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// What came from the driver.
#[derive(Debug)]
pub(crate) enum Event {
    /// A message of this kind.
    Message(u8, Vec<u8>),
    /// A piece of the result's pickle.
    Data(Vec<u8>),
}

/// The inputs still to be sent: each a stream of chunks and an end mark.
#[derive(Debug)]
pub(crate) struct Feed {
    /// In the order in which the driver reads them.
    pub inputs: Vec<Input>,
}

/// One connection of the driver; never blocks.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: UnixStream,
    token: Option<String>,
    received: Vec<u8>,
    /// Bytes of a data frame that are still to come.
    in_data: usize,
    outgoing: Vec<u8>,
    sent: usize,
    feed: Option<Feed>,
    closed: bool,
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

fn frame(kind: u8, payload: &[u8], out: &mut Vec<u8>) {
    out.push(kind);
    out.extend(format!("{:016x}", payload.len()).as_bytes());
    out.extend(payload);
}

impl Connection {
    /// Whether the driver has hung up.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed
    }

    /// Whether there is something to send.
    pub(crate) fn wants_to_send(&self) -> bool {
        !self.closed && (self.sent < self.outgoing.len() || self.feed.is_some())
    }

    /// Queues a message.
    pub(crate) fn queue(&mut self, kind: u8, payload: &[u8]) {
        frame(kind, payload, &mut self.outgoing);
    }

    /// Queues the inputs behind what is queued already.
    pub(crate) fn queue_feed(&mut self, feed: Feed) {
        self.feed = Some(feed);
    }

    /// Sends as much as the socket takes.
    pub(crate) fn send(&mut self) -> Result<(), BadInput> {
        loop {
            if self.sent == self.outgoing.len() {
                self.outgoing.clear();
                self.sent = 0;
                let Some(feed) = &mut self.feed else {
                    return Ok(());
                };
                let Some(input) = feed.inputs.first_mut() else {
                    self.feed = None;
                    return Ok(());
                };
                let chunk = input.next()?;
                if chunk.is_empty() {
                    feed.inputs.remove(0);
                    frame(b'Z', &[], &mut self.outgoing);
                } else {
                    frame(b'C', &chunk, &mut self.outgoing);
                }
            }
            match self.stream.write(&self.outgoing[self.sent..]) {
                Ok(size) => self.sent += size,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => {
                    // The driver went away; its end says why.
                    self.feed = None;
                    self.outgoing.clear();
                    self.sent = 0;
                    return Ok(());
                }
            }
        }
    }

    /// Reads once; returns what is complete, and whether there was anything to read.
    pub(crate) fn receive(&mut self, buffer: &mut [u8]) -> (Vec<Event>, bool) {
        let mut read = false;
        match self.stream.read(buffer) {
            Ok(0) => self.closed = true,
            Ok(size) => {
                read = true;
                self.received.extend_from_slice(&buffer[..size]);
            }
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                ) => {}
            Err(_) => self.closed = true,
        }
        if let Some(token) = &self.token {
            if self.received.len() < TOKEN {
                return (Vec::new(), read);
            }
            if self.received[..TOKEN] != *token.as_bytes() {
                self.closed = true;
                return (Vec::new(), read);
            }
            self.received.drain(..TOKEN);
            self.token = None;
        }
        (self.events(), read)
    }

    fn events(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        let mut at = 0;
        loop {
            let rest = &self.received[at..];
            if self.in_data > 0 {
                let size = rest.len().min(self.in_data);
                if size == 0 {
                    break;
                }
                events.push(Event::Data(rest[..size].to_vec()));
                self.in_data -= size;
                at += size;
                continue;
            }
            if rest.len() < HEADER {
                break;
            }
            let size = std::str::from_utf8(&rest[1..HEADER])
                .ok()
                .and_then(|digits| usize::from_str_radix(digits, 16).ok());
            let kind = rest[0];
            match size {
                Some(size) if kind == b'D' => {
                    self.in_data = size;
                    at += HEADER;
                }
                Some(size) if size <= LONGEST_MESSAGE => {
                    if rest.len() < HEADER + size {
                        break;
                    }
                    events.push(Event::Message(kind, rest[HEADER..HEADER + size].to_vec()));
                    at += HEADER + size;
                }
                _ => {
                    self.closed = true;
                    break;
                }
            }
        }
        self.received.drain(..at);
        events
    }
}
