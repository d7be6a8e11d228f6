"""Comparison of candidate and incumbent: all measurements of the gate, stored in a folder.

The manifest is written last; a second call reads the stored figures.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from training.artifacts.manifest import MANIFEST, write_manifest
from training.data.chat import Message, load_chat
from training.data.examples import read_prompts, read_texts
from training.data.seeds import seed_of
from training.evaluation.answers import ChatModel, Prompt, SampledAnswer, Sampling, score
from training.figures import (
    SAMPLES,
    Comparison,
    Estimate,
    Probes,
    Samples,
    clustered_mean,
)
from training.model.reward import load_reward_model
from training.runtime.context import Machine
from training.runtime.machine import configure_device

FIGURES = "figures.json"
TIE = 1e-6  # equal answers have equal scores except for rounding


@dataclass(frozen=True)
class EvaluationConfig:
    """Paths and settings of a comparison.

    Each reward model needs its base model (see `load_reward_model`).

    Attributes:
        thumbs: single rated answers of the run; None: the serving of the incumbent is not checked.
    """

    incumbent_directory: Path
    candidate_directory: Path
    reward_model_directory: Path
    reward_model_base: Path
    judge_directory: Path
    judge_base: Path
    held_out_prompts: Path
    held_out_pairs: Path
    retention_texts: Path
    probes: Path
    health_directory: Path
    output_directory: Path
    sampling: Sampling = field(default_factory=Sampling)
    max_prompts: int = 128
    max_texts: int = 64
    probe_samples: int = 4
    machine: Machine = field(default_factory=Machine)
    thumbs: Path | None = None


@dataclass(frozen=True)
class Probe:
    """Question with words of which a correct answer contains at least one.

    Attributes:
        kind: knowledge or refusal.
    """

    kind: str
    messages: tuple[Message, ...]
    expect: tuple[str, ...]


def compare(config: EvaluationConfig) -> Comparison:
    """Compare candidate and incumbent: win rate on held-out prompts, perplexity, probes, length."""
    directory = config.output_directory
    if not (directory / MANIFEST).exists():
        configure_device(config.machine)
        prompts = [row.messages for row in read_prompts(config.held_out_prompts)]
        prompts = sorted(prompts, key=lambda p: seed_of(str(p)))[: config.max_prompts]
        before = _measure(config.incumbent_directory, prompts, config)
        after = _measure(config.candidate_directory, prompts, config)
        wins = _wins(config, prompts, before.answers, after.answers)
        probes = read_probes(config.probes)
        rises = [new - old for new, old in zip(after.bits, before.bits, strict=True)]
        comparison = Comparison(
            win_rate=clustered_mean(wins, [str(answer.prompt) for answer in after.answers]),
            retention=clustered_mean(rises, [str(number) for number in range(len(rises))]),
            knowledge=_change("knowledge", before, after, probes),
            refusals=_change("refusal", before, after, probes),
            candidate=_samples(after.answers),
            incumbent=_samples(before.answers),
        )
        _write_samples(
            directory,
            prompts,
            before.answers,
            after.answers,
            wins,
            config.sampling.samples_per_prompt,
        )
        parents = (
            config.candidate_directory.name,
            config.incumbent_directory.name,
            config.judge_directory.name,
        )
        write_figures(directory, "evaluation", asdict(comparison), parents, config)
    return read_comparison(directory)


def read_comparison(directory: Path) -> Comparison:
    """Read a stored comparison."""
    figures = json.loads((directory / FIGURES).read_text())
    return Comparison(
        win_rate=Estimate(**figures["win_rate"]),
        retention=Estimate(**figures["retention"]),
        knowledge=_read_probes(figures["knowledge"]),
        refusals=_read_probes(figures["refusals"]),
        candidate=Samples(**figures["candidate"]),
        incumbent=Samples(**figures["incumbent"]),
    )


def read_probes(path: Path) -> list[Probe]:
    """Read probes from lines of {"kind", "messages", "expect"}."""
    with path.open() as opened:
        rows = [json.loads(line) for line in opened]
    return [
        Probe(r["kind"], tuple(Message(**m) for m in r["messages"]), tuple(r["expect"]))
        for r in rows
    ]


def write_figures(
    directory: Path,
    kind: str,
    figures: dict[str, Any],
    parents: tuple[str, ...],
    config: EvaluationConfig,
) -> None:
    """Write figures, then the manifest that finishes their directory."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / FIGURES).write_text(json.dumps(figures, indent=2) + "\n")
    seeds = {"sampling": config.sampling.seed}
    write_manifest(
        directory, kind=kind, version=directory.name, parents=parents, config=config, seeds=seeds
    )


