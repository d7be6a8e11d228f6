"""Work of a worker in a step of a stage, derived from the config that the stage runs with.

The parts of the work are in step.py. There is one function per kind of stage.
"""

from __future__ import annotations

import math
from dataclasses import replace

from training.data.seeds import steps_for
from training.errors import ConfigError
from training.evaluation.answers import score_rows
from training.evaluation.config import EvaluationConfig
from training.model.config import LoraConfig, ModelConfig
from training.planning.layout import Layout
from training.planning.stage import DataSize, PlannedConfig
from training.planning.step import (
    Network,
    Pass,
    Role,
    Sampled,
    Shared,
    Work,
    adapter_size,
    sizes_of,
)
from training.runtime.context import require_divisible
from training.stages.config import DpoConfig, KtoConfig, RewardModelConfig, SftConfig
from training.stages.policy_config import GrpoConfig, PpoConfig, SftMix
from training.stages.pretrain_config import PretrainConfig


def work_of(config: PlannedConfig, data: DataSize, model: ModelConfig, layout: Layout) -> Work:
    """Return the work of a stage.

    Args:
        model: shape of the model in model_directory; for pre-training that of `model_json`.

    Raises:
        ConfigError: rows that the workers cannot divide evenly, or empty data.
    """
    if not isinstance(config, PretrainConfig) and (data.rows < 1 or data.response_tokens <= 0):
        raise ConfigError(
            f"data: {data.rows} rows with {data.response_tokens:g} response tokens, "
            "both must be above 0",
            field="data",
            reason="EMPTY",
            limit="above 0",
        )
    match config:
        case PretrainConfig():
            work = _pretrain(config, model, layout)
        case PpoConfig() | GrpoConfig():
            work = _policy(config, data, model, layout)
        case _:
            work = _fixed(config, data, model, layout)
    return replace(
        work, narrow=config.machine.dtype != "float32", recomputed=config.checkpoint_activations
    )


def model_of(config: PlannedConfig, model: ModelConfig) -> ModelConfig:
    """Return the trained shape: a trimmed vocabulary has fewer rows."""
    rows = None if isinstance(config, PretrainConfig) else config.vocabulary_rows
    return model if rows is None else replace(model, vocab_size=min(rows, model.vocab_size))


