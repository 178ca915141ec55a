"""HTMap's delivery methods, run by htmap-exec: the submit descriptors of each, and why each descriptor is there.

HTMap adds each map's own files to the very list that a delivery method gave it. So descriptors are made anew for every
map: a list that outlives its map would send that map's `func` along with the next one.
"""

import difflib
import functools
import os
import pathlib
import platform
import sys
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple

from . import exec_settings, layout, packing, source_lines
from .binary import check_machine, find_binary
from .exec_settings import ExecSettings
from .failures import HtmapExecError, SettingsError
from .shipping import ship_cloudpickle, submit_python

# HTCondor's names of processors, where they are not those of `uname -m`.
_ARCH = {"x86_64": "X86_64"}

_COMPONENT = "$(component)"

# https://htmap.readthedocs.io/en/latest/settings.html
_HTMAPS_IMAGE = "htcondor/htmap-exec:v0.6.1"

# Schemes of images that HTCondor's file transfer fetches; what has another one is pulled by Apptainer.
_BY_HTCONDOR = ("file", "http", "https", "ftp", "osdf", "pelican", "stash", "s3", "gs")


class Descriptor(NamedTuple):
    """A submit descriptor, and why a delivery method sets it."""

    name: str
    value: Any
    reason: str


class Requirement(NamedTuple):
    """What an execute node has to offer, or a component stays idle."""

    expression: str
    meaning: str


class Context(NamedTuple):
    """What the descriptors of a map depend on."""

    map_dir: pathlib.Path
    htmap_settings: Any
    settings: ExecSettings
    binary: str


class Method(NamedTuple):
    """A delivery method: what it is for, its own descriptors, and what HTCondor then requires of nodes by itself."""

    name: str
    summary: str
    describe: Callable[[Context], List[Descriptor]]
    implies: Tuple[Requirement, ...] = ()


def register(htmap: Any) -> None:
    """Register the delivery methods with HTMap, in place of its own ones of the same names."""
    for method in METHODS:
        htmap.register_delivery_method(
            method.name, functools.partial(_for_htmap, htmap, method), functools.partial(_set_up, htmap, method)
        )


def context(htmap: Any, map_dir: pathlib.Path) -> Context:
    """Settings and binary, checked: raises HtmapExecError before anything is submitted."""
    settings = exec_settings.read(htmap.settings)
    binary = find_binary(settings.BINARY)
    check_machine(binary, settings.ARCH)
    return Context(pathlib.Path(os.path.abspath(map_dir)), htmap.settings, settings, binary)


def descriptors(method: Method, context: Context) -> List[Descriptor]:
    """All that htmap-exec sets for a map by this delivery method, each once."""
    found: Dict[str, Descriptor] = {}
    own = method.describe(context)
    # Its universe first: that is where a reader starts.
    for each in (*own[:1], *_common(context), *_on_other_machines(context), *own[1:]):
        before = found.get(each.name)
        if before is not None and each.name == "requirements":
            each = Descriptor(each.name, f"{before.value} && {each.value}", f"{before.reason}; {each.reason}")
        found[each.name] = each
    return list(found.values())


def find(name: str) -> Optional[Method]:
    """The delivery method of this name, if it is one of ours."""
    return next((method for method in METHODS if method.name == name), None)


def meant(name: Any) -> str:
    """What somebody may have meant by the name of no delivery method."""
    known = [method.name for method in METHODS]
    close = difflib.get_close_matches(str(name), known, n=1)
    return f"did you mean `{close[0]}`?" if close else f"they are {', '.join(known)}"


def _for_htmap(htmap: Any, method: Method, tag: str, map_dir: pathlib.Path) -> Dict[str, Any]:
    return {each.name: each.value for each in descriptors(method, context(htmap, map_dir))}


def _set_up(htmap: Any, method: Method, tag: str, map_dir: pathlib.Path) -> None:
    """What a map directory needs before HTMap submits it."""
    exec_settings.refuse_overridden(htmap.settings)
    # HTMap calls this first: whatever is wrong shows before there is a file.
    found = context(htmap, map_dir)
    descriptors(method, found)
    if method.name == "transplant":
        packing.prepare(map_dir, found.binary, htmap.settings, found.settings)
    (map_dir / layout.RECORDS).mkdir(exist_ok=True)
    for name in layout.OUTPUT_DIRECTORIES:
        (map_dir / layout.SCRATCH / name).mkdir(parents=True, exist_ok=True)
    ship_cloudpickle(map_dir / layout.CLOUDPICKLE)
    source_lines.ship(map_dir / layout.SOURCE_LINES)


