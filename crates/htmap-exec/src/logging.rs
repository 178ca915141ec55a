//! What the binary says of its own doings, on stderr: a stderr that takes nothing is no reason to fail.

use clap::ValueEnum;

/// How much of it.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Level {
    Off,
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

/// Our own diagnostics go to stderr: stdout is the component's.
pub(crate) fn start(asked: Option<Level>) {
    use tracing_subscriber::filter::LevelFilter;
    const VARIABLE: &str = "HTMAP_EXEC_LOG";
    let said = std::env::var_os(VARIABLE).filter(|value| asked.is_none() && !value.is_empty());
    let read = said
        .as_ref()
        .map(|value| Level::from_str(&value.to_string_lossy(), true));
    let level = match asked.or(read.clone().and_then(Result::ok)) {
        Some(Level::Off) => LevelFilter::OFF,
        Some(Level::Error) => LevelFilter::ERROR,
        Some(Level::Warn) | None => LevelFilter::WARN,
        Some(Level::Info) => LevelFilter::INFO,
        Some(Level::Debug) => LevelFilter::DEBUG,
        Some(Level::Trace) => LevelFilter::TRACE,
    };
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(std::io::stderr)
        // It would say so on stderr, by a macro that panics when that fails as well.
        .log_internal_errors(false)
        .with_ansi(false)
        .with_target(false)
        .init();
    if let (Some(said), Some(Err(_))) = (said, read) {
        tracing::warn!(
            "{VARIABLE} is `{}`, which is none of off, error, warn, info, debug and trace: taking it for warn",
            said.display()
        );
    }
}
