"""Arguments of `thumbwheel train sft | reward-model | dpo | kto | ppo | grpo` and `run`.

The implementation, and the help on fields, is imported only when needed.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from training.cluster.group import GPUS_HELP, parse_workers
from training.data.formats.catalogue import kind_of
from training.data.formats.files import FILES_HELP
from training.recipes.names import OPEN_MODELS
from training.reporting.tracking import add_track

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

PAIR = '{"messages", "chosen", "rejected"'
PROMPTS = (
    '{"messages", "task" = ""}: a task of `tasks write` for verifiable rewards, none with a reward '
    "model"
)

FIELD = "field of the list below, such as "
SET = f"{FIELD}epochs=2 or optimizer.learning_rate=1e-5; repeatable"
SET_OF_POLICY = f"{FIELD}updates=20 or policy_optimizer.learning_rate=1e-5; repeatable"
WORK_HELP = "output folder, for models and, in runs/, the pages and checkpoints of stages"


@dataclass(frozen=True)
class StageHelp:
    """Help texts of a stage.

    rows: our own format of a data row. is_judged: the stage needs a source of scores for its
    samples.
    """

    rows: str
    is_judged: bool = False


STAGE_HELP: Mapping[str, StageHelp] = {
    "sft": StageHelp(
        '{"messages": [{"role", "content"}], "response", "weight" = 1}',
    ),
    "reward-model": StageHelp(
        f'{PAIR}, "prompt_id" = hash, "margin" = 0, "tie" = false, "weight" = 1}}',
    ),
    "dpo": StageHelp(
        f'{PAIR}, "prompt_id" = hash, "margin" = 0, "tie" = false, "weight" = 1}}',
    ),
    "kto": StageHelp(
        '{"messages", "response", "thumb": "up" or "down", "prompt_id" = hash}',
    ),
    "ppo": StageHelp(PROMPTS, is_judged=True),
    "grpo": StageHelp(PROMPTS, is_judged=True),
}


def describe(commands: Commands, code_commit: Callable[[], str]) -> None:
    """Add the commands of the stages and `run`."""
    for name, stage in STAGE_HELP.items():
        one = commands.add_parser(
            name,
            description="\n  ".join(("Formats of the data:", *kind_of(name).names.split("; ")))
            + f"\nOur own: {stage.rows}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            add_help=False,
        )
        one.add_argument(
            "-h",
            "--help",
            action=FieldsHelp,
            const=partial(_fields, name),
            nargs=0,
            help=FieldsHelp.TEXT,
        )
        add_model(one)
        one.add_argument(
            "--data",
            type=Path,
            required=True,
            metavar="FILE",
            help=f"rows of one of the formats above: {FILES_HELP}",
        )
        one.add_argument(
            "--allow-extra-fields",
            action="store_true",
            help="ignore unknown fields of rows; they are listed",
        )
        one.add_argument(
            "--name",
            metavar="NAME",
            help="name of the trained model, a folder in --work (default: MODEL-STAGE)",
        )
        if stage.is_judged:
            one.add_argument(
                "--reward-model",
                type=Path,
                metavar="DIR",
                help="source of the scores; without it the tasks of the rows",
            )
        add_running(one, SET_OF_POLICY if stage.is_judged else SET, samples=stage.is_judged)
        one.set_defaults(command=partial(_run_one, name, code_commit=code_commit))
    describe_run(commands, code_commit)


def describe_run(commands: Commands, code_commit: Callable[[], str]) -> None:
    """Add the command `run`."""
    many = commands.add_parser("run")
    many.add_argument(
        "recipe", metavar="RECIPE", help=f"your own FILE.py, or {', '.join(OPEN_MODELS)}"
    )
    many.add_argument(
        "--models",
        type=Path,
        default=Path("models"),
        metavar="DIR",
        help="folder of the models (default: models)",
    )
    many.add_argument(
        "--data",
        type=Path,
        default=Path("data"),
        metavar="DIR",
        help="folder of the data files (default: data)",
    )
    many.add_argument("--stages", metavar="NAME,NAME", help="only these stages (default: all)")
    add_running(
        many,
        "field of a stage, such as sft.epochs=2; repeatable; --help of a stage lists its fields",
        samples=True,
        assignment="STAGE.FIELD=VALUE",
    )

    def run_stages(options: argparse.Namespace) -> int:
        from training.recipes.custom.commands import run_recipe

        return run_recipe(options, code_commit())

    many.set_defaults(command=run_stages)


def add_model(parser: argparse.ArgumentParser) -> None:
    """Add the option --model, the model that a stage trains."""
    parser.add_argument(
        "--model",
        type=Path,
        required=True,
        metavar="DIR",
        help="initial model: a directory with config.json, weights and tokenizer",
    )


def add_running(
    parser: argparse.ArgumentParser,
    set_help: str,
    samples: bool,
    assignment: str = "FIELD=VALUE",
) -> None:
    """Add the options of a training command.

    Args:
        set_help: help of --set, with an example.
        samples: a stage may sample.
        assignment: form of a value of --set.
    """
    parser.add_argument(
        "--work",
        type=Path,
        required=True,
        metavar="DIR",
        help=WORK_HELP,
    )
    parser.add_argument("--set", action="append", default=[], metavar=assignment, help=set_help)
    add_workers(parser)
    add_track(parser)
    parser.set_defaults(rollout_actors=0)
    if samples:
        parser.add_argument(
            "--rollout-actors",
            type=int,
            default=0,
            metavar="N",
            help="Ray actors that sample for PPO and GRPO (default: 0, the workers sample)",
        )


def add_workers(parser: argparse.ArgumentParser) -> None:
    """Add the options for workers and for the location of checkpoints."""
    parser.add_argument(
        "--workers",
        type=parse_workers,
        default=(0, None),
        metavar="N[..M]",
        help="Ray workers; a range continues with fewer workers after the loss of a machine "
        "(default: 0, which trains in this process)",
    )
    parser.add_argument("--gpus-per-worker", type=int, default=0, metavar="N", help=GPUS_HELP)
    parser.add_argument(
        "--checkpoints-in-bucket",
        action="store_true",
        help="store checkpoints in the bucket of TW_TRAINING_S3_*, not under --work",
    )


class FieldsHelp(argparse.Action):
    """Help action that also lists the fields of a config, which `const` returns on demand."""

    TEXT = "show this help message and exit"

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        parser.epilog = self.const()
        parser.print_help()
        parser.exit()


def _fields(name: str) -> str:
    from training.recipes.custom.commands import fields_of

    return fields_of(name)


def _run_one(name: str, options: argparse.Namespace, code_commit: Callable[[], str]) -> int:
    from training.recipes.custom.commands import run_one

    return run_one(name, options, code_commit())
