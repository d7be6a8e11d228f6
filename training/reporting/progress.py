"""Progress of a run: status.json for the page, bars on a terminal, plain lines elsewhere.

Callbacks may come from another thread.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from training.rl.alarms import has_no_signal
from training.runs import FAILED, STOPPED, Status, Step, StepState, now, read_status, write_status

if TYPE_CHECKING:
    from training.runtime import context

WRITE_EVERY_SECONDS = 0.5
SAY_EVERY_SECONDS = 10.0
BAR_CELLS = 30
FIGURE_GAP = "  "
# Width of name, bar, share and time, with a cell between them.
CELLS_BESIDE_DETAIL = 13 + 1 + BAR_CELLS + 1 + 4 + 1 + 7 + 1


class Display(Protocol):
    """Output for a person: a terminal or a log."""

    def begin(self, step: Step) -> None: ...

    def move(self, step: Step) -> None: ...

    def end(self, step: Step) -> None: ...

    def say(self, text: str) -> None: ...


class ProgressReporter:
    """Records the state of a run in status.json and shows it on the display."""

    def __init__(
        self, directory: Path, display: Display, run: str, recipe: str, steps: Sequence[str]
    ) -> None:
        self._directory, self._display = directory, display
        self._lock = threading.Lock()
        self._written = 0.0
        self.status = Status(run, recipe, now(), steps=[Step(name) for name in steps])
        directory.mkdir(parents=True, exist_ok=True)
        self._write()

    @contextmanager
    def step(self, name: str) -> Iterator[Step]:
        """Run the block as this step.

        An exception marks the step as failed and is raised again. After KeyboardInterrupt the step
        waits to be repeated.
        """
        step = self.begin(name)
        try:
            yield step
        except BaseException as error:
            self._end(
                step,
                StepState.WAITING if isinstance(error, KeyboardInterrupt) else StepState.FAILED,
            )
            raise
        self.end(name)

    def begin(self, name: str) -> Step:
        """Mark the step as running."""
        step = self._named(name)
        with self._lock:
            step.state, step.started, self.status.step = StepState.RUNNING, now(), name
            self._write()
        self._display.begin(step)
        return step

    def end(self, name: str, detail: str = "") -> None:
        """Mark the step as done, unless refused or held.

        `detail` replaces the shown detail.
        """
        step = self._named(name)
        step.detail = detail or step.detail
        self._end(step, StepState.DONE if step.state is StepState.RUNNING else step.state)

    def move(self, name: str, progress: float, detail: str) -> None:
        """Update the progress of a running step; written at most twice a second."""
        step = self._named(name)
        with self._lock:
            step.progress, step.detail = progress, detail
            if time.monotonic() - self._written > WRITE_EVERY_SECONDS:
                self._write()
        self._display.move(step)

    def skip_waiting(self) -> None:
        """Mark all waiting steps as skipped."""
        with self._lock:
            for step in self.status.steps:
                if step.state is StepState.WAITING:
                    step.state = StepState.SKIPPED
            self._write()

    def finish(self, result: str, reason: str, report: str | None) -> None:
        """Record the result of the run.

        Running steps have failed, or wait for the next call if the run was stopped. The display
        does not repeat failures and stops, because the caller reports them.
        """
        if result != STOPPED:
            self.skip_waiting()
        for step in self.status.steps:
            if step.state is StepState.RUNNING:
                self._end(step, StepState.WAITING if result == STOPPED else StepState.FAILED)
        with self._lock:
            self.status.step, self.status.result = "", result
            self.status.reason, self.status.report = reason, report
            self._write()
        if result not in (FAILED, STOPPED):
            words = result.replace("_", " ")
            self._display.say(reason if reason.startswith(words) else f"{words}: {reason}")

    def say(self, text: str) -> None:
        """Show a line of text."""
        self._display.say(text)

    def note_erased(self, versions: Sequence[Mapping[str, object]]) -> None:
        """Record the versions that learned from erased feedback."""
        with self._lock:
            self.status.erased_versions = list(versions)
            self._write()

    def note_thumbs(self, needed: int, learned_until: str) -> None:
        """Record the thumbs that a run needs, and the time up to which thumbs were used."""
        with self._lock:
            self.status.needed_thumbs, self.status.learned_until = needed, learned_until
            self._write()

    def _end(self, step: Step, state: StepState) -> None:
        with self._lock:
            step.state, step.ended = state, now()
            step.progress = 1.0 if state is StepState.DONE else step.progress
            self._write()
        self._display.end(step)

    def _named(self, name: str) -> Step:
        return next(step for step in self.status.steps if step.name == name)

    def _write(self) -> None:
        self._written = time.monotonic()
        self.status.updated = now()
        write_status(self._directory, self.status)


class Lines:
    """Plain lines: start and end of each step, and its progress every ten seconds."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._said = 0.0

    def begin(self, step: Step) -> None:
        self.say(f"{step.name}: started {step.detail}".rstrip())

    def move(self, step: Step) -> None:
        if time.monotonic() - self._said > SAY_EVERY_SECONDS:
            self.say(f"{step.name}: {step.progress:.0%} {step.detail}")

    def end(self, step: Step) -> None:
        self.say(f"{step.name}: {step.state} {step.detail}".rstrip())

    def say(self, text: str) -> None:
        self._said = time.monotonic()
        self._out.write(f"{datetime.now().astimezone():%H:%M:%S} {text}\n")
        self._out.flush()


