"""`make --dry-run` of all targets with all combinations of their variables: commands and options.

A variable without a value leaves the default to the program.
"""

import re
import shlex
import subprocess
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import product

import pytest

from infra.install.environment import GROUPS, ROOT
from infra.life.__main__ import _parser as life_parser
from infra.machine.cluster.__main__ import parse as parse_cluster
from infra.machine.servers.__main__ import parse as parse_servers
from infra.run.deploy.__main__ import parse as parse_deploy
from infra.run.embedded.__main__ import parse as parse_embedded
from infra.run.stack.__main__ import parse as parse_stack
from infra.simulate.users.__main__ import _parser as users_parser
from infra.simulate.users.__main__ import _settings
from tests.commands.pages import commands, targets
from tests.gpu.__main__ import PARTS
from tests.long_tests import SLICES
from tests.mutants.catalogue import MUTANTS
from thumbwheel_cli.__main__ import COMMANDS
from training.errors import ConfigError

FOLDER = "models of mine/taught"
MODELS, RECIPES = ("", "small", "nano", FOLDER), ("", "nano", "small", "auto")
SERVERS = ("", "predictor", "vllm", "external")
STATE, PORT = {"STATE": ("", ".state", FOLDER)}, {"PORT": ("", "8180")}
SYSTEM = {"MODEL": MODELS, "SERVER": SERVERS, **STATE, **PORT}
VARIABLES: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "up": {**SYSTEM, "RECIPE": RECIPES, "LOOP_EVERY": ("", "6h")},
    "stack": {**SYSTEM, "BROKERS": ("", "1", "3")},
    "loop": {"RECIPE": RECIPES, **STATE},
    "demo": {"MODEL": MODELS, "SERVER": SERVERS[:3], "RECIPE": RECIPES},
    "life": {**STATE, "MINUTES": ("", "2.5")},
    "cluster": STATE,
    "cluster-down": STATE,
    "deploy": {"TRAINING": ("", "kuberay", "job", "local"), "WHOLE": ("", "1"), **STATE, **PORT},
    "test-long": {"SLICE": ("", "mutants", "oracle life")},
    "test-gpu": {"PART": ("", PARTS[0], " ".join(PARTS))},
    "mutants": {"NAME": ("", MUTANTS[0].name)},
    "clean": {"ALL": ("", "1")},
}
# Targets that start a program whose options are the variables.
STARTING = ("up", "stack", "loop", "demo", "life", "cluster", "cluster-down", "deploy")
# Their default folder is not that of `make up`.
OTHER_STATE = ("stack", "life", "cluster", "cluster-down", "deploy")
OPERATORS = {"&&", "||", ";", "{", "}", ";}", "|", "&"}


def check_slices(words: list[str]) -> Namespace:
    assert set(words) <= {*SLICES, "--current"}
    return Namespace()


def check_parts(words: list[str]) -> Namespace:
    assert set(words) <= set(PARTS)
    return Namespace()


def check_mutants(words: list[str]) -> Namespace:
    assert all(any(one.name.startswith(word) for one in MUTANTS) for word in words)
    return Namespace()


def check_none(words: list[str]) -> Namespace:
    assert words == []
    return Namespace()


PARSERS: Mapping[str, Callable[[list[str]], Namespace]] = {
    "infra.run.embedded": parse_embedded,
    "infra.run.stack": parse_stack,
    "infra.simulate.users": lambda words: users_parser().parse_args(words),
    "infra.life": lambda words: life_parser().parse_args(words),
    "infra.machine.cluster": parse_cluster,
    "infra.machine.servers": parse_servers,
    "infra.run.deploy": parse_deploy,
    "tests.long_tests": check_slices,
    "tests.gpu": check_parts,
    "tests.mutants": check_mutants,
    **dict.fromkeys(("infra.check", "infra.docs.faults", "infra.install.requirements"), check_none),
    **dict.fromkeys(("infra.machine.kuberay", "tests.gpu.driver"), check_none),
}


@dataclass(frozen=True)
class DryRun:
    """Commands that a target prints for values of its variables; "" is an empty variable."""

    values: Mapping[str, str]
    commands: tuple[tuple[str, ...], ...]

    def installed(self) -> list[str]:
        """Return the groups that the commands install, in their order."""
        return [
            group
            for words in self.commands
            if words[1].endswith("environment.py")
            for group in words[2:]
        ]

    def parsed(self) -> Namespace:
        """Return the options of the program that the target starts."""
        (*_, last) = (words for words in self.commands if module_of(words)[0] in PARSERS)
        return parse(last)


def module_of(words: tuple[str, ...]) -> tuple[str, list[str]]:
    """Return the module that a command runs, and the arguments of the module."""
    if words[0] == ".venv/bin/thumbwheel":
        command = COMMANDS[words[1]]
        return command.module, [*command.words, *words[2:]]
    return (words[2], list(words[3:])) if words[1] == "-m" else ("", [])


@cache
def parse(words: tuple[str, ...]) -> Namespace:
    """Parse a command by the program's own parser.

    Raises:
        SystemExit: the program refuses an option.
    """
    module, rest = module_of(words)
    return PARSERS[module](rest)


