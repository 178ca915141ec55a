//! Tells projects that take their version from version control which one that was: the history is not copied.

use std::path::Path;

use crate::project;

/// How a tool is told a version.
#[derive(Debug, Clone, Copy)]
enum Way {
    /// By a variable with the distribution's name at its end, which no other project's build takes for its own.
    Named(&'static str),
    /// By a variable for whatever is built.
    Variable(&'static str),
    /// By a `PKG-INFO` beside the project's file, as in a source archive.
    Metadata,
    /// In no way.
    None,
}

/// By the names that stand in a project's files, with `-` for `_`, and the special before the general. Each was tried;
/// hatch-vcs and flit-scm use setuptools-scm without telling it the name.
const TOOLS: [(&str, Way); 12] = [
    ("hatch-vcs", Way::Variable("SETUPTOOLS_SCM_PRETEND_VERSION")),
    ("flit-scm", Way::Variable("SETUPTOOLS_SCM_PRETEND_VERSION")),
    (
        "setuptools-scm",
        Way::Named("SETUPTOOLS_SCM_PRETEND_VERSION_FOR_"),
    ),
    (
        "use-scm-version",
        Way::Named("SETUPTOOLS_SCM_PRETEND_VERSION_FOR_"),
    ),
    (
        "vcs-versioning",
        Way::Named("SETUPTOOLS_SCM_PRETEND_VERSION_FOR_"),
    ),
    ("tool.pdm.version", Way::Variable("PDM_BUILD_SCM_VERSION")),
    (
        "poetry-dynamic-versioning",
        Way::Variable("POETRY_DYNAMIC_VERSIONING_BYPASS"),
    ),
    (
        "uv-dynamic-versioning",
        Way::Variable("UV_DYNAMIC_VERSIONING_BYPASS"),
    ),
    ("pbr", Way::Variable("PBR_VERSION")),
    ("versioningit", Way::Metadata),
    ("setuptools-git-versioning", Way::Metadata),
    ("versioneer", Way::None),
];

/// What a project's build has to be told.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Told {
    /// Variables for its build alone.
    pub(crate) variables: Vec<(String, String)>,
    /// The text of its `PKG-INFO`, if it needs one.
    pub(crate) metadata: Option<String>,
    /// The tool that can be told nothing.
    pub(crate) deaf: Option<&'static str>,
}

/// For the project in this directory, of which that version is installed.
pub(crate) fn told(project: &Path, name: &str, version: &str) -> Told {
    let mut told = Told::default();
    // It stands in a shell's command.
    let is_plain =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'+' | b'!' | b'-' | b'_');
    if !version.bytes().all(is_plain) {
        return told;
    }
    // A tool that is named in a comment alone reads no variable.
    let words = project::words(project);
    let Some((tool, way)) = TOOLS.iter().find(|(tool, _)| {
        words
            .iter()
            .any(|word| word == tool || word.strip_prefix("tool.") == Some(tool))
    }) else {
        return told;
    };
    match way {
        Way::Named(prefix) => {
            let name = name.replace('-', "_").to_uppercase();
            told.variables
                .push((format!("{prefix}{name}"), version.to_owned()));
        }
        Way::Variable(variable) => {
            told.variables
                .push(((*variable).to_owned(), version.to_owned()));
        }
        Way::Metadata => {
            told.metadata = Some(format!(
                "Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
            ));
        }
        Way::None => told.deaf = Some(tool),
    }
    told
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn of(file: &str, text: &str) -> Told {
        let project = tempfile::tempdir().unwrap();
        fs::write(project.path().join(file), text).unwrap();
        told(project.path(), "my-dist", "1.2.dev3+gabc")
    }

    fn variable(file: &str, text: &str) -> String {
        let told = of(file, text);
        assert_eq!(told.variables.len(), 1, "{text}");
        assert_eq!(told.variables[0].1, "1.2.dev3+gabc");
        told.variables[0].0.clone()
    }

    #[test]
    fn each_tool_is_told_in_its_own_way() {
        let named = "SETUPTOOLS_SCM_PRETEND_VERSION_FOR_MY_DIST";
        for (file, text) in [
            ("pyproject.toml", "requires = [\"setuptools_scm[toml]>=8\"]"),
            ("pyproject.toml", "[tool.setuptools_scm]"),
            ("setup.py", "setup(use_scm_version=True)"),
            ("setup.cfg", "setup_requires = setuptools-scm~=7.0"),
        ] {
            assert_eq!(variable(file, text), named);
        }
        let requires = |name: &str| format!("requires = [\"hatchling\", \"{name}\"]");
        for (name, expected) in [
            ("hatch-vcs", "SETUPTOOLS_SCM_PRETEND_VERSION"),
            (
                "poetry-dynamic-versioning<2",
                "POETRY_DYNAMIC_VERSIONING_BYPASS",
            ),
            ("pbr", "PBR_VERSION"),
        ] {
            assert_eq!(variable("pyproject.toml", &requires(name)), expected);
        }
        let metadata = of("pyproject.toml", "[tool.versioningit]")
            .metadata
            .unwrap();
        assert!(metadata.ends_with("\nName: my-dist\nVersion: 1.2.dev3+gabc\n"));
        assert_eq!(of("setup.py", "import versioneer").deaf, Some("versioneer"));
        assert_eq!(
            of("pyproject.toml", "requires = [\"pbrx\"]"),
            Told::default()
        );
    }

    #[test]
    fn no_version_runs_a_command() {
        let project = tempfile::tempdir().unwrap();
        fs::write(project.path().join("setup.py"), "use_scm_version").unwrap();
        assert_eq!(told(project.path(), "x", "1.0;rm -rf /"), Told::default());
    }
}
