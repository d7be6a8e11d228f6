"""Shapes of decoders to pre-train, by name and by option, with their parameters and their memory.

Options are checked here without torch, whose import takes seconds.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from training.errors import ConfigError, unknown_choice
from training.model.config import gpt2_json, llama_json
from training.planning.accelerators import GIB, available_bytes

LLAMA, GPT2 = "llama", "gpt2"
CONTEXT_TOKENS = 256  # 90 % of the texts are shorter
MOST_CONTEXT_TOKENS = 2048  # of a row by default, for models with more positions
# Learning rates of Muon by width, measured for up to a few minutes on these recipes; above, the
# rate falls with the width (arXiv 2203.03466, table 3: hidden matrices under Adam).
RATES = ((64, 5e-3), (112, 4e-3), (176, 3e-3), (320, 2e-3))
MIN_WEIGHT_BYTES = 8  # a weight and its gradient in float32, without an optimizer
DEVICE_FILES = ("nvidia[0-9]*", "dri/renderD*", "kfd", "xpu*")
DEFAULT = "one_million"
SIZES = ("layers", "width", "heads", "kv_heads", "feed_forward", "positions", "vocabulary")


@dataclass(frozen=True)
class Shape:
    """Sizes of a decoder, with the settings of its pre-training.

    Attributes:
        family: llama (RMS norms, rotary positions, gated feed-forward layers without biases) or
            gpt2 (layer norms, learned positions, biases).
        kv_heads: heads of keys and values; 0: as many as `heads`.
        vocabulary: limit for the trained tokenizer.
        tied: the embedding is also the output matrix.
        minutes: default time.
    """

    name: str
    width: int
    layers: int
    heads: int
    feed_forward: int
    kv_heads: int = 0
    positions: int = CONTEXT_TOKENS
    vocabulary: int = 1024
    family: str = LLAMA
    tied: bool = True
    batch_rows: int = 16
    minutes: float = 20.0

    def __str__(self) -> str:
        return (
            f"{self.family}, {self.layers} layers, width {self.width}, {self.heads} heads "
            f"({self.key_heads} of keys), feed-forward {self.feed_forward}, "
            f"{self.positions} positions"
        )

    @property
    def key_heads(self) -> int:
        return self.kv_heads or self.heads

    @property
    def context_tokens(self) -> int:
        """Return the default number of tokens in a row."""
        return min(self.positions, MOST_CONTEXT_TOKENS)

    @property
    def learning_rate(self) -> float:
        """Return the rate for the width: between two measured ones by a power law."""
        last, lowest = RATES[-1]
        if self.width >= last:
            return float(f"{lowest * last / self.width:.2g}")
        for (low, high_rate), (high, low_rate) in pairwise(RATES):
            if low <= self.width < high:
                share = math.log(self.width / low) / math.log(high / low)
                return float(f"{high_rate * (low_rate / high_rate) ** share:.2g}")
        return RATES[0][1]

    def model_json(self, vocabulary: int) -> dict[str, Any]:
        """Return config.json of the model."""
        if self.family == GPT2:
            return gpt2_json(
                vocabulary,
                self.width,
                self.layers,
                self.heads,
                self.positions,
                self.feed_forward,
            )
        made = llama_json(
            vocabulary, self.width, self.layers, self.heads, self.key_heads, self.feed_forward
        )
        return made | {
            "max_position_embeddings": self.positions,
            "tie_word_embeddings": self.tied,
        }

    def parameters(self, vocabulary: int = 0) -> int:
        """Return the number of all parameters, by default for the vocabulary of the shape.

        With tied embeddings the product of the head is as large as the embedding, so 6ND holds.
        """
        d, wide = self.width, self.feed_forward
        embedding = (vocabulary or self.vocabulary) * d
        if self.family == GPT2:
            layer = 4 * d * d + 4 * d + 2 * d * wide + wide + d + 4 * d
            return embedding + self.positions * d + self.layers * layer + 2 * d
        keys = d * (d // self.heads) * self.key_heads
        layer = 2 * d * d + 2 * keys + 3 * d * wide + 2 * d
        return embedding * (1 if self.tied else 2) + self.layers * layer + d


def _gpt2(name: str, width: int, layers: int, heads: int) -> Shape:
    return Shape(
        name, width, layers, heads, 4 * width, positions=1024, vocabulary=50_257, family=GPT2
    )


# GPT-2: Radford et al. 2019, table 2, with the sizes of the released weights. stories: karpathy's
# llama2.c. smollm: HuggingFaceTB/SmolLM-135M and -360M. tinyllama: arXiv 2401.02385. Llama 3: arXiv
# 2407.21783, table 3, and the released 3.2 1B; with the rotation of `llama_json`.
SHAPES: Mapping[str, Shape] = {
    shape.name: shape
    for shape in (
        Shape("one_million", 112, 6, 4, 304, minutes=3.0),
        Shape("ten_million", 320, 7, 5, 864, vocabulary=4096),
        Shape("stories-15m", 288, 6, 6, 768, vocabulary=32_000),
        Shape("stories-42m", 512, 8, 8, 1376, positions=1024, vocabulary=32_000),
        Shape("stories-110m", 768, 12, 12, 2048, positions=1024, vocabulary=32_000),
        _gpt2("gpt2-small", 768, 12, 12),
        _gpt2("gpt2-medium", 1024, 24, 16),
        _gpt2("gpt2-large", 1280, 36, 20),
        _gpt2("gpt2-xl", 1600, 48, 25),
        Shape("smollm-135m", 576, 30, 9, 1536, 3, positions=2048, vocabulary=49_152),
        Shape("smollm-360m", 960, 32, 15, 2560, 5, positions=2048, vocabulary=49_152),
        Shape(
            "tinyllama-1.1b", 2048, 22, 32, 5632, 4, positions=2048, vocabulary=32_000, tied=False
        ),
        Shape("llama-3.2-1b", 2048, 16, 32, 8192, 8, positions=131_072, vocabulary=128_256),
        Shape(
            "llama-3.1-8b",
            4096,
            32,
            32,
            14_336,
            8,
            positions=131_072,
            vocabulary=128_256,
            tied=False,
        ),
    )
}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options for the shape of a model; `chosen_shape` reads them."""
    group = parser.add_argument_group("shape of the model")
    group.add_argument(
        "--shape",
        metavar="NAME",
        default=DEFAULT,
        help=f"one of the list below (default: {DEFAULT})",
    )
    for name, purpose in (
        ("layers", "number of layers"),
        ("width", "size of the hidden states; without --feed-forward, that keeps its proportion"),
        ("heads", "heads of attention; divide the width"),
        ("kv-heads", "heads of keys and values (grouped-query attention); divide the heads"),
        ("feed-forward", "size of the feed-forward layers"),
        ("positions", "longest text in tokens; context_tokens is equal unless set"),
        ("vocabulary", "largest number of tokens of the tokenizer that is trained"),
    ):
        group.add_argument(f"--{name}", type=int, metavar="N", help=purpose)