def _common(context: Context) -> List[Descriptor]:
    map_dir = context.map_dir
    # HTCondor would hold a job whose input is missing, and reports can do without this one.
    sources = [path.as_posix() for path in [map_dir / layout.SOURCE_LINES] if path.is_file()]
    return [
        Descriptor("executable", _literal(context.binary), "the htmap-exec binary"),
        Descriptor("transfer_executable", "True", "it is sent along: nodes need not have it"),
        Descriptor("arguments", _arguments(_run(context)), "runs one component, and says which Python pickled the map"),
        Descriptor(
            "transfer_input_files",
            [
                (map_dir / layout.CLOUDPICKLE).as_posix(),
                *sources,
                *((map_dir / layout.SCRATCH / name).as_posix() for name in layout.OUTPUT_DIRECTORIES),
            ],
            f"this side's cloudpickle, for nodes without it{'; source lines, for reports' if sources else ''}; and the "
            "output directories, empty, since HTCondor holds a job that is evicted while one of its outputs is "
            "missing, and can evict it before the binary's first instruction. HTMap adds the function, the component's "
            "input and your own files",
        ),
        Descriptor(
            "transfer_output_files",
            " , ".join(f"{name}/" for name in layout.OUTPUT_DIRECTORIES),
            "what comes back: the output, the run record, the checkpoint after an eviction; and your output files",
        ),
        Descriptor(
            # This takes the place of HTMap's own text, and has to end as that does: HTMap opens the closing quote
            # again to append a map's `output_remaps`.
            "transfer_output_remaps",
            _remaps(
                [
                    (f"{_COMPONENT}.out", map_dir / layout.OUTPUTS / f"{_COMPONENT}.out"),
                    (f"{_COMPONENT}.json", map_dir / layout.RECORDS / f"{_COMPONENT}.json"),
                ]
            ),
            "outputs and run records go to their places in the map directory",
        ),
        Descriptor(
            "MY.SubmitEventNotesAttrs",
            '"component"',
            "an access point of HTCondor 25.14 leaves the component's number out of the event log without it",
        ),
    ]


def _on_other_machines(context: Context) -> List[Descriptor]:
    if platform.machine() == context.settings.ARCH:
        return []
    arch = _ARCH.get(context.settings.ARCH, context.settings.ARCH)
    return [
        Descriptor(
            "requirements",
            f'TARGET.Arch == "{arch}"',
            "EXEC.ARCH: without it HTCondor asks for nodes of this machine's kind",
        )
    ]


def _run(context: Context) -> List[str]:
    settings = context.settings
    words = ["run", "--submit-python", settings.SUBMIT_PYTHON or submit_python()]
    if settings.PYTHON is not None:
        words += ["--python", settings.PYTHON]
    if settings.ALLOW_PYTHON_MISMATCH:
        words.append("--allow-python-mismatch")
    for option, seconds in (
        ("--timeout", settings.TIMEOUT),
        ("--start-limit", settings.START_LIMIT),
        ("--exit-grace", settings.EXIT_GRACE),
    ):
        if seconds is not None:
            words += [option, f"{seconds:g}"]
    if settings.LOG is not None:
        words += ["--log", settings.LOG]
    return words


def _assume(context: Context) -> List[Descriptor]:
    return [Descriptor("universe", "vanilla", "runs on the node as it is, by the Python that htmap-exec finds there")]


def _shared(context: Context) -> List[Descriptor]:
    python = context.settings.PYTHON or sys.executable
    if not python:
        raise HtmapExecError(
            "this Python does not know its own path, which delivery by `shared` needs: set EXEC.PYTHON"
        )
    # Not resolved: a virtual environment's Python is a link, and the environment is where the link is.
    with_python = context._replace(settings=context.settings._replace(PYTHON=os.path.abspath(python)))
    return [
        Descriptor("universe", "vanilla", "runs on the node as it is"),
        Descriptor("transfer_executable", "False", "the binary is on the shared file system"),
        Descriptor("arguments", _arguments(_run(with_python)), "runs one component by the Python that made the map"),
    ]


def _docker(context: Context) -> List[Descriptor]:
    image = context.htmap_settings.get("DOCKER.IMAGE")
    if not image:
        raise SettingsError("delivery by `docker` needs an image: set DOCKER.IMAGE")
    return [
        Descriptor("universe", "docker", "HTCondor runs the component in a Docker container"),
        Descriptor("docker_image", str(image), _about_image("DOCKER.IMAGE", str(image))),
        Descriptor(
            "docker_override_entrypoint", "True", "an image with an ENTRYPOINT would take the binary for a word"
        ),
    ]


