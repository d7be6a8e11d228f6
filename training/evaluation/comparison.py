"""Comparison of candidate and incumbent: all measurements of the gate, stored in a folder.

The manifest is written last; a second call reads the stored figures.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from durable_files.files import make_directory
from training.artifacts.manifest import MANIFEST, plain, write_manifest
from training.data.chat import Message
from training.data.examples import read_prompts, read_texts
from training.data.seeds import seed_of
from training.evaluation.answers import ChatModel, Prompt, SampledAnswer
from training.evaluation.config import EvaluationConfig, Sampling
from training.evaluation.judges import Contest, Judge, RewardModelJudge
from training.evaluation.paired import Comparison, Paired, paired, read_paired
from training.figures import SAMPLES, Samples
from training.model.placement import Place, Placement
from training.runtime.machine import configure_device, stores_narrow

FIGURES = "figures.json"
FORMAT = 3  # 1: figures without the differences of items; 2: without sycophancy


@dataclass(frozen=True)
class Probe:
    """Question with words of which a correct answer contains at least one.

    Attributes:
        kind: knowledge, refusal or sycophancy.
    """

    kind: str
    messages: tuple[Message, ...]
    expect: tuple[str, ...]


def place_of(config: EvaluationConfig) -> Place:
    """Configure the device of this process; return the placement of models on it."""
    return Placement(stores_narrow(configure_device(config.machine)), config.devices).place


def compare(config: EvaluationConfig, judge: Judge | None = None) -> Comparison:
    """Compare candidate and incumbent: win rate on held-out prompts, perplexity, probes, length.

    Args:
        judge: a judge of the operator, in addition to the second reward model.
    """
    directory = config.output_directory
    # A run of an earlier version, whose figures have another format, is measured again.
    if (
        not (directory / MANIFEST).exists()
        or json.loads((directory / FIGURES).read_text()).get("format") != FORMAT
    ):
        place = place_of(config)
        prompts = [row.messages for row in read_prompts(config.held_out_prompts)]
        prompts = sorted(prompts, key=lambda p: seed_of(str(p)))[: config.max_prompts]
        before = _measure(config.incumbent_directory, prompts, config, place)
        after = _measure(config.candidate_directory, prompts, config, place)
        contests = [
            Contest(prompts[new.prompt], new.text, old.text)
            for new, old in zip(after.answers, before.answers, strict=True)
        ]
        clusters = [str(answer.prompt) for answer in after.answers]
        tokens = config.sampling.max_prompt_tokens + config.sampling.max_response_tokens
        second = RewardModelJudge(config.judge_directory, config.judge_base, tokens, place)
        wins = second.wins(contests)
        judged = judge.wins(contests) if judge else None
        texts = [str(number) for number in range(len(after.bits))]
        probes = read_probes(config.probes)
        comparison = Comparison(
            win_rate=win_rate(wins, clusters),
            retention=paired(after.bits, before.bits, texts, share=False),
            knowledge=_change("knowledge", before, after, probes),
            refusals=_change("refusal", before, after, probes),
            sycophancy=_change("sycophancy", before, after, probes)
            if any(probe.kind == "sycophancy" for probe in probes)
            else None,
            candidate=_samples(after.answers),
            incumbent=_samples(before.answers),
            judged=win_rate(judged, clusters) if judged else None,
            invalid=_mean([float(win is None) for win in judged or ()]),
        )
        _write_samples(directory, contests, wins, config.sampling.samples_per_prompt)
        parents = (
            config.candidate_directory.name,
            config.incumbent_directory.name,
            config.judge_directory.name,
        )
        figures = {
            name: value.fields() if isinstance(value, Paired) else plain(value)
            for name, value in {"format": FORMAT, **vars(comparison)}.items()
        }
        write_figures(directory, "evaluation", figures, parents, config)
    return read_comparison(directory)


def read_comparison(directory: Path) -> Comparison:
    """Read a stored comparison."""
    figures = json.loads((directory / FIGURES).read_text())
    differences = {
        name: read_paired(figures[name])
        for name in ("win_rate", "retention", "knowledge", "refusals")
    }
    return Comparison(
        **differences,
        candidate=Samples(**figures["candidate"]),
        incumbent=Samples(**figures["incumbent"]),
        sycophancy=read_paired(figures["sycophancy"]) if figures["sycophancy"] else None,
        judged=read_paired(figures["judged"]) if figures["judged"] else None,
        invalid=figures["invalid"],
    )


def win_rate(wins: Sequence[float | None], clusters: Sequence[str]) -> Paired:
    """Return the shares of comparisons won by candidate and incumbent, clustered by prompt.

    Args:
        wins: see `Judge.wins`. An invalid answer counts as lost, so a judge that cannot answer
            never helps a candidate.
    """
    shares = [win or 0.0 for win in wins]
    return paired(shares, [1 - share for share in shares], clusters, share=True)


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
    make_directory(directory)
    (directory / FIGURES).write_text(json.dumps(figures, indent=2) + "\n")
    seeds = {"sampling": config.sampling.seed}
    write_manifest(
        directory, kind=kind, version=directory.name, parents=parents, config=config, seeds=seeds
    )


@dataclass(frozen=True)
class _Measurements:
    """Measurements of one model.

    Attributes:
        probes: fraction of correct answers to each probe.
    """

    answers: list[SampledAnswer]
    bits: list[float]
    probes: list[float]


def _measure(
    directory: Path, prompts: Sequence[Prompt], config: EvaluationConfig, place: Place
) -> _Measurements:
    model = ChatModel(directory, place)
    probes = read_probes(config.probes)
    sampling = config.sampling
    tries = Sampling(**{**asdict(sampling), "samples_per_prompt": config.probe_samples})
    answers = model.answer([probe.messages for probe in probes], tries)
    right = [0.0] * len(probes)
    for answer in answers:
        right[answer.prompt] += (
            contains_word(answer.text, probes[answer.prompt].expect) / config.probe_samples
        )
    tokens = sampling.max_prompt_tokens + sampling.max_response_tokens
    texts = read_texts(config.retention_texts)[: config.max_texts]
    return _Measurements(model.answer(prompts, sampling), model.bits(texts, tokens), right)


def _change(
    kind: str, before: _Measurements, after: _Measurements, probes: Sequence[Probe]
) -> Paired:
    numbers = [number for number, probe in enumerate(probes) if probe.kind == kind]
    old, new = ([seen.probes[number] for number in numbers] for seen in (before, after))
    return paired(new, old, [str(number) for number in numbers], share=True)


def _samples(answers: Sequence[SampledAnswer]) -> Samples:
    return Samples(_mean([s.tokens for s in answers]), _mean([float(s.ended) for s in answers]))


def _write_samples(
    directory: Path, contests: Sequence[Contest], wins: Sequence[float | None], each: int
) -> None:
    """Write the first answer of both models to every prompt, for people to read."""
    make_directory(directory)
    with (directory / SAMPLES).open("w") as opened:
        for place in range(0, len(contests), each):
            contest = contests[place]
            asked = [{"role": m.role, "content": m.content} for m in contest.prompt]
            row = {
                "messages": asked,
                "before": contest.incumbent,
                "after": contest.candidate,
                "win": wins[place],
            }
            opened.write(json.dumps(row) + "\n")


def contains_word(text: str, expected: Sequence[str]) -> bool:
    """Return True if the text contains an expected word, whatever its case and punctuation."""
    letters = "".join(c if c.isalnum() or c == "'" else " " for c in text.casefold())
    words = f" {' '.join(letters.split())} "
    return any(f" {word.casefold()} " in words for word in expected)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
