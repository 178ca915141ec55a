//! The commands below `htmap-exec transplant`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

#[derive(Debug, Subcommand)]
pub(crate) enum TransplantCommand {
    /// Pack a Python with everything that is installed in it
    Build(TransplantBuild),
    /// List the archives
    List {
        /// Where the archives are [default: transplants in HTMAP_DIR, else ~/.htmap/transplants]
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Say what an archive holds
    Info {
        /// A file, a digest, or the beginning of one
        archive: PathBuf,
        /// Where the archives are [default: transplants in HTMAP_DIR, else ~/.htmap/transplants]
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Read all of an archive, and say whether it is whole
    Verify {
        /// A file, a digest, or the beginning of one
        archive: PathBuf,
        /// Where the archives are [default: transplants in HTMAP_DIR, else ~/.htmap/transplants]
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Unpack an archive into a new directory
    Unpack {
        /// A file, a digest, or the beginning of one
        archive: PathBuf,
        /// The directory
        target: PathBuf,
        /// Where the archives are [default: transplants in HTMAP_DIR, else ~/.htmap/transplants]
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Say what differs between two archives: packages, then files
    #[command(
        after_help = "Example: htmap-exec transplant diff 3f1b 9c02\n\nThe status is 0, whether they differ or not."
    )]
    Diff {
        /// A file, a digest, or the beginning of one
        from: PathBuf,
        /// The one to compare it with
        to: PathBuf,
        /// Where the archives are [default: transplants in HTMAP_DIR, else ~/.htmap/transplants]
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Remove what builds that were killed left behind, and old archives that no map needs
    Prune(TransplantPrune),
    /// Remove archives
    Remove {
        /// Files, digests, or the beginnings of them
        #[arg(required = true)]
        archives: Vec<PathBuf>,
        /// Where the archives are [default: transplants in HTMAP_DIR, else ~/.htmap/transplants]
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Args)]
#[command(
    after_help = "Example: htmap-exec transplant prune --keep 3 --older-than 30 --dry-run\n\n\
    With neither --keep nor --older-than no archive goes; with both, those that both let go."
)]
pub(crate) struct TransplantPrune {
    /// Remove archives, but for the newest N
    #[arg(long, value_name = "N")]
    pub(crate) keep: Option<usize>,

    /// Remove archives that were built more days ago
    #[arg(long, value_name = "DAYS")]
    pub(crate) older_than: Option<u64>,

    /// A directory of maps whose archives stay, besides the one of HTMAP_DIR and the one beside the archives
    #[arg(long, value_name = "DIR")]
    pub(crate) maps: Vec<PathBuf>,

    /// Say what would be removed
    #[arg(long)]
    pub(crate) dry_run: bool,

    /// Where the archives are [default: transplants in HTMAP_DIR, else ~/.htmap/transplants]
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,

    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
// Each is an option of its own.
#[allow(clippy::struct_excessive_bools)]
pub(crate) struct TransplantBuild {
    /// The interpreter [default: the one that `htmap-exec python` picks]
    #[arg(long, alias = "from", value_name = "PATH")]
    pub(crate) python: Option<PathBuf>,

    /// Where the archive goes [default: transplants in HTMAP_DIR, else ~/.htmap/transplants]
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,

    /// What to write: beside the tar.zst, which the other commands take, one for other tools
    #[arg(long, value_enum, default_value = "tar.zst")]
    pub(crate) format: TransplantFormat,

    /// Take a file or directory along: modules into site-packages, or to PLACE in the environment
    #[arg(long, value_name = "PATH[=PLACE]")]
    pub(crate) include: Vec<OsString>,

    /// How hard to compress: 1 is fastest, 19 smallest
    #[arg(long, value_name = "N", default_value = "3", value_parser = clap::value_parser!(i32).range(1..=19))]
    pub(crate) level: i32,

    /// Leave out what matches, by its path below the environment
    #[arg(long, value_name = "GLOB")]
    pub(crate) exclude: Vec<String>,

    /// Do not start the packed Python to see whether it is the same in another place
    #[arg(long)]
    pub(crate) no_check: bool,

    /// Leave modules that have no `.pyc` as they are: every component compiles what it imports of them
    #[arg(long)]
    pub(crate) no_compile: bool,

    /// List what came along from outside of the environment
    #[arg(short, long)]
    pub(crate) verbose: bool,

    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum TransplantFormat {
    #[value(name = "tar.zst")]
    TarZst,
    #[value(name = "tar.gz")]
    TarGz,
    Zip,
}
