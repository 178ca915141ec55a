//! The text of a Dockerfile or of an Apptainer definition.

use crate::environment::Environment;

/// How every recipe begins: it is known by that.
pub(crate) const FIRST_WORDS: &str = "# Written by `htmap-exec image recipe`";

/// Where sources and requirements lie, while the image is built.
const WORK: &str = "/opt/htmap-exec";

/// Who reads the recipe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// docker, podman, buildah
    Dockerfile,
    /// apptainer
    Apptainer,
}

impl Format {
    /// What the file is called.
    pub fn file(self) -> &'static str {
        match self {
            Self::Dockerfile => "Dockerfile",
            Self::Apptainer => "Apptainer.def",
        }
    }
}

/// A project or an archive that was copied.
#[derive(Debug)]
pub(crate) struct Copied {
    /// Below `sources/`.
    pub(crate) place: String,
    /// What its build is told, and no other's.
    pub(crate) variables: Vec<(String, String)>,
}

impl Copied {
    /// Whether it needs a command of its own.
    pub(crate) fn is_alone(&self) -> bool {
        !self.variables.is_empty()
    }
}

/// What the text depends on.
#[derive(Debug)]
pub(crate) struct Recipe<'a> {
    /// For whom.
    pub(crate) format: Format,
    /// The image to begin with.
    pub(crate) base: String,
    /// What goes in.
    pub(crate) environment: &'a Environment,
    /// What pip installs from beside the recipe.
    pub(crate) sources: &'a [Copied],
    /// Whether wheels lie beside the recipe, so that no index is asked.
    pub(crate) wheels: bool,
    /// Whether the requirements name all that is needed: pip then takes nothing else.
    pub(crate) complete: bool,
}

/// The image that a recipe begins with.
pub(crate) fn default_base(environment: &Environment) -> String {
    if environment.conda.is_empty() {
        format!("python:{}-slim", environment.python.version)
    } else {
        "condaforge/miniforge3:latest".to_owned()
    }
}

