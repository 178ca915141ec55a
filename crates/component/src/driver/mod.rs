//! The driver: the Python program that calls the function.
//!
//! Its sources are embedded here and go over the channel, so that no file of ours lies where a
//! user's module could be found, or find it. What it says is in [`crate::session::protocol`].

pub(crate) mod workers;

/// Given to Python with `-c`.
pub(crate) const BOOT: &str = include_str!("boot.py");

/// The variable that names the channel; the driver removes it before anything else runs.
pub(crate) const ENV_CHANNEL: &str = "HTMAP_EXEC_CHANNEL";

/// The program and its rarely needed parts, by name.
pub(crate) const PARTS: [(&str, &str); 5] = [
    ("driver", include_str!("driver.py")),
    ("display", include_str!("display.py")),
    ("kinds", include_str!("kinds.py")),
    ("failure", include_str!("failure.py")),
    ("htmap", HTMAP),
];

const HTMAP: &str = include_str!("htmap.py");
