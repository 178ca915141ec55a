//! The channel: a Unix socket with an abstract name, and the connections to it.
//!
//! The socket outlives anything a function does to directories, and the driver connects anew after the
//! function, which may have closed every descriptor. Its name is visible to all users of the machine
//! (`/proc/net/unix`), so a connection is somebody's only once it has shown the token; strangers wait
//! aside, where they take nobody's place. <https://man7.org/linux/man-pages/man7/unix.7.html>

use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::time::Duration;

use nix::poll::PollFlags;
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};

use super::clock::Time;
use super::frames::{Broken, Frames, Piece};
use super::protocol::{Say, TOKEN};
use crate::hex::hex;
use crate::scratch::input::{BadInput, Input};

/// For a connection to show the token: Python sends it at once.
const INTRODUCTION: Duration = Duration::from_secs(10);
/// Connections that have not shown it. More cannot be the driver's.
const MOST_WAITING: usize = 16;
/// Taken in one turn, so that a flood of connections leaves time for everything else.
const MOST_A_TURN: usize = 64;

/// What came.
#[derive(Debug)]
pub(crate) enum Incoming {
    /// A connection that showed the token takes the place of the one before it.
    Connected,
    /// Something was said on it.
    Piece(Piece),
}

/// Everything between the runner and the driver.
#[derive(Debug)]
pub(crate) struct Channel {
    listener: UnixListener,
    name: String,
    token: String,
    waiting: Vec<Stranger>,
    connection: Option<Connection>,
}

/// Somebody who has not shown the token.
#[derive(Debug)]
struct Stranger {
    stream: UnixStream,
    shown: Vec<u8>,
    since: Time,
}

#[derive(Debug)]
struct Connection {
    stream: UnixStream,
    frames: Frames,
    outgoing: Vec<u8>,
    sent: usize,
    /// Inputs still to be sent, in the order in which the driver reads them.
    inputs: Vec<Input>,
}

/// Whether anything was heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Came {
    Something,
    Nothing,
    /// The other side hung up, or talks nonsense.
    Gone,
}

