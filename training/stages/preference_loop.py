"""The loop that DPO and KTO share: optimizer steps, and measurements on held-out prompts.

Training stops if responses collapse. The losses for pairs and for thumbs are in dpo.py and kto.py.
Each step is a function of the previous state and of (seed, step), so an interrupted run resumes
with the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Generic, Protocol, Self, TypeVar

from training.data.seeds import rows_of_step, steps_for
from training.data.tensors import TokenisedExample
from training.errors import ConfigError
from training.model.config import read_config
from training.model.vocabulary import VocabularyMap, choose_rows
from training.optim.learner import Learner
from training.parallelism.layout import gathered
from training.rl.config import WatchConfig
from training.rl.reference import PolicyAndReference, Watch
from training.runtime.context import Progress, RunContext, Sample
from training.runtime.machine import Autocast, sampling_threads
from training.runtime.training_state import TrainingState
from training.stages.config import PreferenceConfig

SHOWN_PROMPTS = 4  # held-out prompts whose answers the report shows


class Row(Protocol):
    """A rated response, or two compared responses to one prompt."""

    @property
    def examples(self) -> Sequence[TokenisedExample]:
        """Return the responses, each with its prompt."""

    def to_dense(self, vocabulary: VocabularyMap) -> Self:
        """Return the same row in dense ids."""


R = TypeVar("R", bound=Row)


@dataclass(frozen=True)
class Preferences(Generic[R]):
    """Data of a run, split once by prompt, in training ids. `decode` turns these ids into text."""

    train: list[R]
    held_out: list[R]
    stop_ids: tuple[int, ...]
    dropped_too_long: int = 0
    contexts_shortened: int = 0
    vocabulary: VocabularyMap | None = None
    decode: Callable[[Sequence[int]], str] = str

    def trimmed(self, model_directory: Path, vocabulary_rows: int) -> Self:
        """Return the same data in dense ids of a vocabulary with this number of rows."""
        examples = [example for row in (*self.train, *self.held_out) for example in row.examples]
        used = {
            *self.stop_ids,
            *(i for example in examples for i in (*example.prompt, *example.response)),
        }
        vocabulary = choose_rows(used, read_config(model_directory).vocab_size, vocabulary_rows)
        train, held_out = (
            [row.to_dense(vocabulary) for row in part] for part in (self.train, self.held_out)
        )
        stop_ids = tuple(vocabulary.narrow(self.stop_ids))
        dense = replace(
            self, train=train, held_out=held_out, stop_ids=stop_ids, vocabulary=vocabulary
        )
        return replace(dense, decode=lambda ids: self.decode(vocabulary.widen(ids)))


def watched_prompts(
    data: Preferences[R], config: WatchConfig, positions: int
) -> list[tuple[int, ...]]:
    """Return the first held-out prompts with enough positions for a response.

    Raises:
        ConfigError: no prompt has enough positions.
    """
    prompts = list(dict.fromkeys(row.examples[0].prompt for row in data.held_out))
    fitting = [
        prompt for prompt in prompts if len(prompt) + config.max_response_tokens <= positions
    ]
    if not fitting:
        raise ConfigError(
            f"watch.max_response_tokens: {config.max_response_tokens} after any of the "
            f"{len(prompts)} held-out prompts exceeds the {positions} positions of the model",
            field="watch.max_response_tokens",
            reason="TOO_LARGE",
            limit=f"at most {positions} with a prompt",
        )
    return fitting[: config.prompts]


def train_on_preferences(
    data: Preferences[R],
    models: PolicyAndReference,
    batch_rows: int,
    learn: Callable[[Sequence[R]], dict[str, float]],
    evaluate_held_out: Callable[[], dict[str, float]],
    stage: str,
    config: PreferenceConfig,
    context: RunContext,
    autocast: Autocast,
) -> tuple[dict[str, float], str]:
    """Train the policy until all steps are done or responses collapse.

    After a collapse the last healthy weights are restored.

    Args:
        batch_rows: rows per step, all workers together.
        learn: adds the gradient of the rows of a step, of which each worker takes its share;
            returns figures of all ranks, including `loss`.
        evaluate_held_out: returns figures of the policy on held-out rows.

    Returns:
        figures of the final policy, including `step`; and the reason for an early stop, or "".
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

    def evaluate(step: int) -> dict[str, float]:
        figures = evaluate_held_out()
        with sampling_threads(config.machine), gathered(models.policy.decoder):
            sample_figures, rollout = watch.look(models, context.ranks, autocast)
        for prompt, response in rollout.read(data.decode, SHOWN_PROMPTS):
            context.samples(Sample(stage, step, prompt, response))
        return figures | sample_figures

    if checkpoint := context.checkpoints.latest():
        numbers = state.read(checkpoint)
    else:
        numbers = {"step": 0, **evaluate(0)}
        numbers["response_tokens_before"] = numbers["response_tokens"]
        context.checkpoints.save(0, partial(state.write, numbers=numbers))

    write_state = partial(state.write, numbers=numbers)
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
            figures = evaluate(step + 1)
            metrics |= figures
            if reason := watch.alarm(numbers["response_tokens_before"], figures):
                context.progress(Progress(stage, step + 1, total_steps, metrics))
                healthy = context.checkpoints.latest(before=step + 1)
                return (state.read(healthy) if healthy else numbers), f"step {step + 1}: {reason}"
            numbers.update(figures)
            context.checkpoints.save(step + 1, write_state)
        context.progress(Progress(stage, step + 1, total_steps, metrics))
        context.stop_if_requested(stage, step + 1, write_state, saved=due)
    return numbers, ""
