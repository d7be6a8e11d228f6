"""Writes docs/faults.md: what broke, how often, and what was measured, from docs/faults.jsonl.
`--check` compares and writes nothing.

The tests in tests/faults add a line each to that file when they pass in `make faults`. Of several
runs of a test the last counts, so a row may be younger than its neighbour: each says when it was
measured. A figure that no test recorded is not there.
"""

import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE, LINES = ROOT / "docs" / "faults.md", ROOT / "docs" / "faults.jsonl"
# `F4: …`, `F11 and F12: …`, `R1, F42: …`: how a module of tests/faults says what it is about.
SUBJECT = re.compile(r"((?:[DFR]\d+(?:, | and )?)+): (.+)", re.DOTALL)
# Of a docstring: the clause of the first sentence that says what breaks.
SENTENCE = re.compile(r"(?<=[.?!])\s")
HEAD = """# What breaks, and what then happens

Written by `make faults` from docs/faults.jsonl, where every passed test of `tests/faults` leaves a line: how often its fault
struck, and what it measured. A range spans the forms and runs of a scenario. An empty cell was not measured; a test that failed
has no line. Every scenario asserts that its fault did strike, and what is promised meanwhile. Those of feedback let the history
checker compare what clients were told with what the public reader finds: nothing lost, nothing twice, every offset accounted
for, nothing that nobody sent, each conversation in its order.

Not here: F26 (old bytes: tests/services/feedback/golden), and what is Kubernetes' own (F45, F49, F50 in the cluster).
"""
Value = int | float | str | list[float]


@dataclass(frozen=True)
class Outcome:
    """One test that passed. `fired`: how often its fault struck, 0 where the test only asserts that
    it did. `load`: how many processes wanted a core, over the last minute; 0 was not looked at.
    """

    scenarios: tuple[str, ...]
    what: str
    test: str
    fired: int
    figures: Mapping[str, Value]
    seconds: float
    when: str
    commit: str
    machine: str
    load: float = 0.0


def subject(docstring: str) -> tuple[tuple[str, ...], str] | None:
    """Which scenarios a module is about, and its first sentence; None: it is about none."""
    found = SUBJECT.match(" ".join(docstring.split()))
    if not found:
        return None
    return tuple(re.findall(r"[DFR]\d+", found[1])), SENTENCE.split(found[2])[0]


def outcome(
    docstring: str, test: str, properties: Iterable[tuple[str, Value]], seconds: float
) -> Outcome | None:
    """Of a test that passed just now, here."""
    about = subject(docstring)
    if about is None:
        return None
    figures = dict(properties)
    fired = int(str(figures.pop("fired", 0)))
    when = datetime.now(UTC).strftime("%Y-%m-%d %H:%M")
    load = round(os.getloadavg()[0], 1)
    return Outcome(
        *about, test, fired, figures, round(seconds, 1), when, _commit(), machine(), load
    )


def add(one: Outcome, file: Path) -> None:
    """As a line of its own."""
    with file.open("a") as lines:
        lines.write(json.dumps(asdict(one), sort_keys=True) + "\n")


def read(file: Path) -> list[Outcome]:
    """The last outcome of every test."""
    found = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    last = {
        line["test"]: Outcome(**line | {"scenarios": tuple(line["scenarios"])}) for line in found
    }
    return sorted(last.values(), key=lambda one: one.test)


def page(outcomes: list[Outcome]) -> str:
    """The whole page: a row a scenario."""
    machines = sorted({f"{one.machine}, {one.when[:10]}" for one in outcomes})
    told = "".join(f"\nMeasured on {machine}.\n" for machine in machines)
    by_scenario: dict[str, list[Outcome]] = {}
    for one in outcomes:
        for name in one.scenarios:
            by_scenario.setdefault(name, []).append(one)
    rows = [
        _row(name, by_scenario[name])
        for name in sorted(by_scenario, key=lambda name: (name[0], int(name[1:])))
    ]
    table = (
        "| | what breaks | tests | struck | measured | when, commit |\n|---|---|---|---|---|---|\n"
    )
    return f"{HEAD}{told}\n{table}{''.join(rows)}"


def _row(name: str, outcomes: list[Outcome]) -> str:
    what = " ".join(dict.fromkeys(one.what for one in outcomes))
    fired = sum(one.fired for one in outcomes)
    measured = "; ".join(_measured(outcomes))
    last = max(outcomes, key=lambda one: one.when)
    when = f"{last.when}, {last.commit}{f', load {last.load:g}' if last.load else ''}"
    return f"| {name} | {what} | {len(outcomes)} | {f'{fired:,}' if fired else ''} | {measured} | {when} |\n"


def _measured(outcomes: list[Outcome]) -> Iterator[str]:
    """Each figure once, as a range over all tests that have it."""
    figures: dict[str, list[Value]] = {}
    for one in outcomes:
        for name, value in one.figures.items():
            figures.setdefault(name, []).extend(value if isinstance(value, list) else [value])
    for name, values in figures.items():
        words = name.replace("_", " ")
        if all(isinstance(value, int | float) for value in values):
            least, most = min(values), max(values)
            yield (
                f"{words} {_number(least)}"
                if least == most
                else f"{words} {_number(least)} to {_number(most)}"
            )
        else:
            yield f"{words} {', '.join(dict.fromkeys(map(str, values)))}"


def _number(value: Value) -> str:
    return (
        f"{value:,}"
        if isinstance(value, int)
        else f"{value:,.3g}"
        if isinstance(value, float)
        else str(value)
    )


def machine() -> str:
    """This machine, in the words that matter for times."""
    gibibytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)
    cores = len(os.sched_getaffinity(0))
    return f"{cores} cores, {gibibytes:.0f} GiB, {platform.system()} {platform.release()}, Python {platform.python_version()}"


def _commit() -> str:
    command = ("git", "-C", str(ROOT), "rev-parse", "--short", "HEAD")
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def main() -> None:
    outcomes = read(LINES)
    text = page(outcomes)
    if "--check" not in sys.argv[1:]:
        LINES.unlink(missing_ok=True)
        for one in outcomes:
            add(one, LINES)
        PAGE.write_text(text)
    elif PAGE.read_text() != text:
        sys.exit(
            "docs/faults.md is not what docs/faults.jsonl says: run python -m infra.docs.faults"
        )


if __name__ == "__main__":
    main()
