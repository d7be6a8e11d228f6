"""Token rows that grow over one key-value cache, and the decoding loop.

Rollouts, evaluation and `generate` share both. A row does not depend on its neighbours: padding is
masked, and random numbers come from the row's own seed (sampling.py).

Shapes: B rows (prompts x copies), S tokens so far (prompts padded on the left), V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from training.data.tensors import FILL_ID, pad
from training.decoding.config import DecodingError
from training.model.backbone import Backbone
from training.model.config import ModelConfig
from training.model.transformer import KeyValueCache, PositionError

# Maps (token_B, real_B) to True for rows that end with this token, [B].
StopRule = Callable[[Tensor, Tensor], Tensor]


class Rows:
    """Prompts in continuation.

    Copies of a prompt share its prefill: the cache is copied and not computed again.
    """

    @torch.no_grad()
    def __init__(
        self,
        backbone: Backbone,
        prompts: Sequence[Sequence[int]],
        max_new: int,
        copies: int = 1,
        cache: KeyValueCache | None = None,
    ) -> None:
        """Read the prompts.

        Args:
            max_new: maximum number of new tokens per row.
            copies: adjacent rows per prompt.
            cache: keys and values of the first tokens of a single prompt, without its last one, and
                with room for prompt and new tokens.

        Raises:
            DecodingError: a prompt is empty, or has an id without an embedding row.
            PositionError: prompt and max_new exceed the model's positions.
        """
        _check(prompts, max_new, backbone.decoder.config)
        self._backbone = backbone
        device = backbone.decoder.model.embed_tokens.weight.device
        ids_BS, mask_BS = pad(prompts, side="left")
        self.ids_BS, self.mask_BS = ids_BS.to(device), mask_BS.to(device)
        self.prompt_columns = ids_BS.shape[1]
        self.cache = cache or KeyValueCache(self.prompt_columns + max_new)
        if copies > 1:
            if self.prompt_columns > 1:
                backbone.hidden(self.ids_BS[:, :-1], self.mask_BS[:, :-1], self.cache)
            self.take(torch.arange(len(prompts), device=device).repeat_interleave(copies))

    def __len__(self) -> int:
        return self.ids_BS.shape[0]

    @torch.no_grad()
    def next_logits(self) -> Tensor:
        """Process unread tokens and return the logits of the next column, [B, V]."""
        # All columns after the cached ones, one in the decoding loop.
        unread = self.ids_BS[:, self.cache.length :]
        hidden_BD = self._backbone.hidden(unread, self.mask_BS, self.cache)[:, -1]
        return self._backbone.decoder.logits(hidden_BD)

    def append(self, token_B: Tensor, real_B: Tensor) -> None:
        """Append one column; tokens with a False `real_B` are padding."""
        self.ids_BS = torch.cat((self.ids_BS, token_B[:, None]), dim=1)
        self.mask_BS = torch.cat((self.mask_BS, real_B.long()[:, None]), dim=1)

    def take(self, rows_B: Tensor) -> None:
        """Select these rows, in this order; rows may be repeated."""
        self.ids_BS, self.mask_BS = self.ids_BS[rows_B], self.mask_BS[rows_B]
        self.cache = self.cache.take(rows_B)


@dataclass(frozen=True)
class Step:
    """A generated column.

    real_B: rows running before this token. running_B: rows continuing after this token.
    """

    logits_BV: Tensor
    token_B: Tensor
    real_B: Tensor
    running_B: Tensor


def steps(
    rows: Rows, choose: Callable[[Rows, Tensor, int], Tensor], ends: StopRule, max_new: int
) -> Iterator[Step]:
    """Generate columns until each row has ended or has `max_new` tokens.

    Args:
        choose: maps (rows so far, logits_BV, column) to the next token per row, [B].
    """
    running_B = torch.ones(len(rows), dtype=torch.bool, device=rows.ids_BS.device)
    for column in range(max_new):
        logits_BV = rows.next_logits()
        token_B = torch.where(running_B, choose(rows, logits_BV, column), FILL_ID)
        rows.append(token_B, running_B)
        # A token is real if its row was running before it; the stop token is real too.
        real_B, running_B = running_B, running_B & ~ends(token_B, running_B)
        yield Step(logits_BV, token_B, real_B, running_B)
        if not running_B.any():
            return


def stop_at(stop_ids: Sequence[int]) -> StopRule:
    """Return a rule for ending rows at any of these tokens."""

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
            f"max_positions: a prompt of {longest} tokens and {max_new} new ones"
            f" exceed the model's {config.max_positions}",
            field="max_positions",
            limit=str(config.max_positions),
        )
