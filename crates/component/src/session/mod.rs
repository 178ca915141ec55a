//! One Python from its start to its end.
//!
//! [`protocol`] is what is said, [`channel`] how it arrives, [`step`] what follows from it, [`clock`] the
//! time that counts, and [`conduct`] the loop around them.

pub(crate) mod channel;
mod clock;
pub(crate) mod conduct;
pub(crate) mod protocol;
pub(crate) mod step;