impl Channel {
    /// Opens the socket under a name of its own.
    pub(crate) fn open() -> io::Result<Self> {
        let mut random = [0_u8; 32];
        getrandom::fill(&mut random).map_err(io::Error::other)?;
        let name = format!("htmap-exec-{}", hex(&random[16..]));
        let listener = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name)?)?;
        listener.set_nonblocking(true)?;
        Ok(Self {
            listener,
            name,
            token: hex(&random[..TOKEN / 2]),
            waiting: Vec::new(),
            connection: None,
        })
    }

    /// What the driver finds in `HTMAP_EXEC_CHANNEL`.
    pub(crate) fn address(&self) -> String {
        format!("{}:{}", self.name, self.token)
    }

    /// What to wait for.
    pub(crate) fn polled(&self) -> impl Iterator<Item = (BorrowedFd<'_>, PollFlags)> {
        let mut flags = PollFlags::POLLIN;
        if let Some(connection) = &self.connection {
            flags.set(PollFlags::POLLOUT, connection.wants_to_send());
        }
        let strangers = self.waiting.iter().map(|stranger| stranger.stream.as_fd());
        [self.listener.as_fd()]
            .into_iter()
            .chain(strangers)
            .map(|descriptor| (descriptor, PollFlags::POLLIN))
            .chain(
                self.connection
                    .iter()
                    .map(move |connection| (connection.stream.as_fd(), flags)),
            )
    }

    /// When a stranger is turned away, if one waits.
    pub(crate) fn next_deadline(&self) -> Option<Time> {
        let since = self.waiting.iter().map(|stranger| stranger.since).min()?;
        Some(since + INTRODUCTION)
    }

    /// Queues a message.
    pub(crate) fn say(&mut self, say: &Say<'_>) {
        if let Some(connection) = &mut self.connection {
            say.write(&mut connection.outgoing);
        }
    }

    /// Queues the inputs behind what is queued already.
    pub(crate) fn feed(&mut self, inputs: Vec<Input>) {
        if let Some(connection) = &mut self.connection {
            connection.inputs = inputs;
        }
    }

    /// Python must not say anything more.
    pub(crate) fn hang_up(&mut self) {
        self.connection = None;
    }

    /// Sends as much as the socket takes.
    pub(crate) fn send(&mut self) -> Result<(), BadInput> {
        match &mut self.connection {
            Some(connection) => connection.send(),
            None => Ok(()),
        }
    }

    /// Accepts and reads once; returns what came, and whether there may be more.
    pub(crate) fn receive(&mut self, buffer: &mut [u8], now: Time) -> (Vec<Incoming>, bool) {
        let mut incoming = Vec::new();
        let mut busy = self.listen(buffer, &mut incoming);
        let waiting = std::mem::take(&mut self.waiting);
        for stranger in waiting {
            busy |= self.meet(stranger, now, &mut incoming);
        }
        busy |= self.accept(now, &mut incoming);
        (incoming, busy)
    }

    /// Who shows the token is the driver; who shows something else, or nothing for too long, goes.
    fn meet(&mut self, mut stranger: Stranger, now: Time, incoming: &mut Vec<Incoming>) -> bool {
        match stranger.introduce(&self.token) {
            Came::Something => {
                self.hear_out(incoming);
                self.connection = Some(Connection::new(stranger.stream));
                incoming.push(Incoming::Connected);
                return true;
            }
            Came::Nothing if now < stranger.since + INTRODUCTION => {
                if self.waiting.len() >= MOST_WAITING {
                    self.waiting.remove(0);
                }
                self.waiting.push(stranger);
            }
            Came::Nothing | Came::Gone => {}
        }
        false
    }

    /// What was said on the connection that loses its place was said before there was a new one.
    fn hear_out(&mut self, incoming: &mut Vec<Incoming>) {
        let mut buffer = vec![0; 1 << 16];
        // Bounded: whoever holds it now may go on for ever.
        for _ in 0..MOST_A_TURN {
            if self.connection.is_none() || !self.listen(&mut buffer, incoming) {
                break;
            }
        }
    }

    fn listen(&mut self, buffer: &mut [u8], incoming: &mut Vec<Incoming>) -> bool {
        let Some(connection) = &mut self.connection else {
            return false;
        };
        let found = connection.receive(buffer);
        match connection.frames.pieces() {
            Ok(pieces) => incoming.extend(pieces.into_iter().map(Incoming::Piece)),
            Err(Broken) => {
                tracing::warn!("what Python sent cannot be read: its connection is closed");
                self.connection = None;
                return true;
            }
        }
        if found == Came::Gone {
            self.connection = None;
        }
        found != Came::Nothing
    }

    fn accept(&mut self, now: Time, incoming: &mut Vec<Incoming>) -> bool {
        let mut met = false;
        for _ in 0..MOST_A_TURN {
            match self.listener.accept() {
                Ok((stream, _)) => {
                    if may_be_ours(&stream) && stream.set_nonblocking(true).is_ok() {
                        let shown = Vec::with_capacity(TOKEN);
                        let stranger = Stranger {
                            stream,
                            shown,
                            since: now,
                        };
                        met |= self.meet(stranger, now, incoming);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return met,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Most likely out of descriptors: strangers hold the most.
                Err(error) => {
                    tracing::debug!("a connection could not be accepted: {error}");
                    self.waiting.clear();
                    return met;
                }
            }
        }
        true
    }
}

/// A function of root's may have become somebody else; nobody else's may have become us.
fn may_be_ours(stream: &UnixStream) -> bool {
    let me = nix::unistd::geteuid();
    me.is_root() || getsockopt(stream, PeerCredentials).is_ok_and(|peer| peer.uid() == me.as_raw())
}

impl Stranger {
    /// Reads the token and not a byte more.
    fn introduce(&mut self, token: &str) -> Came {
        let mut rest = [0; TOKEN];
        let missing = TOKEN - self.shown.len();
        match self.stream.read(&mut rest[..missing]) {
            Ok(0) => Came::Gone,
            Ok(size) => {
                self.shown.extend_from_slice(&rest[..size]);
                if !token.as_bytes().starts_with(&self.shown) {
                    Came::Gone
                } else if self.shown.len() == TOKEN {
                    Came::Something
                } else {
                    Came::Nothing
                }
            }
            Err(error) if is_for_later(&error) => Came::Nothing,
            Err(_) => Came::Gone,
        }
    }
}

fn is_for_later(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}

impl Connection {
    fn new(stream: UnixStream) -> Self {
        Self {
            stream,
            frames: Frames::default(),
            outgoing: Vec::new(),
            sent: 0,
            inputs: Vec::new(),
        }
    }

    fn wants_to_send(&self) -> bool {
        self.sent < self.outgoing.len() || !self.inputs.is_empty()
    }

    fn receive(&mut self, buffer: &mut [u8]) -> Came {
        match self.stream.read(buffer) {
            Ok(0) => Came::Gone,
            Ok(size) => {
                self.frames.take(&buffer[..size]);
                Came::Something
            }
            Err(error) if is_for_later(&error) => Came::Nothing,
            Err(_) => Came::Gone,
        }
    }

    fn send(&mut self) -> Result<(), BadInput> {
        loop {
            if self.sent == self.outgoing.len() {
                self.outgoing.clear();
                self.sent = 0;
                let Some(input) = self.inputs.first_mut() else {
                    return Ok(());
                };
                let chunk = input.next()?;
                if chunk.is_empty() {
                    self.inputs.remove(0);
                    Say::InputEnd.write(&mut self.outgoing);
                } else {
                    Say::Chunk(&chunk).write(&mut self.outgoing);
                }
            }
            match self.stream.write(&self.outgoing[self.sent..]) {
                Ok(size) => self.sent += size,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => {
                    // The driver went away; its end says why.
                    self.inputs.clear();
                    self.outgoing.clear();
                    self.sent = 0;
                    return Ok(());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::protocol::Said;

    fn connect(channel: &Channel) -> UnixStream {
        let address = SocketAddr::from_abstract_name(&channel.name).unwrap();
        UnixStream::connect_addr(&address).unwrap()
    }

    /// Everything that comes until nothing does.
    fn all(channel: &mut Channel, now: Time) -> Vec<Incoming> {
        let mut buffer = vec![0; 4096];
        let mut incoming = Vec::new();
        loop {
            let (more, busy) = channel.receive(&mut buffer, now);
            incoming.extend(more);
            if !busy {
                return incoming;
            }
        }
    }

    fn known(channel: &Channel) -> UnixStream {
        let mut stream = connect(channel);
        stream.write_all(channel.token.as_bytes()).unwrap();
        stream
    }

    const RETURNED: &[u8] = b"R0000000000000000";

    #[test]
    fn strangers_take_nobodys_place() {
        let mut channel = Channel::open().unwrap();
        let mut strangers: Vec<_> = (0..MOST_WAITING).map(|_| connect(&channel)).collect();
        assert!(all(&mut channel, Time::ZERO).is_empty());
        strangers[0].write_all(&[b'0'; TOKEN]).unwrap();
        strangers[1].write_all(RETURNED).unwrap();
        let mut driver = known(&channel);
        driver.write_all(RETURNED).unwrap();
        let incoming = all(&mut channel, Time::ZERO);
        assert!(
            matches!(
                incoming[..],
                [
                    Incoming::Connected,
                    Incoming::Piece(Piece::Message(Said::Returned))
                ]
            ),
            "{incoming:?}"
        );
        // Those who say nothing are turned away after a while.
        assert!(channel.next_deadline().is_some());
        all(&mut channel, INTRODUCTION);
        assert_eq!(channel.next_deadline(), None);
        let mut byte = [0];
        assert_eq!(strangers[5].read(&mut byte).unwrap(), 0);
    }

    #[test]
    fn a_new_connection_takes_the_old_ones_place_while_somebody_holds_it_open() {
        let mut channel = Channel::open().unwrap();
        let mut first = known(&channel);
        let _held_by_a_forked_child = first.try_clone().unwrap();
        // Half a frame, which nothing completes.
        first.write_all(b"D00000000000000ffhalf").unwrap();
        all(&mut channel, Time::ZERO);
        let mut second = known(&channel);
        second.write_all(RETURNED).unwrap();
        let incoming = all(&mut channel, Time::ZERO);
        assert!(matches!(
            incoming[..],
            [
                Incoming::Connected,
                Incoming::Piece(Piece::Message(Said::Returned))
            ]
        ));
    }

    #[test]
    fn the_token_may_come_in_pieces() {
        let mut channel = Channel::open().unwrap();
        let mut driver = connect(&channel);
        let token = channel.token.clone();
        let (front, back) = token.split_at(7);
        driver.write_all(front.as_bytes()).unwrap();
        assert!(all(&mut channel, Time::ZERO).is_empty());
        driver.write_all(back.as_bytes()).unwrap();
        assert!(matches!(
            all(&mut channel, Time::ZERO)[..],
            [Incoming::Connected]
        ));
    }

    #[test]
    fn a_flood_of_connections_leaves_time() {
        let mut channel = Channel::open().unwrap();
        let flood: Vec<_> = (0..100).map(|_| connect(&channel)).collect();
        let mut buffer = vec![0; 4096];
        let (_, busy) = channel.receive(&mut buffer, Time::ZERO);
        assert!(busy, "more than a turn's worth is left for the next one");
        assert!(channel.waiting.len() <= MOST_WAITING);
        let _driver = known(&channel);
        assert!(matches!(
            all(&mut channel, Time::ZERO)[..],
            [Incoming::Connected]
        ));
        drop(flood);
    }

    #[test]
    fn nonsense_ends_a_connection_and_nothing_else() {
        let mut channel = Channel::open().unwrap();
        let mut driver = known(&channel);
        driver.write_all(b"this is no frame, at all").unwrap();
        all(&mut channel, Time::ZERO);
        assert!(channel.connection.is_none());
        let _again = known(&channel);
        assert!(matches!(
            all(&mut channel, Time::ZERO)[..],
            [Incoming::Connected]
        ));
    }
}
