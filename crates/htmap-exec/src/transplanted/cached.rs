//! The first way: a tree in the node's cache, where the user or the site names one.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::Context as _;
use htmap_exec_transplant::Cache;

use super::{Request, Suited, Tree};

/// Of the machine ad, by which a site names a cache for all of its jobs.
const DIRECTORY: &str = "HtmapExecCacheDir";
const SIZE: &str = "HtmapExecCacheSize";
/// The same for one job. Not by clap: what makes no sense here must not keep a component from running.
const ENV_DIRECTORY: &str = "HTMAP_EXEC_CACHE_DIR";
const ENV_SIZE: &str = "HTMAP_EXEC_CACHE_SIZE";
/// Some environments of a large kind.
const DEFAULT_SIZE: u64 = 20_000_000_000;

/// What the command line says of a cache.
#[derive(Debug, Default)]
pub(crate) struct Wanted {
    pub(crate) directory: Option<PathBuf>,
    pub(crate) size: Option<String>,
}

/// The one that is named, if any is.
pub(super) fn directory(request: &Request<'_>) -> Option<PathBuf> {
    let directory = request.cache.directory.clone();
    let directory = directory.or_else(|| std::env::var_os(ENV_DIRECTORY).map(PathBuf::from));
    let directory = directory.or_else(|| request.machine_ad.string(DIRECTORY).map(PathBuf::from));
    // An empty variable means none, whatever the site offers.
    directory.filter(|directory| !directory.as_os_str().is_empty())
}

pub(super) fn cached(suited: &Suited<'_>) -> anyhow::Result<Option<Tree>> {
    let begun = Instant::now();
    let request = suited.request;
    let ad = request.machine_ad;
    let Some(directory) = directory(request) else {
        return Ok(None);
    };
    let said = request.cache.size.clone();
    let said = said.or_else(|| std::env::var(ENV_SIZE).ok().filter(|size| !size.is_empty()));
    let said = said.or_else(|| ad.string(SIZE));
    let said = said.or_else(|| ad.integer(SIZE).map(|bytes| bytes.to_string()));
    let size = match said {
        Some(text) => {
            bytes(&text).with_context(|| format!("its size `{text}` is none, such as 20GB"))?
        }
        None => DEFAULT_SIZE,
    };
    let cache = Cache::open(&directory, size)?;
    let held = cache.hold(suited.index.digest, is_ending, || suited.open())?;
    tracing::info!(
        "{} `{}` in {:.3} s",
        if held.hit { "found" } else { "unpacked" },
        held.tree.display(),
        begun.elapsed().as_secs_f64()
    );
    Ok(Some(Tree {
        root: held.tree.clone(),
        shared: true,
        keep: Some(Box::new(held)),
        served: None,
    }))
}

/// Whether HTCondor wants the machine back. The runner has its signals blocked until Python runs.
/// <https://man7.org/linux/man-pages/man5/proc_pid_status.5.html>
fn is_ending() -> bool {
    // SIGHUP, SIGINT, SIGQUIT and SIGTERM: bit 0 is signal 1.
    const ENDING: u64 = 1 | 1 << 1 | 1 << 2 | 1 << 14;
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status
        .lines()
        .filter_map(|line| {
            line.strip_prefix("ShdPnd:")
                .or_else(|| line.strip_prefix("SigPnd:"))
        })
        .filter_map(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .any(|mask| mask & ENDING != 0)
}

/// Powers of a thousand, as disks are sold; a `B` changes nothing.
fn bytes(text: &str) -> Option<u64> {
    let text = text.trim().to_ascii_uppercase();
    let text = text.strip_suffix('B').unwrap_or(&text);
    let (number, factor) = match text.char_indices().last()? {
        (at, 'K') => (&text[..at], 1_000),
        (at, 'M') => (&text[..at], 1_000_000),
        (at, 'G') => (&text[..at], 1_000_000_000),
        (at, 'T') => (&text[..at], 1_000_000_000_000),
        _ => (text, 1),
    };
    number.trim().parse::<u64>().ok()?.checked_mul(factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_sizes() {
        assert_eq!(bytes("20GB"), Some(20_000_000_000));
        assert_eq!(bytes(" 5 m "), Some(5_000_000));
        assert_eq!(bytes("17"), Some(17));
        for text in ["", "B", "much", "-1G", "1.5G", "99999999999T"] {
            assert_eq!(bytes(text), None, "{text}");
        }
    }
}
