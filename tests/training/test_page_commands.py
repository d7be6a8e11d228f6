"""Commands in docs/training.md and docs/evaluation.md exist: command, option, task and field."""

import argparse
import re
import shlex
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from infra.run.embedded import __main__ as embedded
from tests.support.pages import blocks_of, inline_code
from thumbwheel_cli.__main__ import COMMANDS, EMBEDDED, TRAINING
from training.__main__ import main, parser
from training.benchmarks.tasks import chosen
from training.data.feedback.sets import SetsConfig
from training.data.feedback.snapshot import SnapshotConfig
from training.evaluation.gate import GateConfig
from training.recipes.custom.assignments import assigned, settable
from training.recipes.custom.loop_fields import set_loop_fields
from training.recipes.custom.recipe_file import FIXED
from training.recipes.custom.stages import STAGES
from training.recipes.names import AUTO
from training.recipes.open_models.recipes import recipe_named
from training.recipes.pretraining import commands as pretraining
from training.recipes.recipe import Plan
from training.recipes.small import small
from training.stages.pretrain import PretrainConfig
from training.verification.tasks.catalogue import names

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "training.md").read_text()
COMMAND = "thumbwheel train "
OTHER_PROGRAMS = (".venv/bin/tensorboard", "mlflow", "wandb")
INLINE = inline_code(PAGE)
FIELDS = {
    name: {field.name for field in settable(stage.config, FIXED)} for name, stage in STAGES.items()
}
LOOP_CONFIGS = (GateConfig, SetsConfig, SnapshotConfig)
FIELDS["pretrain"] = {field.name for field in settable(PretrainConfig, pretraining.FIXED)}


def commands() -> dict[str, argparse.ArgumentParser]:
    """Return the parser of every command."""
    return next(
        action.choices
        for action in parser()._actions
        if isinstance(action, argparse._SubParsersAction)
    )


def typed() -> list[list[str]]:
    """Return name and arguments of the commands in code blocks, which can be pasted as they are."""
    return [
        shlex.split(command.removeprefix(COMMAND))
        for block in blocks_of(PAGE)
        for command in block.commands
        if command.startswith(COMMAND)
    ]


def mentioned() -> list[list[str]]:
    """Return commands in running text and next to commands, which may be incomplete."""
    words = [shlex.split(text.removeprefix(COMMAND)) for text in INLINE if text.isascii()]
    return [one for one in words if one[0] in commands() and len(one) > 1]


def evaluations() -> list[list[str]]:
    """Return the commands in code blocks of docs/evaluation.md as arguments of `thumbwheel`."""
    return [
        shlex.split(command)[1:]
        for block in blocks_of((DOCS / "evaluation.md").read_text())
        for command in block.commands
        if command.startswith("thumbwheel ")
    ]


def sets(arguments: list[str]) -> Iterator[str]:
    yield from (value for word, value in pairwise(arguments) if word == "--set")


def test_page_has_the_expected_structure() -> None:
    assert len(typed()) >= 12
    assert not blocks_of(PAGE, language="")
    assert {one[0] for one in mentioned()} >= {"tokenizer", "tasks", "grpo", "pretrain"}


@pytest.mark.parametrize("arguments", typed(), ids=" ".join)
def test_commands_of_the_page_can_be_parsed(arguments: list[str]) -> None:
    options = parser().parse_args(arguments)
    fields = [text.partition("=")[0] for text in sets(arguments)]
    if arguments[0] in STAGES:
        stage = STAGES[arguments[0]]
        paths = {field: Path(field) for field in FIXED if field.endswith(("path", "directory"))}
        given: dict[str, Any] = {
            name: paths.get(name) for name in FIXED if name in stage.config.__dataclass_fields__
        }
        assigned(stage.config(**given), options.set, FIXED)
    elif arguments[0] == "run" and not options.recipe.endswith(".py"):
        recipe_named(options.recipe)
    elif arguments[0] == "loop" or getattr(options, "recipe", "") == AUTO:
        set_loop_fields(small(Plan("auto-1", Path("run"), Path("model"))), options.set)
    elif arguments[0] in ("pretrain", "rlvr"):
        assert set(fields) <= FIELDS[{"rlvr": "grpo"}.get(arguments[0], arguments[0])]
    elif fields:
        assert {field.removeprefix("sft.") for field in fields} <= FIELDS["sft"], (
            "of the page's own recipe"
        )


