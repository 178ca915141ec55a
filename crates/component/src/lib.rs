//! Runs one component of an HTMap map on an execute node.
//!
//! The runner supervises Python as a child process and writes everything itself, so that whatever
//! happens to Python, a result or a readable reason comes back. Start at [`Landing`].

mod advice;
mod cgroup;
mod channel;
mod checkpoint;
mod classad;
mod death;
mod driver;
mod error;
mod guard;
mod gzip;
mod hex;
mod input;
mod landing;
pub mod names;
mod node;
mod opcodes;
mod output;
mod pickle;
mod record;
mod run;
mod run_record;
mod scanner;
mod scratch;
mod served;
mod session;
mod supervise;
mod transcript;
mod tree;
mod usage;

pub use classad::ClassAd;
pub use error::Error;
pub use landing::{Ending, Landing, Options};
pub use served::Served;
