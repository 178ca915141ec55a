//! The `htmap-exec` command: parses the command line, runs one subcommand, reports its error.

mod cli;
mod commands;
mod contained;
mod exit;
mod foreign;
mod logging;
mod transplanted;

use std::process::ExitCode;

use clap::Parser as _;

/// Threads that pack, unpack or serve a tree would wait for the one lock of musl's.
#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    std::panic::set_hook(Box::new(|panic| {
        use std::io::Write as _;
        let _ = writeln!(
            std::io::stderr(),
            "htmap-exec: error: internal error: {panic}\nhint: this is a bug of htmap-exec; please report it with the line above"
        );
        let output_stands = htmap_exec_component::panicked(&panic.to_string());
        // Not left to the default: an abort would look like a signal to HTCondor.
        #[allow(clippy::exit)]
        std::process::exit(i32::from(if output_stands {
            exit::SUCCESS
        } else {
            exit::INTERNAL
        }));
    }));
    let arguments = cli::normalize(std::env::args_os());
    let cli = match cli::Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() {
                exit::USAGE
            } else {
                exit::SUCCESS
            });
        }
    };
    logging::start(cli.log);
    let is_run = matches!(cli.command, cli::Command::Run(_));
    match commands::dispatch(cli.command) {
        Ok(code) => code,
        Err(error) if !is_run && exit::nobody_reads(&error) => ExitCode::from(exit::SUCCESS),
        Err(error) => exit::report(&error),
    }
}
