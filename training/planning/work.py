"""What a stage makes one worker do in a step, read from the very config that the stage runs with:
which networks it holds, which forwards it makes over how many rows, and what it samples. One
function a kind of stage; each says what the stage's file does.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cached_property

from training.data.order import steps_for
from training.model.config import ModelConfig
from training.model.lora import LoraConfig
from training.planning.layout import Layout
from training.planning.sizes import Sizes, adapter_size, sizes_of
from training.stages.context import ConfigError, require_divisible
from training.stages.dpo import DpoConfig
from training.stages.grpo import GrpoConfig
from training.stages.kto import KtoConfig
from training.stages.policy_loop import PolicyConfig
from training.stages.ppo import PpoConfig
from training.stages.pretrain import PretrainConfig
from training.stages.reward_model import RewardModelConfig
from training.stages.sft import SftConfig

StageConfig = (
    PretrainConfig | SftConfig | RewardModelConfig | DpoConfig | KtoConfig | PpoConfig | GrpoConfig
)


@dataclass(frozen=True)
class DataSize:
    """What a stage will read. rows: examples, pairs or prompts in the file. Tokens are means: they
    tell the time, the config's limits the memory. Pre-training's are in its config.
    """

    rows: int = 0
    prompt_tokens: float = 0.0
    response_tokens: float = 0.0


class Role(StrEnum):
    """What a network is for the memory."""

    LEARNS = "learns"
    FROZEN = "frozen"
    ADAPTER = "adapter"  # learns, on a frozen network


@dataclass(frozen=True)
class Network:
    """weights: of a decoder, or of an adapter."""

    name: str
    role: Role
    weights: int


@dataclass(frozen=True)
class Shared:
    """Prompts that several rows of a forward begin with: read once, in a forward of their own, and
    their cache copied (rl/rollout.py).
    """

    prompts: float  # different ones, on average
    prompt_tokens: float


@dataclass(frozen=True)
class Pass:
    """A forward, with its backward if it learns, that a worker makes `times` a step over `rows`
    rows. Tokens of a row: mean and most;
    logits: positions of a row that the head is computed for.
    """

    network: str
    learns: bool
    times: int
    rows: int
    tokens: float
    most_tokens: int
    logits: float = 0.0
    most_logits: int = 0
    shared: Shared | None = None

    @property
    def read_tokens(self) -> float:
        """In one forward."""
        if self.shared is None:
            return self.rows * self.tokens
        prompts = self.shared.prompts * self.shared.prompt_tokens
        return prompts + self.rows * (self.tokens - self.shared.prompt_tokens)


@dataclass(frozen=True)
class Sampled:
    """Rows that a worker samples side by side, in fp32 whatever the trainer computes in
    (rl/rollout.py). Nothing ends before the longest response has, so that counts for the time too.
    """

    rows: int
    prompts: int
    prompt_tokens: int
    response_tokens: int


@dataclass(frozen=True)
class Work:
    """A step of a stage, or an update of PPO and GRPO, as one worker sees it. optimizer_steps: in
    it, of each network that learns.
    """

    model: ModelConfig  # with the vocabulary that is trained
    networks: tuple[Network, ...]
    passes: tuple[Pass, ...]
    steps: int
    tokens: float  # that this worker learns from in a step, each counted once
    optimizer_steps: int = 1
    sampled: Sampled | None = None
    narrow: bool = True
    adapted: bool = False
    recomputed: bool = False
    muon: bool = False

    @cached_property
    def sizes(self) -> Sizes:
        """Of every decoder in the stage: they are one shape."""
        return sizes_of(self.model)


def work_of(config: StageConfig, data: DataSize, model: ModelConfig, layout: Layout) -> Work:
    """The work of a stage. model: of its model_directory; pre-training's is `model_json`.

    Raises:
        ConfigError: rows that the workers cannot share evenly, or data without which nothing can be
            told.
    """
    if not isinstance(config, PretrainConfig) and (data.rows < 1 or data.response_tokens <= 0):
        raise ConfigError(
            f"data: {data.rows} rows with {data.response_tokens:g} response tokens, both must be above 0",
            field="data",
            reason="EMPTY",
            limit="above 0",
        )
    match config:
        case PretrainConfig():
            work = _pretrain(config, model, layout)
        case SftConfig():
            work = _sft(config, data, model, layout)
        case RewardModelConfig():
            work = _reward_model(config, data, model, layout)
        case DpoConfig():
            work = _dpo(config, data, model, layout)
        case KtoConfig():
            work = _kto(config, data, model, layout)
        case PpoConfig() | GrpoConfig():
            work = _policy(config, data, model, layout)
    return replace(
        work, narrow=config.machine.dtype != "float32", recomputed=config.checkpoint_activations
    )


def model_of(config: StageConfig, model: ModelConfig) -> ModelConfig:
    """The shape that is trained: a trimmed vocabulary has fewer rows."""
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
        muon=config.optimizer.algorithm == "muon",
    )


def _sft(config: SftConfig, data: DataSize, model: ModelConfig, layout: Layout) -> Work:
    require_divisible({"batch_rows": config.batch_rows}, layout.ranks)
    model = model_of(config, model)
    rows, times = _microbatches(config.batch_rows // layout.data_size, config.microbatch_rows)
    made = _reading("policy", True, times, rows, config.max_tokens, data)
    steps = _steps(config.epochs, config.batch_rows, data.rows, config.held_out_fraction)
    return _learning(config, model, _learners(model, config.lora, "policy"), (made,), steps)


def _reward_model(
    config: RewardModelConfig, data: DataSize, model: ModelConfig, layout: Layout
) -> Work:
    """Chosen and rejected in one forward; no logits."""
    require_divisible({"batch_pairs": config.batch_pairs}, layout.ranks)
    model = model_of(config, model)
    pairs, times = _microbatches(config.batch_pairs // layout.data_size, config.microbatch_pairs)
    made = replace(
        _reading("reward", True, times, 2 * pairs, config.max_tokens, data),
        logits=0.0,
        most_logits=0,
    )
    steps = _steps(config.epochs, config.batch_pairs, data.rows, config.held_out_fraction)
    return _learning(config, model, _learners(model, config.lora, "reward"), (made,), steps)


def _dpo(config: DpoConfig, data: DataSize, model: ModelConfig, layout: Layout) -> Work:
    """Chosen and rejected in one forward of the policy, and one of the reference."""
    require_divisible({"batch_pairs": config.batch_pairs}, layout.ranks)
    model = model_of(config, model)
    pairs, times = _microbatches(config.batch_pairs // layout.data_size, config.microbatch_pairs)
    steps = _steps(config.epochs, config.batch_pairs, data.rows, config.held_out_fraction)
    return _beside_reference(config, data, model, (2 * pairs, times), steps)


def _kto(config: KtoConfig, data: DataSize, model: ModelConfig, layout: Layout) -> Work:
    """As DPO's, and both once more on mismatched responses without gradients, for the baseline."""
    require_divisible({"batch_rows": config.batch_rows}, layout.ranks)
    model = model_of(config, model)
    rows, times = _microbatches(config.batch_rows // layout.data_size, config.microbatch_rows)
    steps = _steps(config.epochs, config.batch_rows, data.rows, config.held_out_fraction)
    work = _beside_reference(config, data, model, (rows, times), steps)
    mismatched = tuple(replace(made, learns=False) for made in work.passes)
    return replace(work, passes=(*work.passes, *mismatched))


def _beside_reference(
    config: DpoConfig | KtoConfig,
    data: DataSize,
    model: ModelConfig,
    forwards: tuple[int, int],
    steps: int,
) -> Work:
    rows, times = forwards
    policy = _reading("policy", True, times, rows, config.max_tokens, data)
    reference = replace(policy, network="reference", learns=False)
    networks = _learners(model, config.lora, "policy") + _frozen(model, config.lora, "reference")
    return _learning(config, model, networks, (policy, reference), steps)


def _policy(
    config: PpoConfig | GrpoConfig, data: DataSize, model: ModelConfig, layout: Layout
) -> Work:
    """Sample, let everybody read what was sampled, then several epochs in minibatches that are
    never cut smaller. In an update of one step the policy is read once, as it learns.
    """
    even = {
        "prompts_per_update": config.prompts_per_update,
        "minibatch_rows": config.minibatch_rows,
    }
    require_divisible(even, layout.ranks)
    model = model_of(config, model)
    learners = ("policy", "critic") if isinstance(config, PpoConfig) else ("policy",)
    frozen = _judges(config)
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
    # Judged in their order, learned from in a random one.
    in_order, at_random = (
        math.ceil(minibatch / copies),
        prompts * (1 - (1 - 1 / prompts) ** minibatch),
    )
    sharing = 1 if config.checkpoint_activations else copies  # then every row is read whole
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
        require_divisible({"sft_mix.rows": config.sft_mix.rows}, layout.ranks)
        rows = config.sft_mix.rows // layout.data_size
        mixed = replace(
            learned[0], rows=rows, logits=longest, most_logits=longest, tokens=longest, shared=None
        )
        learned.append(mixed)
    networks = _learners(model, config.lora, *learners) + _frozen(model, config.lora, *frozen)
    tokens, steps = sampled.rows * one.tokens, epochs * minibatches
    work = Work(model, networks, (*judged, *learned), config.updates, tokens, steps, sampled)
    return replace(
        work, adapted=config.lora is not None, muon=config.policy_optimizer.algorithm == "muon"
    )


def _judges(config: PolicyConfig) -> tuple[str, ...]:
    """Frozen networks that read what was sampled. A verifier takes none."""
    asked: list[tuple[str, bool]] = [
        ("reference", not isinstance(config, GrpoConfig) or config.kl_coefficient > 0),
        ("reward", config.reward_model_directory is not None),
        ("judge", config.judge_directory is not None),
    ]
    return tuple(name for name, wanted in asked if wanted)


def _learning(
    config: SftConfig | RewardModelConfig | DpoConfig | KtoConfig,
    model: ModelConfig,
    networks: tuple[Network, ...],
    passes: tuple[Pass, ...],
    steps: int,
) -> Work:
    muon = config.optimizer.algorithm == "muon"
    return Work(
        model,
        networks,
        passes,
        steps,
        _tokens(passes[0]),
        adapted=config.lora is not None,
        muon=muon,
    )


def _reading(
    network: str, learns: bool, times: int, rows: int, most_tokens: int, data: DataSize
) -> Pass:
    """Prompt and response, with logits of the response; at worst a row is as long as it may be, and
    all response.
    """
    tokens = data.prompt_tokens + data.response_tokens
    if tokens > most_tokens:
        raise ConfigError(
            f"data: rows of {tokens:g} tokens on average, but the config takes at most {most_tokens}",
            field="data",
            reason="TOO_LARGE",
            limit=str(most_tokens),
        )
    return Pass(
        network, learns, times, rows, tokens, most_tokens, data.response_tokens, most_tokens
    )


def _of_policy(made: Pass, data: DataSize, copies: int, prompts: float) -> Pass:
    """Policy and reference are asked for log-probabilities, and share prompts; the others read
    whole rows for a number each.
    """
    if made.network not in ("policy", "reference"):
        return replace(made, logits=0.0, most_logits=0)
    return made if copies == 1 else replace(made, shared=Shared(prompts, data.prompt_tokens))


def _learners(model: ModelConfig, lora: LoraConfig | None, *names: str) -> tuple[Network, ...]:
    """With LoRA one frozen decoder below all adapters."""
    if lora is None:
        return tuple(Network(name, Role.LEARNS, sizes_of(model).total) for name in names)
    adapters = tuple(Network(name, Role.ADAPTER, adapter_size(model, lora)) for name in names)
    return (Network("base", Role.FROZEN, sizes_of(model).total), *adapters)


def _frozen(model: ModelConfig, lora: LoraConfig | None, *names: str) -> tuple[Network, ...]:
    """With LoRA reference and reward model are views of the decoder that is there; a judge never
    is.
    """
    apart = [name for name in names if lora is None or name == "judge"]
    return tuple(Network(name, Role.FROZEN, sizes_of(model).total) for name in apart)


def _tokens(made: Pass) -> float:
    return made.times * made.rows * made.tokens


def _microbatches(share: int, rows: int) -> tuple[int, int]:
    """Rows of a worker's forward, and forwards."""
    taken = min(share, rows)
    return taken, math.ceil(share / taken)


def _steps(epochs: int, batch: int, rows: int, held_out: float) -> int:
    return steps_for(epochs, batch, max(1, round(rows * (1 - held_out))))
