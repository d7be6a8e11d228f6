"""Is the incumbent here what answered people? Its rated answers, token by token: log-probs of
serving against those of these weights.
"""

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
from training.stages.machine import to_device

# of about 14 tokens: the mean's standard error is a twentieth of it (the small model in 8 bits)
MOST_ANSWERS = 64
BATCH_ROWS = 8


@dataclass(frozen=True)
class ServedApart:
    """answers: of the incumbent, with a sample. unfit: those whose prompt or text is another one by
    its tokenizer and template here.
    mismatch: mean |difference| of a token's log-prob in nats, of those that fit; None where none
        does.
    """

    answers: int
    unfit: int
    mismatch: float | None

    def text(self) -> str:
        apart = (
            "nothing to compare" if self.mismatch is None else f"{self.mismatch:.2g} nats a token"
        )
        return f"{apart}, {self.unfit} of {self.answers} answers unfit"


def measure_served(
    incumbent: Path, thumbs: Path, autocast: Callable[[], AbstractContextManager[Any]]
) -> ServedApart | None:
    """None where no rated answer of the incumbent has a sample."""
    own = [
        row for row in read_thumbs(thumbs) if row.served and row.served.version == incumbent.name
    ][:MOST_ANSWERS]
    if not own:
        return None
    chat = load_chat(incumbent)
    answers = [read_answer(row.served, row.messages, row.response, chat) for row in own]
    fitting = [answer for answer in answers if not answer.unfit]
    if not fitting:
        return ServedApart(len(own), len(own), None)
    measured = measure(Backbone(to_device(load_decoder(incumbent))), fitting, BATCH_ROWS, autocast)
    figures = figures_of(measured, OffPolicyConfig())[incumbent.name]
    return ServedApart(len(own), len(own) - len(fitting), figures["mismatch"])
