"""Tiny random models of a family in transformers' and in our implementation, with equal weights.

No token ends a text unless a test sets one.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedModel

from tests.training.model.oracle_models import oracle
from training.data.tensors import pad
from training.model.backbone import Backbone
from training.model.checkpoint import load_decoder

FAMILIES = ("gemma3_untied", "gpt2", "llama3_rope", "qwen3_tied")
PAD = 96
PROMPTS = [[5, 9, 30, 31, 7], [12], [60, 61, 8, 9, 10, 11, 40, 41, 42]]


@dataclass(frozen=True)
class Pair:
    theirs: PreTrainedModel
    ours: Backbone

    def generate(self, prompts: list[list[int]], **settings: Any) -> Any:
        """Return transformers' sequences without prompts, padded with PAD.

        The settings of the model's own generation config are ignored.
        """
        ids, mask = pad(prompts, side="left")
        self.theirs.generation_config = GenerationConfig(pad_token_id=PAD)
        with torch.no_grad():
            found = self.theirs.generate(ids, attention_mask=mask, pad_token_id=PAD, **settings)
        return found[:, ids.shape[1] :].tolist()


@cache
def pair(family: str) -> Pair:
    with TemporaryDirectory() as folder:
        theirs = oracle(family, Path(folder))
        if family == "gpt2":
            _enliven(theirs)
            theirs.save_pretrained(folder)
        return Pair(theirs, Backbone(load_decoder(Path(folder))))


def _enliven(model: PreTrainedModel) -> None:
    """Enlarge learned positions and remove the bias of the last norm, which would dominate."""
    with torch.no_grad():
        model.transformer.wpe.weight.normal_(0, 2.0, generator=torch.Generator().manual_seed(4))
        model.transformer.ln_f.weight.normal_(0, 1.0, generator=torch.Generator().manual_seed(5))
        model.transformer.ln_f.bias.zero_()


def without_padding(row: list[int], stop_ids: list[int]) -> tuple[int, ...]:
    """Return a row up to and including its stop token."""
    ends = [place for place, token in enumerate(row) if token in stop_ids]
    return tuple(row[: ends[0] + 1]) if ends else tuple(row)
