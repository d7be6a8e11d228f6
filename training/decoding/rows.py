"""Rows of tokens that grow over one key-value cache, and the loop that lets them: rollouts,
evaluation and `generate` share both.

Shapes: B rows (prompts x copies), S tokens so far (prompts padded on the left), V vocabulary. A row
    does not depend on its
neighbours: filling is masked, and whatever is drawn comes from the row's own seed (sampling.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from training.data.tensors import FILL_ID, pad
from training.errors import DetailedError
from training.model.backbone import Backbone
from training.model.cache import KeyValueCache
from training.model.config import ModelConfig
from training.model.transformer import PositionError

Ends = Callable[[Tensor, Tensor], Tensor]
"""(token_B, real_B) to True where a row ends with this token, [B]."""


class DecodingError(DetailedError, ValueError):
    """A setting is out of its range, or a prompt cannot be continued; the text names the field and
    its limit.
    """

    reason = "INVALID_DECODING"


class Rows:
    """Prompts that are being continued. Copies of a prompt share its reading: the cache is copied
    and not computed again.
    """

    @torch.no_grad()
    def __init__(
        self, backbone: Backbone, prompts: Sequence[Sequence[int]], max_new: int, copies: int = 1
    ) -> None:
        """Args:
            max_new: tokens that each row may grow by.
            copies: rows of each prompt, side by side.

        Raises:
            DecodingError: a prompt without tokens, or with an id that the embedding has no row for.
            PositionError: prompt and max_new are longer than the positions that the model knows.
        """
        _check(prompts, max_new, backbone.decoder.config)
        self._backbone = backbone
        device = backbone.decoder.model.embed_tokens.weight.device
        ids_BS, mask_BS = pad(prompts, side="left")
        self.ids_BS, self.mask_BS = ids_BS.to(device), mask_BS.to(device)
        self.prompt_columns = ids_BS.shape[1]
        self._cache = KeyValueCache(self.prompt_columns + max_new)
        if copies > 1:
            if self.prompt_columns > 1:
                backbone.hidden(self.ids_BS[:, :-1], self.mask_BS[:, :-1], self._cache)
            self.take(torch.arange(len(prompts), device=device).repeat_interleave(copies))

    def __len__(self) -> int:
        return self.ids_BS.shape[0]

    @torch.no_grad()
    def next_logits(self) -> Tensor:
        """Logits of the column that comes next, [B, V]; reads what the cache has not seen yet."""
        unread = self.ids_BS[:, self._cache.length :]
        hidden_BD = self._backbone.hidden(unread, self.mask_BS, self._cache)[:, -1]
        return self._backbone.decoder.logits(hidden_BD)

    def append(self, token_B: Tensor, real_B: Tensor) -> None:
        """One column more; where `real_B` is False it is filling."""
        self.ids_BS = torch.cat((self.ids_BS, token_B[:, None]), dim=1)
        self.mask_BS = torch.cat((self.mask_BS, real_B.long()[:, None]), dim=1)

    def take(self, rows_B: Tensor) -> None:
        """These rows only, in this order; one may be there twice."""
        self.ids_BS, self.mask_BS = self.ids_BS[rows_B], self.mask_BS[rows_B]
        self._cache = self._cache.take(rows_B)


@dataclass(frozen=True)
class Step:
    """One column. real_B: the rows that were still running, whose token this is. running_B: those
    that go on after it.
    """

    logits_BV: Tensor
    token_B: Tensor
    real_B: Tensor
    running_B: Tensor


def steps(
    rows: Rows, choose: Callable[[Rows, Tensor, int], Tensor], ends: Ends, max_new: int
) -> Iterator[Step]:
    """Grow the rows until each has ended or has `max_new` tokens.

    Args:
        choose: (rows so far, logits_BV, column) to the next token of each, [B].
    """
    running_B = torch.ones(len(rows), dtype=torch.bool, device=rows.ids_BS.device)
    for column in range(max_new):
        logits_BV = rows.next_logits()
        token_B = torch.where(running_B, choose(rows, logits_BV, column), FILL_ID)
        rows.append(token_B, running_B)
        real_B, running_B = running_B, running_B & ~ends(token_B, running_B)
        yield Step(logits_BV, token_B, real_B, running_B)
        if not running_B.any():
            return


def stop_at(stop_ids: Sequence[int]) -> Ends:
    """Any of these tokens ends a row."""

    def ends(token_B: Tensor, real_B: Tensor) -> Tensor:
        return torch.isin(token_B, torch.tensor(stop_ids, dtype=torch.long, device=token_B.device))

    return ends


def _check(prompts: Sequence[Sequence[int]], max_new: int, config: ModelConfig) -> None:
    if not prompts or not all(map(len, prompts)):
        raise DecodingError(
            "prompt: has no tokens, at least 1", field="prompt", reason="EMPTY", limit="at least 1"
        )
    if max_new < 1:
        raise DecodingError(
            f"max_tokens: {max_new} is below 1",
            field="max_tokens",
            reason="OUT_OF_RANGE",
            limit="at least 1",
        )
    if (highest := max(map(max, prompts))) >= config.vocab_size:
        raise DecodingError(
            f"prompt: id {highest} has no row in an embedding of {config.vocab_size}",
            field="prompt",
            reason="OUT_OF_RANGE",
            limit=f"below {config.vocab_size}",
        )
    longest = max(map(len, prompts))
    if longest + max_new > config.max_positions:
        raise PositionError(
            f"max_positions: a prompt of {longest} tokens and {max_new} new ones, but the model knows {config.max_positions}",
            field="max_positions",
            limit=str(config.max_positions),
        )