@pytest.mark.parametrize("arguments", evaluations(), ids=" ".join)
def test_commands_of_the_page_on_evaluation_can_be_parsed(arguments: list[str]) -> None:
    # The command of as many words as possible: `evaluate probes`, not `evaluate`.
    name = max((one for one in COMMANDS if arguments[: len(one.split())] == one.split()), key=len)
    words = [*COMMANDS[name].words, *arguments[len(name.split()) :]]
    if COMMANDS[name].module == TRAINING:
        options = parser().parse_args(words)
        if words[0] == "evaluate" and options.tasks not in (None, "list"):
            assert chosen(options.tasks.split(","))
    else:
        assert COMMANDS[name].module == EMBEDDED
        options = embedded.parse(words)
        rest = ["--version", options.version, "--directory", "x", *options.rest]
        parser().parse_args(["canary", "--recipe", "small", *rest])


@pytest.mark.parametrize("arguments", mentioned(), ids=" ".join)
def test_names_in_the_text_exist(arguments: list[str]) -> None:
    parser, words = commands()[arguments[0]], arguments[1:]
    verbs = next(
        (
            action.choices
            for action in parser._actions
            if isinstance(action, argparse._SubParsersAction)
        ),
        None,
    )
    if verbs is not None:
        assert words[0] in verbs
        parser, words = verbs[words[0]], words[1:]
    assert {word for word in words if word.startswith("--")} <= parser._option_string_actions.keys()
    if arguments[:2] == ["tasks", "write"]:
        assert arguments[2] in names()


def test_options_and_fields_in_the_text_belong_to_a_command() -> None:
    known = {option for parser in commands().values() for option in parser._option_string_actions}
    own_text = " ".join(text for text in INLINE if not text.startswith(OTHER_PROGRAMS))
    assert set(re.findall(r"--[a-z][a-z-]+", own_text)) <= known
    fields = set().union(*FIELDS.values())
    named = set(re.findall(r"--set ([a-z_.]+)=", PAGE)) | set(
        re.findall(r"^([a-z_.]+)=\S+$", "\n".join(INLINE), re.M)
    )
    # Fields of steps of the loop begin with the step; of a field, its own fields may be named.
    own = {re.sub(r"^(sft|ppo|gate|sets|snapshot)\.", "", field) for field in named}
    fields |= {field.name for config in LOOP_CONFIGS for field in settable(config)}
    assert {field.removesuffix(".rank") for field in own} <= fields
    assert named


@pytest.mark.parametrize(
    ("arguments", "command", "named"),
    [
        (
            "sft --model M --data D --work W --rollout-actors 2",
            "train sft",
            "--rollout-actors is not an option (thumbwheel train sft --help",
        ),
        ("sft --modle=M", "train sft", "--modle is not an option; did you mean --model?"),
        ("generate models/nano --prompt x y", "train generate", "unknown arguments: y "),
        ("tasks list --al", "train tasks list", "--al is not an option "),
        ("tasks lst", "train tasks", "'lst' is not a command; did you mean list?"),
        ("stf --model M", "train", "'stf' is not a command; did you mean sft?"),
        ("xyzzy", "train", "'xyzzy' is not a command (thumbwheel train --help"),
        ("--no-such", "train", "--no-such is not an option "),
        ("sft", "train sft", "--model, --data, --work (thumbwheel train sft --help"),
        ("loop --recipe smal", "train loop", "auto, nano, small; did you mean small?"),
    ],
)
def test_wrong_argument_is_one_line_with_the_command_and_the_nearest_name(
    arguments: str, command: str, named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(arguments.split())
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"thumbwheel {command}: ")
    assert named in line