def _singularity(context: Context) -> List[Descriptor]:
    return [
        *_image(context, "SINGULARITY.IMAGE", context.htmap_settings.get("SINGULARITY.IMAGE")),
        Descriptor("requirements", "HasSingularity", "only Apptainer or Singularity, where a node has Docker as well"),
    ]


def _container(context: Context) -> List[Descriptor]:
    return _image(context, *_chosen_image(context))


def _apptainer(context: Context) -> List[Descriptor]:
    setting, image = _chosen_image(context)
    image = _found_image(setting, image)
    found = [Descriptor("universe", "vanilla", "HTCondor starts no container: the binary does, on the node")]
    common = {each.name: each for each in _common(context)}
    name = image
    if _is_sent(image):
        name = packing.name(image)
        inputs = common["transfer_input_files"]
        found.append(
            inputs._replace(
                value=[*inputs.value, _literal(image)], reason=f"{inputs.reason}. And the image ({setting})"
            )
        )
    found.append(
        Descriptor(
            "arguments",
            _arguments([*_run(context), "--image", name]),
            f"runs one component in the image `{image}`, by the node's apptainer or singularity",
        )
    )
    return found


def _is_sent(image: str) -> bool:
    """Whether HTCondor brings it to the scratch directory: a tree stays where it is, and Apptainer pulls the rest."""
    if "://" in image:
        return image.partition("://")[0] in _BY_HTCONDOR
    return not (image.startswith("/cvmfs/") or os.path.isdir(image))


def _chosen_image(context: Context) -> Tuple[str, Any]:
    if context.settings.CONTAINER_IMAGE:
        return "EXEC.CONTAINER_IMAGE", context.settings.CONTAINER_IMAGE
    return "SINGULARITY.IMAGE", context.htmap_settings.get("SINGULARITY.IMAGE")


def _found_image(setting: str, given: Any) -> str:
    """An address, or an absolute path: HTCondor would look for a relative one in the map's directory."""
    if not given:
        raise SettingsError(f"delivery in containers needs an image: set {setting}")
    image = str(given)
    if "://" in image or image.startswith("/cvmfs/"):
        return image
    if os.path.exists(image):
        return os.path.abspath(image)
    raise SettingsError(
        f"the setting `{setting}` names `{image}`, which does not exist here: an image in a registry is named "
        f"docker://{image}"
    )


def _image(context: Context, setting: str, image: Any) -> List[Descriptor]:
    image = _found_image(setting, image)
    found = [
        Descriptor("universe", "container", "HTCondor runs the component in a container, by whichever runtime there is")
    ]
    if image.startswith("/cvmfs/"):
        found.append(Descriptor("transfer_container", "False", "nodes have /cvmfs themselves"))
    elif os.path.isdir(image):
        found.append(
            Descriptor(
                "transfer_container",
                "False",
                "nodes see this tree at the same path: HTCondor sends none with links to directories, and /bin is "
                "one in most images",
            )
        )
    found.append(Descriptor("container_image", image, _about_image(setting, image) + _about_test(image)))
    return found


def _about_test(image: str) -> str:
    """What HTCondor does before each job by Apptainer, unless a pool's SINGULARITY_RUN_TEST_BEFORE_JOB says otherwise:
    https://htcondor.readthedocs.io/en/latest/admin-manual/configuration-macros.html
    """
    test = ".singularity.d/actions/test"
    if os.path.isdir(image) and not os.path.exists(os.path.join(image, test)):
        return (
            f". HTCondor runs an image's own test before each job by Apptainer, and this tree has no /{test}: unless "
            "the pool has turned that off, its jobs start again for ever. htmap-exec's singularity.d has one"
        )
    return ". HTCondor runs the image's own test, if it has one, before each job by Apptainer"


def _about_image(setting: str, image: str) -> str:
    if image.endswith(_HTMAPS_IMAGE):
        return (
            f"{setting}, here HTMap's default: it has Python 3.7 and the packages of 2019. A map made by another "
            "Python ends with an error that says so; name an image with this Python version"
        )
    return f"{setting}: has to contain a Python of the version that makes the map; no HTMap, no cloudpickle"


def _transplant(context: Context) -> List[Descriptor]:
    archive = packing.of_map(context.map_dir, context.binary, context.htmap_settings)
    settings = context.settings
    words = [*_run(context._replace(settings=settings._replace(PYTHON=None)))]
    for option, value in (("--cache-dir", settings.CACHE_DIR), ("--cache-size", settings.CACHE_SIZE)):
        if value is not None:
            words += [option, value]
    for name in settings.KEEP_VARIABLES:
        words += ["--keep-variable", name]
    if settings.NO_MOUNT:
        words.append("--no-mount")
    common = {each.name: each for each in _common(context)}
    return [
        Descriptor("universe", "vanilla", "runs on the node as it is, by a Python that is sent along"),
        Descriptor(
            "arguments",
            _arguments([*words, "--transplant", packing.name(archive)]),
            "unpacks this Python into the scratch directory, and runs one component by it",
        ),
        common["transfer_input_files"]._replace(
            value=[*common["transfer_input_files"].value, _literal(archive)],
            reason=common["transfer_input_files"].reason + ". And the packed Python",
        ),
        *_of_archive(context, packing.facts(context.binary, archive)),
    ]


