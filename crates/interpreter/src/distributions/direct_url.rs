//! Where a distribution came from if not from an index: PEP 610's `direct_url.json`.
//!
//! <https://packaging.python.org/en/latest/specifications/direct-url/>

use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::regular;

/// Of any file that is read here.
const LARGEST: u64 = 4 << 20;

/// The source of a distribution.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A URL with revision and fragments, complete.
    Url(String),
    /// A project directory that is imported from where it lies.
    Editable(PathBuf),
}

#[derive(Deserialize)]
struct DirectUrl {
    url: String,
    subdirectory: Option<String>,
    vcs_info: Option<VcsInfo>,
    archive_info: Option<ArchiveInfo>,
    dir_info: Option<DirInfo>,
}

#[derive(Deserialize)]
struct VcsInfo {
    vcs: String,
    commit_id: String,
}

#[derive(Deserialize)]
struct ArchiveInfo {
    hash: Option<String>,
}

#[derive(Deserialize)]
struct DirInfo {
    #[serde(default)]
    editable: bool,
}

/// Reads it, if there is one that makes sense.
pub(super) fn read(dist_info: &Path) -> Option<Source> {
    let text = regular::read(&dist_info.join("direct_url.json"), LARGEST).ok()?;
    let direct: DirectUrl = serde_json::from_slice(&text).ok()?;
    if direct.dir_info.as_ref().is_some_and(|info| info.editable) {
        let path = direct.url.strip_prefix("file://")?;
        return Some(Source::Editable(PathBuf::from(unquote(path))));
    }
    let mut url = match &direct.vcs_info {
        Some(VcsInfo { vcs, commit_id }) => format!("{vcs}+{}@{commit_id}", direct.url),
        None => direct.url,
    };
    let fragments: Vec<String> = [
        direct.archive_info.and_then(|info| info.hash),
        direct
            .subdirectory
            .map(|subdirectory| format!("subdirectory={subdirectory}")),
    ]
    .into_iter()
    .flatten()
    .collect();
    if !fragments.is_empty() {
        url = format!("{url}#{}", fragments.join("&"));
    }
    Some(Source::Url(url))
}

impl Source {
    /// Where on this machine it came from: `file:///home/me/my%20project#sha256=...`
    pub fn local_path(&self) -> Option<PathBuf> {
        match self {
            Self::Editable(path) => Some(path.clone()),
            Self::Url(url) => {
                let path = url.strip_prefix("file://")?;
                Some(PathBuf::from(unquote(path.split('#').next()?)))
            }
        }
    }

    /// What `pip freeze` prints.
    pub(super) fn line(&self, name: &str, pinned: &str) -> String {
        match self {
            Self::Url(url) => format!("{name} @ {url}"),
            Self::Editable(project) => editable(project, name, pinned),
        }
    }
}

fn editable(project: &Path, name: &str, pinned: &str) -> String {
    let location = format!("-e {}", project.display());
    let Some(root) = project
        .ancestors()
        .find(|directory| directory.join(".git").exists())
    else {
        return format!("# Editable install with no version control ({pinned})\n{location}");
    };
    let git = root.join(".git");
    match (remote(&git), head(&git)) {
        (Some(remote), Some(commit)) => {
            let below = project.strip_prefix(root).unwrap_or(Path::new(""));
            let mut fragment = format!("egg={}", name.replace('-', "_"));
            if below != Path::new("") {
                fragment.push_str(&format!("&subdirectory={}", below.display()));
            }
            format!("-e git+{remote}@{commit}#{fragment}")
        }
        _ => format!("# Editable Git install with no remote ({pinned})\n{location}"),
    }
}

/// The URL of `origin`, else of the first remote, as pip writes it.
fn remote(git: &Path) -> Option<String> {
    let config = regular::read_text(&git.join("config"), LARGEST).ok()?;
    let mut section = "";
    let mut remotes: Vec<(String, String)> = Vec::new();
    for line in config.lines().map(str::trim) {
        if line.starts_with('[') {
            section = line;
        } else if let Some(name) = section
            .strip_prefix("[remote \"")
            .and_then(|rest| rest.strip_suffix("\"]"))
            && let Some((key, value)) = line.split_once('=')
            && key.trim() == "url"
        {
            remotes.push((name.to_owned(), value.trim().to_owned()));
        }
    }
    let chosen = remotes
        .iter()
        .find(|(name, _)| name == "origin")
        .or(remotes.first());
    let url = chosen.map(|(_, url)| url.clone())?;
    if url.contains("://") {
        return Some(url);
    }
    if Path::new(&url).exists() {
        return Some(format!("file://{url}"));
    }
    // scp's form: user@host:path
    let (host, path) = url.split_once(':')?;
    Some(format!("ssh://{host}/{path}"))
}

/// The commit that is checked out.
fn head(git: &Path) -> Option<String> {
    let head = regular::read_text(&git.join("HEAD"), LARGEST).ok()?;
    let Some(reference) = head.trim().strip_prefix("ref: ") else {
        return Some(head.trim().to_owned());
    };
    if let Ok(commit) = regular::read_text(&git.join(reference), LARGEST) {
        return Some(commit.trim().to_owned());
    }
    let packed = regular::read_text(&git.join("packed-refs"), 64 << 20).ok()?;
    packed.lines().find_map(|line| {
        let (commit, name) = line.split_once(' ')?;
        (name == reference).then(|| commit.to_owned())
    })
}

fn unquote(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut index = 0;
    while index < bytes.len() {
        let digits = bytes
            .get(index + 1..index + 3)
            .and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) if bytes[index] == b'%' => {
                out.push(byte);
                index += 3;
            }
            _ => {
                out.push(bytes[index]);
                index += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}
