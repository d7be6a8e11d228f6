"""Beam search: the likeliest continuations instead of drawn ones, after transformers' rules for
scores and for when to stop.

Shapes: B rows (prompts x beams), P prompts, C beams, W candidates (enough that C of them do not
    end), V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import Tensor

from training.decoding.rows import DecodingError, Rows
from training.decoding.rules import penalise, seen
from training.model.backbone import Backbone

NO_BEAM = (
    -1e9
)  # the score of the copies that a search begins with: all the same, so only the first counts


class Stopping(StrEnum):
    """When a prompt's search ends, once as many continuations are finished as there are beams."""

    AT_ONCE = "at_once"  # transformers' early_stopping=True
    UNLIKELY = (
        "unlikely"  # False: the best running one, were it finished now, would not be among them
    )
    HOPELESS = (
        "hopeless"  # "never": nor at whatever length it may still reach, where longer is better
    )


@dataclass(frozen=True)
class Beams:
    """A finished continuation scores log p / tokens ** length_penalty: above 0 favours long ones
    (Wu et al., arXiv 1609.08144).
    """

    count: int = 4
    length_penalty: float = 1.0
    stopping: Stopping = Stopping.UNLIKELY
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        if self.count < 1:
            raise DecodingError(
                f"beams: {self.count} is below 1",
                field="beams",
                reason="OUT_OF_RANGE",
                limit="at least 1",
            )
        if not math.isfinite(self.length_penalty):
            raise DecodingError(
                f"length_penalty: {self.length_penalty:g} is not finite",
                field="length_penalty",
                reason="NOT_FINITE",
            )
        if not 0 < self.repetition_penalty < math.inf:
            raise DecodingError(
                f"repetition_penalty: {self.repetition_penalty:g} is not above 0",
                field="repetition_penalty",
                reason="OUT_OF_RANGE",
                limit="above 0",
            )


@dataclass(frozen=True)
class Hypothesis:
    """A finished continuation, its stop token included."""

    ids: tuple[int, ...]
    score: float


class Finished:
    """The best finished continuations of one prompt, at most as many as beams."""

    def __init__(self, beams: Beams, max_new: int) -> None:
        self._beams, self._max_new = beams, max_new
        self.best: list[Hypothesis] = []
        self.open = True

    def add(self, found: Sequence[tuple[float, tuple[int, ...]]]) -> None:
        """(log p, ids) of what ended in one step."""
        scored = [
            Hypothesis(ids, log_p / len(ids) ** self._beams.length_penalty) for log_p, ids in found
        ]
        self.best = sorted(self.best + scored, key=lambda hypothesis: -hypothesis.score)[
            : self._beams.count
        ]

    def look_ahead(self, running: float, tokens: int) -> None:
        """Close if nothing better can come. running: log p of the best that runs, after `tokens`."""
        if len(self.best) < self._beams.count:
            return
        penalty = self._beams.length_penalty
        far = self._beams.stopping is Stopping.HOPELESS and penalty > 0
        hoped = running / (self._max_new if far else tokens) ** penalty
        self.open &= self._beams.stopping is not Stopping.AT_ONCE and hoped > self.best[-1].score


@torch.no_grad()
def beam_search(
    backbone: Backbone,
    prompts: Sequence[Sequence[int]],
    beams: Beams,
    max_new: int,
    stop_ids: Sequence[int],
) -> list[list[Hypothesis]]:
    """The best `beams.count` continuations of each prompt, best first."""
    rows = Rows(backbone, prompts, max_new, copies=beams.count)
    device, vocab_size = rows.ids_BS.device, backbone.decoder.config.vocab_size
    stop = torch.tensor(stop_ids, dtype=torch.long, device=device)
    first_row_P1 = torch.arange(0, len(rows), beams.count, device=device)[:, None]
    running_PC = torch.full((len(prompts), beams.count), NO_BEAM, device=device)
    running_PC[:, 0] = 0.0
    wide = min(max(2, 1 + len(stop_ids)) * beams.count, beams.count * vocab_size)
    pools = [Finished(beams, max_new) for _ in prompts]
    for tokens in range(1, max_new + 1):
        scores_PN = _scores(rows, running_PC, beams.repetition_penalty)
        log_p_PW, place_PW = scores_PN.topk(wide)
        row_PW, token_PW = first_row_P1 + place_PW // vocab_size, place_PW % vocab_size
        ends_PW = torch.isin(token_PW, stop) | (tokens == max_new)
        _harvest(pools, rows, log_p_PW, row_PW, token_PW, ends_PW)
        running_PC, kept_PC = (log_p_PW + ends_PW * NO_BEAM).topk(beams.count)
        for pool, best in zip(pools, running_PC[:, 0].tolist(), strict=True):
            pool.look_ahead(best, tokens)
        if tokens == max_new or not any(pool.open for pool in pools):
            break
        rows.take(row_PW.gather(1, kept_PC).flatten())
        rows.append(
            token_PW.gather(1, kept_PC).flatten(),
            torch.ones(len(rows), dtype=torch.bool, device=device),
        )
    return [pool.best for pool in pools]


def _scores(rows: Rows, running_PC: Tensor, penalty: float) -> Tensor:
    """log p of every beam with every next token, [P, C * V]."""
    log_p_BV = rows.next_logits().log_softmax(-1)
    if penalty != 1:
        log_p_BV = penalise(log_p_BV, seen(rows.ids_BS, rows.mask_BS, log_p_BV.shape[-1]), penalty)
    return (log_p_BV.view(*running_PC.shape, -1) + running_PC[..., None]).flatten(1)


def _harvest(
    pools: Sequence[Finished],
    rows: Rows,
    log_p_PW: Tensor,
    row_PW: Tensor,
    token_PW: Tensor,
    ends_PW: Tensor,
) -> None:
    """What ends among the best C candidates is finished; behind those it is not good enough."""
    for number, pool in enumerate(pools):
        if not pool.open:
            continue
        count = len(rows) // len(pools)
        ended = ends_PW[number, :count].nonzero().flatten()
        before = rows.ids_BS[row_PW[number, ended], rows.prompt_columns :].tolist()
        last, log_p = token_PW[number, ended].tolist(), log_p_PW[number, ended].tolist()
        pool.add([(p, (*ids, token)) for p, ids, token in zip(log_p, before, last, strict=True)])
