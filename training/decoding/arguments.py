"""What `python -m training generate` takes. What it does is imported once it is asked for."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from training.decoding.tasks import MAX_TOKENS, Task
from training.stages.context import DEVICE_HELP, Machine

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

USUAL_TOKENS = 256


def describe(commands: Commands) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "generate", help="let a model directory answer a prompt, or continue a text"
    )
    parser.add_argument("directory", type=Path, metavar="DIRECTORY")
    parser.add_argument(
        "--prompt", required=True, help="a user's message; with --plain a text to continue"
    )
    parser.add_argument("--plain", action="store_true", help="without the chat template")
    parser.add_argument(
        "--task",
        type=Task,
        choices=list(Task),
        default=Task.CHAT,
        help="whose sampling is used (default chat)",
    )
    parser.add_argument("--temperature", type=float, help="0 to 2; 0 is greedy")
    parser.add_argument("--top-p", type=float, help="mass of the nucleus, above 0 to 1")
    parser.add_argument("--top-k", type=int, help="this many of the likeliest tokens; 0 is all")
    parser.add_argument(
        "--min-p", type=float, help="at least this share of the likeliest token's probability"
    )
    parser.add_argument(
        "--repetition-penalty", type=float, help="above 1 against tokens that were there"
    )
    parser.add_argument(
        "--max-tokens", type=int, help=f"1 to {MAX_TOKENS} (default: up to {USUAL_TOKENS})"
    )
    parser.add_argument(
        "--stop", action="append", default=[], metavar="TEXT", help="ends the answer; up to 4 times"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="the same seed draws the same answer (default 0)"
    )
    parser.add_argument("--device", default=Machine.device, help=DEVICE_HELP)
    parser.add_argument(
        "--beams", type=int, metavar="N", help="search with so many beams instead of drawing"
    )
    parser.set_defaults(command=_generate)


def _generate(options: argparse.Namespace) -> int:
    from training.decoding.command import generate

    return generate(options)
