"""Parallelism of a model over workers: replication, FSDP2 shards, tensor and pipeline parallelism.

The model itself is built whole; `distribute` changes it in place. For the pipeline see
training/parallelism/pipeline.py. torch's own parallelism is imported in the functions that split a
model, because a single process does not need it.

Losses are sums over a global count, so gradients are summed over workers and never averaged. Mesh
dimensions, outermost first: pipeline, replicas, shards, tensor. Neighbours in the innermost
dimension exchange most.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol, TypeGuard

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from training.errors import ConfigError
from training.model.backbone import Backbone
from training.model.config import ModelConfig
from training.model.lora import LoraLinear
from training.model.transformer import Decoder
from training.optim.gradients import PARTIAL_OVER_HEADS, is_split, own_part
from training.parallelism.pipeline import (
    is_pipelined,
    mark_copy,
    own_layers,
    rebuild,
    received,
    sends,
)
from training.runtime.context import Parallelism, RunContext, require_divisible
from training.runtime.machine import Autocast, stores_narrow, to_device
from training.runtime.ranks import Ranks

if TYPE_CHECKING:
    from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy
    from torch.distributed.tensor import DTensor
    from torch.distributed.tensor.parallel import ParallelStyle

PIPELINE, REPLICATE, SHARD, TENSOR = "pipeline", "replicate", "shard", "tensor"
# Megatron's split (arXiv 1909.08053): attention heads and MLP columns are distributed, with one sum
# after attention and one after the MLP.
COLUMN_WISE = (
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
)
ROW_WISE = ("self_attn.o_proj", "mlp.down_proj")
HEAD_NORMS = ("q_norm", "k_norm")  # replicated on every worker, applied to the worker's own heads


def arrange(parallelism: Parallelism, ranks: Ranks) -> Ranks:
    """Arrange the workers in a mesh.

    Raises:
        ConfigError: a possible number of workers is not a multiple of pipeline x shard x tensor.
    """
    parts, pipeline, tensor = parallelism.parts, parallelism.pipeline, parallelism.tensor
    for size in (ranks.world_size, *ranks.world_sizes):
        if size % parts:
            raise ConfigError(
                f"parallelism: pipeline x shard x tensor is {parts}, "
                f"which does not divide {size} workers",
                field="parallelism",
                reason="OUT_OF_RANGE",
                limit=f"a divisor of {size}",
            )
    if not parallelism.splits_model:
        return ranks
    device, copies = torch.get_default_device().type, ranks.world_size // parts
    # Two meshes over the same workers. In the second, replicas and shards are a single dimension,
    # because all of them read different rows.
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
    """Return the context of a stage with its workers arranged in a mesh.

    Args:
        autocast: context of every forward pass of the stage.
        rows: rows of a step, by the config fields that set them.

    Raises:
        ConfigError: as `arrange`; or rows that cannot be divided evenly between workers that hold
            parts of a model.
    """
    ranks = arrange(parallelism, context.ranks)
    if ranks.mesh is not None:
        require_divisible(rows, ranks)
        # Each worker detects its own number type, and all exchanged tensors must have the same
        # type: bfloat16 only if all workers compute in bfloat16.
        with autocast():
            narrow = torch.tensor(float(torch.is_autocast_enabled(torch.get_default_device().type)))
        dist.all_reduce(narrow, dist.ReduceOp.MIN)
        ranks = replace(ranks, narrow=bool(narrow))
    narrow_here = stores_narrow(autocast) and (ranks.mesh is None or ranks.narrow)
    return replace(context, ranks=replace(ranks, stores_narrow=narrow_here))


def distribute(decoder: Decoder, ranks: Ranks) -> None:
    """Leave this worker its part of the decoder, on its device.

    The decoder must be the same on every worker. Build optimizers afterwards. Parts are cut from
    the whole on the CPU, layer by layer, so an accelerator never holds the whole model.

    Raises:
        ConfigError: heads that the workers cannot divide evenly, adapters with tensor parallelism,
            or a pipeline for a decoder without `pipeline.keep_own_layers`, because its stage needs
            all layers in one forward pass.
    """
    mesh = ranks.mesh
    if ranks.stores_narrow:
        decoder.narrow_frozen()
    if mesh is None:
        to_device(decoder)
        return
    if ranks.pipeline is not None and not is_pipelined(decoder):
        raise ConfigError(
            "parallelism.pipeline: supported by pre-training and SFT only",
            field="parallelism.pipeline",
            reason="UNSUPPORTED",
        )
    if mesh[TENSOR].size() > 1:
        _split_layers(decoder, mesh[TENSOR])
    if ranks.data_size > 1:
        _shard(decoder, mesh[REPLICATE, SHARD], ranks.narrow)
    to_device(decoder)  # weights outside of all parts
    mark_copy(decoder, ranks)
    if mesh[TENSOR].size() > 1:
        # The gradients of the norms of heads are parts of a sum. Marked last, because sharding
        # replaces parameters.
        for layer in own_layers(decoder):
            for name in HEAD_NORMS:
                for weight in layer.get_submodule(f"self_attn.{name}").parameters():
                    setattr(weight, PARTIAL_OVER_HEADS, True)


def distribute_views(views: Iterable[Backbone | None], ranks: Ranks) -> None:
    """Distribute the decoder of each view once.

    All adapters must be attached before.

    Raises:
        ConfigError: as `distribute`.
    """
    for decoder in {id(view.decoder): view.decoder for view in views if view is not None}.values():
        distribute(decoder, ranks)


def _split_layers(decoder: Decoder, mesh: DeviceMesh) -> None:
    """Apply tensor parallelism to the layers.

    Embedding and head stay whole, because shards make them small.
    """
    from torch.distributed.tensor.parallel import (
        ColwiseParallel,
        RowwiseParallel,
        parallelize_module,
    )

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


def check_divisible(config: ModelConfig, tensor: int) -> None:
    """Check that `tensor` workers can divide heads and MLP evenly.

    Raises:
        ConfigError: a size is not divisible.
    """
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
    """Shard layer by layer, so that at most two layers are whole at a time.

    Embedding, last norm and head are sharded with the decoder itself.

    Args:
        narrow: gather matrices of layers in bfloat16, to which autocast would cast them anyway;
            gradients are summed in fp32. Embedding and head stay in fp32, because they are computed
            in fp32.
    """
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    policy = _precision(narrow)
    for layer in own_layers(decoder):
        fully_shard(layer, mesh=mesh, mp_policy=policy)
    fully_shard(decoder, mesh=mesh, reshard_after_forward=True)
    for method in ("logits", "apply_head"):
        register_fsdp_forward_method(decoder, method)
    for module in _sharded(decoder):
        # Losses are divided by global counts, so gradients are summed; FSDP would average.
        module.set_gradient_divide_factor(1.0)
        module.set_force_sum_reduction_for_comms(True)


def _own_type(parameter: nn.Parameter) -> torch.dtype | None:
    """Keep norms and biases in their type: norms are computed in fp32, and biases are small."""
    return parameter.dtype if parameter.ndim < 2 else None


def _precision(narrow: bool) -> MixedPrecisionPolicy:
    """Return the types of gathered weights; `narrow` is as in `_shard`.

    Inputs are not cast: the residual stream and rotations stay in fp32, and autocast casts the
    inputs of matrix products.
    """
    from torch.distributed.fsdp import MixedPrecisionPolicy

    if not narrow:
        return MixedPrecisionPolicy()
    return MixedPrecisionPolicy(
        param_dtype=torch.bfloat16,
        reduce_dtype=torch.float32,
        cast_forward_inputs=False,
        param_dtype_override_fn=_own_type,
    )


class NamedParameters(Protocol):
    """Model with named parameters.

    A decoder names all its weights, a Backbone only its trainable weights, such as an adapter.
    """

    def named_parameters(self) -> Iterable[tuple[str, nn.Parameter]]: ...


def whole_weights(model: NamedParameters, ranks: Ranks) -> dict[str, Tensor]:
    """Return copies of all weights by name, on the CPU of the first worker.

    Other workers get an empty dict. Every worker must call this. The model is unchanged and may be
    trained while the copies are sent.
    """
    kept: dict[str, Tensor] = {}
    keeps = ranks.rank == 0 or sends(ranks)
    for name, parameter in model.named_parameters():
        weight = _whole(parameter)
        if keeps:
            kept[name] = weight.to("cpu", copy=True)
    return received(kept, ranks) if keeps else {}


def assemble(decoder: Decoder, ranks: Ranks) -> None:
    """Assemble the whole model on the first worker, so that it can be written.

    Other workers keep their parts or nothing. The decoder cannot compute afterwards.
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
            if is_split(parameter):
                whole = _whole(parameter)
                kept = whole.cpu() if ranks.rank == 0 else whole[:0]
                setattr(module, name, nn.Parameter(kept, requires_grad=False))


