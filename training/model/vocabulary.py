"""Training on a part of the vocabulary: only embedding rows used by the data, under dense ids.

Doubles the speed of LoRA on Gemma (262k rows to 32k). Adapters leave embeddings unchanged, so the
trained adapter fits the complete model. The softmax covers the selected rows only. Unsuitable for
full fine-tuning, which would change rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch
from torch import nn

from training.errors import ConfigError
from training.model.transformer import Decoder


class VocabularyMap:
    """Mapping of full ids to dense ids and back. Unmapped full ids raise KeyError."""

    def __init__(self, kept: Sequence[int]) -> None:
        self.kept = tuple(kept)
        self._dense = {full: dense for dense, full in enumerate(self.kept)}

    def narrow(self, ids: Iterable[int]) -> list[int]:
        """Convert full ids to dense ids.

        Raises:
            KeyError: an id has no dense id.
        """
        return [self._dense[i] for i in ids]

    def widen(self, ids: Iterable[int]) -> list[int]:
        """Convert dense ids to full ids."""
        return [self.kept[i] for i in ids]


def choose_rows(used: Iterable[int], vocab_size: int, rows: int) -> VocabularyMap:
    """Select every used id, filled up to `rows` with the lowest ids.

    The lowest ids are special tokens, bytes, and the most frequent pieces.

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
    # Low ids are special tokens, bytes and frequent pieces.
    for candidate in range(vocab_size):
        if len(kept) >= rows:
            break
        kept.add(candidate)
    return VocabularyMap(sorted(kept))


def trim_vocabulary(decoder: Decoder, vocabulary: VocabularyMap) -> None:
    """Reduce the embedding and the head to the selected rows, in place."""
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
