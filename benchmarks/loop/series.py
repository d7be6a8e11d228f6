"""Runs of the loop in a row: does each promoted version please users more than the one before?

Usage: python -m benchmarks.loop.series [--runs 5] [--thumbs 1000] [--into .state/loop-series]
       [--go-on]

Simulated users rate the answers of the stable version of nano, then the loop runs with its gate and
its canary; the next run starts from the version that is stable then. Each candidate, promoted or
not, is compared with the version before and with nano-0 on held-out questions, by the preference
that the users' thumbs come from. The comparison samples from the model directories, so it leaves
the watch after a promotion alone. All figures are written to series.json.
"""

import argparse
import asyncio
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from infra.run.embedded.layout import Layout
from infra.simulate.users.client import open_client
from infra.simulate.users.demo import Demonstration
from infra.simulate.users.judgement import WinRate, win_rate
from infra.simulate.users.preference import PREFERENCES
from infra.simulate.users.questions import Question, read_questions
from infra.simulate.users.settings import PLANS, Control, Settings
from infra.simulate.users.system import Rows, System, find_system, remove_previous, running_system
from infra.simulate.users.terminal import say
from infra.simulate.users.training_loop import LoopRun, read_run
from training.data.chat import Message
from training.evaluation.answers import ChatModel
from training.evaluation.config import Sampling
from training.evaluation.judges import beats
from training.recipes.nano import MACHINE, nano
from training.recipes.recipe import Plan
from training.runtime.machine import configure_device

RECIPE = "nano"
# Limit of the demonstration is 240; a busy machine needs more for as many thumbs.
SECONDS = 1200.0
Fields = dict[str, Any]


def demonstration_settings(state: Path, thumbs: int, people: int) -> Settings:
    """Return the settings of simulated users of a system in this state folder."""
    plan = replace(PLANS[RECIPE], thumbs=thumbs, people=people, seconds=SECONDS)
    return Settings(RECIPE, plan, state, 0, 0, 0, False, True, Control())


def sampling_of_users(samples: int) -> Sampling:
    """Return the sampling of nano's evaluation, equal to that of users' answers."""
    evaluation = nano(Plan("", Path(), Path())).evaluation
    return replace(evaluation.sampling, samples_per_prompt=samples)


def likings(model: Path, questions: Sequence[Question], samples: int = 4) -> list[list[float]]:
    """Return the hidden rating of several answers to each question, by question."""
    configure_device(MACHINE)
    prompts = [[Message("user", question.text)] for question in questions]
    found: list[list[float]] = [[] for _ in questions]
    for answer in ChatModel(model).answer(prompts, sampling_of_users(samples)):
        found[answer.prompt].append(PREFERENCES[RECIPE](questions[answer.prompt], answer.text))
    return found


def preferred(model: Path, other: Path, questions: Sequence[Question]) -> WinRate:
    """Return how often users prefer the answer of the first model; a tie counts half."""
    new, old = likings(model, questions), likings(other, questions)
    pairs = (zip(mine, theirs, strict=True) for mine, theirs in zip(new, old, strict=True))
    return win_rate([[beats(mine, theirs) for mine, theirs in rows] for rows in pairs])


async def run_once(system: System, settings: Settings) -> Fields:
    """Let users rate the stable version, run the loop, and compare its candidate."""
    layout = system.layout
    async with open_client(system.gateway) as client:
        demonstration = Demonstration(settings, system, client)
        before = await system.committed()
        counts = await demonstration.fill()
        spoken = Rows(before.feedback + counts.events, before.turns + counts.turns)
        await system.wait_committed(spoken)
        # Without Ray's processes, which need a minute of two busy cores.
        companions = await demonstration.train("loop", ["--workers", "0"])
    run = read_run(layout)
    candidate = layout.loop / "runs" / run.version / run.version
    compared = await asyncio.to_thread(_compare, layout, run, candidate)
    return {
        "users": asdict(replace(counts, waits=[])),
        "companions": asdict(replace(companions, waits=[])),
        "stable_after": (await system.rollout()).stable.version,
        **asdict(run),
        **compared,
    }