def beats(high: float, low: float) -> float:
    """Return 1 if the first score is higher, 0.5 for a tie, otherwise 0."""
    return 0.5 if math.isclose(high, low, abs_tol=TIE) else float(high > low)


@dataclass(frozen=True)
class _Measurements:
    """Measurements of one model.

    Attributes:
        probes: fraction of correct answers to each probe.
    """

    answers: list[SampledAnswer]
    bits: list[float]
    probes: list[float]


def _measure(directory: Path, prompts: Sequence[Prompt], config: EvaluationConfig) -> _Measurements:
    model = ChatModel(directory)
    probes = read_probes(config.probes)
    sampling = config.sampling
    tries = Sampling(**{**asdict(sampling), "samples_per_prompt": config.probe_samples})
    answers = model.answer([probe.messages for probe in probes], tries)
    right = [0.0] * len(probes)
    for answer in answers:
        right[answer.prompt] += (
            _holds(answer.text, probes[answer.prompt].expect) / config.probe_samples
        )
    tokens = sampling.max_prompt_tokens + sampling.max_response_tokens
    texts = read_texts(config.retention_texts)[: config.max_texts]
    return _Measurements(model.answer(prompts, sampling), model.bits(texts, tokens), right)


def _wins(
    config: EvaluationConfig,
    prompts: Sequence[Prompt],
    before: list[SampledAnswer],
    after: list[SampledAnswer],
) -> list[float]:
    """Return 1 where the judge prefers the candidate's answer, and 0.5 for ties."""
    reward, chat = (
        load_reward_model(config.judge_directory, config.judge_base),
        load_chat(config.judge_base),
    )
    tokens = config.sampling.max_prompt_tokens + config.sampling.max_response_tokens
    old, new = (
        score(reward, chat, [(prompts[answer.prompt], answer.text) for answer in some], tokens)
        for some in (before, after)
    )
    return [beats(high, low) for high, low in zip(new, old, strict=True)]


def _change(
    kind: str, before: _Measurements, after: _Measurements, probes: Sequence[Probe]
) -> Probes:
    numbers = [number for number, probe in enumerate(probes) if probe.kind == kind]
    old, new = ([seen.probes[number] for number in numbers] for seen in (before, after))
    change = clustered_mean(
        [b - a for a, b in zip(old, new, strict=True)], [str(number) for number in numbers]
    )
    return Probes(_mean(new), _mean(old), change)


def _samples(answers: Sequence[SampledAnswer]) -> Samples:
    return Samples(_mean([s.tokens for s in answers]), _mean([float(s.ended) for s in answers]))


def _write_samples(
    directory: Path,
    prompts: Sequence[Prompt],
    before: list[SampledAnswer],
    after: list[SampledAnswer],
    wins: list[float],
    each: int,
) -> None:
    """Write the first answer of both models to every prompt, for people to read."""
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / SAMPLES).open("w") as opened:
        for place in range(0, len(after), each):
            asked = [{"role": m.role, "content": m.content} for m in prompts[after[place].prompt]]
            row = {
                "messages": asked,
                "before": before[place].text,
                "after": after[place].text,
                "win": wins[place],
            }
            opened.write(json.dumps(row) + "\n")


def _read_probes(figures: dict[str, Any]) -> Probes:
    return Probes(figures["candidate"], figures["incumbent"], Estimate(**figures["change"]))


def _holds(text: str, expected: Sequence[str]) -> bool:
    letters = "".join(c if c.isalnum() or c == "'" else " " for c in text.casefold())
    words = f" {' '.join(letters.split())} "
    return any(f" {word.casefold()} " in words for word in expected)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
