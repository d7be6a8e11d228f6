"""Command `thumbwheel evaluate probes MODEL`: measure a model with the probes."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from training.artifacts.scores import NOT_STORED, TaskScore
from training.benchmarks.commands import (
    RESUMPTION,
    model_arguments,
    model_choice,
    resumable,
    score_store,
)
from training.benchmarks.models import distinguish, opened
from training.errors import ConfigError, details_of
from training.figures import Z_95
from training.probes.items import Kind
from training.probes.measurement import keep_answers, measure, tasks, write_scores
from training.runtime.paths import check_writable

if TYPE_CHECKING:
    from training.verification.code import Runner

    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

ANSWERS = "probes.answers.jsonl"


def describe(commands: Commands, state: argparse.ArgumentParser) -> None:
    """Add `probes` to the command line.

    Args:
        state: parser with the options for the state.
    """
    parser = commands.add_parser(
        "probes",
        parents=[state, model_arguments()],
    )
    parser.add_argument(
        "--kinds",
        metavar="NAMES",
        default=",".join(Kind),
        help=f"kinds separated by commas (default: {','.join(Kind)})",
    )
    parser.add_argument(
        "--limit",
        type=int,
        metavar="N",
        help="at most N items of each kind; for a look, not for the gate",
    )
    parser.set_defaults(command=probes, resumption=RESUMPTION)


def probes(options: argparse.Namespace) -> int:
    """Measure the model, print a table and store the scores with the answers."""
    kinds = chosen_kinds(options.kinds)
    choice = model_choice(options)
    store = score_store(options)
    check_writable(options.state)
    sandbox = _sandbox(kinds) if Kind.KNOWLEDGE in kinds else None
    with opened(choice) as found, resumable():
        model = distinguish(found, store.root)
        scored = model.scored()
        store.require_model(scored, tasks(kinds))
        # Answers so far; another model of this name has another file.
        folder = options.state / "loop" / "evaluations" / model.version
        draft = folder / f".probes-{model.digest[:12]}.draft"
        measured = measure(
            scored,
            model.endpoint.chat,
            kinds,
            limit=options.limit,
            sandbox=sandbox,
            draft=draft,
            progress=_report,
        )
    notes = write_scores(store, measured)
    if not all(note.startswith(NOT_STORED) for note in notes.values()):
        keep_answers(draft, draft.with_name(ANSWERS))
    draft.unlink()
    print(table([task.score for task in measured]))
    for note in dict.fromkeys(filter(None, notes.values())):
        named = ", ".join(task for task, found in notes.items() if found == note)
        print(f"{named}: {note}", file=sys.stderr)
    return 0


def chosen_kinds(names: str) -> list[Kind]:
    """Return the kinds of a list of names, in their fixed order.

    Raises:
        ConfigError: a name is unknown, or there is none.
    """
    given = [name.strip() for name in names.split(",") if name.strip()]
    known = ", ".join(Kind)
    for name in given or [""]:
        if name not in list(Kind):
            raise ConfigError(
                f"--kinds: {name!r} is not one of {known}",
                field="kinds",
                reason="UNKNOWN",
                limit=known,
            )
    return [kind for kind in Kind if kind in given]


def table(scores: Sequence[TaskScore]) -> str:
    """Return scores with 95 % intervals as a table for the terminal."""
    lines = [f"{'task':<24}{'metric':<13}{'score':>9}{'95 % interval':>20}{'items':>7}"]
    for score in scores:
        half = Z_95 * score.standard_error
        low, high = max(0.0, score.value - half), score.value + half
        high = min(1.0, high) if score.metric in ("as_expected", "share") else high
        mark = "" if score.is_complete else "  part of the items"
        lines.append(
            f"{score.task:<24}{score.metric:<13}{score.value:>9.3f}"
            f"{f'{low:.3f} to {high:.3f}':>20}{score.items:>7}{mark}"
        )
    return "\n".join(lines)


def _sandbox(kinds: Sequence[Kind]) -> Runner:
    """Open the sandbox for the kind with code.

    Raises:
        SandboxUnavailableError: the text names the kinds without code.
    """
    from training.verification.sandbox.bubblewrap import SandboxUnavailableError
    from training.verification.sandbox.runs import open_sandbox

    try:
        return open_sandbox(os.environ)
    except SandboxUnavailableError as error:
        others = ",".join(kind for kind in kinds if kind is not Kind.KNOWLEDGE)
        hint = f"; without it: --kinds {others}" if others else ""
        raise SandboxUnavailableError(
            f"{Kind.KNOWLEDGE} runs code: {error}{hint}", **details_of(error)
        ) from error


def _report(done: int, total: int) -> None:
    print(f"{done} of {total} answers", file=sys.stderr)