class Bars:
    """Progress bar per step, with as many figures as fit the line.

    Use as a context manager.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars = Progress(
            TextColumn("{task.fields[name]:<13}"),
            BarColumn(bar_width=BAR_CELLS),
            TextColumn("{task.fields[share]:>4}"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[detail]}", markup=False),
            console=console,
        )
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Bars:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def begin(self, step: Step) -> None:
        """Add a bar without a length, which only shows activity."""
        detail = step.detail or "starting"
        self._tasks[step.name] = self._bars.add_task(
            "", name=step.name, total=None, share="", detail=detail
        )

    def move(self, step: Step) -> None:
        self._show(step, step.detail)

    def end(self, step: Step) -> None:
        self._show(step, f"{step.state} {step.detail}".strip())
        self._bars.stop_task(self._tasks[step.name])

    def say(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False)

    def _show(self, step: Step, detail: str) -> None:
        self._bars.update(
            self._tasks[step.name],
            total=1.0,
            completed=step.progress,
            share=f"{step.progress:.0%}",
            detail=fit_figures(detail, self._console.width - CELLS_BESIDE_DETAIL),
        )


@contextmanager
def open_display() -> Iterator[Display]:
    """Return bars on a terminal, lines elsewhere."""
    if sys.stdout.isatty():
        with Bars(Console()) as bars:
            yield bars
    else:
        yield Lines(sys.stdout)


class StageDisplay:
    """Stages as steps of a display.

    Implements `Watcher` (progress_log.py).

    Args:
        names: metrics to show, if the stage reports them.
        counted: unit of progress, such as "step" or "update".
        digits: significant digits of the metrics.
        first: text per stage that is shown before its first step, for stages whose first step takes
            long.
    """

    def __init__(
        self,
        display: Display,
        names: Sequence[str],
        counted: str = "step",
        digits: int = 3,
        first: Mapping[str, str] | None = None,
    ) -> None:
        self._display, self._names, self._counted, self._digits = display, names, counted, digits
        self._first = first or {}
        self._steps: dict[str, Step] = {}
        self._warned: set[str] = set()

    def begin(self, name: str) -> None:
        self._steps[name] = Step(name, StepState.RUNNING, detail=self._first.get(name, ""))
        self._display.begin(self._steps[name])

    def move(self, name: str, progress: context.Progress) -> None:
        figures = format_figures(progress.metrics, self._names, self._digits)
        # Warn once about consecutive steps without a learning signal.
        if not has_no_signal(progress.metrics):
            self._warned.discard(name)
        elif name not in self._warned:
            self._warned.add(name)
            self._display.say(
                f"{name}, {self._counted} {progress.step}: all answers of each group have the same "
                "score, so the update has no effect"
            )
        where = f"{self._counted} {progress.step} of {progress.total_steps}"
        self.show(name, progress.step / progress.total_steps, FIGURE_GAP.join((where, *figures)))

    def show(self, name: str, share: float, detail: str) -> None:
        """Update the progress of a step; begin the step if needed."""
        if name not in self._steps:
            self.begin(name)
        step = self._steps[name]
        step.progress, step.detail = share, detail
        self._display.move(step)

    def say(self, text: str) -> None:
        self._display.say(text)

    def end(self, name: str) -> None:
        """End a step; a step that never began is ignored."""
        if step := self._steps.pop(name, None):
            step.state = StepState.DONE
            self._display.end(step)


def format_figures(
    metrics: Mapping[str, float], names: Sequence[str], digits: int = 3
) -> list[str]:
    """Format the given metrics that are present."""
    return [f"{name} {metrics[name]:.{digits}g}" for name in names if name in metrics]


def fit_figures(detail: str, cells: int) -> str:
    """Return as many figures as fit into `cells`; figures are separated by two spaces.

    A text of a single figure is truncated.
    """
    kept = detail
    while len(kept) > cells and FIGURE_GAP in kept:
        kept = kept.rpartition(FIGURE_GAP)[0].rstrip()
    return kept if len(kept) <= cells else f"{kept[: max(cells - 1, 0)]}…"


def note_erased(directory: Path, versions: Sequence[Mapping[str, object]]) -> None:
    """Update the erased versions in the status of the last run, if there is a status."""
    if status := read_status(directory):
        status.erased_versions = list(versions)
        write_status(directory, status)
