"""Comparison of the incumbent here with the served incumbent, by log-probs of its rated answers."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.data.chat import load_chat
from training.data.examples import read_thumbs
from training.model.backbone import Backbone
from training.model.checkpoint import load_decoder
from training.rl.served import OffPolicyConfig, figures_of, measure, read_answer
from training.runtime.machine import to_device

# With about 14 tokens per answer the standard error is a twentieth of the mean (small model in 8
# bits).
MOST_ANSWERS = 64
BATCH_ROWS = 8


@dataclass(frozen=True)
class ServingMismatch:
    """Difference between the served incumbent and the incumbent here.

    Attributes:
        answers: answers of the incumbent with a sample.
        unfit: answers whose prompt or text differs under the tokenizer and template here.
        mismatch: mean |difference| of a token's log-prob in nats over matching answers; None
            without any.
    """

    answers: int
    unfit: int
    mismatch: float | None

    def text(self) -> str:
        """Describe the difference in a single line."""
        apart = (
            "no matching answers"
            if self.mismatch is None
            else f"{self.mismatch:.2g} nats per token"
        )
        return f"{apart}, {self.unfit} of {self.answers} answers unfit"


def measure_served(
    incumbent: Path, thumbs: Path, autocast: Callable[[], AbstractContextManager[Any]]
) -> ServingMismatch | None:
    """Measure the difference; None if no rated answer of the incumbent has a sample."""
    own = [
        row for row in read_thumbs(thumbs) if row.served and row.served.version == incumbent.name
    ][:MOST_ANSWERS]
    if not own:
        return None
    chat = load_chat(incumbent)
    answers = [read_answer(row.served, row.messages, row.response, chat) for row in own]
    fitting = [answer for answer in answers if not answer.unfit]
    if not fitting:
        return ServingMismatch(len(own), len(own), None)
    measured = measure(Backbone(to_device(load_decoder(incumbent))), fitting, BATCH_ROWS, autocast)
    figures = figures_of(measured, OffPolicyConfig())[incumbent.name]
    return ServingMismatch(len(own), len(own) - len(fitting), figures["mismatch"])
