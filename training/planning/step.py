"""Work of a worker in a step: networks with their sizes, forward passes, and sampling.

Numbers of weights are counted on a decoder on the meta device.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cached_property, lru_cache

import torch
from torch import nn

from training.model.config import LoraConfig, ModelConfig
from training.model.transformer import Block, Decoder

FP32, BF16 = 4, 2


@dataclass(frozen=True)
class Sizes:
    """Numbers of weights.

    Attributes:
        layer_matrices: projections of a layer.
        outside: embeddings, last norm and head.
        head: d x V, tied or not.
    """

    layers: int
    layer_matrices: int
    layer_rest: int
    outside: int
    head: int

    @property
    def matrices(self) -> int:
        """Return the number of weights in projections of all layers."""
        return self.layers * self.layer_matrices

    @property
    def layer(self) -> int:
        """Return the number of weights of a layer."""
        return self.layer_matrices + self.layer_rest

    @property
    def total(self) -> int:
        """Return the number of all parameters, a tied head counted once."""
        return self.layers * self.layer + self.outside

    def held(self, tensor: int) -> float:
        """Return the weights of a worker in a tensor group, before sharding.

        Projections are split; norms, embedding and head are not.
        """
        return self.matrices / tensor + self.layers * self.layer_rest + self.outside

    def gathered_bytes(self, tensor: int, narrow: bool) -> float:
        """Return the bytes of the weights that a worker computes with, before sharding.

        Matrices are in bf16 if they compute in bf16.
        """
        return self.held(tensor) * FP32 - (self.matrices / tensor * (FP32 - BF16) if narrow else 0)

    def layer_held(self, tensor: int) -> float:
        """Return the weights of a layer on a worker in a tensor group."""
        return self.layer_matrices / tensor + self.layer_rest


@lru_cache
def sizes_of(model: ModelConfig) -> Sizes:
    """Return the sizes of a model.

    All layers are equal, so only one is built. A search over layouts asks for one model a thousand
    times, 2 ms each.
    """
    with torch.device("meta"):
        decoder = Decoder(
            replace(model, num_layers=1, windows=model.windows[:1], ropes=model.ropes[:1])
        )
    layer = list(decoder.model.layers.parameters())
    matrices = sum(weight.numel() for weight in layer if weight.ndim == 2)
    return Sizes(
        layers=model.num_layers,
        layer_matrices=matrices,
        layer_rest=sum(weight.numel() for weight in layer) - matrices,
        outside=sum(weight.numel() for weight in decoder.parameters())
        - sum(weight.numel() for weight in layer),
        head=model.hidden_size * model.vocab_size,
    )


@lru_cache
def adapter_size(model: ModelConfig, lora: LoraConfig) -> int:
    """Return the number of weights of an adapter."""
    with torch.device("meta"):
        block = Block(model, 0)
    linears = [
        m
        for name, m in block.named_modules()
        if isinstance(m, nn.Linear) and name.split(".")[-1] in lora.targets
    ]
    return model.num_layers * sum(
        lora.rank * (linear.in_features + linear.out_features) for linear in linears
    )


class Role(StrEnum):
    """Role of a network for its memory."""

    LEARNS = "learns"
    FROZEN = "frozen"
    ADAPTER = "adapter"  # trained, on a frozen network


@dataclass(frozen=True)
class Network:
    """Network with its number of weights, of a decoder or of an adapter."""

    name: str
    role: Role
    weights: int


@dataclass(frozen=True)
class Shared:
    """Prompts that several rows of a forward pass share.

    They are processed once, and their cache is copied (rl/rollout.py).
    """

    prompts: float  # mean number of different prompts
    prompt_tokens: float


@dataclass(frozen=True)
class Pass:
    """Forward pass, with a backward pass if `learns`, that a worker runs `times` per step.

    Attributes:
        tokens, most_tokens: mean and maximum tokens of a row.
        logits, most_logits: mean and maximum positions of a row with logits.
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
        """Return the processed tokens of a forward pass."""
        if self.shared is None:
            return self.rows * self.tokens
        prompts = self.shared.prompts * self.shared.prompt_tokens
        return prompts + self.rows * (self.tokens - self.shared.prompt_tokens)


@dataclass(frozen=True)
class Server:
    """vLLM that samples for all workers.

    Attributes:
        gpus: number of GPUs that divide the model.
        concurrency: responses at once.
        number_bytes: of a weight.
        shared_bytes: memory on each GPU that it shares with a worker; 0 with GPUs of its own.
        start_seconds: from its start to its first response.
    """

    gpus: int
    concurrency: int
    number_bytes: int
    shared_bytes: float = 0.0
    start_seconds: float = 0.0


@dataclass(frozen=True)
class Sampled:
    """Rows that a worker samples in a batch (rl/rollout.py).

    The batch ends with its longest response, so the maximum length also counts for the time.
    """

    rows: int
    prompts: int
    prompt_tokens: int
    response_tokens: int
    server: Server | None = None


@dataclass(frozen=True)
class Work:
    """Step of a stage, or update of PPO and GRPO, of a single worker.

    Attributes:
        optimizer_steps: of each trained network in a step.
        optimizer_numbers: per weight, of hidden matrices and of others (`numbers_per_weight`).
        stored_narrow: matrices of frozen networks are stored in bf16.
    """

    model: ModelConfig  # with the trained vocabulary
    networks: tuple[Network, ...]
    passes: tuple[Pass, ...]
    steps: int
    tokens: float  # tokens that this worker trains on in a step, each counted once
    optimizer_steps: int = 1
    sampled: Sampled | None = None
    narrow: bool = True
    adapted: bool = False
    recomputed: bool = False
    optimizer_numbers: tuple[int, int] = (2, 2)
    stored_narrow: bool = False

    @property
    def samples_narrow(self) -> bool:
        """Return True if the sampled network is frozen except for an adapter, so in bf16."""
        return self.stored_narrow and all(one.role is not Role.LEARNS for one in self.networks)

    @cached_property
    def sizes(self) -> Sizes:
        """Return the sizes of every decoder of the stage; all have the same shape."""
        return sizes_of(self.model)
