"""Training on a part of the vocabulary: only the embedding rows that the data uses, under new dense
ids.

Twice the speed for LoRA on Gemma (262k rows to 32k). Sound because adapters touch no embedding: the
adapter fits the whole model again. The softmax runs over the kept rows only. Not for full
fine-tuning, which would change rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch
from torch import nn

from training.errors import ConfigError
from training.model.transformer import Decoder


class VocabularyMap:
    """Full ids to dense ids and back. A full id that was not kept is an error, not an unknown
    token.
    """

    def __init__(self, kept: Sequence[int]) -> None:
        self.kept = tuple(kept)
        self._dense = {full: dense for dense, full in enumerate(self.kept)}

    def narrow(self, ids: Iterable[int]) -> list[int]:
        """Full ids to dense ids. Raises KeyError with the id that was not kept."""
        return [self._dense[i] for i in ids]

    def widen(self, ids: Iterable[int]) -> list[int]:
        """Dense ids to full ids."""
        return [self.kept[i] for i in ids]


def choose_rows(used: Iterable[int], vocab_size: int, rows: int) -> VocabularyMap:
    """Every used id, filled up to `rows` with the lowest ids: special tokens, bytes, then the most
    frequent pieces.

    Raises:
        ConfigError: the data alone uses more ids than `rows`.
    """
    kept = set(used)
    if len(kept) > rows:
        raise ConfigError(
            f"vocabulary_rows: {rows}, but the data uses {len(kept)} different ids",
            field="vocabulary_rows",
            reason="TOO_SMALL",
            limit=f"at least {len(kept)}",
        )
    for candidate in range(vocab_size):
        if len(kept) >= rows:
            break
        kept.add(candidate)
    return VocabularyMap(sorted(kept))


def trim_vocabulary(decoder: Decoder, vocabulary: VocabularyMap) -> None:
    """Keep only these rows of the embedding and of the head, in place."""
    kept = torch.tensor(vocabulary.kept, device=decoder.model.embed_tokens.weight.device)
    config = replace(
        decoder.config, vocab_size=len(kept), raw={**decoder.config.raw, "vocab_size": len(kept)}
    )
    decoder.config = decoder.model.config = config
    embedding = decoder.model.embed_tokens
    narrow = nn.Embedding(len(kept), config.hidden_size)
    narrow.weight = nn.Parameter(embedding.weight[kept].clone(), requires_grad=False)
    decoder.model.embed_tokens = narrow
    if decoder.lm_head is not None:
        head = nn.Linear(config.hidden_size, len(kept), bias=False)
        head.weight = nn.Parameter(decoder.lm_head.weight[kept].clone(), requires_grad=False)
        decoder.lm_head = head
