"""Peak memory of real training and sampling steps in a worker, for test_memory."""

import json
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.training.rl.toy import no_autocast
from training.losses.log_probs import chosen_log_probs, token_log_probs
from training.model.activation_checkpointing import checkpoint_activations
from training.model.backbone import Backbone, trainable_backbone
from training.model.config import ModelConfig, llama_json, parse_config
from training.model.lora import LoraConfig
from training.model.transformer import Decoder, initialise
from training.optim.gradients import apply_gradients
from training.optim.optimizers import OptimizerConfig, build_optimizer
from training.parallelism.layout import Parallelism, arrange, distribute
from training.rl.networks import Networks
from training.rl.rollout import CachedEngine, SampleRequest
from training.runtime.ranks import ALONE, all_different
from training.stages.grpo import Grpo, GrpoConfig
from training.stages.policy_inputs import PolicyInputs, Prompts

SHAPE = llama_json(
    vocab_size=512,
    hidden_size=256,
    num_layers=4,
    num_heads=8,
    num_kv_heads=2,
    intermediate_size=640,
)
ROWS, COLUMNS, LORA = 2, 96, LoraConfig(rank=2)


class Living(TorchDispatchMode):
    """Sum of the current sizes of all live storages; FSDP releases storages by resizing to 0."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self._known: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if any(issubclass(kind, DTensor) for kind in types):
            return NotImplemented  # dispatched again with the local tensors of this worker
        found = function(*args, **(kwargs or {}))
        for leaf in tree_leaves((args, kwargs, found)):
            if isinstance(leaf, torch.Tensor):
                self.note(leaf)
        self.peak = max(self.peak, self.bytes())
        return found

    def note(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        if (key := storage._cdata) not in self._known:
            self._known[key] = weakref.ref(storage)
            weakref.finalize(storage, self._known.pop, key, None)

    def bytes(self) -> int:
        alive = [reference() for reference in list(self._known.values())]
        return sum(storage.nbytes() for storage in alive if storage is not None)


def measure(directory: Path, rank: int, world: int, cases: str) -> None:
    """Write the first worker's peak in bytes per case.

    A case has parallelism, narrow, adapted and recomputed, and may have a shape instead of SHAPE.
    """
    peaks = [measured(rank, world, case) for case in json.loads(cases)]
    if rank == 0:
        (directory / "peaks.json").write_text(json.dumps(peaks))


def measured(rank: int, world: int, case: dict[str, Any]) -> int:
    """Return the peak of the second of two steps with two microbatches each.

    In the second step the optimizer has its state, and gradients accumulate.
    """
    ranks = replace(
        arrange(Parallelism(**case["parallelism"]), all_different(rank, world)),
        narrow=case["narrow"],
        stores_narrow=case["stored_narrow"],
    )
    backbone = _backbone(case)
    distribute(backbone.decoder, ranks)
    named = backbone.named_parameters()
    optimizer = build_optimizer(named, OptimizerConfig())
    living = Living()
    for parameter in backbone.decoder.parameters():
        living.note(parameter.to_local() if isinstance(parameter, DTensor) else parameter)
    ids_BT = torch.randint(0, 512, (ROWS, COLUMNS), generator=torch.Generator().manual_seed(rank))
    with living:
        for _ in range(2):
            living.peak = 0
            for _ in range(2):
                with torch.autocast("cpu", dtype=torch.bfloat16, enabled=case["narrow"]):
                    hidden_BTD = backbone.hidden(ids_BT)
                    everywhere = torch.ones_like(ids_BT, dtype=torch.bool)
                    found = chosen_log_probs(backbone.decoder, hidden_BTD, ids_BT, everywhere)
                    loss = -found.log_probs_N.sum() / 1000
                torch.autograd.backward(loss)
            apply_gradients(optimizer, [parameter for _, parameter in named], 1e-3, 1.0, ranks)
    return living.peak


def sampled(
    model: ModelConfig,
    prompts: int,
    copies: int,
    prompt_tokens: int,
    response_tokens: int,
    stored_narrow: bool,
) -> int:
    """Return the peak of sampling in this process, including weights."""
    decoder = Decoder(model)
    initialise(decoder, 1)
    if stored_narrow:
        decoder.requires_grad_(False).narrow_frozen()
    living = Living()
    for parameter in decoder.parameters():
        living.note(parameter)
    with living:
        engine = CachedEngine(Backbone(decoder), stop_ids=())
        engine.sample(
            SampleRequest.of(
                [[7] * prompt_tokens] * prompts, copies, response_tokens, 1.0, list(range(prompts))
            )
        )
    return living.peak


def read(networks: int, learn: bool) -> int:
    """Return the peak of forward passes without gradients in one autocast, without weights."""
    decoders, living = (
        [Decoder(parse_config(SHAPE)).requires_grad_(learn) for _ in range(networks)],
        Living(),
    )
    for decoder in decoders:
        initialise(decoder, 1)
        for parameter in decoder.parameters():
            living.note(parameter)
    weights, ids_BT = living.bytes(), torch.ones(ROWS, COLUMNS, dtype=torch.long)
    with living, torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        for decoder in decoders:
            token_log_probs(decoder.logits(decoder(ids_BT)), ids_BT)
    return living.peak - weights


def updated(config: GrpoConfig) -> int:
    """Return the peak of a GRPO update with adapters and a reference, without sampling."""
    decoder, prompts = (
        Decoder(parse_config({**SHAPE, "vocab_size": 4096})),
        Prompts([[3] * 4] * 2, ["", ""], (), 0),
    )
    initialise(decoder, 1)
    policy = trainable_backbone(decoder.requires_grad_(False), "policy", LORA, seed=1)
    setting = PolicyInputs(
        prompts, lambda rollout: torch.arange(float(len(rollout.ended_B))), no_autocast, ALONE
    )
    algorithm = Grpo(Networks(policy, Backbone(decoder)), config, setting)
    rollout = CachedEngine(policy, ()).sample(SampleRequest.of(prompts.ids, 4, 8, 1.0, [1, 2]))
    living = Living()
    for parameter in decoder.parameters():
        living.note(parameter)
    with living:
        algorithm.learn(algorithm.make_experience(rollout)[0], 0)
    return living.peak


def _backbone(case: dict[str, Any]) -> Backbone:
    decoder = Decoder(parse_config(case.get("shape", SHAPE)))
    initialise(decoder, 1)
    if case["recomputed"]:
        checkpoint_activations(decoder)
    if case["adapted"]:
        decoder.requires_grad_(False)
    return trainable_backbone(decoder, "policy", LORA if case["adapted"] else None, seed=1)