def split(text: str) -> Iterator[tuple[str, ...]]:
    """Yield the commands of a shell script that run Python."""
    for line in text.replace("\\\n", "").splitlines():
        words: list[str] = []
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        for word in (*lexer, ";"):
            if word not in OPERATORS:
                words.append(word)
                continue
            if words and words[0] in ("python3", ".venv/bin/python", ".venv/bin/thumbwheel"):
                yield tuple(words)
            words = []


def dry_run(arguments: list[list[str]]) -> list[str]:
    """Return what `make --dry-run` prints for each list of arguments."""
    script = "".join(
        f"make --dry-run --no-print-directory {shlex.join(words)} || exit; printf '\\0'\n"
        for words in arguments
    )
    command = ["env", "-i", "PATH=/usr/local/bin:/usr/bin:/bin", "bash", "-s"]
    done = subprocess.run(
        command, cwd=ROOT, input=script, capture_output=True, text=True, check=True
    )
    return done.stdout.split("\0")[:-1]


@cache
def runs_of(target: str) -> tuple[DryRun, ...]:
    """Return the commands of a target for all combinations of its variables, first without any."""
    variables = VARIABLES.get(target, {})
    combinations: list[dict[str, str]] = [{}]
    for choice in product(*variables.values()):
        combinations.append(dict(zip(variables, choice, strict=True)))
        if combinations[-1].get("PORT"):
            combinations[-1]["GRPC_PORT"] = "51061"
    outputs = dry_run(
        [[target, *(f"{name}={value}" for name, value in one.items())] for one in combinations]
    )
    subprocess.run(["bash", "-n"], input="\n".join(outputs), text=True, check=True)
    return tuple(
        DryRun(values, tuple(split(output)))
        for values, output in zip(combinations, outputs, strict=True)
    )


@pytest.mark.parametrize("target", targets())
def test_commands_exist_and_their_options_are_accepted(target: str) -> None:
    for run in runs_of(target):
        assert set(run.installed()) <= GROUPS.keys()
        for words in run.commands:
            if (module := module_of(words)[0]) in PARSERS:
                parse(words)
            else:
                assert module in ("", "pytest", "infra.install.tools", "infra.install.clean")


def test_lines_that_a_dry_run_executes_run_only_make() -> None:
    """A line with $(MAKE) is executed: `make -n faults` wrote a page, and mutants ran tests."""
    lines = [line for line in (ROOT / "Makefile").read_text().splitlines() if "$(MAKE)" in line]
    assert lines
    call = r"\t@\$\(MAKE\) --no-print-directory [\w-]+( \w+=(\w+|\"[\w -]+\"))*"
    assert [line for line in lines if not re.fullmatch(call, line)] == []


@pytest.mark.parametrize("target", VARIABLES)
def test_empty_variables_are_as_absent_ones(target: str) -> None:
    absent, *others = runs_of(target)
    (empty,) = (run for run in others if not any(run.values.values()))
    assert empty.commands == absent.commands


@pytest.mark.parametrize("target", STARTING)
def test_program_gets_the_values_and_has_its_own_defaults(target: str) -> None:
    absent, *others = runs_of(target)
    defaults = vars(absent.parsed())
    for run in others:
        expected = {name.lower(): value for name, value in run.values.items() if value}
        if target in OTHER_STATE and expected.get("state") == ".state":
            del expected["state"]
        if target == "life" and "state" in expected:
            expected["work"] = expected.pop("state")
        if "whole" in expected:
            expected["whole"] = "True"
        options = vars(run.parsed())
        assert {name: str(options[name]) for name in expected} == expected
        assert {name: options[name] for name in defaults.keys() - expected} == {
            name: value for name, value in defaults.items() if name not in expected
        }


@pytest.mark.parametrize("target", ["up", "stack"])
def test_packages_are_installed_only_where_they_are_needed(target: str) -> None:
    for run in runs_of(target):
        serving = ["predictor"] if run.values.get("SERVER") in ("predictor", "", None) else []
        training = ["training"] if run.values.get("LOOP_EVERY") else []
        assert run.installed() == ["services", *serving, *training]


@pytest.mark.parametrize("target", ["loop", "demo"])
def test_a_run_is_checked_before_torch_is_installed(target: str) -> None:
    for run in runs_of(target):
        check, install, start = (words for words in run.commands if words[2:3] != ("services",))
        assert module_of(check)[1][0] == "check"
        assert install[2:] == ("training",)
        assert parse(check).recipe == parse(start).recipe
        if target == "loop":
            assert parse(check).state.resolve() == parse(start).state.resolve()


def test_demonstration_has_a_model_that_its_recipe_trains() -> None:
    """The default of MODEL made `make demo RECIPE=nano` rate another model."""
    for run in runs_of("demo"):
        recipe, model = (run.values.get(name, "") for name in ("RECIPE", "MODEL"))
        options = run.parsed()
        if recipe == "auto" and not model:
            with pytest.raises(ConfigError):
                _settings(options)
            continue
        settings = _settings(options)
        if not (recipe and model):
            assert settings.recipe in (settings.plan.model, "auto")


def test_incomplete_commands_of_the_pages_have_known_options() -> None:
    """Commands with a name for a folder are not executed, but parsed."""
    incomplete = [one for one in commands() if "FOLDER" in one and one.startswith(".venv")]
    assert incomplete
    for command in incomplete:
        parse(tuple(shlex.split(command)))