def _compare(layout: Layout, run: LoopRun, candidate: Path) -> Fields:
    """Return the win rates of the candidate, None if training ended before it."""
    if not (candidate / "manifest.json").exists():
        return {"against_before": None, "against_first": None}
    questions, models = read_questions(RECIPE).held_out, layout.models
    return {
        "against_before": asdict(preferred(candidate, models / run.incumbent, questions)),
        "against_first": asdict(preferred(candidate, models / f"{RECIPE}-0", questions)),
    }


def table(runs: Sequence[Fields]) -> Iterator[str]:
    """Yield the lines of the table: a line for each figure, a column for each run."""
    yield _line("run", [run["version"] for run in runs])
    yield _line("from", [run["incumbent"] for run in runs])
    yield _line("thumbs up before", [_share(run["users"]) for run in runs])
    yield _line("result", [run["result"] for run in runs])
    yield _line("preferred to before", [_rate(run["against_before"]) for run in runs])
    yield _line("preferred to nano-0", [_rate(run["against_first"]) for run in runs])
    found = [
        {row["name"]: row for row in (run["gate"] or {"checks": []})["checks"]} for run in runs
    ]
    for name in dict.fromkeys(name for rows in found for name in rows):
        yield _line(name, [_row(rows.get(name)) for rows in found])
    yield _line("canary", [(run["canary"] or {"verdict": "-"})["verdict"] for run in runs])
    for run in runs:
        yield f"{run['version']}: {run['reason']}"
    judged = [run for run in runs if run["result"] == "promoted"]
    positive = sum(run["against_before"]["low"] > 0.5 for run in judged)
    yield f"{len(judged)} of {len(runs)} promoted, {positive} of them preferred to the one before"


def _line(name: str, cells: Sequence[str]) -> str:
    return f"{name:<32}" + "".join(f"{cell:<24}" for cell in cells)


def _share(counts: Fields) -> str:
    return f"{counts['up'] / (counts['up'] + counts['down']):.3f}"


def _rate(found: Fields | None) -> str:
    return f"{found['rate']:.3f} ({found['low']:.2f}-{found['high']:.2f})" if found else "-"


def _row(row: Fields | None) -> str:
    if row is None:
        return "-"
    figures = row["figures"]
    value = f"{figures['difference']:+.3f}" if figures else row["value"].split(" ")[0]
    return f"{value} {row['result'].replace('_', ' ')}"


async def run_series(state: Path, runs: int, thumbs: int, go_on: bool) -> list[Fields]:
    """Run the loop in a new system, or the remaining runs in the system of an interrupted series.

    Each run has other users' questions and answers.
    """
    written = state / "series.json"
    if not go_on:
        remove_previous(state, say)
    settings = demonstration_settings(state, thumbs, PLANS[RECIPE].people)
    done: list[Fields] = json.loads(written.read_text()) if written.exists() else []
    async with running_system(*find_system(state, RECIPE, 0, 0, say), say) as system:
        for number in range(len(done), runs):
            done.append(await run_once(system, replace(settings, seed=number)))
            text = json.dumps(done, indent=1, default=str, ensure_ascii=False)
            written.write_text(text + "\n")
            say(f"run {number + 1} of {runs}: {done[-1]['version']} {done[-1]['result']}")
    return done


def main() -> None:
    parser = argparse.ArgumentParser(description="Runs of the loop in a row.")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--thumbs", type=int, default=1000, help="thumbs before each run")
    parser.add_argument("--into", type=Path, default=Path(".state/loop-series"))
    parser.add_argument("--go-on", action="store_true", help="continue an interrupted series")
    options = parser.parse_args()
    into = options.into.resolve()
    done = asyncio.run(run_series(into, options.runs, options.thumbs, options.go_on))
    print("\n".join(table(done)))


if __name__ == "__main__":
    main()
