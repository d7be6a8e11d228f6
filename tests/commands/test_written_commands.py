"""Each target of the Makefile and each command of the first pages is executed by a test.

Tests name the commands that they execute by the marker `executes`; the fixture `newcomer` compares
them with what was executed.
"""

import re
from collections.abc import Iterator
from importlib import import_module

from infra.install.environment import ROOT
from tests.commands.pages import commands, snippet, targets

ROOT_ONLY = "needs root: the slices of the cluster execute what it runs"
ITSELF = "would start itself"
# Commands with a word for a folder or model. test_variables.py parses their options.
INCOMPLETE = re.compile(r"=…|FOLDER")
FAMILY = "trains a model for minutes: the slice loop-vllm runs the loop on the same model"
# Commands and targets that no test executes, with the reason.
EXCEPTIONS = {
    "make cluster": ROOT_ONLY,
    "make cluster-down": ROOT_ONLY,
    "make cluster-test": ROOT_ONLY,
    "make deploy": ROOT_ONLY,
    "make test-cluster": ROOT_ONLY,
    "helm install": "needs a cluster: its slices install the chart",
    "apt-get install maven": "needs root",
    "make test-gpu": "needs a GPU",
    "make test": ITSELF,
    "make test-long": ITSELF,
    "make faults": "runs the slices faults-feedback and faults-chat: longer than 40 minutes",
    "make bench": "32 benchmarks, expected to take longer than 40 minutes; not measured",
    ".venv/bin/thumbwheel train nano-base --family llama": FAMILY,
}


def executed() -> Iterator[tuple[str, str]]:
    """Yield each command that a test executes, with the module of the test."""
    for file in sorted((ROOT / "tests").rglob("test_*.py")):
        if "mark.executes" not in file.read_text() or file.name == "test_written_commands.py":
            continue
        module = import_module(".".join(file.relative_to(ROOT).with_suffix("").parts))
        for test in vars(module).values():
            for mark in getattr(test, "pytestmark", ()):
                if mark.name == "executes":
                    yield from ((command, file.name) for command in mark.args)


def is_excepted(command: str) -> bool:
    return command in EXCEPTIONS or INCOMPLETE.search(command) is not None


def test_every_command_of_the_pages_is_executed_or_excepted() -> None:
    known = {command for command, _ in executed()}
    assert [one for one in commands() if one not in known and not is_excepted(one)] == []
    assert snippet() in known
    assert [one for one in known if one in EXCEPTIONS] == []


def test_every_target_is_executed_or_excepted() -> None:
    known = {command.split()[1] for command, _ in executed() if command.startswith("make ")}
    excepted = {name.split()[1] for name in EXCEPTIONS if len(name.split()) == 2}
    assert [name for name in targets() if name not in known | excepted] == []


def test_exceptions_exist() -> None:
    existing = {*commands(), *(f"make {target}" for target in targets())}
    assert [command for command in EXCEPTIONS if command not in existing] == []