def _pretrain(config: PretrainConfig, model: ModelConfig, layout: Layout) -> Work:
    require_divisible({"batch_rows": config.batch_rows}, layout.ranks)
    width = config.context_tokens
    rows, times = _microbatches(config.batch_rows // layout.data_size, config.microbatch_rows)
    made = Pass("model", True, times, rows, width, width, width, width)
    learns = _learners(model, None, "model")
    return Work(
        model,
        learns,
        (made,),
        config.steps,
        _tokens(made),
        optimizer_numbers=config.optimizer.numbers_per_weight,
    )


def _fixed(
    config: SftConfig | RewardModelConfig | DpoConfig | KtoConfig,
    data: DataSize,
    model: ModelConfig,
    layout: Layout,
) -> Work:
    """Return the work of a stage on fixed texts; both responses of a pair share a forward pass."""
    if isinstance(config, RewardModelConfig | DpoConfig):
        unit, batch, part, texts = "pairs", config.batch_pairs, config.microbatch_pairs, 2
    else:
        unit, batch, part, texts = "rows", config.batch_rows, config.microbatch_rows, 1
    require_divisible({f"batch_{unit}": batch}, layout.ranks)
    model = model_of(config, model)
    units, times = _microbatches(batch // layout.data_size, part)
    name = "reward" if isinstance(config, RewardModelConfig) else "policy"
    passes: tuple[Pass, ...] = (
        _reading(name, True, times, texts * units, config.max_tokens, data),
    )
    networks = _learners(model, config.lora, name)
    if isinstance(config, RewardModelConfig):
        passes = (replace(passes[0], logits=0.0, most_logits=0),)
    if isinstance(config, DpoConfig | KtoConfig):
        networks += _frozen(model, config.lora, "reference")
        passes += (replace(passes[0], network="reference", learns=False),)
    if isinstance(config, KtoConfig):
        # Mismatched responses, for the baseline.
        passes += tuple(replace(made, learns=False) for made in passes)
    return Work(
        model,
        networks,
        passes,
        _steps(config.epochs, batch, data.rows, config.held_out_fraction),
        _tokens(passes[0]),
        adapted=config.lora is not None,
        optimizer_numbers=config.optimizer.numbers_per_weight,
    )


def _policy(
    config: PpoConfig | GrpoConfig, data: DataSize, model: ModelConfig, layout: Layout
) -> Work:
    """Return the work of an update: sampling, scoring, then epochs over minibatches.

    Minibatches are not divided further. In an update of one step, the forward pass of the policy is
    used for scoring and training.
    """
    even = {
        "prompts_per_update": config.prompts_per_update,
        "minibatch_rows": config.minibatch_rows,
    }
    require_divisible(even, layout.ranks)
    model = model_of(config, model)
    learners = ("policy", "critic") if isinstance(config, PpoConfig) else ("policy",)
    # Frozen networks that process rollouts; a verifier needs none.
    asked = {
        "reference": not isinstance(config, GrpoConfig) or config.kl_coefficient > 0,
        "reward": config.reward_model_directory is not None,
        "judge": config.judge_directory is not None,
    }
    frozen = tuple(name for name, wanted in asked.items() if wanted)
    minibatch = config.minibatch_rows // layout.data_size
    minibatches = config.rows_per_update // config.minibatch_rows
    longest = config.max_prompt_tokens + config.max_response_tokens
    one = _reading("policy", False, minibatches, minibatch, longest, data)
    one = replace(one, most_logits=config.max_response_tokens)
    prompts, copies, epochs = (
        config.prompts_per_update // layout.data_size,
        config.samples_per_prompt,
        config.epochs_per_update,
    )
    # Scored in order, trained on in random order.
    in_order, at_random = (
        math.ceil(minibatch / copies),
        prompts * (1 - (1 - 1 / prompts) ** minibatch),
    )
    # with recomputation every row is processed whole
    sharing = 1 if config.checkpoint_activations else copies
    read = [name for name in (*learners, *frozen) if not (name == "policy" and config.is_one_step)]
    judged = [_of_policy(replace(one, network=name), data, sharing, in_order) for name in read]
    learning = replace(one, learns=True, times=epochs * minibatches)
    learned = [
        _of_policy(replace(learning, network=name), data, sharing, at_random) for name in learners
    ]
    sampled = Sampled(
        rows=prompts * copies,
        prompts=prompts,
        prompt_tokens=config.max_prompt_tokens,
        response_tokens=config.max_response_tokens,
    )
    if config.sft_mix is not None:
        learned.append(_mixed(config.sft_mix, learned[0], data, layout))
    networks = _learners(model, config.lora, *learners) + _frozen(model, config.lora, *frozen)
    tokens, steps = sampled.rows * one.tokens, epochs * minibatches
    work = Work(model, networks, (*judged, *learned), config.updates, tokens, steps, sampled)
    return replace(
        work,
        adapted=config.lora is not None,
        optimizer_numbers=config.policy_optimizer.numbers_per_weight,
    )


def _mixed(mix: SftMix, made: Pass, data: DataSize, layout: Layout) -> Pass:
    """Return the pass over the examples of SFT in each minibatch."""
    require_divisible({"sft_mix.rows": mix.rows}, layout.ranks)
    width = min(made.most_tokens, data.mix_tokens or made.most_tokens)
    return replace(
        made,
        rows=mix.rows // layout.data_size,
        tokens=width,
        most_tokens=width,
        logits=width,
        most_logits=width,
        shared=None,
    )


def evaluation_work(config: EvaluationConfig, data: DataSize, model: ModelConfig) -> Work:
    """Return the work of one batch of answers in the comparison of two versions.

    A single process holds one model at a time. The judge scores in batches of `score_rows`.

    Args:
        data: `rows` is the number of held-out prompts.
    """
    sampling = config.sampling
    batches = math.ceil(max(1, min(data.rows, config.max_prompts)) / sampling.batch_prompts)
    # Probes have samples of their own.
    copies = max(sampling.samples_per_prompt, config.probe_samples)
    sampled = Sampled(
        rows=sampling.batch_prompts * copies,
        prompts=sampling.batch_prompts,
        prompt_tokens=sampling.max_prompt_tokens,
        response_tokens=sampling.max_response_tokens,
    )
    tokens = sampled.rows * (data.prompt_tokens + data.response_tokens)
    networks = (Network("model", Role.FROZEN, sizes_of(model).total),)
    # Answers of a batch are scored, and texts of the same limit read, without gradients.
    longest, mean = sampling.max_prompt_tokens + sampling.max_response_tokens, tokens / sampled.rows
    rows = min(score_rows(longest), sampled.rows)
    times = math.ceil(sampled.rows / rows)
    judged = Pass("model", False, times, rows, mean, longest, 0.0, longest)
    narrow = config.machine.dtype != "float32"
    return Work(model, networks, (judged,), 2 * batches, tokens, sampled=sampled, narrow=narrow)


def _reading(
    network: str, learns: bool, times: int, rows: int, most_tokens: int, data: DataSize
) -> Pass:
    """Return a pass over prompt and response, with logits of the response.

    At most, a row has the maximum length and consists of response only.
    """
    tokens = data.prompt_tokens + data.response_tokens
    if tokens > most_tokens:
        raise ConfigError(
            f"data: rows of {tokens:g} tokens on average exceed the limit of {most_tokens}",
            field="data",
            reason="TOO_LARGE",
            limit=str(most_tokens),
        )
    return Pass(
        network, learns, times, rows, tokens, most_tokens, data.response_tokens, most_tokens
    )


def _of_policy(made: Pass, data: DataSize, copies: int, prompts: float) -> Pass:
    """Return the pass of a network in policy learning.

    Policy and reference compute log-probabilities and share prompts; other networks compute one
    number per whole row.
    """
    if made.network not in ("policy", "reference"):
        return replace(made, logits=0.0, most_logits=0)
    return made if copies == 1 else replace(made, shared=Shared(prompts, data.prompt_tokens))


def _learners(model: ModelConfig, lora: LoraConfig | None, *names: str) -> tuple[Network, ...]:
    """Return the trained networks; with LoRA these are adapters over one frozen decoder."""
    if lora is None:
        return tuple(Network(name, Role.LEARNS, sizes_of(model).total) for name in names)
    adapters = tuple(Network(name, Role.ADAPTER, adapter_size(model, lora)) for name in names)
    return (Network("base", Role.FROZEN, sizes_of(model).total), *adapters)


def _frozen(model: ModelConfig, lora: LoraConfig | None, *names: str) -> tuple[Network, ...]:
    """Return the frozen networks.

    With LoRA, reference and reward model share the existing decoder; a judge never does.
    """
    apart = [name for name in names if lora is None or name == "judge"]
    return tuple(Network(name, Role.FROZEN, sizes_of(model).total) for name in apart)


def _tokens(made: Pass) -> float:
    return made.times * made.rows * made.tokens


def _microbatches(share: int, rows: int) -> tuple[int, int]:
    """Return the rows of a worker's forward pass, and the number of passes."""
    taken = min(share, rows)
    return taken, math.ceil(share / taken)


def _steps(epochs: int, batch: int, rows: int, held_out: float) -> int:
    return steps_for(epochs, batch, max(1, round(rows * (1 - held_out))))