def _of_archive(context: Context, facts: Optional[packing.Facts]) -> List[Descriptor]:
    """What follows from an archive that this machine can look into."""
    if facts is None:
        return []
    found = []
    if not _chose(context.htmap_settings, "request_disk"):
        found.append(
            Descriptor(
                "request_disk",
                packing.disk(facts, scratch=2**30),
                "the archive, what is unpacked from it, and HTMap's default of 1GB for everything else; "
                "MAP_OPTIONS.request_disk or MapOptions(request_disk=...) say otherwise",
            )
        )
    if facts.x86_64_level is not None:
        level = f'"x86_64-v{facts.x86_64_level["needs"]}"'
        found.append(
            Descriptor(
                "requirements",
                # An old HTCondor does not tell; then the runner finds out on the node.
                f"(TARGET.Microarch =?= undefined || TARGET.Microarch >= {level})",
                f"`{facts.x86_64_level['file']}` was compiled for processors of this level",
            )
        )
    return found


def of_node_alone(context: Context) -> Optional[Requirement]:
    """What an archive needs of a node and HTCondor cannot be asked for."""
    archive = packing.of_map(context.map_dir, context.binary, context.htmap_settings)
    facts = packing.facts(context.binary, archive)
    if facts is None or facts.glibc is None:
        return None
    return Requirement(
        f"glibc {facts.glibc['needs']} or later",
        f"for `{facts.glibc['file']}`. Machine ads do not tell a node's, so this keeps no job idle: on a node with an "
        "older one the component ends with an error that says so",
    )


def overriding(htmap: Any, name: str, map_dir: pathlib.Path) -> Dict[str, Any]:
    """Descriptors that go before HTMap's default MAP_OPTIONS, though not before what a user chose."""
    method = find(name)
    if method is None or method.describe is not _transplant:
        return {}
    found = descriptors(method, context(htmap, map_dir))
    return {each.name: each.value for each in found if each.name == "request_disk"}


def _chose(settings: Any, option: str) -> bool:
    """Whether a user set it: the last of HTMap's maps are its own defaults."""
    return any(name.lower() == option for each in settings.maps[:-1] for name in each.get("MAP_OPTIONS", {}))


METHODS = (
    Method("assume", "nodes have a Python of this minor version; the binary is sent along", _assume),
    Method("shared", "nodes see this Python and the binary at the same paths, on a shared file system", _shared),
    Method(
        "docker",
        "components run in Docker containers of the image DOCKER.IMAGE",
        _docker,
        (Requirement("HasDocker", "the node can run Docker containers"),),
    ),
    Method(
        "singularity",
        "components run in containers of the image SINGULARITY.IMAGE, by Apptainer or Singularity",
        _singularity,
        # HasSingularity is among the descriptors.
        (Requirement("HasContainer", "the node can run containers"),),
    ),
    Method(
        "container",
        "components run in containers of the image EXEC.CONTAINER_IMAGE (or SINGULARITY.IMAGE), by any runtime",
        _container,
        (Requirement("HasContainer", "the node can run containers, by Docker or Apptainer"),),
    ),
    Method(
        "apptainer",
        "components run in the image EXEC.CONTAINER_IMAGE (or SINGULARITY.IMAGE), by the node's Apptainer or "
        "Singularity, where the pool has no container universe",
        _apptainer,
    ),
    Method("transplant", "this Python is packed and sent along, for nodes that have none", _transplant),
)


def _remaps(pairs: List[Tuple[str, pathlib.Path]]) -> str:
    return '" {} "'.format(" ; ".join(f"{name}={path.as_posix()}" for name, path in pairs))


def _arguments(words: List[str]) -> str:
    """In HTCondor's newer syntax, the one that knows quotes; the component's number comes last."""
    return '"{}"'.format(" ".join([*(_quoted(_literal(word)) for word in words), _COMPONENT]))


def _quoted(word: str) -> str:
    word = word.replace('"', '""')
    if not word or any(character.isspace() or character == "'" for character in word):
        return "'{}'".format(word.replace("'", "''"))
    return word


def _literal(text: str) -> str:
    """Without a meaning for HTCondor's macros."""
    return text.replace("$", "$(DOLLAR)")
