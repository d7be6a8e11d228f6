"""A tiny random model of a family twice: transformers' own, and ours from its files. No token of it
ends a text unless told to.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedModel

from tests.training.model.shapes import oracle
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
        """transformers' sequences without their prompts, padded with PAD; with settings alone, none
        of the model's own.
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
    """Learned positions that matter, and a last norm without a bias, which alone would decide every
    token.
    """
    with torch.no_grad():
        model.transformer.wpe.weight.normal_(0, 2.0, generator=torch.Generator().manual_seed(4))
        model.transformer.ln_f.weight.normal_(0, 1.0, generator=torch.Generator().manual_seed(5))
        model.transformer.ln_f.bias.zero_()


def without_padding(row: list[int], stop_ids: list[int]) -> tuple[int, ...]:
    """A row up to and including its stop token."""
    ends = [place for place, token in enumerate(row) if token in stop_ids]
    return tuple(row[: ends[0] + 1]) if ends else tuple(row)
