//! Compresses on all cores of the job: independent gzip members of 1 MiB, written in order.
//!
//! RFC 1952 lets a gzip file hold many members; `gzip`, zlib and Python's `gzip` read them as one.
//! Small outputs stay on the caller's thread, and memory stays flat for any size. Buffers are used again: musl gives
//! large ones back to the kernel at once, which then has to clear every page for the next one.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex};

use flate2::Compression;
use flate2::write::GzEncoder;

const MEMBER: usize = 1 << 20;
/// More would only wait for the disk.
const MOST_THREADS: usize = 8;

struct Job {
    member: Member,
    answer: Sender<io::Result<Member>>,
}

#[derive(Default)]
struct Member {
    data: Vec<u8>,
    packed: Vec<u8>,
}

/// Who compresses.
enum Workers {
    /// Nobody yet; these many threads once there is enough to do.
    Wanted(usize),
    Running {
        jobs: SyncSender<Job>,
        threads: usize,
    },
    /// Not one thread could be started (a limit of processes): the caller compresses.
    None,
}

impl Workers {
    fn start(wanted: usize) -> Self {
        let (jobs, receiver) = sync_channel::<Job>(wanted);
        let receiver = Arc::new(Mutex::new(receiver));
        let work = |receiver: Arc<Mutex<Receiver<Job>>>| {
            move || {
                loop {
                    let job = receiver
                        .lock()
                        .ok()
                        .and_then(|receiver| receiver.recv().ok());
                    let Some(Job { mut member, answer }) = job else {
                        break;
                    };
                    // The writer may have given up: nobody to tell.
                    let _ = answer.send(member.compress().map(|()| member));
                }
            }
        };
        let threads = (0..wanted)
            .map_while(|_| {
                let work = work(Arc::clone(&receiver));
                std::thread::Builder::new().spawn(work).ok()
            })
            .count();
        match threads {
            0 => Self::None,
            threads => Self::Running { jobs, threads },
        }
    }
}

/// A writer whose output is gzip.
pub(crate) struct ParallelGzip<W: Write> {
    inner: W,
    buffer: Vec<u8>,
    workers: Workers,
    pending: VecDeque<Receiver<io::Result<Member>>>,
    spare: Vec<Member>,
}

impl<W: Write> ParallelGzip<W> {
    /// Starts no thread until more than one member is written, and then so many at most.
    pub(crate) fn new(inner: W, threads: usize) -> Self {
        Self {
            inner,
            buffer: Vec::new(),
            workers: Workers::Wanted(threads.clamp(1, MOST_THREADS)),
            pending: VecDeque::new(),
            spare: Vec::new(),
        }
    }

    fn submit(&mut self) -> io::Result<()> {
        let mut member = self.spare.pop().unwrap_or_default();
        member.data.clear();
        std::mem::swap(&mut member.data, &mut self.buffer);
        if let Workers::Wanted(threads) = self.workers {
            self.workers = Workers::start(threads);
        }
        let Workers::Running { jobs, threads } = &self.workers else {
            member.compress()?;
            self.inner.write_all(&member.packed)?;
            self.spare.push(member);
            return Ok(());
        };
        let most = 2 * threads;
        let (answer, receiver) = channel();
        if jobs.send(Job { member, answer }).is_err() {
            return Err(io::Error::other("the compressing threads ended"));
        }
        self.pending.push_back(receiver);
        while self.pending.len() > most {
            self.write_oldest()?;
        }
        Ok(())
    }

    fn write_oldest(&mut self) -> io::Result<()> {
        let Some(receiver) = self.pending.pop_front() else {
            return Ok(());
        };
        let member = receiver
            .recv()
            .map_err(|_| io::Error::other("the compressing threads ended"))??;
        self.inner.write_all(&member.packed)?;
        self.spare.push(member);
        Ok(())
    }

    /// Writes what is left and gives the writer back.
    pub(crate) fn finish(mut self) -> io::Result<W> {
        if self.pending.is_empty() {
            let mut member = Member {
                data: std::mem::take(&mut self.buffer),
                packed: Vec::new(),
            };
            member.compress()?;
            self.inner.write_all(&member.packed)?;
        } else {
            if !self.buffer.is_empty() {
                self.submit()?;
            }
            while !self.pending.is_empty() {
                self.write_oldest()?;
            }
        }
        Ok(self.inner)
    }
}

impl<W: Write> Write for ParallelGzip<W> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        if self.buffer.len() == MEMBER {
            self.submit()?;
        }
        let size = data.len().min(MEMBER - self.buffer.len());
        self.buffer.extend_from_slice(&data[..size]);
        Ok(size)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Member {
    fn compress(&mut self) -> io::Result<()> {
        let size = self.data.len();
        let (level, expected) = if compressible(&self.data) {
            (Compression::new(3), size / 2)
        } else {
            // Stored, with a header for every 64 KiB or less.
            (Compression::none(), size + size / 1024)
        };
        let mut packed = std::mem::take(&mut self.packed);
        packed.clear();
        packed.reserve(expected + 64);
        let mut encoder = GzEncoder::new(packed, level);
        encoder.write_all(&self.data)?;
        self.packed = encoder.finish()?;
        Ok(())
    }
}

/// Random floating-point numbers lose 5 % at twenty times the cost: not worth it.
fn compressible(data: &[u8]) -> bool {
    const SAMPLE: usize = 16 << 10;
    if data.len() < 4 * SAMPLE {
        return true;
    }
    let middle = data.len() / 2;
    let mut encoder = GzEncoder::new(Vec::with_capacity(SAMPLE), Compression::fast());
    if encoder.write_all(&data[middle..middle + SAMPLE]).is_err() {
        return true;
    }
    encoder
        .finish()
        .is_ok_and(|packed| packed.len() < SAMPLE * 9 / 10)
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use flate2::read::MultiGzDecoder;

    use super::*;

    fn round_trip(data: &[u8], workers: Workers) {
        let mut gzip = ParallelGzip::new(Vec::new(), 1);
        gzip.workers = workers;
        for piece in data.chunks(300_001) {
            gzip.write_all(piece).unwrap();
        }
        let packed = gzip.finish().unwrap();
        let mut unpacked = Vec::new();
        MultiGzDecoder::new(&packed[..])
            .read_to_end(&mut unpacked)
            .unwrap();
        assert!(unpacked == data);
    }

    #[test]
    fn comes_back_whole_at_any_size() {
        let mut state = 1_u32;
        let noise: Vec<u8> = std::iter::repeat_with(|| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        })
        .take(5 * MEMBER + 17)
        .collect();
        for size in [0, 1, MEMBER - 1, MEMBER, MEMBER + 1, noise.len()] {
            round_trip(&noise[..size], Workers::Wanted(2));
            round_trip(&vec![b'a'; size], Workers::Wanted(3));
            // As where no thread can be started.
            round_trip(&noise[..size], Workers::None);
        }
    }
}
