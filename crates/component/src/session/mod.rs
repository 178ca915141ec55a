//! One Python from its start to its end.
//!
//! [`protocol`] is what is said, [`frames`] and [`channel`] how it arrives, [`step`] what follows from it and
//! [`events`] its terms, [`clock`] the time that counts, and [`conduct`] the loop around them.

pub(crate) mod channel;
mod clock;
pub(crate) mod conduct;
pub(crate) mod events;
mod frames;
pub(crate) mod protocol;
pub(crate) mod step;