impl Recipe<'_> {
    /// All of it.
    pub(crate) fn text(&self) -> String {
        match self.format {
            Format::Dockerfile => self.dockerfile(),
            Format::Apptainer => self.definition(),
        }
    }

    fn header(&self) -> String {
        let python = &self.environment.python;
        let mut text = format!(
            "{FIRST_WORDS} from {} ({} {}, {}).\n",
            python.executable.display(),
            python.implementation,
            python.full_version,
            std::env::consts::ARCH,
        );
        if !self.environment.compiled.is_empty() && !self.wheels {
            let names: Vec<&str> = self
                .environment
                .compiled
                .iter()
                .map(String::as_str)
                .collect();
            text.push_str(&format!(
                "#\n# Compiled while the image is built: {}\n",
                names.join(", ")
            ));
        }
        for (title, sentences) in [
            ("Left out", &self.environment.left_out),
            ("Notes", &self.environment.notes),
        ] {
            if sentences.is_empty() {
                continue;
            }
            text.push_str(&format!("#\n# {title}:\n"));
            for sentence in sentences {
                // One that names a file may have any characters.
                text.push_str(&format!("# - {}\n", sentence.replace('\n', " ")));
            }
        }
        text
    }

    /// The commands that make the image, a step each.
    fn steps(&self) -> Vec<String> {
        let mut steps = Vec::new();
        let system: Vec<&str> = self.environment.system.iter().map(String::as_str).collect();
        if !system.is_empty() {
            steps.push(format!(
                "apt-get update && apt-get install -y --no-install-recommends {} && rm -rf /var/lib/apt/lists/*",
                system.join(" ")
            ));
        }
        let python = if self.environment.conda.is_empty() {
            steps.push(self.right_python());
            "python3"
        } else {
            steps.push(format!(
                "/opt/conda/bin/conda create --yes --quiet --prefix /opt/env --file {WORK}/conda.lock && /opt/conda/bin/conda clean --yes --all"
            ));
            "/opt/env/bin/python"
        };
        steps.push(with_pip(python));
        let mut install = format!("{python} -m pip install --no-cache-dir");
        if self.complete {
            install.push_str(" --no-deps");
        }
        if self.wheels {
            install.push_str(&format!(" --no-index --find-links {WORK}/wheels"));
        }
        let pip = self.pip(&install);
        if self.wheels || self.environment.compilers.is_empty() {
            steps.extend(pip);
        } else {
            steps.push(self.compiling(python, &pip));
        }
        steps
    }

    /// Ends the build where another image than the default one has another Python.
    fn right_python(&self) -> String {
        let version = self.environment.python.version;
        format!(
            "python3 -c 'import sys; sys.exit(sys.version_info[:2] != ({}, {}))' || {{ echo 'error: the maps are of Python \
             {version}, and the base image has none of that version: choose another --base' >&2; exit 1; }}",
            version.major, version.minor
        )
    }

    /// What pip is told: all in one command, and by a command of its own what has variables of its own.
    fn pip(&self, install: &str) -> Vec<String> {
        let mut first = format!("{install} -r {WORK}/requirements.txt");
        if self.wheels {
            return vec![first];
        }
        let (alone, together): (Vec<_>, Vec<_>) =
            self.sources.iter().partition(|source| source.is_alone());
        for source in together {
            first.push_str(&format!(" {WORK}/sources/{}", source.place));
        }
        let mut commands = vec![first];
        for source in alone {
            let variables: Vec<String> = source
                .variables
                .iter()
                .map(|(name, value)| format!("{name}={value}"))
                .collect();
            commands.push(format!(
                "{} {install} {WORK}/sources/{}",
                variables.join(" "),
                source.place
            ));
        }
        commands
    }

    /// One step, so that no layer keeps the compilers: what the image had before stays, and what is needed at run time.
    fn compiling(&self, python: &str, pip: &[String]) -> String {
        let tools: Vec<&str> = self
            .environment
            .compilers
            .iter()
            .map(String::as_str)
            .collect();
        let tools = tools.join(" ");
        // Debian's Python has them apart.
        let has_headers = format!(
            "test -e $({python} -c 'import sysconfig; print(sysconfig.get_path(\"include\"))')/Python.h"
        );
        let mut commands = vec![
            "apt-mark showmanual > /tmp/manual".to_owned(),
            "apt-get update".to_owned(),
            format!("apt-get install -y --no-install-recommends {tools}"),
            format!(
                "{{ {has_headers} || apt-get install -y --no-install-recommends python3-dev; }}"
            ),
        ];
        commands.extend(pip.iter().cloned());
        commands.extend([
            format!("apt-mark auto {tools} > /dev/null"),
            "xargs -r apt-mark manual < /tmp/manual > /dev/null".to_owned(),
            "apt-get purge -y --auto-remove".to_owned(),
            "rm -rf /tmp/manual /var/lib/apt/lists/*".to_owned(),
        ]);
        commands.join(" && ")
    }

    fn directories(&self) -> Vec<&'static str> {
        let mut names = vec!["requirements.txt"];
        if !self.environment.conda.is_empty() {
            names.push("conda.lock");
        }
        if self.wheels {
            names.push("wheels");
        } else if !self.sources.is_empty() {
            names.push("sources");
        }
        names
    }

    fn path(&self) -> Option<&'static str> {
        (!self.environment.conda.is_empty()).then_some("/opt/env/bin")
    }

    fn dockerfile(&self) -> String {
        let mut text = self.header();
        text.push_str(&format!("ARG FROM={}\nFROM ${{FROM}}\n\n", self.base));
        text.push_str(
            "COPY htmap-exec /usr/local/bin/htmap-exec\nCOPY singularity.d /.singularity.d\n",
        );
        for name in self.directories() {
            text.push_str(&format!("COPY {name} {WORK}/{name}\n"));
        }
        text.push_str(
            "\n# For sites with an index of their own; not kept in the image.\nARG PIP_INDEX_URL\nARG PIP_TRUSTED_HOST\nARG PIP_ROOT_USER_ACTION=ignore\nARG PIP_BREAK_SYSTEM_PACKAGES=1\n",
        );
        for step in self.steps() {
            text.push_str(&format!("RUN {step}\n"));
        }
        if let Some(path) = self.path() {
            text.push_str(&format!(
                "ENV PATH={path}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n"
            ));
        }
        text.push_str(
            "\n# HTCondor names another user still, one that the image need not know.\nRUN id htmap 2>/dev/null || useradd --create-home htmap\nUSER htmap\nWORKDIR /home/htmap\n\n",
        );
        text.push_str(&format!(
            "LABEL org.opencontainers.image.title=\"htmap-exec-recipe\" \\\n      org.opencontainers.image.description=\"Python {} for the components of HTMap maps\"\n",
            self.environment.python.full_version
        ));
        text
    }

    fn definition(&self) -> String {
        let mut text = format!(
            "{}Bootstrap: {{{{ BOOTSTRAP }}}}\nFrom: {{{{ FROM }}}}\n\n",
            self.header()
        );
        text.push_str(&format!(
            "%arguments\n    BOOTSTRAP=docker\n    FROM={}\n    PIP_INDEX_URL=https://pypi.org/simple\n\n%files\n    htmap-exec /usr/local/bin/htmap-exec\n",
            self.base
        ));
        for name in self.directories() {
            text.push_str(&format!("    {name} {WORK}/{name}\n"));
        }
        text.push_str(
            "\n%post\n    export PIP_INDEX_URL={{ PIP_INDEX_URL }} PIP_ROOT_USER_ACTION=ignore PIP_BREAK_SYSTEM_PACKAGES=1\n",
        );
        for step in self.steps() {
            text.push_str(&format!("    {step}\n"));
        }
        if let Some(path) = self.path() {
            text.push_str(&format!("\n%environment\n    export PATH={path}:$PATH\n"));
        }
        text.push_str(
            "\n%runscript\n    if [ $# = 0 ]; then set -- htmap-exec python; fi\n    exec \"$@\"\n\n%test\n    /usr/local/bin/htmap-exec python\n",
        );
        text.push_str(&format!(
            "\n%labels\n    org.opencontainers.image.title htmap-exec-recipe\n    org.opencontainers.image.description Python {} for the components of HTMap maps\n",
            self.environment.python.full_version
        ));
        text
    }
}

/// Some images have a Python without pip; Debian's has no ensurepip either.
fn with_pip(python: &str) -> String {
    let mut ways = format!("{python} -m pip --version || {python} -m ensurepip");
    if python == "python3" {
        ways.push_str(
            " || { apt-get update && apt-get install -y --no-install-recommends python3-pip && rm -rf /var/lib/apt/lists/*; }",
        );
    }
    format!(
        "{ways} || {{ echo 'error: the base image has no pip, and there is no way to it: choose another --base' >&2; exit 1; }}"
    )
}
