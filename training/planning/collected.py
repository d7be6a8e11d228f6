"""Amounts and lengths of the data of a run, in tokens of its model.

The texts decide token limits and batch sizes, so they are measured on the snapshot before training.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from training.data.chat import Message, load_chat
from training.data.feedback.sets import TrainingSets

SHARE = 0.99  # of the texts that the limits must hold


@dataclass(frozen=True)
class Lengths:
    """Tokens of texts.

    Attributes:
        most: length that 99 % of the texts do not exceed.
    """

    mean: float
    most: int


@dataclass(frozen=True)
class CollectedData:
    """Sizes of a run's sets.

    Attributes:
        prompt: with the chat template and all earlier messages of the conversation.
        distinct_ids: number of different token ids in all texts.
        mix_tokens: longest anchor, prompt and answer together.
        is_assumed: no data was measured.
    """

    sft_examples: int
    pairs: int
    judge_pairs: int
    prompts: int
    held_out_prompts: int
    prompt: Lengths
    response: Lengths
    distinct_ids: int
    mix_tokens: int
    is_assumed: bool = False

    def __str__(self) -> str:
        origin = "assumed data" if self.is_assumed else "collected data"
        return (
            f"{origin}: {self.sft_examples:,} examples, {self.pairs:,} pairs, "
            f"{self.prompts:,} prompts; prompts of {self.prompt.mean:.0f} tokens, 99 % up to "
            f"{self.prompt.most:,}; answers of {self.response.mean:.0f}, 99 % up to "
            f"{self.response.most:,}"
        )


# For plans without data: a thousand ratings of conversations with several turns.
ASSUMED = CollectedData(
    sft_examples=1000,
    pairs=1000,
    judge_pairs=400,
    prompts=1000,
    held_out_prompts=250,
    prompt=Lengths(300.0, 2048),
    response=Lengths(250.0, 1024),
    distinct_ids=20_000,
    mix_tokens=128,
    is_assumed=True,
)


# Before the snapshot of a run: what does not fit with these fits with no data.
SHORTEST = replace(ASSUMED, prompt=Lengths(32.0, 64), response=Lengths(32.0, 64))


def collected_from(fields: Mapping[str, Any]) -> CollectedData:
    """Return the data from its fields, as `config.json` of a run has them."""
    lengths = {name: Lengths(**fields[name]) for name in ("prompt", "response")}
    return CollectedData(**{**fields, **lengths})


def measure_data(sets: TrainingSets, model_directory: Path) -> CollectedData:
    """Measure sets with the tokenizer and the chat template of a model.

    Raises:
        ChatError: the model has no usable tokenizer or chat template.
    """
    chat, seen = load_chat(model_directory), set[int]()

    def prompts(contexts: Iterable[Iterable[Message]]) -> list[int]:
        found = []
        for context in contexts:
            ids = chat.prompt_ids(list(context))
            seen.update(ids)
            found.append(len(ids))
        return found

    def responses(texts: Iterable[str]) -> list[int]:
        found = []
        for text in texts:
            ids = chat.response_ids(text)
            seen.update(ids)
            found.append(len(ids))
        return found

    pairs = [*sets.pairs, *sets.judge_pairs, *sets.held_out_pairs]
    asked = prompts([*sets.prompts, *sets.held_out_prompts])
    answered = responses(line["response"] for line in sets.sft)
    answered += responses(text for pair in pairs for text in (pair.chosen, pair.rejected))
    mixed = zip(
        prompts(anchor.context for anchor in sets.anchors),
        responses(anchor.chosen for anchor in sets.anchors),
        strict=True,
    )
    return CollectedData(
        sft_examples=len(sets.sft),
        pairs=len(sets.pairs),
        judge_pairs=len(sets.judge_pairs),
        prompts=len(sets.prompts),
        held_out_prompts=len(sets.held_out_prompts),
        prompt=_lengths(asked),
        response=_lengths(answered),
        distinct_ids=len(seen),
        mix_tokens=max(map(sum, mixed), default=0),
    )


def _lengths(tokens: list[int]) -> Lengths:
    if not tokens:
        return Lengths(0.0, 0)
    return Lengths(sum(tokens) / len(tokens), sorted(tokens)[math.ceil(SHARE * len(tokens)) - 1])
