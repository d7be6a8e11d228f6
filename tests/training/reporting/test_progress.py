"""Progress of a run on a terminal: whole figures at any width, and each message once."""

import io
import json
import re
from pathlib import Path

import pytest
from rich.console import Console

from training.reporting.progress import (
    Bars,
    Lines,
    ProgressReporter,
    StageDisplay,
    Step,
    fit_figures,
)
from training.runs import StepState
from training.runtime.context import Progress

FIGURES = "20/60  loss 0.693  kl 1.25  score 0.11  response_tokens 40"


@pytest.mark.parametrize(
    ("detail", "cells", "shown"),
    [
        (FIGURES, 80, FIGURES),
        (FIGURES, 30, "20/60  loss 0.693  kl 1.25"),
        (FIGURES, 25, "20/60  loss 0.693"),
        ("candidate 12/30 up, incumbent", 10, "candidate…"),
        ("anything", 0, "…"),
    ],
)
def test_figures_without_room_are_omitted_whole(detail: str, cells: int, shown: str) -> None:
    assert fit_figures(detail, cells) == shown


def screen(width: int, *, moved: bool) -> str:
    """Return the content of a terminal with this width."""
    out = io.StringIO()
    with Bars(Console(file=out, width=width, force_terminal=True, color_system=None)) as bars:
        bars.begin(Step("reward_model"))
        if moved:
            bars.move(Step("reward_model", progress=1 / 3, detail=FIGURES))
    return "reward_model" + out.getvalue().rpartition("reward_model")[2].splitlines()[0]


def test_narrow_terminal_shows_bar_percentage_and_time_before_figures() -> None:
    line = screen(80, moved=True)
    assert " 33% 0:00:0" in line
    assert "━" * 9 in line
    assert line.rstrip().endswith("20/60  loss 0.693")
    assert screen(120, moved=True).rstrip().endswith(FIGURES)


def test_step_without_progress_is_shown_as_starting() -> None:
    line = screen(80, moved=False)
    assert "starting" in line
    assert "%" not in line


def test_result_is_shown_once_and_failures_are_left_to_the_caller(tmp_path: Path) -> None:
    out = io.StringIO()
    ProgressReporter(tmp_path, Lines(out), "nano-1", "nano", ()).finish(
        "not_enough_feedback", "not enough feedback: 3 thumbs", None
    )
    ProgressReporter(tmp_path, Lines(out), "nano-1", "nano", ()).finish(
        "rolled back", "fewer thumbs up", None
    )
    ProgressReporter(tmp_path, Lines(out), "nano-1", "nano", ()).finish(
        "failed", "ConfigError: no such thing", None
    )
    said = [line.split(" ", 1)[1] for line in out.getvalue().splitlines()]
    assert said == ["not enough feedback: 3 thumbs", "rolled back: fewer thumbs up"]


def test_stopped_step_waits_and_has_not_failed(tmp_path: Path) -> None:
    out = io.StringIO()
    board = ProgressReporter(tmp_path, Lines(out), "nano-1", "nano", ("sft", "ppo", "gate"))
    board.begin("sft")
    board.end("sft")
    board.begin("ppo")
    board.finish("stopped", "by hand", None)
    steps = json.loads((tmp_path / "status.json").read_text())["steps"]
    assert [step["state"] for step in steps] == ["done", "waiting", "waiting"]
    assert "failed" not in out.getvalue()


class Seen:
    """Display that records its calls."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str, StepState, float, str]] = []
        self.said: list[str] = []

    def begin(self, step: Step) -> None:
        self._note("begin", step)

    def move(self, step: Step) -> None:
        self._note("move", step)

    def end(self, step: Step) -> None:
        self._note("end", step)

    def say(self, text: str) -> None:
        self.said.append(text)

    def _note(self, what: str, step: Step) -> None:
        self.told.append((what, step.name, step.state, step.progress, step.detail))


def test_stage_shows_progress_and_requested_figures() -> None:
    seen = Seen()
    stages = StageDisplay(seen, ("loss", "kl", "score"), counted="update", digits=4)
    stages.begin("grpo")
    stages.move("grpo", Progress("grpo", 1, 4, {"score": 0.123456, "loss": 2.0, "tokens": 9.0}))
    stages.end("grpo")
    detail = "update 1 of 4  loss 2  score 0.1235"
    assert seen.told == [
        ("begin", "grpo", StepState.RUNNING, 0.0, ""),
        ("move", "grpo", StepState.RUNNING, 0.25, detail),
        ("end", "grpo", StepState.DONE, 0.25, detail),
    ]


def test_stage_shows_a_text_before_its_first_step() -> None:
    out = io.StringIO()
    StageDisplay(Lines(out), (), first={"grpo": "sampling"}).begin("grpo")
    assert out.getvalue().endswith("grpo: started sampling\n")


def test_updates_without_signal_are_reported_once() -> None:
    seen = Seen()
    stages = StageDisplay(seen, (), counted="update")
    for update, share in enumerate((1.0, 1.0, 0.9, 1.0), start=1):
        stages.move("grpo", Progress("grpo", update, 4, {"zero_variance_groups": share}))
    assert [re.findall(r"\d+", text) for text in seen.said] == [["1"], ["4"]]
    assert all("grpo" in text for text in seen.said)


def test_step_begins_with_its_first_report_and_earlier_steps_are_hidden() -> None:
    seen = Seen()
    stages = StageDisplay(seen, ())
    stages.end("tokenise")
    stages.show("pretrain", 0.5, "half")
    stages.end("pretrain")
    stages.end("pretrain")
    assert [(what, name) for what, name, *_ in seen.told] == [
        ("begin", "pretrain"),
        ("move", "pretrain"),
        ("end", "pretrain"),
    ]
