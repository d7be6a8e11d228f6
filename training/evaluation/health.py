"""Health of the reward models, measured as a stage before PPO.

The checks cover the agreement of thumbs, the accuracy of reward model and judge, and the match
between the served incumbent and the incumbent in training, by log-probs of its rated answers. PPO
starts only if every check passed: a reward model that is no better than chance stops the run.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from training.artifacts.manifest import Manifest, read_manifest
from training.data.chat import load_chat
from training.data.examples import PairExample, read_pairs, read_thumbs
from training.data.feedback.sources import Source
from training.evaluation.answers import WIDE, score
from training.evaluation.comparison import FIGURES, write_figures
from training.evaluation.config import EvaluationConfig
from training.evaluation.gate import Check, GateConfig, Result, decide
from training.evaluation.judges import beats
from training.figures import Estimate, clustered_mean
from training.model.backbone import Backbone
from training.model.checkpoint import load_decoder
from training.model.placement import Place, Placement
from training.model.reward import load_reward_model
from training.parallelism.layout import arrange_context, distribute
from training.rl.config import OffPolicyConfig
from training.rl.served import UNFIT_SHARE, figures_of, measure, read_answer
from training.runtime.context import Parallelism, RunContext
from training.runtime.machine import Autocast, configure_device, stores_narrow

# With about 14 tokens per answer the standard error is a twentieth of the mean (small model in 8
# bits).
MOST_ANSWERS = 64
BATCH_ROWS = 8
ONE_SIDED_99 = 2.326
# Sources of pairs that a person compared directly.
DIRECT_SOURCES = frozenset({Source.ARENA, Source.RANKING})


@dataclass(frozen=True)
class ServingMismatch:
    """Difference between the served incumbent and the incumbent here, by log-probs of its answers.

    Attributes:
        answers: answers of the incumbent with a sample.
        unfit: answers whose prompt or text differs under the tokenizer and template here.
        mismatch: mean |difference| of a token's log-prob in nats over matching answers; None
            without any.
    """

    answers: int
    unfit: int
    mismatch: float | None

    def text(self) -> str:
        """Describe the difference in a single line."""
        apart = (
            "no matching answers"
            if self.mismatch is None
            else f"{self.mismatch:.2g} nats per token"
        )
        return f"{apart}, {self.unfit} of {self.answers} answers unfit"


@dataclass(frozen=True)
class Health:
    """Accuracy of both reward models on unseen prompts, and difference of the served incumbent.

    `compared` is the judge's accuracy on votes and rankings alone, None without any.
    """

    reward_model: Estimate
    judge: Estimate
    served: ServingMismatch | None = None
    compared: Estimate | None = None

    def text(self) -> str:
        """Describe the health in a single line."""
        served = f", served {self.served.text()}" if self.served else ""
        compared = f" ({self.compared.text()} on votes)" if self.compared else ""
        judge = f"judge {self.judge.text()}{compared}"
        return f"reward model {self.reward_model.text()}, {judge}{served}"


@dataclass(frozen=True)
class HealthConfig:
    """Settings of the health stage.

    Attributes:
        label_noise: fraction of thumbs that contradict others; None if unknown.
        ceiling: highest possible accuracy on held-out pairs; None if unknown.
    """

    evaluation: EvaluationConfig
    gate: GateConfig
    label_noise: float | None
    ceiling: float | None

    @property
    def output_directory(self) -> Path:
        return self.evaluation.health_directory

    def checks(self) -> list[Check]:
        """Return the rows of the gate's table that are known before PPO.

        The health must have been measured.
        """
        health = read_health(self.output_directory)
        return [
            *check_labels(self.label_noise, self.gate),
            *check_served(health.served, self.gate),
            *check_reward_model("reward model", health.reward_model, self.ceiling, self.gate),
            *check_reward_model("judge", health.judge, self.ceiling, self.gate),
            *check_compared(health.compared, self.gate),
        ]

    def passed(self) -> bool:
        """Return True if all checks passed."""
        return decide(self.checks()).passed


def run(config: HealthConfig, context: RunContext) -> Manifest:
    """Measure, write output_directory, and return its manifest (kind "health").

    Rank 0 measures. A model too large for one accelerator is divided over all ranks, which then
    compute the same.
    """
    evaluation = config.evaluation
    autocast = configure_device(evaluation.machine)
    place: Place = Placement(stores_narrow(autocast)).place
    ranks, is_divided = context.ranks, evaluation.devices > 1 and context.ranks.world_size > 1
    if is_divided:
        shards = Parallelism(shard=ranks.world_size)
        arranged = arrange_context(shards, context, autocast).ranks
        place = partial(distribute, ranks=arranged)
    # All ranks wait before rank 0 writes: a late rank would find the output, skip the stage, and
    # leave rank 0 waiting.
    ranks.wait()
    if ranks.rank == 0 or is_divided:
        health = measure_health(evaluation, place, autocast)
        if ranks.rank == 0:
            parents = (evaluation.reward_model_directory.name, evaluation.judge_directory.name)
            directory = evaluation.health_directory
            write_figures(directory, "health", asdict(health), parents, evaluation)
    ranks.wait()
    return read_manifest(config.output_directory)


def measure_health(config: EvaluationConfig, place: Place, autocast: Autocast) -> Health:
    """Measure the accuracy of reward model and judge on held-out pairs, and the served answers."""
    pairs = read_pairs(config.held_out_pairs)
    tokens = config.sampling.max_prompt_tokens + config.sampling.max_response_tokens
    prompt_ids = [pair.prompt_id for pair in pairs]
    of_judge = correct(config.judge_directory, config.judge_base, pairs, tokens, place)
    compared = [
        (right, pair.prompt_id)
        for right, pair in zip(of_judge, pairs, strict=True)
        if pair.source in DIRECT_SOURCES
    ]
    return Health(
        accuracy(config.reward_model_directory, config.reward_model_base, pairs, tokens, place),
        clustered_mean(of_judge, prompt_ids),
        measure_served(config.incumbent_directory, config.thumbs, place, autocast)
        if config.thumbs
        else None,
        clustered_mean(*zip(*compared, strict=True)) if compared else None,
    )


def measure_served(
    incumbent: Path, thumbs: Path, place: Place, autocast: Autocast
) -> ServingMismatch | None:
    """Measure the difference; None if no rated answer of the incumbent has a sample."""
    own = [
        row for row in read_thumbs(thumbs) if row.served and row.served.version == incumbent.name
    ][:MOST_ANSWERS]
    if not own:
        return None
    chat = load_chat(incumbent)
    answers = [read_answer(row.served, row.messages, row.response, chat) for row in own]
    fitting = [answer for answer in answers if not answer.unfit]
    if not fitting:
        return ServingMismatch(len(own), len(own), None)
    decoder = load_decoder(incumbent).requires_grad_(False)
    place(decoder)
    measured = measure(Backbone(decoder), fitting, BATCH_ROWS, autocast)
    figures = figures_of(measured, OffPolicyConfig())[incumbent.name]
    return ServingMismatch(len(own), len(own) - len(fitting), figures["mismatch"])


def read_health(directory: Path) -> Health:
    """Read the measurements from a folder."""
    figures = json.loads((directory / FIGURES).read_text())
    # Missing in runs of earlier versions.
    served, compared = figures.get("served"), figures.get("compared")
    return Health(
        Estimate(**figures["reward_model"]),
        Estimate(**figures["judge"]),
        ServingMismatch(**served) if served else None,
        Estimate(**compared) if compared else None,
    )


def accuracy(
    directory: Path,
    base: Path,
    pairs: Sequence[PairExample],
    max_tokens: int,
    place: Place = WIDE,
) -> Estimate:
    """Return the fraction of pairs in which the chosen answer scores higher; a tie counts half."""
    right = correct(directory, base, pairs, max_tokens, place)
    return clustered_mean(right, [pair.prompt_id for pair in pairs])


def correct(
    directory: Path,
    base: Path,
    pairs: Sequence[PairExample],
    max_tokens: int,
    place: Place = WIDE,
) -> list[float]:
    """Return for each pair 1 if the chosen answer scores higher, 0.5 for a tie, else 0."""
    reward, chat = load_reward_model(directory, base), load_chat(base)
    place(reward.scalar.backbone.decoder)
    chosen = score(reward, chat, [(pair.messages, pair.chosen) for pair in pairs], max_tokens)
    rejected = score(reward, chat, [(pair.messages, pair.rejected) for pair in pairs], max_tokens)
    return [beats(high, low) for high, low in zip(chosen, rejected, strict=True)]


def check_labels(noise: float | None, config: GateConfig) -> list[Check]:
    """Check that several thumbs on an answer agree more than by chance."""
    if noise is None:
        return []
    passed = noise <= config.max_label_noise
    limit = f"at most {config.max_label_noise:.2f}"
    return [
        Check(
            "label noise",
            f"{noise:.3f}",
            limit,
            Result.PASS if passed else Result.FAIL,
            "fraction of thumbs that contradict others",
        )
    ]


def check_reward_model(
    name: str, accuracy: Estimate, ceiling: float | None, config: GateConfig
) -> list[Check]:
    """Check that accuracy on held-out prompts is above chance and near the noise ceiling."""
    low, result = accuracy.low(ONE_SIDED_99), Result.FAIL
    if low > 0.5:
        result = Result.PASS
    elif accuracy.value > 0.5 or accuracy.clusters < 2:
        result = Result.NOT_ENOUGH_DATA
    checks = [
        Check(
            f"{name} beats a coin",
            f"{accuracy.text()} on {accuracy.count} pairs of {accuracy.clusters} prompts",
            f"99 % bound above 0.5 (is {low:.3f})",
            result,
            "the preferences learned from thumbs must generalise to unseen prompts",
        )
    ]
    if ceiling is not None:
        least = ceiling - config.ceiling_gap
        checks.append(
            Check(
                f"{name} near its ceiling",
                accuracy.text(),
                f"at least {least:.3f} within noise; ceiling {ceiling:.3f}",
                # A warning of a poor model, no requirement on the amount of data: the row above is.
                Result.PASS if accuracy.value + 2 * accuracy.error >= least else Result.FAIL,
                "the ceiling is the accuracy of a perfect judge on labels with this noise",
            )
        )
    return checks


def check_compared(compared: Estimate | None, config: GateConfig) -> list[Check]:
    """Check that the judge agrees with votes and rankings on held-out prompts.

    With fewer than `min_items` prompts the row does not count: a few votes must hold no version.
    There is no check without votes and rankings.
    """
    if compared is None:
        return []
    low, result = compared.low(ONE_SIDED_99), Result.FAIL
    if compared.clusters < config.min_items:
        result = Result.UNINFORMATIVE
    elif low > 0.5:
        result = Result.PASS
    elif compared.value > 0.5:
        result = Result.NOT_ENOUGH_DATA
    return [
        Check(
            "judge agrees with votes",
            f"{compared.text()} on {compared.count} pairs of {compared.clusters} prompts",
            f"99 % bound above 0.5 (is {low:.3f}) on at least {config.min_items} prompts",
            result,
            "people who compared two answers directly must agree with the judge",
        )
    ]


def check_served(served: ServingMismatch | None, config: GateConfig) -> list[Check]:
    """Check that the incumbent served the same answers as it gives here.

    There is no check without samples.
    """
    if served is None:
        return []
    near = served.mismatch is not None and served.mismatch <= config.served_mismatch_nats
    fit = served.unfit <= UNFIT_SHARE * served.answers
    limit = f"at most {config.served_mismatch_nats:g} nats, and {UNFIT_SHARE:.0%} unfit"
    why = (
        "the tokenizer, chat template, quantisation or weights that served under the "
        "incumbent's name are different"
    )
    return [
        Check(
            "served as trained",
            served.text(),
            limit,
            Result.PASS if near and fit else Result.FAIL,
            why,
        )
    ]
