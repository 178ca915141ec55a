//! Cuts what comes from the driver into messages.

use super::protocol::{HEADER, LONGEST_MESSAGE, Said};

/// Cuts a stream of bytes into frames. A result's data is handed on in pieces, as it comes.
#[derive(Debug, Default)]
pub(crate) struct Frames {
    received: Vec<u8>,
    /// Bytes of a data frame that are still to come.
    in_data: usize,
}

/// What came.
#[derive(Debug)]
pub(crate) enum Piece {
    /// A whole message.
    Message(Said),
    /// Some of the result's pickle.
    Data(Vec<u8>),
    /// A whole frame that says nothing the driver would say.
    Unknown(u8),
}

/// These bytes are no frames: nothing that follows can be read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Broken;

impl Frames {
    /// Takes bytes in.
    pub(crate) fn take(&mut self, bytes: &[u8]) {
        self.received.extend_from_slice(bytes);
    }

    /// What is complete.
    pub(crate) fn pieces(&mut self) -> Result<Vec<Piece>, Broken> {
        let mut pieces = Vec::new();
        let mut at = 0;
        let done = loop {
            let rest = &self.received[at..];
            if self.in_data > 0 {
                let size = rest.len().min(self.in_data);
                if size == 0 {
                    break Ok(());
                }
                pieces.push(Piece::Data(rest[..size].to_vec()));
                self.in_data -= size;
                at += size;
                continue;
            }
            if rest.len() < HEADER {
                break Ok(());
            }
            let size = std::str::from_utf8(&rest[1..HEADER])
                .ok()
                .and_then(|digits| usize::from_str_radix(digits, 16).ok());
            match (rest[0], size) {
                (b'D', Some(size)) => {
                    self.in_data = size;
                    at += HEADER;
                }
                (letter, Some(size)) if size <= LONGEST_MESSAGE => {
                    let Some(payload) = rest.get(HEADER..HEADER + size) else {
                        break Ok(());
                    };
                    pieces.push(match Said::parse(letter, payload) {
                        Some(said) => Piece::Message(said),
                        None => Piece::Unknown(letter),
                    });
                    at += HEADER + size;
                }
                _ => break Err(Broken),
            }
        };
        self.received.drain(..at);
        match done {
            // What was whole before it counts.
            Err(broken) if pieces.is_empty() => Err(broken),
            _ => Ok(pieces),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framed(letter: u8, payload: &[u8]) -> Vec<u8> {
        let mut out = vec![letter];
        out.extend(format!("{:016x}", payload.len()).as_bytes());
        out.extend(payload);
        out
    }

    #[test]
    fn frames_come_whole_however_they_are_cut() {
        let mut bytes = framed(b'R', b"");
        bytes.extend(framed(b'D', b"some data"));
        bytes.extend(framed(b'E', b""));
        for size in [1, 2, 17, 18, 1000] {
            let mut frames = Frames::default();
            let (mut data, mut messages) = (Vec::new(), 0);
            for part in bytes.chunks(size) {
                frames.take(part);
                for piece in frames.pieces().unwrap() {
                    match piece {
                        Piece::Data(more) => data.extend(more),
                        _ => messages += 1,
                    }
                }
            }
            assert_eq!((data.as_slice(), messages), (&b"some data"[..], 2));
        }
    }

    #[test]
    fn what_is_no_frame_is_said_to_be_broken() {
        for bytes in [
            &b"Rzzzzzzzzzzzzzzzz"[..],
            b"Rffffffffffffffff",
            b"R0000000000800001",
        ] {
            let mut frames = Frames::default();
            frames.take(bytes);
            assert_eq!(frames.pieces().err(), Some(Broken));
        }
        let mut frames = Frames::default();
        frames.take(&framed(b'E', b""));
        frames.take(b"Rzzzzzzzzzzzzzzzz");
        assert_eq!(frames.pieces().unwrap().len(), 1);
        assert_eq!(frames.pieces().err(), Some(Broken));
        let mut frames = Frames::default();
        frames.take(&framed(b'Q', b"what"));
        assert!(matches!(
            frames.pieces().unwrap()[..],
            [Piece::Unknown(b'Q')]
        ));
        // No letter of the runner's is one of the driver's.
        frames.take(&framed(b'G', b""));
        assert!(matches!(
            frames.pieces().unwrap()[..],
            [Piece::Unknown(b'G')]
        ));
    }
}
