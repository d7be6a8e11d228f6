"""Pre-training a decoder from nothing on plain text.

Read `run` from top to bottom; everything else here is a step of it. Texts come as token shards
(data/token_shards.py). The order of rows, samples and first weights are functions of the seed and
the step, so a run that was killed ends with the same bits.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from training.data.chat import Chat, load_chat
from training.data.order import rows_of_step
from training.data.packing import PACKINGS, PackedRows
from training.data.seeds import seed_of
from training.data.token_shards import Shards, TokenStream, open_shards
from training.evaluation.perplexity import measure, surprise_of
from training.manifest import Manifest
from training.model.activation_checkpointing import checkpoint_activations
from training.model.backbone import Backbone
from training.model.checkpoint import save_decoder
from training.model.config import parse_config
from training.model.transformer import Decoder, initialise
from training.optim.adam import OptimizerConfig
from training.optim.learner import Learner
from training.optim.ranks import Ranks
from training.parallelism import Parallelism, arrange_context, assemble, distribute
from training.pipeline import Microbatch, add_gradients, keep_own_layers
from training.ranges import Count, CountOrZero, NonNegative, check_ranges
from training.rl.rollout import CachedEngine
from training.stages.artifact import finished_manifest, publish
from training.stages.context import ConfigError, Lineage, Machine, Progress, RunContext, Sample
from training.stages.machine import Autocast, configure_device, sampling_threads, step_usage
from training.stages.state import TrainingState

STAGE = "pretrain"
OPENING, OPENING_TOKENS = (
    re.compile(r"\S+(?:\s+\S+){0,3}"),
    64,
)  # four words, and tokens that are enough for them


@dataclass(frozen=True)
class SampleConfig:
    """What is sampled at each checkpoint: always with the same seeds, so that samples over time
    differ by the model alone.

    Attributes:
        prompts: beginnings that it goes on with, commas between
        openings: of so many held-out texts, as prompts too; at least 0
        max_tokens: of each continuation, at least 1
        temperature: of sampling, at least 0; 0: the likeliest token
    """

    prompts: tuple[str, ...] = ()
    openings: CountOrZero = 0
    max_tokens: Count = 64
    temperature: NonNegative = 0.8

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True)
class PretrainConfig:
    """shards_directory: of training.data.token_shards. model_json: config.json to build
    (training.model.config.llama_json).

    Attributes:
        steps: of the optimizer, in the whole run; at least 1
        batch_rows: rows a step, all workers together; at least 1
        microbatch_rows: rows in one forward, at least 1; fewer take less memory, and change nothing
            else
        context_tokens: of a row, at least 2, and at most what the model's positions allow
        packing: documents: a token sees its own text alone; stream: a text may see the ones before
            it
        optimizer: of all that learns
        checkpoint_activations: compute blocks again in the backward pass: less memory, more time
        evaluate_every_steps: steps from one measurement of bits per byte to the next, at least 1;
            none: never
        evaluation_tokens: of the held-out texts, the first ones, that are measured; at least 1
        samples: what is written at each checkpoint
        checkpoint_every_steps: steps from one checkpoint to the next, at least 1
        seed: of the order of rows, and of all that is drawn
        machine: threads, number type and device
        parallelism: how workers share the model
    """

    tokenizer_directory: Path  # tokenizer.json and its companions
    shards_directory: Path
    output_directory: Path
    lineage: Lineage
    model_json: Mapping[str, Any]
    steps: Count = 1000
    batch_rows: Count = 32
    microbatch_rows: Count = 32
    context_tokens: Count = 128
    packing: str = "documents"
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    checkpoint_activations: bool = False
    evaluate_every_steps: Count | None = None
    evaluation_tokens: Count = 1 << 16
    samples: SampleConfig = field(default_factory=SampleConfig)
    checkpoint_every_steps: Count = 200
    seed: int = 0
    machine: Machine = field(default_factory=Machine)
    parallelism: Parallelism = field(default_factory=Parallelism)

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.packing not in PACKINGS:
            known = ", ".join(PACKINGS)
            raise ConfigError(
                f"packing: {self.packing!r} is not one of {known}",
                field="packing",
                reason="UNKNOWN",
                limit=known,
            )
        if self.parallelism.pipeline > 1 and (self.samples.prompts or self.samples.openings):
            raise ConfigError(
                "samples: a token runs through all layers before the next, which a pipeline does not do",
                field="samples",
                reason="CONFLICT",
            )
        longest = parse_config(self.model_json).max_positions
        if not 2 <= self.context_tokens <= longest:
            raise ConfigError(
                f"context_tokens: {self.context_tokens} is not in [2, {longest}], the model's positions",
                field="context_tokens",
                reason="OUT_OF_RANGE",
                limit=f"in [2, {longest}]",
            )


@dataclass(frozen=True)
class Data:
    """Rows to learn from, rows to be measured by, and what begins a document."""

    train: PackedRows
    held_out: PackedRows
    begin_ids: tuple[int, ...]


def run(config: PretrainConfig, context: RunContext) -> Manifest:
    """Train, write output_directory, and return its manifest (kind "model").

    Progress metrics: loss, learning_rate, gradient_norm, tokens (predicted in the step),
    tokens_per_second, memory_bytes; bits_per_byte of held-out texts where they are measured.
    Report: documents, tokens and bytes in the data, left_over_tokens, steps, loss (of the last
        step), bits_per_byte, parameters.

    Raises:
        NonFiniteError: loss and gradient are NaN or infinite; the last checkpoint is the last good
            one.
    """
    if done := finished_manifest(config.output_directory):
        return done
    autocast = configure_device(config.machine)
    context = arrange_context(config.parallelism, context, autocast, batch_rows=config.batch_rows)
    data = open_data(config)
    with torch.device("cpu"):
        decoder = Decoder(parse_config(config.model_json))
    initialise(decoder, seed_of(config.seed, "weights"))
    if config.checkpoint_activations:
        checkpoint_activations(decoder)
    count = sum(parameter.numel() for parameter in decoder.parameters())
    keep_own_layers(decoder, context.ranks)
    distribute(decoder, context.ranks)
    learner = Learner(
        list(decoder.named_parameters()), config.optimizer, config.steps, context.ranks
    )
    state = TrainingState({"model": learner.named}, {"model": learner.optimizer}, context.ranks)

    checkpoint = context.checkpoints.latest()
    numbers = state.read(checkpoint) if checkpoint else {"step": 0, "loss": 0.0}
    keep = partial(state.write, numbers=numbers)
    for step in range(int(numbers["step"]), config.steps):
        started, last = time.perf_counter(), step + 1 == config.steps
        rows = rows_of_step(step, config.batch_rows, len(data.train), config.seed)
        loss, tokens = accumulate(
            decoder, data.train, rows, config.microbatch_rows, autocast, context.ranks
        )
        moved = learner.step(step, f"step {step + 1}, loss {loss:.4g}")
        numbers.update(step=step + 1, loss=loss)
        metrics = {"loss": loss, **moved, "tokens": float(tokens), **step_usage(tokens, started)}
        if config.evaluate_every_steps and (last or (step + 1) % config.evaluate_every_steps == 0):
            surprise = measure(
                decoder, data.held_out, config.microbatch_rows, autocast, context.ranks
            )
            metrics["bits_per_byte"] = numbers["bits_per_byte"] = surprise.bits_per_byte
        due = last or (step + 1) % config.checkpoint_every_steps == 0
        if due:
            for sample in write_samples(decoder, data, step + 1, config, autocast):
                context.samples(sample)
            context.checkpoints.save(step + 1, keep)
        context.progress(Progress(STAGE, step + 1, config.steps, metrics))
        context.stop_if_requested(STAGE, step + 1, keep, kept=due)

    assemble(decoder, context.ranks)
    return publish(
        config,
        context,
        lambda: save_decoder(
            decoder, config.output_directory, companions_from=config.tokenizer_directory
        ),
        kind="model",
        parents=(),
        report={
            "documents": data.train.stream.documents,
            "tokens": data.train.stream.tokens,
            "bytes": data.train.stream.bytes,
            "left_over_tokens": data.train.left_over_tokens,
            "parameters": count,
            "steps": config.steps,
            **{name: numbers[name] for name in ("loss", "bits_per_byte") if name in numbers},
        },
    )


def open_data(config: PretrainConfig) -> Data:
    """The shards as rows.

    Raises:
        ShardError: they are not what the config says.
        ConfigError: there is no row to learn from, nothing to measure by, an id that the model has
            not, or nothing to sample from.
    """
    shards: Shards = open_shards(config.shards_directory, config.tokenizer_directory)
    known = parse_config(config.model_json).vocab_size
    if shards.vocabulary > known:
        raise ConfigError(
            f"model_json: vocab_size {known}, but the tokenizer has {shards.vocabulary} ids",
            field="model_json.vocab_size",
            reason="TOO_SMALL",
            limit=f"at least {shards.vocabulary}",
        )
    train = PackedRows(shards.train, config.context_tokens, config.packing)
    if len(train) == 0:
        raise ConfigError(
            f"context_tokens: {config.context_tokens}, but the data has {shards.train.tokens} tokens",
            field="context_tokens",
            reason="TOO_LARGE",
            limit=f"at most {shards.train.tokens}",
        )
    if config.evaluate_every_steps and shards.held_out.documents == 0:
        raise ConfigError(
            f"evaluate_every_steps: {config.evaluate_every_steps}, but no document is held out",
            field="evaluate_every_steps",
            reason="EMPTY",
        )
    if config.evaluate_every_steps and not shards.begin_ids:
        raise ConfigError(
            f"evaluate_every_steps: {config.evaluate_every_steps}, but the shards' documents begin without a token of their "
            "own: their first tokens are never predicted, so bits per byte would be too low",
            field="evaluate_every_steps",
            reason="CONFLICT",
        )
    if "" in config.samples.prompts and not shards.begin_ids:
        raise ConfigError(
            "samples: an empty prompt, but the shards' documents begin without a token of their own",
            field="samples.prompts",
            reason="EMPTY",
        )
    held_out = shards.held_out.first(config.evaluation_tokens)
    return Data(train, PackedRows(held_out, config.context_tokens, "documents"), shards.begin_ids)


def accumulate(
    decoder: Decoder,
    data: PackedRows,
    rows: Sequence[int],
    microbatch_rows: int,
    autocast: Autocast,
    ranks: Ranks,
) -> tuple[float, int]:
    """Add the gradient of these rows' loss; return the loss of all ranks together, and how many
    tokens it is the mean of.
    """
    mine = ranks.share(rows)
    batches = [
        data.batch(mine[start : start + microbatch_rows])
        for start in range(0, len(mine), microbatch_rows)
    ]
    tokens = int(ranks.sum(torch.tensor(sum(int(batch.learned_BT.sum()) for batch in batches))))
    parts = [
        Microbatch(
            batch.ids_BT,
            batch.mask_BT,
            partial(surprise_of, decoder, batch=batch, chosen_BT=batch.learned_BT, over=tokens),
        )
        for batch in batches
    ]
    return float(ranks.sum(add_gradients(Backbone(decoder), parts, autocast, ranks))), tokens


def openings(texts: TokenStream, count: int, chat: Chat) -> Iterator[str]:
    """How the first of these texts begin, as a person would begin them: a few words each."""
    for begin, end in list(pairwise(texts.token_begins.tolist()))[:count]:
        if words := OPENING.match(
            chat.decode(texts.read(begin, min(end, begin + OPENING_TOKENS)).tolist())
        ):
            yield words[0]


def write_samples(
    decoder: Decoder, data: Data, step: int, config: PretrainConfig, autocast: Autocast
) -> Iterator[Sample]:
    """What the model makes of each prompt, computed as it is trained. Every rank samples: where the
    model is shared out, all are needed.
    """
    chat = load_chat(config.tokenizer_directory)
    begun = openings(data.held_out.stream, config.samples.openings, chat)
    prompts = list(dict.fromkeys((*config.samples.prompts, *begun)))
    if not prompts:
        return
    ids = [
        [*data.begin_ids, *chat.response_ids(prompt)[:-1]] for prompt in prompts
    ]  # a beginning: nothing ends it
    engine = CachedEngine(Backbone(decoder), chat.stop_ids)
    seeds = [seed_of(config.seed, "sample", place) for place in range(len(prompts))]
    with sampling_threads(config.machine), autocast():
        rollout = engine.sample(
            ids, 1, config.samples.max_tokens, config.samples.temperature, seeds
        )
    for prompt, response, mask in zip(
        prompts, rollout.response_ids_BR, rollout.response_mask_BR, strict=True
    ):
        yield Sample(STAGE, step, prompt, chat.decode(response[mask.bool()].tolist()))
