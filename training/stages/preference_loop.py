"""The loop that DPO and KTO are: take a step, now and then look at responses to held-out prompts,
and stop where they collapse. What is learned from a row, pairs or thumbs, stands in dpo.py and
kto.py.

Each step is a function of the state before it and of (seed, step), so a killed run goes on bit by
bit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Generic, Protocol, Self, TypeVar

from training.data.order import rows_of_step, steps_for
from training.data.tensors import TokenisedExample
from training.model.checkpoint import read_config
from training.model.lora import LoraConfig
from training.model.vocabulary import VocabularyMap, choose_rows
from training.optim.adam import OptimizerConfig
from training.optim.learner import Learner
from training.parallelism import Parallelism, gathered
from training.ranges import Count, OpenFraction, Positive, check_ranges
from training.rl.reference import PolicyAndReference, Watch, WatchConfig
from training.stages.context import ConfigError, Lineage, Machine, Progress, RunContext, Sample
from training.stages.machine import Autocast, sampling_threads
from training.stages.state import TrainingState

SHOWN = 4  # held-out prompts whose answers stand on the run's page


@dataclass(frozen=True)
class PreferenceConfig:
    """output_directory becomes a model directory; with `lora` the adapter is merged into it and
    kept apart under adapter/.

    Attributes:
        beta: penalty for leaving the reference, above 0; smaller goes further
        epochs: passes over the rows, at least 1
        max_tokens: of prompt and response together, at least 1; rows with a longer one are dropped
            and counted
        optimizer: of all that learns
        lora: low-rank adapters in place of all weights; none: all weights learn
        vocabulary_rows: train with so many rows of the embedding, at least 1 and what the data
            uses; only with lora; none: all of them
        checkpoint_activations: compute blocks again in the backward pass: less memory, more time
        held_out_fraction: share of the prompts, never of the rows, that is measured and never
            learned; in (0, 1)
        watch: what is sampled at each checkpoint, and when to stop
        checkpoint_every_steps: steps from one checkpoint, and one look at what is held out, to the
            next; at least 1
        seed: of the order of rows, of what is held out, and of all that is drawn
        machine: threads, number type and device
        parallelism: how workers share the policy and its reference
    """

    model_directory: Path  # also the reference
    data_path: Path
    output_directory: Path
    lineage: Lineage
    beta: Positive = 0.1
    epochs: Count = 1
    max_tokens: Count = 512
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    lora: LoraConfig | None = None
    vocabulary_rows: Count | None = None
    checkpoint_activations: bool = False
    held_out_fraction: OpenFraction = 0.1
    watch: WatchConfig = field(default_factory=WatchConfig)
    checkpoint_every_steps: Count = 50
    seed: int = 0
    machine: Machine = field(default_factory=Machine)
    parallelism: Parallelism = field(default_factory=Parallelism)

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.vocabulary_rows is not None and self.lora is None:
            raise ConfigError(
                "vocabulary_rows: only with lora, full training would lose the other rows",
                field="vocabulary_rows",
                reason="CONFLICT",
            )


class Row(Protocol):
    """What somebody said of a response, or of two to one prompt."""

    @property
    def examples(self) -> Sequence[TokenisedExample]:
        """The responses, each after the prompt."""

    def narrowed(self, vocabulary: VocabularyMap) -> Self:
        """The same in dense ids."""


R = TypeVar("R", bound=Row)


@dataclass(frozen=True)
class Preferences(Generic[R]):
    """The data of a run, split once, by prompt, in the ids that the model is trained with. decode:
    those as people read them.
    """

    train: list[R]
    held_out: list[R]
    stop_ids: tuple[int, ...]
    dropped_too_long: int = 0
    vocabulary: VocabularyMap | None = None
    decode: Callable[[Sequence[int]], str] = str

    def trimmed(self, model_directory: Path, vocabulary_rows: int) -> Self:
        """The same in dense ids, of so many rows of the embedding."""
        examples = [example for row in (*self.train, *self.held_out) for example in row.examples]
        used = {
            *self.stop_ids,
            *(i for example in examples for i in (*example.prompt, *example.response)),
        }
        vocabulary = choose_rows(used, read_config(model_directory).vocab_size, vocabulary_rows)
        train, held_out = (
            [row.narrowed(vocabulary) for row in part] for part in (self.train, self.held_out)
        )
        stop_ids = tuple(vocabulary.narrow(self.stop_ids))
        changed = replace(
            self, train=train, held_out=held_out, stop_ids=stop_ids, vocabulary=vocabulary
        )
        return replace(changed, decode=lambda ids: self.decode(vocabulary.widen(ids)))


def watched_prompts(
    data: Preferences[R], config: WatchConfig, positions: int
) -> list[tuple[int, ...]]:
    """The first held-out prompts that leave room for a response.

    Raises:
        ConfigError: none does.
    """
    prompts = list(dict.fromkeys(row.examples[0].prompt for row in data.held_out))
    with_room = [
        prompt for prompt in prompts if len(prompt) + config.max_response_tokens <= positions
    ]
    if not with_room:
        raise ConfigError(
            f"watch.max_response_tokens: {config.max_response_tokens} after any of the {len(prompts)} held-out prompts "
            f"is above {positions}, the model's positions",
            field="watch.max_response_tokens",
            reason="TOO_LARGE",
            limit=f"at most {positions} with a prompt",
        )
    return with_room[: config.prompts]


def train_on_preferences(
    data: Preferences[R],
    models: PolicyAndReference,
    batch_rows: int,
    learn: Callable[[Sequence[R]], dict[str, float]],
    examine: Callable[[], dict[str, float]],
    stage: str,
    config: PreferenceConfig,
    context: RunContext,
    autocast: Autocast,
) -> tuple[dict[str, float], str]:
    """Changes the policy; ends after all steps, or when responses collapse: then with the last
    healthy weights.

    Args:
        batch_rows: a step, all workers together.
        learn: adds the gradient of a step's rows, of which each worker takes its share; returns
            figures of all ranks, `loss` among them.
        examine: figures of the policy on held-out rows.

    Returns:
        figures of the policy as it is now, `step` among them; and why training stopped before its
        end, or "".
    """
    total_steps = steps_for(config.epochs, batch_rows, len(data.train))
    learner = Learner(
        models.policy.named_parameters(), config.optimizer, total_steps, context.ranks
    )
    state = TrainingState({"model": learner.named}, {"model": learner.optimizer}, context.ranks)
    positions = models.policy.decoder.config.max_positions
    watch = Watch(
        config.watch, watched_prompts(data, config.watch, positions), data.stop_ids, config.seed
    )

    def look(step: int) -> dict[str, float]:
        figures = examine()
        with sampling_threads(config.machine), gathered(models.policy.decoder):
            seen, rollout = watch.look(models, context.ranks, autocast)
        for asked, said in rollout.read(data.decode, SHOWN):
            context.samples(Sample(stage, step, asked, said))
        return figures | seen

    if checkpoint := context.checkpoints.latest():
        numbers = state.read(checkpoint)
    else:
        numbers = {"step": 0, **look(0)}
        numbers["response_tokens_before"] = numbers["response_tokens"]
        context.checkpoints.save(0, partial(state.write, numbers=numbers))

    keep = partial(state.write, numbers=numbers)
    for step in range(int(numbers["step"]), total_steps):
        metrics = learn(
            [
                data.train[row]
                for row in rows_of_step(step, batch_rows, len(data.train), config.seed)
            ]
        )
        metrics |= learner.step(step, f"step {step + 1}, loss {metrics['loss']:.4g}")
        numbers["step"] = step + 1
        due = (step + 1) % config.checkpoint_every_steps == 0 or step + 1 == total_steps
        if due:
            figures = look(step + 1)
            metrics |= figures
            if reason := watch.alarm(numbers["response_tokens_before"], figures):
                context.progress(Progress(stage, step + 1, total_steps, metrics))
                healthy = context.checkpoints.latest(before=step + 1)
                return (state.read(healthy) if healthy else numbers), f"step {step + 1}: {reason}"
            numbers.update(figures)
            context.checkpoints.save(step + 1, keep)
        context.progress(Progress(stage, step + 1, total_steps, metrics))
        context.stop_if_requested(stage, step + 1, keep, kept=due)
    return numbers, ""
