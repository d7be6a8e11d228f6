"""Training of the encoder: all heads at once, with an average of the weights over steps."""

import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional

from training.recipes.guardrail.encoder.examples import HEADS, UNKNOWN, Example, Pool, epoch
from training.recipes.guardrail.encoder.model import Encoder
from training.recipes.guardrail.features import plain

# Tokens of a window, with the marks of start and end.
WINDOW_TOKENS = 128
BATCH, SORTED_BATCHES = 32, 16
RATE, DECAY, WARM_UP = 1e-3, 0.01, 0.05
AVERAGE = 0.998
SMOOTHING = 0.02
CATEGORY_WEIGHT, INJECTION_WEIGHT = 0.3, 0.5

Log = Callable[[str], None]


def read_tokenizer(base: Path) -> Tokenizer:
    """Return the base's tokenizer, with windows of WINDOW_TOKENS and no padding."""
    tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(WINDOW_TOKENS)
    return tokenizer


def batch(tokenizer: Tokenizer, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Return tokens and mask [B, T] of texts in plain form."""
    rows = [encoding.ids for encoding in tokenizer.encode_batch([plain(text) for text in texts])]
    length = max(map(len, rows))
    tokens = torch.zeros(len(rows), length, dtype=torch.long)
    mask = torch.zeros(len(rows), length, dtype=torch.long)
    for number, row in enumerate(rows):
        tokens[number, : len(row)] = torch.tensor(row)
        mask[number, : len(row)] = 1
    return tokens, mask


def loss_of(logits_BH: Tensor, examples: Sequence[Example]) -> Tensor:
    """Return the sum of the heads' losses.

    An injection may also be harmful: no source says so, and the head of harm learns nothing there.
    """
    harmful = torch.tensor([float(one.is_harmful) for one in examples])
    injection = torch.tensor([float(one.is_injection) for one in examples])
    category = torch.tensor([one.category for one in examples])
    smooth = harmful * (1 - 2 * SMOOTHING) + SMOOTHING
    harm = functional.binary_cross_entropy_with_logits(logits_BH[:, 0], smooth, reduction="none")
    loss = (harm * (1 - injection)).mean()
    loss = loss + INJECTION_WEIGHT * functional.binary_cross_entropy_with_logits(
        logits_BH[:, 1], injection
    )
    if bool((category != UNKNOWN).any()):
        loss = loss + CATEGORY_WEIGHT * functional.cross_entropy(
            logits_BH[:, 2:], category, ignore_index=UNKNOWN
        )
    return loss


def fit(
    base: Path, pools: Sequence[Pool], *, epochs: int, rank: int, seed: int, log: Log
) -> Encoder:
    """Return an encoder trained on `epochs` epochs of the pools; its weights are the average."""
    torch.manual_seed(seed)
    choose = random.Random(seed)
    tokenizer, model = read_tokenizer(base), Encoder(base, len(HEADS), rank)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=DECAY)
    batches = [one for _ in range(epochs) for one in _batches(epoch(pools, choose), choose)]
    averages = [value.detach().clone() for value in model.parameters()]
    started, losses = time.monotonic(), list[float]()
    model.train()
    for step, examples in enumerate(batches):
        share = step / len(batches)
        rate = min(1.0, share / WARM_UP) * 0.5 * (1 + math.cos(math.pi * share))
        for group in optimizer.param_groups:
            group["lr"] = RATE * max(rate, 1e-3)
        # A quarter of the time on a processor with bfloat16.
        with torch.autocast("cpu", torch.bfloat16):
            logits_BH = model(*batch(tokenizer, [one.text for one in examples]))
        loss = loss_of(logits_BH.float(), examples)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        kept = min(AVERAGE, (1 + step) / (10 + step))
        for average, value in zip(averages, model.parameters(), strict=True):
            average.lerp_(value.detach(), 1 - kept)
        losses.append(float(loss.detach()))
        if step % 100 == 99:
            mean, seconds = np.mean(losses[-100:]), time.monotonic() - started
            log(f"step {step + 1} of {len(batches)}: loss {mean:.3f}, {seconds:.0f} s")
    with torch.no_grad():
        for average, value in zip(averages, model.parameters(), strict=True):
            value.copy_(average)
    return model.eval()


def _batches(examples: Sequence[Example], choose: random.Random) -> Iterator[list[Example]]:
    """Yield batches of texts of similar length in a random order."""
    step = BATCH * SORTED_BATCHES
    batches = []
    for start in range(0, len(examples), step):
        part = sorted(examples[start : start + step], key=lambda one: len(one.text))
        batches += [part[first : first + BATCH] for first in range(0, len(part), BATCH)]
    choose.shuffle(batches)
    yield from batches


@torch.no_grad()
def logits(model: Encoder, tokenizer: Tokenizer, texts: Sequence[str]) -> Any:
    """Return the logits [N, H] of the first window of each text."""
    order = sorted(range(len(texts)), key=lambda number: len(texts[number]))
    values = np.zeros((len(texts), len(HEADS)), dtype=np.float32)
    for start in range(0, len(order), BATCH):
        numbers = order[start : start + BATCH]
        values[numbers] = model(*batch(tokenizer, [texts[number] for number in numbers])).numpy()
    return values
