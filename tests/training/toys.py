"""A toy model and toy data for tests of the stages."""

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from training.artifacts.manifest import write_manifest
from training.model.checkpoint import save_decoder
from training.model.config import llama_json, parse_config
from training.model.transformer import Decoder, initialise
from training.runtime.context import Progress
from training.runtime.ranks import ALONE, Ranks
from training.runtime.training_state import DirectoryCheckpoints
from training.tokenization.byte_pairs import train_tokenizer

WORDS = ("good", "bad", "tree", "house", "river", "stone", "cloud", "bird")
VOCABULARY = 300
# What makes of a Llama's config.json another family's.
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen3": {"model_type": "qwen3"},
    "gemma3": {"model_type": "gemma3_text", "hidden_act": "gelu_pytorch_tanh", "sliding_window": 8},
}


def toy_model(
    directory: Path, seed: int = 1, hidden_size: int = 32, layers: int = 2, family: str = "llama"
) -> Path:
    """Write a fresh model directory with tokenizer, template and manifest."""
    tokenizer = train_tokenizer([" ".join(WORDS)] * 50, VOCABULARY, directory)
    shape = llama_json(tokenizer.get_vocab_size(), hidden_size, layers, 4, 2, 2 * hidden_size)
    decoder = Decoder(parse_config(shape | FAMILIES[family]))
    initialise(decoder, seed)
    save_decoder(decoder, directory)
    write_manifest(directory, kind="model", version=directory.name)
    return directory


def write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def sft_rows(count: int) -> list[dict[str, Any]]:
    """Prompt `w0 w1`, response `w1`."""
    return [
        {
            "messages": user(f"{WORDS[i % 8]} {WORDS[(i // 8) % 8]} {i}"),
            "response": WORDS[(i // 8) % 8],
        }
        for i in range(count)
    ]


def kept_tensors(checkpoint: Path) -> dict[str, torch.Tensor]:
    """All tensors of a training state that one worker wrote."""
    (file,) = checkpoint.glob("*.safetensors")
    return load_file(file)


class ProgressList:
    """A progress callback that remembers."""

    def __init__(self) -> None:
        self.steps: list[Progress] = []

    def __call__(self, progress: Progress) -> None:
        self.steps.append(progress)


class Killed(Exception):
    """Stands for kill -9: nothing after it runs."""


class KillAfter(DirectoryCheckpoints):
    """Dies when the checkpoint of a given step has been written."""

    def __init__(self, directory: Path, step: int, ranks: Ranks = ALONE) -> None:
        super().__init__(directory, ranks)
        self._step = step

    def save(self, step: int, write: Callable[[Path], None], on_notice: bool = False) -> None:
        super().save(step, write, on_notice)
        if step == self._step:
            raise Killed
