"""How one model is trained by several workers: whole copies, shards of every layer (FSDP2), layers
split across (tensor parallel), and their products; and layers that follow each other apart
(training/pipeline.py). The model knows nothing of it: it is built whole, then `distribute` changes
it in place.

Losses are sums over a global count, so gradients add up over workers and are never averaged. The
mesh, outermost first: parts of the model that follow each other, copies, shards, parts of a layer;
neighbours exchange most.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import (
    FSDPModule,
    MixedPrecisionPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    ParallelStyle,
    RowwiseParallel,
    parallelize_module,
)

from training.model.backbone import Backbone
from training.model.config import ModelConfig
from training.model.lora import LoraLinear
from training.model.transformer import Decoder
from training.optim.gradients import PARTIAL_OVER_HEADS
from training.optim.ranks import Ranks
from training.pipeline import is_pipelined, mark_copy, own_layers, rebuild, received, sends
from training.ranges import Count, check_ranges
from training.stages.context import ConfigError, RunContext, require_divisible
from training.stages.machine import Autocast, to_device

PIPELINE, REPLICATE, SHARD, TENSOR = "pipeline", "replicate", "shard", "tensor"
# Megatron's split (arXiv 1909.08053): heads and columns of the MLP apart, one sum after attention
# and one after the MLP.
COLUMN_WISE = (
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
)
ROW_WISE = ("self_attn.o_proj", "mlp.down_proj")
HEAD_NORMS = ("q_norm", "k_norm")  # whole on every worker, which norms its own heads


@dataclass(frozen=True)
class Parallelism:
    """How the workers share one model. What is left of them trains copies.

    Attributes:
        shard: workers among which each layer's weights, gradients and optimizer lie, at least 1
        tensor: workers that compute each layer together, at least 1
        pipeline: workers that have some of the layers each, at least 1; pre-training and SFT alone
    """

    shard: Count = 1
    tensor: Count = 1
    pipeline: Count = 1

    def __post_init__(self) -> None:
        check_ranges(self)

    @property
    def splits_model(self) -> bool:
        """Whether a worker holds less than the whole model."""
        return self.parts > 1

    @property
    def parts(self) -> int:
        """Workers that hold one model together."""
        return self.pipeline * self.shard * self.tensor


def arrange(parallelism: Parallelism, ranks: Ranks) -> Ranks:
    """The workers laid out as asked.

    Raises:
        ConfigError: their number, or one that they may become, is not a multiple of pipeline x
            shard x tensor.
    """
    parts, pipeline, tensor = parallelism.parts, parallelism.pipeline, parallelism.tensor
    for size in (ranks.world_size, *ranks.world_sizes):
        if size % parts:
            raise ConfigError(
                f"parallelism: pipeline x shard x tensor is {parts}, which does not divide {size} workers",
                field="parallelism",
                reason="OUT_OF_RANGE",
                limit=f"a divisor of {size}",
            )
    if not parallelism.splits_model:
        return ranks
    device, copies = torch.get_default_device().type, ranks.world_size // parts
    shape = (pipeline, copies, parallelism.shard, tensor)
    mesh = init_device_mesh(device, shape, mesh_dim_names=(PIPELINE, REPLICATE, SHARD, TENSOR))
    by_data = (pipeline, copies * parallelism.shard, tensor)
    by_rows = init_device_mesh(device, by_data, mesh_dim_names=(PIPELINE, "data", TENSOR))
    data = by_rows["data"]
    return replace(
        ranks,
        data_rank=data.get_local_rank(),
        data_size=data.size(),
        mesh=mesh,
        data_group=data.get_group(),
        peers=by_rows[TENSOR].get_group() if tensor > 1 else None,
        pipeline=mesh[PIPELINE].get_group() if pipeline > 1 else None,
    )


def arrange_context(
    parallelism: Parallelism, context: RunContext, autocast: Autocast, **rows: int
) -> RunContext:
    """The context of a stage whose workers are arranged so.

    Args:
        autocast: what every forward of the stage runs in.
        rows: of a step, by the fields that say how many.

    Raises:
        ConfigError: as arrange; and rows that the workers cannot share evenly, where each of them
            has only a part of the model.
    """
    ranks = arrange(parallelism, context.ranks)
    if ranks.mesh is not None:
        require_divisible(rows, ranks)
        ranks = replace(ranks, narrow=_all_narrow(autocast))
    return replace(context, ranks=ranks)


def _all_narrow(autocast: Autocast) -> bool:
    """Whether every worker computes in bfloat16: each has found out for itself, and what they
    exchange must be of one type.
    """
    with autocast():
        narrow = torch.tensor(float(torch.is_autocast_enabled(torch.get_default_device().type)))
    dist.all_reduce(narrow, dist.ReduceOp.MIN)
    return bool(narrow)


def distribute(decoder: Decoder, ranks: Ranks) -> None:
    """Leave this worker its part of the decoder, which must be the same on every worker, where it
    computes. Optimizers are built afterwards. Parts are taken from the whole on the processor,
    layer by layer, so an accelerator never has to hold it.

    Raises:
        ConfigError: heads that the workers cannot share evenly, adapters where layers are split
            across, or a pipeline for a decoder that is not cut for it (`pipeline.keep_own_layers`), as its
            stage needs all layers in one forward.
    """
    mesh = ranks.mesh
    if mesh is None:
        to_device(decoder)
        return
    if ranks.pipeline is not None and not is_pipelined(decoder):
        raise ConfigError(
            "parallelism.pipeline: only pre-training and SFT run layer after layer on several workers",
            field="parallelism.pipeline",
            reason="UNSUPPORTED",
        )
    if mesh[TENSOR].size() > 1:
        _split_layers(decoder, mesh[TENSOR])
    if ranks.data_size > 1:
        _shard(decoder, mesh[REPLICATE, SHARD], ranks.narrow)
    to_device(decoder)  # what is in no part
    mark_copy(decoder, ranks)
    if mesh[TENSOR].size() > 1:
        _mark_norms_of_heads(decoder)


def distribute_views(views: Iterable[Backbone | None], ranks: Ranks) -> None:
    """As distribute, for the decoders of these views, each once; all their adapters must be on
    them. Raises: as distribute.
    """
    for decoder in {id(view.decoder): view.decoder for view in views if view is not None}.values():
        distribute(decoder, ranks)


def _split_layers(decoder: Decoder, mesh: DeviceMesh) -> None:
    """Embedding and head stay whole on each worker of the mesh: shards make them small."""
    check_divisible(decoder.config, mesh.size())
    if any(isinstance(module, LoraLinear) for module in decoder.modules()):
        raise ConfigError(
            "parallelism.tensor: adapters are not split across workers, use shard",
            field="parallelism.tensor",
            reason="CONFLICT",
        )
    plan: dict[str, ParallelStyle] = {name: ColwiseParallel() for name in COLUMN_WISE}
    plan |= {name: RowwiseParallel() for name in ROW_WISE}
    for layer in own_layers(decoder):
        parallelize_module(layer, mesh, plan)


def _mark_norms_of_heads(decoder: Decoder) -> None:
    """Their gradients are parts of a sum. Last: shards are other parameters."""
    for layer in own_layers(decoder):
        for name in HEAD_NORMS:
            for weight in layer.get_submodule(f"self_attn.{name}").parameters():
                setattr(weight, PARTIAL_OVER_HEADS, True)


def check_divisible(config: ModelConfig, tensor: int) -> None:
    """Raises: ConfigError: `tensor` workers cannot share heads or MLP evenly."""
    for name, size in (
        ("num_attention_heads", config.num_heads),
        ("num_key_value_heads", config.num_kv_heads),
        ("intermediate_size", config.intermediate_size),
    ):
        if size % tensor:
            raise ConfigError(
                f"parallelism.tensor: {tensor} does not divide {name}, {size}",
                field="parallelism.tensor",
                reason="OUT_OF_RANGE",
                limit=f"a divisor of {name}, {size}",
            )


def _shard(decoder: Decoder, mesh: DeviceMesh, narrow: bool) -> None:
    """Layer by layer, so that at most two layers are whole at a time; embedding, last norm and head
    with the decoder itself.

    narrow: matrices of layers are gathered in bfloat16, in which autocast would copy them;
        gradients are summed in fp32. Embedding and head
    stay in fp32, as they are computed in it.
    """
    policy = NARROW if narrow else MixedPrecisionPolicy()
    for layer in own_layers(decoder):
        fully_shard(layer, mesh=mesh, mp_policy=policy)
    fully_shard(decoder, mesh=mesh, reshard_after_forward=True)
    register_fsdp_forward_method(decoder, "logits")
    for module in _sharded(decoder):
        module.set_gradient_divide_factor(1.0)
        module.set_force_sum_reduction_for_comms(True)


def _own_type(parameter: nn.Parameter) -> torch.dtype | None:
    """Norms are computed in fp32, and biases are small."""
    return parameter.dtype if parameter.ndim < 2 else None


# Inputs are not cast: the residual stream and rotations stay in fp32, and autocast narrows what
# goes into a product.
NARROW = MixedPrecisionPolicy(
    param_dtype=torch.bfloat16,
    reduce_dtype=torch.float32,
    cast_forward_inputs=False,
    param_dtype_override_fn=_own_type,
)


class NamedParameters(Protocol):
    """A decoder: all its weights. A Backbone: those that training it changes, so of an adapter's
    these alone.
    """

    def named_parameters(self) -> Iterable[tuple[str, nn.Parameter]]: ...


def whole_weights(model: NamedParameters, ranks: Ranks) -> dict[str, Tensor]:
    """Copies of the weights by their names, put together on the first worker's processor; nothing
    on the others. Every worker must call this. The model stays as it is and may be trained on while
    the copies are sent.
    """
    kept: dict[str, Tensor] = {}
    keeps = ranks.rank == 0 or sends(ranks)
    for name, parameter in model.named_parameters():
        weight = _whole(parameter)
        if keeps:
            kept[name] = weight.to("cpu", copy=True)
    return received(kept, ranks) if keeps else {}


def assemble(decoder: Decoder, ranks: Ranks) -> None:
    """Put the parts together on the first worker, so that it can write the model; the others keep
    what they have, or nothing. It computes no more.
    """
    if ranks.mesh is None:
        return
    if ranks.pipeline is not None:
        weights = whole_weights(decoder, ranks)
        if ranks.rank == 0:
            rebuild(decoder, weights)
        return
    for module in decoder.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if isinstance(parameter, DTensor):
                whole = _whole(parameter)
                kept = whole.cpu() if ranks.rank == 0 else whole[:0]
                setattr(module, name, nn.Parameter(kept, requires_grad=False))


def _whole(parameter: nn.Parameter) -> Tensor:
    """The weight of which this worker holds a part. The weight itself, and no copy, where it holds
    all.
    """
    weight = parameter.detach()
    return weight.full_tensor() if isinstance(weight, DTensor) else weight


@contextmanager
def gathered(decoder: Decoder) -> Iterator[None]:
    """Shards are whole on every worker inside the block, and in fp32 whatever they are trained in,
    so that workers may make different numbers of forwards: sampling. No gradients.
    """
    modules, shards = list(_sharded(decoder)), list(_shards(decoder))
    for module in modules:
        module.set_reshard_after_forward(False, recurse=False)
        module.unshard()
        for owner, name, shard in shards:
            whole = getattr(owner, name)
            if whole is not shard and whole.dtype != shard.dtype:
                setattr(owner, name, nn.Parameter(_exact(shard, whole), requires_grad=False))
                _local(whole).untyped_storage().resize_(
                    0
                )  # as FSDP frees it; it comes back with the next gathering
    try:
        yield
    finally:
        for module in modules:
            module.set_reshard_after_forward(True, recurse=False)
            module.reshard()


def _shards(decoder: Decoder) -> Iterator[tuple[nn.Module, str, DTensor]]:
    for owner in decoder.modules():
        for name, parameter in owner.named_parameters(recurse=False):
            if isinstance(parameter, DTensor):
                yield owner, name, parameter


def _exact(shard: DTensor, whole: Tensor) -> Tensor:
    """What `whole` is the narrow copy of: put together over the shards alone, so still this
    worker's part of a tensor group.
    """
    mesh, part = shard.device_mesh[REPLICATE, SHARD], _local(whole)
    held = DTensor.from_local(
        shard.to_local(),
        mesh,
        (Replicate(), Shard(0)),
        run_check=False,
        shape=part.shape,
        stride=part.stride(),
    ).full_tensor()
    if isinstance(whole, DTensor):
        return DTensor.from_local(held, whole.device_mesh, whole.placements, run_check=False)
    return held


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _sharded(decoder: nn.Module) -> Iterator[FSDPModule]:
    return (module for module in decoder.modules() if isinstance(module, FSDPModule))
