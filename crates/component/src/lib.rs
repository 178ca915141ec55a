//! Runs one component of an HTMap map on an execute node.
//!
//! The runner supervises Python as a child process and writes everything itself, so that whatever
//! happens to Python, a result or a readable reason comes back. Start at [`Landing`].

mod driver;
mod environment;
mod error;
mod failure;
mod guard;
mod hex;
mod landing;
mod last_resort;
pub mod names;
mod node;
mod options;
mod pickle;
mod process;
mod regular;
mod report;
mod run;
mod scratch;
mod session;
mod shipped;

pub use error::Error;
pub use landing::Landing;
pub use last_resort::panicked;
pub use node::classad::ClassAd;
pub use options::{Ending, Options};
pub use process::served::Served;
pub use scratch::listing::on_one_line;
