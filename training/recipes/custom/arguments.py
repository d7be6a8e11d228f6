"""What `python -m training sft | reward-model | dpo | kto | ppo | grpo` and `run` take. What they
do is imported once it is asked for, and so is what a stage's own help says of its fields.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from training.cluster.group import GPUS_HELP, parse_workers
from training.recipes.open_models.names import NAMES

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

PROMPTS = '{"messages", "task" = ""}: a task as `tasks write` makes it where computation judges, none where a reward model does'
SET = "a field of the config, as optimizer.learning_rate=1e-5; may be repeated"


@dataclass(frozen=True)
class Learner:
    """A stage as its help tells it. rows: of its data file. is_judged: something must judge what it
    samples.
    """

    purpose: str
    rows: str
    is_judged: bool = False


LEARNERS: Mapping[str, Learner] = {
    "sft": Learner(
        "learn responses as they are written",
        '{"messages": [{"role", "content"}], "response", "weight" = 1}',
    ),
    "reward-model": Learner(
        "learn which of two responses people prefer",
        '{"messages", "chosen", "rejected", "prompt_id", "margin" = 0, "tie" = false}',
    ),
    "dpo": Learner(
        "learn from preferred and rejected responses, without a reward model",
        '{"messages", "chosen", "rejected", "prompt_id", "margin" = 0}',
    ),
    "kto": Learner(
        "learn from single thumbs, without a reward model",
        '{"messages", "response", "thumb": "up" or "down", "prompt_id"}',
    ),
    "ppo": Learner(
        "learn from scores of one's own samples, with a critic", PROMPTS, is_judged=True
    ),
    "grpo": Learner("learn from scores of groups of one's own samples", PROMPTS, is_judged=True),
}


def describe(commands: Commands, code_commit: Callable[[], str]) -> None:
    """Add the commands."""
    for name, learner in LEARNERS.items():
        one = commands.add_parser(
            name,
            help=learner.purpose,
            description=f"{learner.purpose}. A line of the data: {learner.rows}",
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
        one.add_argument(
            "--model",
            type=Path,
            required=True,
            metavar="DIR",
            help="to begin from: config, weights, tokenizer",
        )
        one.add_argument(
            "--data", type=Path, required=True, metavar="FILE.jsonl", help="a row a line"
        )
        one.add_argument("--name", help="of what is made (default: the model's and the stage's)")
        if learner.is_judged:
            one.add_argument(
                "--reward-model",
                type=Path,
                metavar="DIR",
                help="that scores; without it the rows' tasks do",
            )
        _add_running(one, "FIELD=VALUE", samples=learner.is_judged)
        one.set_defaults(command=lambda options, name=name: _run_one(name, options, code_commit))
    many = commands.add_parser("run", help="all stages of a recipe, one after the other")
    many.add_argument("recipe", help=f"FILE.py of your own, or {', '.join(NAMES)}")
    many.add_argument(
        "--models",
        type=Path,
        default=Path("models"),
        metavar="DIR",
        help="folder of the models (models)",
    )
    many.add_argument(
        "--data",
        type=Path,
        default=Path("data"),
        metavar="DIR",
        help="folder of the data files (data)",
    )
    many.add_argument("--stages", metavar="A,B", help="these alone")
    _add_running(many, "STAGE.FIELD=VALUE", samples=True)
    many.set_defaults(command=lambda options: _run_recipe(options, code_commit))


def _add_running(parser: argparse.ArgumentParser, assignment: str, samples: bool) -> None:
    """samples: whether a stage may sample."""
    parser.add_argument(
        "--work",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder of what is made; runs/ has the pages",
    )
    parser.add_argument("--set", action="append", default=[], metavar=assignment, help=SET)
    add_workers(parser)
    parser.set_defaults(rollout_actors=0)
    if samples:
        parser.add_argument(
            "--rollout-actors", type=int, default=0, help="Ray actors that sample for PPO and GRPO"
        )


def add_workers(parser: argparse.ArgumentParser) -> None:
    """Who trains, and where their state is kept."""
    parser.add_argument(
        "--workers",
        type=parse_workers,
        default=(0, None),
        metavar="N or N..M",
        help="Ray workers; 0, the default, trains in this process; a range goes on with fewer where a machine is lost",
    )
    parser.add_argument("--gpus-per-worker", type=int, default=0, help=GPUS_HELP)
    parser.add_argument(
        "--checkpoints-in-bucket",
        action="store_true",
        help="of TW_TRAINING_S3_*; else they lie under --work",
    )


class FieldsHelp(argparse.Action):
    """Help that lists the fields of a config too: `const` is asked for them then."""

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


def _run_recipe(options: argparse.Namespace, code_commit: Callable[[], str]) -> int:
    from training.recipes.custom.commands import run_recipe

    return run_recipe(options, code_commit())
