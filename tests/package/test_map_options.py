"""What HTMap does wrong with a MapOptions (O6 to O9 of its bugs), with htmap_exec enabled and, as the control, without.

A fresh process each, so that nothing of the one is in the other. Only the submission itself is left out: see
tests/pool/test_map_options.py.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

PROLOGUE = """
    import json, pathlib, sys, warnings
    warnings.simplefilter("ignore")
    import htmap
    from htmap import htio, mapping
    if sys.argv[1] == "enabled":
        import htmap_exec
        htmap_exec.enable(sys.argv[2])
    htmap.settings["DELIVERY_METHOD"] = "assume"
    told = []
    def execute_submit(submit, itemdata):
        told.append((dict(submit), [dict(each) for each in itemdata]))
        return 1
    mapping.execute_submit = execute_submit

    def files(told):
        "The user's files that each component gets."
        submit, itemdata = told
        fixed = [path for path in submit["transfer_input_files"].split(",") if path.startswith("/data/")]
        return [fixed + [path for path in each.get("extra_input_files", "").split(", ") if path] for each in itemdata]

    def say(value):
        print(json.dumps(value, default=str))

    def f(x):
        return x
"""


def run(tmp_path: Path, scenario: str, how: str) -> tuple[object, str]:
    """What the scenario says, or None and the last line of the traceback."""
    binary = tmp_path / "htmap-exec"
    binary.write_text("#!/bin/sh\n")
    binary.chmod(0o755)
    program = textwrap.dedent(PROLOGUE) + textwrap.dedent(scenario)
    environment = {**os.environ, "HOME": str(tmp_path), "PYTHONPATH": "python", "HTMAP_DIR": str(tmp_path / how)}
    done = subprocess.run(
        [sys.executable, "-c", program, how, str(binary)],
        env=environment,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    if done.returncode != 0:
        return None, done.stderr.splitlines()[-1]
    # HTMap takes `python -c` for a session with a person, and says what it creates.
    return json.loads(done.stdout.splitlines()[-1]), ""


# Name, program, what it says when enabled (a string: the error that is raised), and with HTMap alone.
SCENARIOS = [
    (
        "O7: one MapOptions for two maps",
        """
        mine = htmap.MapOptions(fixed_input_files="/data/all", input_files=[[], []])
        for path in "/data/a", "/data/b":
            htmap.map(f, [htmap.TransferPath(path), 1], map_options=mine)
        say([files(each) for each in told])
        """,
        [[["/data/all", "/data/a"], ["/data/all"]], [["/data/all", "/data/b"], ["/data/all"]]],
        [[["/data/all", "/data/a"], ["/data/all"]], [["/data/all", "/data/a", "/data/b"], ["/data/all"]]],
    ),
    (
        "O7: one MapOptions for two maps of different lengths",
        """
        mine = htmap.MapOptions()
        htmap.map(f, [1, 2, 3], map_options=mine)
        htmap.map(f, [htmap.TransferPath("/data/x"), 2], map_options=mine)
        say([len(files(each)) for each in told])
        """,
        [3, 2],
        "MisalignedInputData",
    ),
    (
        "O7: the options stay as they were",
        """
        mine = htmap.MapOptions(input_files=[["/data/a"], ["/data/b"]])
        htmap.map(f, [htmap.TransferPath("/data/x"), htmap.TransferPath("/data/y")], map_options=mine)
        say(mine.input_files)
        """,
        [["/data/a"], ["/data/b"]],
        [
            ["/data/a", "TransferPath(path='/data/x', protocol=None, location=None)"],
            ["/data/b", "TransferPath(path='/data/y', protocol=None, location=None)"],
        ],
    ),
    (
        "O6: one file for each component",
        """
        htmap.map(f, [1, 2], map_options=htmap.MapOptions(input_files=["/data/a", pathlib.Path("/data/b")]))
        say(files(told[0]))
        """,
        [["/data/a"], ["/data/b"]],
        "AttributeError",
    ),
    (
        "O6: one file in place of a list of them",
        """
        htmap.map(f, range(7), map_options=htmap.MapOptions(input_files="/data/a"))
        say(files(told[0]))
        """,
        "OptionsError: `input_files` is the one file '/data/a'",
        "AttributeError",
    ),
    (
        "O6: tuples of files, and none",
        """
        htmap.map(f, [1, 2], map_options=htmap.MapOptions(input_files=[("/data/a", "/data/b"), None]))
        say(files(told[0]))
        """,
        [["/data/a", "/data/b"], []],
        "AttributeError",
    ),
    (
        "O6: a number among the files",
        """
        htmap.map(f, [1, 2], map_options=htmap.MapOptions(input_files=["/data/a", 3]))
        """,
        "TypeError",
        "AttributeError",
    ),
    (
        "fixed input files: one TransferPath",
        """
        htmap.map(f, [1], map_options=htmap.MapOptions(fixed_input_files=htmap.TransferPath("/data/a")))
        say(files(told[0]))
        """,
        [["/data/a"]],
        "TypeError",
    ),
    (
        "too few input files",
        """
        htmap.map(f, [1, 2, 3], map_options=htmap.MapOptions(input_files=[["/data/a"]]))
        """,
        "MisalignedInputData: the map option `input_files` has 1 values, and the map has 3 components",
        "MisalignedInputData: Length of input_files does not match length of input (len(input_files) = 3, len(inputs) = 3)",
    ),
    (
        "O8: output_remaps of a mapped function",
        """
        to = htmap.TransferPath("/elsewhere", protocol="file")
        mapped = htmap.mapped(htmap.MapOptions(output_remaps={"x": to}))(f)
        mapped.map([1])
        say(told[0][1][0].get("extra_remaps"))
        """,
        "=_htmap_user_transfer/0/x=file:///elsewhere",
        None,
    ),
    (
        "O8: input_files of a mapped function",
        """
        mapped = htmap.mapped(htmap.MapOptions(input_files=[["/data/a"]]))(f)
        mapped.map([1])
        say(files(told[0]))
        """,
        [["/data/a"]],
        [[]],
    ),
    (
        "O8: the call goes before the function",
        """
        to = [htmap.TransferPath(f"/{each}", protocol="file") for each in "ab"]
        mapped = htmap.mapped(htmap.MapOptions(output_remaps={"x": to[0]}, request_cpus="1"))(f)
        mapped.map([1], map_options=htmap.MapOptions(output_remaps={"x": to[1]}, request_cpus="2"))
        say([told[0][1][0].get("extra_remaps"), told[0][0]["request_cpus"]])
        """,
        ["_htmap_user_transfer/0/x=file:///b", "2"],
        [None, "2"],
    ),
    (
        "O9: a number",
        """
        htmap.map(f, [1], map_options=htmap.MapOptions(request_cpus=4, request_gpus=True))
        say([told[0][0]["request_cpus"], told[0][0]["request_gpus"]])
        """,
        ["4", "True"],
        "TypeError: 'int' object is not iterable",
    ),
    (
        "O9: a number for each component",
        """
        htmap.map(f, [1, 2], map_options=htmap.MapOptions(request_cpus=[4, 8]))
        say([each["itemdata_for_request_cpus"] for each in told[0][1]])
        """,
        ["4", "8"],
        [4, 8],
    ),
    (
        "O9: None",
        """
        htmap.map(f, [1], map_options=htmap.MapOptions(request_cpus=None))
        """,
        "OptionsError: the map option `request_cpus` is None",
        "TypeError: 'NoneType' object is not iterable",
    ),
    (
        "O9: a dict",
        """
        htmap.map(f, [1, 2], map_options=htmap.MapOptions(request_cpus={"a": 1, "b": 2}))
        say(told[0][1])
        """,
        "OptionsError: the map option `request_cpus` is {'a': 1, 'b': 2}",
        [
            {"component": "0", "itemdata_for_request_cpus": "a"},
            {"component": "1", "itemdata_for_request_cpus": "b"},
        ],
    ),
    (
        "O9: an iterator, for two maps",
        """
        mine = htmap.MapOptions(request_cpus=(str(n) for n in (4, 8)))
        htmap.map(f, [1, 2], map_options=mine)
        htmap.map(f, [1, 2], map_options=mine)
        say([each["itemdata_for_request_cpus"] for each in told[1][1]])
        """,
        ["4", "8"],
        "MisalignedInputData",
    ),
    (
        "O9: too few output_remaps",
        """
        to = htmap.TransferPath("/elsewhere", protocol="file")
        htmap.map(f, [1, 2], map_options=htmap.MapOptions(output_remaps=[{"x": to}]))
        say([each.get("extra_remaps") for each in told[0][1]])
        """,
        "MisalignedInputData: the map option `output_remaps` has 1 values, and the map has 2 components",
        ["_htmap_user_transfer/0/x=file:///elsewhere", None],
    ),
    (
        "O9: reserved names with capital letters",
        """
        htmap.MapOptions(custom_options={"IsHTMapJob": "False"})
        say("taken")
        """,
        "ReservedOptionKeyword",
        "=taken",
    ),
    (
        "O9: `my.` in the middle of a name",
        """
        say(list(htmap.MapOptions(custom_options={"Dummy.thing": "1", "+Mine": "2", "MY.own": "3"})))
        """,
        ["MY.dummy.thing", "MY.mine", "MY.own"],
        ["MY.dumthing", "MY.mine", "MY.own"],
    ),
    (
        "requirements of a map and of the settings",
        """
        htmap.settings["MAP_OPTIONS.requirements"] = "HasFish"
        htmap.map(f, [1], map_options=htmap.MapOptions(requirements="HasChips"))
        say(told[0][0]["requirements"])
        """,
        "=((HasFish)) && (HasChips)",
        "=HasChips",
    ),
    (
        "requirements for each component",
        """
        htmap.settings["MAP_OPTIONS.requirements"] = "HasFish"
        htmap.map(f, [1, 2], map_options=htmap.MapOptions(requirements=["HasSalt", "HasVinegar"]))
        say([each["itemdata_for_requirements"] for each in told[0][1]])
        """,
        ["((HasFish)) && (HasSalt)", "((HasFish)) && (HasVinegar)"],
        ["HasSalt", "HasVinegar"],
    ),
    (
        "nothing is left of a map that cannot be",
        """
        try:
            htmap.map(f, [1], map_options=htmap.MapOptions(request_cpus=None))
        except Exception:
            pass
        home = pathlib.Path(htmap.settings["HTMAP_DIR"])
        say([len(told), list((home / "maps").iterdir()), list((home / "tags").iterdir())])
        """,
        [0, [], []],
        [0, [], []],
    ),
    (
        "no function",
        """
        htmap.map([1, 2], f)
        """,
        "TypeError",
        "TypeError",
    ),
]


@pytest.mark.parametrize(
    ("scenario", "enabled", "alone"), [case[1:] for case in SCENARIOS], ids=[case[0] for case in SCENARIOS]
)
def test_options(tmp_path: Path, scenario: str, enabled: object, alone: object) -> None:
    for how, wanted in (("enabled", enabled), ("stock", alone)):
        said, error = run(tmp_path, scenario, how)
        if isinstance(wanted, str) and wanted.startswith("="):
            assert said == wanted[1:], (how, error)
        elif isinstance(wanted, str):
            assert wanted in error, (how, said, error)
        else:
            assert said == wanted, (how, error)
