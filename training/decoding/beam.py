"""Beam search, with transformers' rules for scores and stopping.

Shapes: B rows (prompts x beams), P prompts, C beams, W candidates (enough for C of them to
continue), V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from training.decoding.config import BeamConfig, EarlyStopping
from training.decoding.rows import Rows
from training.decoding.sampling import penalise, seen
from training.model.backbone import Backbone

# Initial score of all beams but the first: they are identical copies of the prompt.
NO_BEAM = -1e9


@dataclass(frozen=True)
class Hypothesis:
    """A finished continuation, including its stop token."""

    ids: tuple[int, ...]
    score: float


class FinishedHypotheses:
    """The best finished continuations of one prompt, at most as many as beams."""

    def __init__(self, beams: BeamConfig, max_new: int) -> None:
        self._beams, self._max_new = beams, max_new
        self.best: list[Hypothesis] = []
        self.open = True

    def add(self, found: Sequence[tuple[float, tuple[int, ...]]]) -> None:
        """Add the continuations (log p, ids) ended in a step."""
        scored = [
            Hypothesis(ids, log_p / len(ids) ** self._beams.length_penalty) for log_p, ids in found
        ]
        self.best = sorted(self.best + scored, key=lambda hypothesis: -hypothesis.score)[
            : self._beams.count
        ]

    def close_if_final(self, running: float, tokens: int) -> None:
        """Close the search if no better continuation can follow.

        Args:
            running: log p of the best running beam.
            tokens: length of the running beams.
        """
        if len(self.best) < self._beams.count:
            return
        penalty = self._beams.length_penalty
        far = self._beams.stopping is EarlyStopping.HOPELESS and penalty > 0
        # HOPELESS assumes the most favourable length; the other conditions use the current one.
        hoped = running / (self._max_new if far else tokens) ** penalty
        self.open &= (
            self._beams.stopping is not EarlyStopping.AT_ONCE and hoped > self.best[-1].score
        )


@torch.no_grad()
def beam_search(
    backbone: Backbone,
    prompts: Sequence[Sequence[int]],
    beams: BeamConfig,
    max_new: int,
    stop_ids: Sequence[int],
) -> list[list[Hypothesis]]:
    """Return the best `beams.count` continuations of each prompt, best first."""
    rows = Rows(backbone, prompts, max_new, copies=beams.count)
    device, vocab_size = rows.ids_BS.device, backbone.decoder.config.vocab_size
    stop = torch.tensor(stop_ids, dtype=torch.long, device=device)
    first_row_P1 = torch.arange(0, len(rows), beams.count, device=device)[:, None]
    running_PC = torch.full((len(prompts), beams.count), NO_BEAM, device=device)
    running_PC[:, 0] = 0.0
    # With s stop tokens, (1 + s) C candidates contain at least C that continue.
    wide = min(max(2, 1 + len(stop_ids)) * beams.count, beams.count * vocab_size)
    pools = [FinishedHypotheses(beams, max_new) for _ in prompts]
    for tokens in range(1, max_new + 1):
        log_p_BV = rows.next_logits().log_softmax(-1)
        if beams.repetition_penalty != 1:
            seen_BV = seen(rows.ids_BS, rows.mask_BS, vocab_size)
            log_p_BV = penalise(log_p_BV, seen_BV, beams.repetition_penalty)
        # Candidates are (beam, token) pairs, [P, C * V].
        scores_PCV = log_p_BV.view(*running_PC.shape, -1) + running_PC[..., None]
        log_p_PW, place_PW = scores_PCV.flatten(1).topk(wide)
        row_PW, token_PW = first_row_P1 + place_PW // vocab_size, place_PW % vocab_size
        ends_PW = torch.isin(token_PW, stop) | (tokens == max_new)
        # Ended candidates leave the search; the best C of the others continue.
        # Of the ended ones only those among the best C count.
        for number, pool in enumerate(pools):
            if not pool.open:
                continue
            ended = ends_PW[number, : beams.count].nonzero().flatten()
            before = rows.ids_BS[row_PW[number, ended], rows.prompt_columns :].tolist()
            last, log_p = token_PW[number, ended].tolist(), log_p_PW[number, ended].tolist()
            pool.add(
                [(p, (*ids, token)) for p, ids, token in zip(log_p, before, last, strict=True)]
            )
        running_PC, kept_PC = (log_p_PW + ends_PW * NO_BEAM).topk(beams.count)
        for pool, best in zip(pools, running_PC[:, 0].tolist(), strict=True):
            pool.close_if_final(best, tokens)
        if tokens == max_new or not any(pool.open for pool in pools):
            break
        rows.take(row_PW.gather(1, kept_PC).flatten())
        rows.append(
            token_PW.gather(1, kept_PC).flatten(),
            torch.ones(len(rows), dtype=torch.bool, device=device),
        )
    return [pool.best for pool in pools]
