//! Runs one component of an HTMap map on an execute node.
//!
//! The runner supervises Python as a child process and writes everything itself, so that whatever
//! happens to Python, a result or a readable reason comes back. Start at [`Landing`].

mod driver;
mod error;
mod failure;
mod guard;
mod hex;
mod landing;
pub mod names;
mod node;
mod pickle;
mod process;
mod regular;
mod report;
mod run;
mod scratch;
mod session;

pub use error::Error;
pub use landing::{Ending, Landing, Options};
pub use node::classad::ClassAd;
pub use process::served::Served;
