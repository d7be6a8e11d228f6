"""Rewards in order of the answers, with every outcome counted and no failure reported as 0."""

import re
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.support.errors import refused
from training.data.examples import read_prompts
from training.data.formats.fields import ExampleError
from training.rl.rollout import Rollout
from training.rl.scores import Answer, score_by_verifier
from training.verification.checks import (
    Calls,
    Check,
    Mathematics,
    Outcome,
    Verdict,
    VerificationError,
)
from training.verification.items import Item, Split, split_of, write_items
from training.verification.sandbox.bubblewrap import SandboxUnavailableError
from training.verification.sandbox.runs import EndReason, Run
from training.verification.scorer import MAX_FAILED_SHARE, Scorer, TaskVerifier
from training.verification.workers import WorkerLimits, Workers

SUM = Item("sums", "1+1?", Mathematics("2"))
CODE = Item("code", "f?", Calls("f", ("[]",), ("1",)))


class Judges:
    """Workers with predetermined outcomes."""

    def __init__(self, judge: Callable[[str], Outcome]) -> None:
        self.count, self._judge = 3, judge

    def judge(self, check: Check, response: str) -> Verdict:
        return Verdict(self._judge(response))


class Runs:
    """A sandbox with a constant result, or one that does not start."""

    def __init__(self, run: Run | None) -> None:
        self._run = run

    def run(self, request: dict[str, object]) -> Run:
        if self._run is None:
            raise SandboxUnavailableError("not today", reason="AWAY")
        return self._run


def verifier(
    judge: Callable[[str], Outcome], sandbox: Runs | None = None, item: Item = SUM
) -> tuple[TaskVerifier, str]:
    """Return a verifier and the task text, as passed on by the training loop."""
    with tempfile.TemporaryDirectory() as folder:
        write_items([item], Path(folder) / "items.jsonl")
        prompts = read_prompts(Path(folder) / "items.jsonl")
    return TaskVerifier(prompts, Scorer(Judges(judge), sandbox)), prompts[0].task  # type: ignore[arg-type]


def answers(task: str, *texts: str) -> list[Answer]:
    return [Answer(task, text, ended=True) for text in texts]


def even(text: str) -> Outcome:
    return Outcome.RIGHT if text in ("2", "44") else Outcome.WRONG


def test_rewards_are_in_the_order_of_the_answers() -> None:
    verify, task = verifier(even)
    assert verify(answers(task, "2", "1", "44", "45", "2")) == [1, 0, 1, 0, 1]


def test_verifier_scores_a_rollout() -> None:
    verify, task = verifier(even)
    ids_BR = torch.tensor([[ord("2"), ord("!")], [ord("4"), ord("4")]])
    mask_BR = torch.tensor([[1, 0], [1, 1]])
    empty_B1 = torch.zeros(2, 1, dtype=torch.long)
    ended_B = torch.ones(2).bool()
    rollout = Rollout(
        empty_B1, empty_B1, ids_BR, mask_BR, torch.zeros(2, 2), ended_B, "", tasks=(task, task)
    )
    assert score_by_verifier(verify, lambda ids: "".join(map(chr, ids)))(rollout).tolist() == [1, 1]


def test_unknown_task_is_refused() -> None:
    verify, _ = verifier(even)
    with refused(VerificationError, field="task", reason="UNKNOWN"):
        verify(answers("another", "2"))


def test_held_out_item_is_refused_for_training() -> None:
    number = next(n for n in range(1_000) if split_of(f"{n}?") is Split.HELD_OUT)
    with refused(ExampleError, field="prompts.1", reason="CONFLICT"):
        verifier(even, item=Item("sums", f"{number}?", Mathematics("2")))


def test_every_outcome_is_counted_once() -> None:
    outcomes = {
        "a": Outcome.RIGHT,
        "b": Outcome.OUT_OF_TIME,
        "c": Outcome.UNPARSABLE,
        "d": Outcome.WRONG,
    }
    verify, task = verifier(lambda text: outcomes[text])
    assert verify(answers(task, "a", "b", "c", "d")) == [1, 0, 0, 0]
    figures = verify.take_figures()
    assert figures["verdict_out_of_time"] == 0.25
    assert figures["verdict_verifier_failed"] == 0
    assert sum(figures.values()) == 1
    assert sum(verify.take_figures().values()) == 0


def test_frequent_verifier_failures_raise_and_rare_ones_are_counted() -> None:
    broken, task = verifier(lambda _: Outcome.VERIFIER_FAILED)
    with refused(
        VerificationError,
        field="responses",
        reason="VERIFICATION_FAILED",
        limit=f"{MAX_FAILED_SHARE:g}",
    ) as caught:
        broken(answers(task, "1", "2"))
    assert re.findall(r"\d+", caught.value.text) == ["2", "2"]
    rare, task = verifier(lambda text: Outcome.VERIFIER_FAILED if text == "x" else Outcome.RIGHT)
    rare(answers(task, *["1"] * 39, "x"))
    assert rare.take_figures()["verdict_verifier_failed"] == 1 / 40


def test_code_without_a_sandbox_raises_an_error() -> None:
    without, task = verifier(even, item=CODE)
    with refused(VerificationError, field="sandbox", reason="MISSING"):
        without(answers(task, "def f(): return 1"))
    broken, task = verifier(even, Runs(None), CODE)
    with refused(SandboxUnavailableError, reason="AWAY"):
        broken(answers(task, "def f(): return 1"))


@pytest.mark.parametrize(
    ("ended", "output", "outcome"),
    [
        (EndReason.EXITED, b'{"value": 1}\n', Outcome.RIGHT),
        (EndReason.EXITED, b'{"value": 1.0}\n', Outcome.RIGHT),
        (EndReason.EXITED, b'{"value": true}\n', Outcome.WRONG),
        (EndReason.EXITED, b'{"value": "1"}\n', Outcome.WRONG),
        (EndReason.EXITED, b'{"value": 1}', Outcome.WRONG),
        (EndReason.EXITED, b'{"value": 1}\n{"value": 1}\n', Outcome.WRONG),
        (EndReason.EXITED, b'{"error": "MemoryError"}\n', Outcome.OUT_OF_MEMORY),
        (EndReason.EXITED, b"\xff\n", Outcome.WRONG),
        (EndReason.EXITED, b"", Outcome.WRONG),
        (EndReason.OUT_OF_TIME, b'{"value": 1}\n', Outcome.OUT_OF_TIME),
        (EndReason.KILLED, b'{"value": 1}\n', Outcome.WRONG),
        (EndReason.FLOODED, b'{"value": 1}\n', Outcome.WRONG),
    ],
)
def test_sandbox_output_is_judged_outside(
    ended: EndReason, output: bytes, outcome: Outcome
) -> None:
    scorer = Scorer(Workers(1, WorkerLimits()), Runs(Run(ended, output, 0.1)))
    assert scorer.score(CODE, "def f(): return 1").outcome is outcome
    assert scorer.score(CODE, " ").outcome is Outcome.UNPARSABLE
    assert scorer.score(CODE, "x" * 50_000).outcome is Outcome.UNPARSABLE