def chosen_shape(options: argparse.Namespace) -> Shape:
    """Return the named shape with the sizes of other options.

    Raises:
        ConfigError: the name is unknown, or sizes do not fit together; names the option.
    """
    from training.tokenization.byte_pairs import MIN_VOCABULARY

    if options.shape not in SHAPES:
        raise unknown_choice("shape", options.shape, SHAPES)
    named = SHAPES[options.shape]
    sizes = {name: value for name in SIZES if (value := getattr(options, name)) is not None}
    for name, value in sizes.items():
        least = {"positions": 2, "vocabulary": MIN_VOCABULARY}.get(name, 1)
        if value < least:
            option = name.replace("_", "-")
            raise ConfigError(
                f"{option}: {value} is not at least {least}",
                field=option,
                reason="OUT_OF_RANGE",
                limit=f"at least {least}",
            )
    if "width" in sizes:
        proportion = named.feed_forward / named.width
        sizes.setdefault("feed_forward", max(1, round(proportion * sizes["width"])))
    shape = replace(named, **sizes)
    _check_heads(shape)
    return shape


def _check_heads(shape: Shape) -> None:
    """Check that the heads divide the width, and the heads of keys the heads.

    Raises:
        ConfigError: they do not.
    """
    if shape.family == GPT2 and shape.kv_heads not in (0, shape.heads):
        raise ConfigError(
            "kv-heads: gpt2 has as many heads of keys and values as heads",
            field="kv-heads",
            reason="UNSUPPORTED",
            limit=str(shape.heads),
        )
    pairs = 1 if shape.family == GPT2 else 2  # rotary positions turn pairs of numbers
    if shape.width % (shape.heads * pairs):
        fitting = _divisors(shape.width // pairs) if shape.width % pairs == 0 else []
        raise ConfigError(
            f"heads: {shape.heads} heads do not divide the width {shape.width} into equal parts"
            f"{' of even size' if pairs == 2 else ''}{_nearest(fitting, shape.heads)}",
            field="heads",
            reason="MISMATCH",
            limit=f"divides {shape.width / pairs:g}",
        )
    if shape.heads % shape.key_heads:
        raise ConfigError(
            f"kv-heads: {shape.key_heads} do not divide {shape.heads} heads"
            f"{_nearest(_divisors(shape.heads), shape.key_heads)}",
            field="kv-heads",
            reason="MISMATCH",
            limit=f"divides {shape.heads}",
        )


def _divisors(number: int) -> list[int]:
    return [one for one in range(1, number + 1) if number % one == 0]


def _nearest(fitting: list[int], given: int) -> str:
    """Name the two values nearest to the given one."""
    near = sorted(sorted(fitting, key=lambda one: abs(one - given))[:2])
    return f"; {' or '.join(map(str, near))} would" if near else ""


def check_weights(shape: Shape) -> None:
    """Check that weights and gradients fit into the memory of a machine without accelerators.

    The whole plan of a step needs torch (`memory.py`). This is a lower bound, known at once.

    Raises:
        ConfigError: they do not fit.
    """
    if any(next(Path("/dev").glob(pattern), None) for pattern in DEVICE_FILES):
        return
    count = shape.parameters()
    needed, available = count * MIN_WEIGHT_BYTES, available_bytes()
    if needed > available:
        raise ConfigError(
            f"shape: {count:,} parameters need {needed / GIB:.1f} GiB for weights and gradients "
            f"alone, and {available / GIB:.1f} GiB of memory are available",
            field="shape",
            reason="TOO_LARGE",
            limit=f"{available / GIB:.1f} GiB",
        )


def listed_shapes() -> str:
    """Return the help text on shapes: a table of their sizes and numbers of parameters."""
    rows = [("shape", "parameters", "family", *(name.replace("_", "-") for name in SIZES))]
    for shape in SHAPES.values():
        sizes = (shape.key_heads if name == "kv_heads" else getattr(shape, name) for name in SIZES)
        counts = (f"{count:,}" for count in sizes)
        rows.append((shape.name, f"{shape.parameters():,}", shape.family, *counts))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        "  ".join(
            cell.rjust(width) if place else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )
    return "\n".join(lines)