def _whole(parameter: Tensor) -> Tensor:
    """Return the whole weight, without a copy if this worker holds all of it."""
    weight = parameter.detach()
    return weight.full_tensor() if is_split(weight) else weight


@contextmanager
def gathered(decoder: Decoder, in_step: bool = False) -> Iterator[None]:
    """Gather shards on every worker inside the block, without gradients and in the stored type.

    Workers may then run different numbers of forward passes, as sampling does.

    Args:
        in_step: all workers run the same forward passes. If matrices are stored in bfloat16, which
            the gathered layers then have too, nothing is gathered beforehand: the whole model may
            be too large for a worker.
    """
    if in_step and decoder.stored_narrow:
        yield
        return
    modules = list(_sharded(decoder))
    # Listed before the first gathering, which replaces the shards by whole parameters.
    shards = [
        (owner, name, parameter)
        for owner in decoder.modules()
        for name, parameter in owner.named_parameters(recurse=False)
        if is_split(parameter)
    ]
    for module in modules:
        module.set_reshard_after_forward(False, recurse=False)
        module.unshard()
        for owner, name, shard in shards:
            whole = getattr(owner, name)
            # Matrices of layers arrive in bfloat16 with a narrow `_precision`; others are exact.
            if whole is not shard and whole.dtype != shard.dtype:
                setattr(owner, name, nn.Parameter(_exact(shard, whole), requires_grad=False))
                # Free the storage as FSDP does; the next gathering allocates it again.
                own_part(whole).untyped_storage().resize_(0)
    try:
        yield
    finally:
        for module in modules:
            module.set_reshard_after_forward(True, recurse=False)
            module.reshard()


def _exact(shard: DTensor, whole: Tensor) -> Tensor:
    """Gather `whole` in fp32 over the shards only: this worker's part of a tensor group."""
    from torch.distributed.tensor import DTensor, Replicate, Shard

    mesh, part = shard.device_mesh[REPLICATE, SHARD], own_part(whole)
    held = DTensor.from_local(
        shard.to_local(),
        mesh,
        (Replicate(), Shard(0)),
        run_check=False,
        shape=part.shape,
        stride=part.stride(),
    ).full_tensor()
    if is_split(whole):
        return DTensor.from_local(held, whole.device_mesh, whole.placements, run_check=False)
    return held


def _sharded(decoder: nn.Module) -> Iterator[FSDPModule]:
    return (module for module in decoder.modules() if _is_sharded(module))


def _is_sharded(module: nn.Module) -> TypeGuard[FSDPModule]:
    return hasattr(module, "unshard")  # the class is not compared, as in `is_split`
