"""A toy model and toy data for tests of the stages."""

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

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


def context_free_model(directory: Path, word: str = "", final_norm: float = 1.0) -> Path:
    """Write a toy model with the same answer in all contexts, exactly and on each processor.

    The embeddings are equal and the output layer is zero, so all tokens are equally probable and
    the first gradient is that of the output layer alone.

    Args:
        word: token whose logit is about 32, the dimensions; empty: none.
        final_norm: weight of the last norm, thus the size of hidden states.
    """
    toy_model(directory)
    config = json.loads((directory / "config.json").read_text())
    weights = load_file(directory / "model.safetensors")
    embeddings = weights["model.embed_tokens.weight"]
    head = torch.zeros_like(embeddings)
    if word:
        tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
        head[tokenizer.token_to_id(word)] = 1.0
    embeddings.fill_(1.0)
    weights["model.norm.weight"].fill_(final_norm)
    save_file({**weights, "lm_head.weight": head}, directory / "model.safetensors")
    (directory / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": False}))
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
