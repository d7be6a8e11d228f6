"""Pre-train a decoder with random initial weights on plain text.

Read `run` from top to bottom; the other functions are its parts. Texts come as token shards
(data/token_shards.py). The order of rows, the samples and the initial weights are functions of the
seed and the step, so an interrupted run ends with the same bits.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import torch

from training.artifacts.manifest import Manifest, finished_manifest, read_manifest
from training.data.chat import Chat, load_chat
from training.data.packing import PackedRows
from training.data.seeds import rows_of_step, seed_of
from training.data.token_shards import (
    SHARDS_HASH,
    Shards,
    TokenStream,
    open_shards,
    shards_hash,
)
from training.errors import ConfigError
from training.model.activation_checkpointing import checkpoint_activations
from training.model.backbone import Backbone
from training.model.checkpoint import save_decoder
from training.model.config import parse_config
from training.model.transformer import Decoder, initialise
from training.optim.learner import Learner
from training.parallelism.layout import arrange_context, assemble, distribute
from training.parallelism.pipeline import Microbatch, add_gradients, keep_own_layers
from training.rl.rollout import CachedEngine, SampleRequest
from training.runtime.context import Progress, RunContext, Sample
from training.runtime.machine import Autocast, configure_device, sampling_threads, step_usage
from training.runtime.ranks import Ranks
from training.runtime.training_state import TrainingState
from training.stages.artifact import publish
from training.stages.perplexity import measure, surprise_of
from training.stages.pretrain_config import PretrainConfig, nothing_held_out

STAGE = "pretrain"
OPENING = re.compile(r"\S+(?:\s+\S+){0,3}")  # four words
OPENING_TOKENS = 64  # enough for four words


@dataclass(frozen=True)
class Data:
    """Training rows, rows for evaluation, and the ids at the beginning of a document."""

    train: PackedRows
    held_out: PackedRows
    begin_ids: tuple[int, ...]


def run(config: PretrainConfig, context: RunContext) -> Manifest:
    """Train, write output_directory, and return its manifest (kind "model").

    Progress metrics: loss, learning_rate, gradient_norm, tokens (predicted in the step),
    tokens_per_second, memory_bytes; bits_per_byte of held-out texts when measured.

    Report: documents, tokens and bytes in the data, left_over_tokens, held_out_documents (that are
    measured), steps, loss (of the last step), bits_per_byte, parameters.

    Raises:
        NonFiniteError: loss or gradient is NaN or infinite; the last checkpoint is the last good
            state.
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
    write_state = partial(state.write, numbers=numbers)
    for step in range(int(numbers["step"]), config.steps):
        started, last = time.perf_counter(), step + 1 == config.steps
        rows = rows_of_step(step, config.batch_rows, len(data.train), config.seed)
        loss, tokens = accumulate(
            decoder, data.train, rows, config.microbatch_rows, autocast, context.ranks
        )
        step_figures = learner.step(step, f"step {step + 1}, loss {loss:.4g}")
        numbers.update(step=step + 1, loss=loss)
        metrics = {
            "loss": loss,
            **step_figures,
            "tokens": float(tokens),
            **step_usage(tokens, started),
        }
        if config.evaluate_every_steps and (last or (step + 1) % config.evaluate_every_steps == 0):
            surprise = measure(
                decoder, data.held_out, config.microbatch_rows, autocast, context.ranks
            )
            metrics["bits_per_byte"] = numbers["bits_per_byte"] = surprise.bits_per_byte
        due = last or (step + 1) % config.checkpoint_every_steps == 0
        if due:
            for sample in write_samples(decoder, data, step + 1, config, autocast):
                context.samples(sample)
            context.checkpoints.save(step + 1, write_state)
        context.progress(Progress(STAGE, step + 1, config.steps, metrics))
        context.stop_if_requested(STAGE, step + 1, write_state, saved=due)

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
            "held_out_documents": data.held_out.stream.documents,
            "parameters": count,
            "steps": config.steps,
            **{name: numbers[name] for name in ("loss", "bits_per_byte") if name in numbers},
        },
        data={
            "shards": config.shards_directory.name,
            SHARDS_HASH: shards_hash(config.shards_directory),
        },
    )


def open_data(config: PretrainConfig) -> Data:
    """Open the shards as rows.

    Raises:
        ShardError: the shards differ from the config.
        ConfigError: the data has no training row, nothing for evaluation, an id outside the
            vocabulary, or no start token for sampling.
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
            f"context_tokens: {config.context_tokens} exceeds the {shards.train.tokens} tokens of "
            "the data",
            field="context_tokens",
            reason="TOO_LARGE",
            limit=f"at most {shards.train.tokens}",
        )
    if config.evaluate_every_steps and shards.held_out.documents == 0:
        share = read_manifest(config.shards_directory).config["held_out_fraction"]
        raise nothing_held_out(shards.train.documents, share)
    if config.evaluate_every_steps and not shards.begin_ids:
        raise ConfigError(
            f"evaluate_every_steps: {config.evaluate_every_steps}, but the documents of the shards "
            "have no start token: their first tokens are never predicted, so bits per byte would "
            "be too low",
            field="evaluate_every_steps",
            reason="CONFLICT",
        )
    if "" in config.samples.prompts and not shards.begin_ids:
        raise ConfigError(
            "samples: an empty prompt needs shards with a start token",
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
    """Add the gradient of the loss of these rows.

    Returns:
        the mean loss of all ranks together, and the number of predicted tokens.
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
    """Yield the first words of these texts, as a user would begin them."""
    for begin, end in list(pairwise(texts.token_begins.tolist()))[:count]:
        if words := OPENING.match(
            chat.decode(texts.read(begin, min(end, begin + OPENING_TOKENS)).tolist())
        ):
            yield words[0]


def write_samples(
    decoder: Decoder, data: Data, step: int, config: PretrainConfig, autocast: Autocast
) -> Iterator[Sample]:
    """Yield a continuation of each prompt, computed with the number type of training.

    Every rank samples: a split model needs all of them.
    """
    chat = load_chat(config.tokenizer_directory)
    text_openings = openings(data.held_out.stream, config.samples.openings, chat)
    prompts = list(dict.fromkeys((*config.samples.prompts, *text_openings)))
    if not prompts:
        return
    # Without the end token, as the model continues the prompt.
    ids = [[*data.begin_ids, *chat.response_ids(prompt)[:-1]] for prompt in prompts]
    engine = CachedEngine(Backbone(decoder), chat.stop_ids)
    seeds = [seed_of(config.seed, "sample", index) for index in range(len(prompts))]
    with sampling_threads(config.machine), autocast():
        rollout = engine.sample(
            SampleRequest.of(ids, 1, config.samples.max_tokens, config.samples.temperature, seeds)
        )
    for prompt, response, mask in zip(
        prompts, rollout.response_ids_BR, rollout.response_mask_BR, strict=True
    ):
        yield Sample(STAGE, step, prompt, chat.decode(response[mask.bool()].tolist()))
