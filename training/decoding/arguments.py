"""Arguments of `thumbwheel train generate` and `chat`. The implementation is imported on use."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from training.decoding.config import DEFAULT_MAX_TOKENS, MAX_TOKENS, Task
from training.errors import Renamed
from training.runtime.context import DEVICE_HELP, Machine

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]


def describe(commands: Commands) -> None:
    """Add the subcommands `generate` and `chat`."""
    _describe_generate(commands)
    _describe_chat(commands)


def _describe_generate(commands: Commands) -> None:
    parser = commands.add_parser("generate")
    parser.add_argument("model", type=Path, metavar="MODEL", help="model directory")
    parser.add_argument(
        "--prompt",
        required=True,
        metavar="TEXT",
        help="a user's message, or with --plain a text to continue; - reads standard input",
    )
    parser.add_argument(
        "--plain", action="store_true", help="continue the text, without the chat template"
    )
    _add_sampling(parser)
    parser.add_argument(
        "--stop",
        action="append",
        default=[],
        metavar="TEXT",
        help="stop string; may be given up to 4 times",
    )
    parser.add_argument(
        "--beams", type=int, metavar="N", help="use beam search with N beams instead of sampling"
    )
    parser.set_defaults(command=_generate)


def _describe_chat(commands: Commands) -> None:
    parser = commands.add_parser(
        "chat",
        description="Questions are lines of standard input; /help lists the commands of a chat.",
    )
    parser.add_argument("model", type=Path, metavar="MODEL", help="model directory")
    parser.add_argument(
        "--compare",
        type=Path,
        metavar="MODEL",
        help="a second model directory, which answers as well",
    )
    parser.add_argument("--system", metavar="TEXT", help="system message of the conversation")
    parser.add_argument(
        "--plain",
        action=argparse.BooleanOptionalAction,
        help="continue each line as a text, or use the chat template (default: continue with a "
        "model that has no template or was pre-trained only)",
    )
    _add_sampling(parser)
    parser.set_defaults(command=_chat, resumption="nothing was saved")


def _add_sampling(parser: argparse.ArgumentParser) -> None:
    """Add the options of sampling and of the device."""
    parser.add_argument(
        "--preset",
        choices=list(Task),
        default=Task.CHAT,
        help="sampling parameters of a task, as in serving (default: chat)",
    )
    parser.add_argument("--task", action=Renamed, const="--preset", help=argparse.SUPPRESS)
    parser.add_argument(
        "--temperature",
        type=float,
        metavar="X",
        help="0 to 2; 0 is greedy decoding (default: that of the preset, also below)",
    )
    parser.add_argument(
        "--top-p", type=float, metavar="X", help="probability mass of the nucleus, above 0 to 1"
    )
    parser.add_argument(
        "--top-k", type=int, metavar="N", help="sample from the k likeliest tokens; 0: all"
    )
    parser.add_argument(
        "--min-p",
        type=float,
        metavar="X",
        help="minimum probability, as a share of the likeliest token's",
    )
    parser.add_argument(
        "--repetition-penalty",
        type=float,
        metavar="X",
        help="values above 1 discourage repeated tokens",
    )
    parser.add_argument(
        "--max-tokens",
        type=int,
        metavar="N",
        help=f"longest answer, 1 to {MAX_TOKENS} (default: up to {DEFAULT_MAX_TOKENS})",
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        metavar="N",
        help="random seed; equal seeds give equal answers (default: 0)",
    )
    parser.add_argument("--device", default=Machine.device, metavar="NAME", help=DEVICE_HELP)


def chat_command(directory: Path) -> str:
    """Return the command of a chat with this model, to be typed in the current folder."""
    program = Path(sys.executable).parent / "thumbwheel"
    return shlex.join([_typed(program), "train", "chat", _typed(directory)])


def _typed(path: Path) -> str:
    """Return the path from the current folder, or the absolute one of a path outside."""
    short = os.path.relpath(path)
    if short.startswith(os.pardir):
        return str(path.absolute())
    return short if os.sep in short else f"{os.curdir}{os.sep}{short}"


def _generate(options: argparse.Namespace) -> int:
    from training.decoding.command import generate

    return generate(options)


def _chat(options: argparse.Namespace) -> int:
    from training.decoding.command import chat

    return chat(options)
