"""Supervised fine-tuning on responses: prompts are context, without a loss of their own.

Read `run` from top to bottom; the other functions are its parts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from training.artifacts.manifest import Manifest, finished_manifest
from training.data.chat import Chat, load_chat
from training.data.context import fit_context
from training.data.examples import SftExample, read_sft
from training.data.seeds import rows_of_step, seed_of, split_by_key, steps_for
from training.data.tensors import ResponseBatch, TokenisedExample, microbatches
from training.errors import ConfigError
from training.losses.log_probs import response_loss
from training.model.activation_checkpointing import checkpoint_activations
from training.model.backbone import Backbone, trainable_backbone
from training.model.checkpoint import load_decoder, require_positions
from training.model.vocabulary import VocabularyMap, choose_rows, trim_vocabulary
from training.optim.learner import Learner
from training.parallelism.layout import arrange_context, distribute, gathered
from training.parallelism.pipeline import Microbatch, add_gradients, keep_own_layers, total_loss
from training.rl.rollout import CachedEngine, SampleRequest
from training.runtime.context import Progress, RunContext, Sample
from training.runtime.machine import Autocast, configure_device, sampling_threads
from training.runtime.ranks import Ranks
from training.runtime.training_state import TrainingState
from training.stages.artifact import publish_model
from training.stages.config import SftConfig

STAGE = "sft"
SHOWN_PROMPTS = 4  # held-out prompts that are answered before and after training
SHOWN_TOKENS = 64  # of an answer


@dataclass(frozen=True)
class Examples:
    """Data of a run, split once, in training ids. `decode` turns these ids into text."""

    train: list[TokenisedExample]
    held_out: list[TokenisedExample]
    dropped_too_long: int
    dropped_weightless: int
    contexts_shortened: int
    stop_ids: tuple[int, ...]
    decode: Callable[[Sequence[int]], str]


def run(config: SftConfig, context: RunContext) -> Manifest:
    """Train, write output_directory, and return its manifest (kind "model").

    Progress metrics: loss, held_out_loss (at checkpoints), learning_rate, gradient_norm, tokens.

    Report: examples, dropped_too_long, dropped_weightless, contexts_shortened, held_out_examples,
    held_out_loss_before, held_out_loss, steps. The losses are missing without held-out examples.
    """
    if done := finished_manifest(config.output_directory):
        return done
    autocast = configure_device(config.machine)
    context = arrange_context(config.parallelism, context, autocast, batch_rows=config.batch_rows)
    examples = read_examples(config, load_chat(config.model_directory))
    backbone, examples = open_model(config, examples)
    if config.checkpoint_activations:
        checkpoint_activations(backbone.decoder)
    keep_own_layers(backbone.decoder, context.ranks)
    distribute(backbone.decoder, context.ranks)
    total_steps = steps_for(config.epochs, config.batch_rows, len(examples.train))
    learner = Learner(backbone.named_parameters(), config.optimizer, total_steps, context.ranks)
    state = TrainingState({"model": learner.named}, {"model": learner.optimizer}, context.ranks)

    def evaluate() -> dict[str, float]:
        held_out = examples.held_out
        return (
            {"held_out_loss": held_out_loss(backbone, held_out, config, autocast, context.ranks)}
            if held_out
            else {}
        )

    if checkpoint := context.checkpoints.latest():
        numbers = state.read(checkpoint)
    else:
        before = evaluate()
        numbers = {
            "step": 0,
            **before,
            **{f"{name}_before": figure for name, figure in before.items()},
        }
        sample_answers(backbone, examples, 0, config, context)
    write_state = partial(state.write, numbers=numbers)
    for step in range(int(numbers["step"]), total_steps):
        rows = rows_of_step(step, config.batch_rows, len(examples.train), config.seed)
        batch = [examples.train[row] for row in rows]
        weight_total = sum(example.weight * len(example.response) for example in batch)
        microbatched = microbatches(context.ranks.share(batch), config.microbatch_rows)
        loss = accumulate(backbone, microbatched, weight_total, autocast, context.ranks)
        step_figures = learner.step(step, f"step {step + 1}, loss {loss:.4g}")
        metrics = {"loss": loss, **step_figures, "tokens": float(count_tokens(batch))}
        numbers["step"] = step + 1
        due = (step + 1) % config.checkpoint_every_steps == 0 or step + 1 == total_steps
        if due:
            figures = evaluate()
            metrics |= figures
            numbers.update(figures)
            context.checkpoints.save(step + 1, write_state)
        context.progress(Progress(STAGE, step + 1, total_steps, metrics))
        context.stop_if_requested(STAGE, step + 1, write_state, saved=due)

    sample_answers(backbone, examples, total_steps, config, context)
    return publish_model(
        config,
        context,
        backbone,
        report={
            "examples": len(examples.train),
            "dropped_too_long": examples.dropped_too_long,
            "dropped_weightless": examples.dropped_weightless,
            "contexts_shortened": examples.contexts_shortened,
            "held_out_examples": len(examples.held_out),
            "steps": int(numbers.pop("step")),
            **numbers,
        },
    )


def read_examples(config: SftConfig, chat: Chat) -> Examples:
    """Tokenise, shorten contexts, drop examples without weight or too long, and hold out prompts.

    Equal prompts are never split between training and held-out examples.
    """
    require_positions(config.model_directory, max_tokens=config.max_tokens)
    all_rows = read_sft(config.data_path, config.allow_extra_fields)
    weighted = [row for row in all_rows if row.weight > 0]
    if not weighted:
        raise ConfigError(
            f"weight: all {len(all_rows)} examples have weight 0",
            field="weight",
            reason="EMPTY",
        )
    fitting, shortened = fitting_examples(weighted, chat, config.max_tokens)
    if not fitting:
        raise ConfigError(
            f"max_tokens: {config.max_tokens} fits none of {len(weighted)} examples",
            field="max_tokens",
            reason="TOO_SMALL",
        )
    keyed = [(str(example.prompt), example) for example in fitting]
    train, held_out = split_by_key(keyed, config.held_out_fraction, config.seed, {})
    if not train:
        raise ConfigError(
            f"held_out_fraction: {config.held_out_fraction} leaves none of {len(fitting)} examples "
            "to train on",
            field="held_out_fraction",
            reason="EMPTY",
        )
    dropped = (len(weighted) - len(fitting), len(all_rows) - len(weighted))
    return Examples(train, held_out, *dropped, shortened, chat.stop_ids, chat.decode)


def fitting_examples(
    rows: Iterable[SftExample], chat: Chat, most_tokens: int
) -> tuple[list[TokenisedExample], int]:
    """Return the rows that fit, and the number of shortened contexts among them."""
    fitting: list[TokenisedExample] = []
    shortened = 0
    for row in rows:
        response = tuple(chat.response_ids(row.response))
        if prompt := fit_context(chat, row.messages, most_tokens - len(response)):
            fitting.append(TokenisedExample(prompt.ids, response, row.weight))
            shortened += prompt.dropped > 0
    return fitting, shortened


def open_model(config: SftConfig, examples: Examples) -> tuple[Backbone, Examples]:
    """Return the model to train, and the examples in its ids.

    With a trimmed vocabulary these are dense ids.
    """
    decoder = load_decoder(config.model_directory)
    if config.vocabulary_rows is not None:
        all_examples, decode = [*examples.train, *examples.held_out], examples.decode
        used = {
            *examples.stop_ids,
            *(i for example in all_examples for i in (*example.prompt, *example.response)),
        }
        vocabulary = choose_rows(used, decoder.config.vocab_size, config.vocabulary_rows)
        trim_vocabulary(decoder, vocabulary)
        train, held_out = (narrow(part, vocabulary) for part in (examples.train, examples.held_out))
        stop_ids = tuple(vocabulary.narrow(examples.stop_ids))
        examples = replace(
            examples,
            train=train,
            held_out=held_out,
            stop_ids=stop_ids,
            decode=lambda ids: decode(vocabulary.widen(ids)),
        )
    return trainable_backbone(
        decoder, "policy", config.lora, seed_of(config.seed, "lora")
    ), examples


def narrow(
    examples: Sequence[TokenisedExample], vocabulary: VocabularyMap
) -> list[TokenisedExample]:
    """Return the same examples in dense ids."""
    return [example.to_dense(vocabulary) for example in examples]


def accumulate(
    backbone: Backbone,
    batches: Iterable[ResponseBatch],
    weight_total: float,
    autocast: Autocast,
    ranks: Ranks,
) -> float:
    """Add the gradient of the loss of these batches; return the loss of all ranks together."""
    return float(
        ranks.sum(
            add_gradients(
                backbone, to_microbatches(backbone, batches, weight_total), autocast, ranks
            )
        )
    )


def to_microbatches(
    backbone: Backbone, batches: Iterable[ResponseBatch], weight_total: float
) -> list[Microbatch]:
    """Return the batches with their loss functions."""
    return [
        Microbatch(
            batch.ids_BT,
            batch.mask_BT,
            partial(response_loss, backbone.decoder, batch=batch, weight_total=weight_total),
        )
        for batch in batches
    ]


def held_out_loss(
    backbone: Backbone,
    examples: Sequence[TokenisedExample],
    config: SftConfig,
    autocast: Autocast,
    ranks: Ranks,
) -> float:
    """Return the mean loss per response token of the held-out examples."""
    weight_total = sum(example.weight * len(example.response) for example in examples)
    parts = to_microbatches(backbone, microbatches(examples, config.microbatch_rows), weight_total)
    return float(total_loss(backbone, parts, autocast, ranks))


def sample_answers(
    backbone: Backbone, examples: Examples, step: int, config: SftConfig, context: RunContext
) -> None:
    """Sample answers to the first held-out prompts for the report, by the most probable token.

    With pipeline parallelism there are no samples (see pretrain.py).
    """
    positions = backbone.decoder.config.max_positions
    fitting = (example.prompt for example in examples.held_out if len(example.prompt) < positions)
    prompts = list(dict.fromkeys(fitting))[:SHOWN_PROMPTS]
    if not prompts or config.parallelism.pipeline > 1:
        return
    engine = CachedEngine(backbone, examples.stop_ids)
    tokens = min(SHOWN_TOKENS, positions - max(map(len, prompts)))
    # Every worker samples the same answers.
    with sampling_threads(config.machine), gathered(backbone.decoder, in_step=True):
        rollout = engine.sample(SampleRequest.of(prompts, 1, tokens, 0.0, range(len(prompts))))
    for prompt, response in rollout.read(examples.decode, SHOWN_PROMPTS):
        context.samples(Sample(STAGE, step, prompt, response))


def count_tokens(examples: Sequence[TokenisedExample]) -> int:
    """Return the number of tokens of these examples, including prompts."""
    return sum(example.tokens for example in examples)
