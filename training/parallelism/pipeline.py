"""Pipeline parallelism: consecutive parts of a model on different workers.

While a microbatch is in one part, the next microbatch is in the part before. Parts on other workers
are represented by `RemotePart`, so names, files and checkpoints are those of the whole model.

Stages call `add_gradients` and `total_loss`, which are plain loops without a pipeline. Shapes: B
rows, T tokens, D hidden.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

from training.errors import ConfigError
from training.model.backbone import Backbone
from training.model.transformer import Decoder
from training.optim.gradients import EXCLUDED_FROM_NORM, own_part
from training.runtime.machine import Autocast
from training.runtime.ranks import Ranks


@dataclass(frozen=True)
class Microbatch:
    """Input and loss of a microbatch.

    Attributes:
        loss: maps the last hidden states, [B, T, D], to a number that is summed over microbatches
            and workers.
    """

    ids_BT: Tensor
    mask_BT: Tensor
    loss: Callable[[Tensor], Tensor]


class RemotePart(nn.Module):
    """Identity in place of a part on another worker.

    It stores the structure of the part without weights.
    """

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        # in a tuple, so that its parameters are not registered in this model
        self._part = (part.to("meta"),)

    def forward(self, x: Tensor, *_: object) -> Tensor:
        return x

    def rebuilt(self, device: torch.device) -> nn.Module:
        """Return the part with uninitialised weights on the device."""
        return self._part[0].to_empty(device=device)


def keep_own_layers(decoder: Decoder, ranks: Ranks) -> None:
    """Replace all parts of other workers by `RemotePart`.

    Call before `distribute`. The first worker also has the embedding, the last one the final norm
    and the head. If embedding and head share a weight, both workers have a copy, and its gradient
    is the sum over both.

    Raises:
        ConfigError: fewer layers than parts.
    """
    if ranks.pipeline is None:
        return
    place, parts = dist.get_rank(ranks.pipeline), dist.get_world_size(ranks.pipeline)
    stack, first, last = decoder.model, place == 0, place == parts - 1
    count = len(stack.layers)
    if count < parts:
        raise ConfigError(
            f"parallelism.pipeline: {parts}, but the model has {count} layers",
            field="parallelism.pipeline",
            reason="TOO_LARGE",
            limit=str(count),
        )
    # Consecutive layers; the sizes of two parts differ by at most one.
    own = range(count * place // parts, count * (place + 1) // parts)
    for layer in set(range(count)) - set(own):
        stack.layers[layer] = RemotePart(stack.layers[layer])
    # Outside the layers the first part needs the embeddings only, the last one the norm and the
    # head. A tied head is the token embedding, which the last part then keeps too.
    tied = decoder.lm_head is None
    leaving: list[tuple[nn.Module, str]] = []
    if not first:
        leaving += [(stack, "embed_positions")] if decoder.config.learned_positions else []
        leaving += [] if last and tied else [(stack, "embed_tokens")]
    if not last:
        leaving += [(stack, "norm")]
        leaving += [] if tied else [(decoder, "lm_head")]
    for owner, name in leaving:
        setattr(owner, name, RemotePart(getattr(owner, name)))


def is_pipelined(decoder: Decoder) -> bool:
    """Return True if parts of the decoder are on other workers."""
    return any(isinstance(module, RemotePart) for module in decoder.modules())


def own_layers(decoder: Decoder) -> list[nn.Module]:
    """Return the layers of this worker."""
    return [layer for layer in decoder.model.layers if not isinstance(layer, RemotePart)]


def mark_copy(decoder: Decoder, ranks: Ranks) -> None:
    """Exclude the copy of a tied embedding on the last worker from the gradient norm.

    The first worker counts this weight. Call after `distribute`.
    """
    if ranks.pipeline is not None and decoder.lm_head is None and dist.get_rank(ranks.pipeline) > 0:
        for weight in decoder.model.embed_tokens.parameters():
            setattr(weight, EXCLUDED_FROM_NORM, True)


def add_gradients(
    view: Backbone, microbatches: Sequence[Microbatch], autocast: Autocast, ranks: Ranks
) -> Tensor:
    """Add the gradients of all microbatches of a step; return the sum of the losses.

    The sum is the same on all parts of a model.
    """
    if ranks.pipeline is not None:
        total = _through_all(view, microbatches, autocast, ranks.pipeline, learn=True)
        _sum_tied(view.decoder, ranks.pipeline)
        return total
    total = torch.zeros((), dtype=torch.float64)
    for microbatch in microbatches:
        with autocast():
            loss = microbatch.loss(view.hidden(microbatch.ids_BT, microbatch.mask_BT))
        torch.autograd.backward(loss)
        total += loss.detach()
    return total


@torch.no_grad()
def total_loss(
    view: Backbone, microbatches: Sequence[Microbatch], autocast: Autocast, ranks: Ranks
) -> Tensor:
    """Return the sum of the losses without gradients, the same on all parts of a model."""
    total = torch.zeros((), dtype=torch.float64)
    if ranks.pipeline is None:
        for microbatch in microbatches:
            with autocast():
                total += microbatch.loss(view.hidden(microbatch.ids_BT, microbatch.mask_BT))
        return total
    # Outputs of all parts stay in memory until the last part is done.
    at_once = 2 * dist.get_world_size(ranks.pipeline)
    for start in range(0, len(microbatches), at_once):
        part = microbatches[start : start + at_once]
        total += _through_all(view, part, autocast, ranks.pipeline, learn=False)
    return total


class _Part(nn.Module):
    """Part of this worker, as a module for torch's pipeline schedules.

    The schedules would treat the decoder itself as an FSDP module, whose shards accumulate per
    microbatch here.
    """

    def __init__(self, view: Backbone, autocast: Autocast) -> None:
        super().__init__()
        self._view, self._autocast = (view,), autocast

    def forward(self, x: Tensor, mask_BS: Tensor) -> Tensor:
        with self._autocast():
            return self._view[0].hidden(x, mask_BS)


def _through_all(
    view: Backbone,
    microbatches: Sequence[Microbatch],
    autocast: Autocast,
    group: dist.ProcessGroup,
    learn: bool,
) -> Tensor:
    """Run all microbatches through all parts, with a backward pass if `learn`.

    All microbatches are padded to a single shape; padding has no loss.
    """
    # Imported here, because the import takes most of a second.
    from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe

    place, parts = dist.get_rank(group), dist.get_world_size(group)
    weight = next(view.decoder.parameters())
    padded = _padded(microbatches)
    # An example of a message between parts, from which the stage allocates its buffers.
    hidden_BTD = torch.empty(
        *padded[0].ids_BT.shape, view.decoder.config.hidden_size, dtype=weight.dtype
    )
    hidden_BTD.requires_grad_(learn)
    stage = PipelineStage(
        _Part(view, autocast),
        place,
        parts,
        weight.device,
        input_args=padded[0].ids_BT if place == 0 else hidden_BTD,
        output_args=hidden_BTD,
        group=group,
    )

    def loss_of(hidden_BTD: Tensor, microbatch: Microbatch) -> Tensor:
        with autocast():
            return microbatch.loss(hidden_BTD)

    # 1F1B frees activations earlier, but needs as many microbatches as parts.
    kind = Schedule1F1B if learn and len(padded) >= parts else ScheduleGPipe
    schedule = kind(stage, len(padded), loss_of, scale_grads=False)
    losses: list[Tensor] = []
    (schedule.step if learn else schedule.eval)(
        arg_mbs=[(microbatch.ids_BT,) if place == 0 else () for microbatch in padded],
        kwarg_mbs=[{"mask_BS": microbatch.mask_BT} for microbatch in padded],
        target_mbs=padded,
        losses=losses,
        return_outputs=False,
    )
    # Only the last part has losses; the others learn the total from it.
    total = torch.zeros((), dtype=torch.float64)
    for loss in losses:
        total += loss.detach()
    dist.broadcast(total, group=group, group_src=parts - 1)
    return total


def _padded(microbatches: Sequence[Microbatch]) -> list[Microbatch]:
    """Pad all microbatches to the same shape."""
    rows = max(microbatch.ids_BT.shape[0] for microbatch in microbatches)
    columns = max(microbatch.ids_BT.shape[1] for microbatch in microbatches)

    def pad(microbatch: Microbatch) -> Microbatch:
        own_rows, own_columns = microbatch.ids_BT.shape
        padding = (0, columns - own_columns, 0, rows - own_rows)
        ids_BT, mask_BT = F.pad(microbatch.ids_BT, padding), F.pad(microbatch.mask_BT, padding)
        return Microbatch(
            ids_BT, mask_BT, lambda hidden_BTD: microbatch.loss(hidden_BTD[:own_rows, :own_columns])
        )

    return [pad(microbatch) for microbatch in microbatches]


def sends(ranks: Ranks) -> bool:
    """Return True if the first worker assembles its model from the part of this worker."""
    return ranks.pipeline is not None and dist.get_global_rank(ranks.pipeline, 0) == 0


def received(kept: dict[str, Tensor], ranks: Ranks) -> dict[str, Tensor]:
    """Collect the weights of all parts on the first worker; other workers get an empty dict.

    Every worker for which `sends` is True must call this. Without a pipeline, return `kept`.
    """
    group = ranks.pipeline
    if group is None:
        return kept
    place, parts = dist.get_rank(group), dist.get_world_size(group)
    described: list[dict[str, tuple[torch.Size, torch.dtype]]] = [{}] * parts
    dist.all_gather_object(
        described, {name: (t.shape, t.dtype) for name, t in kept.items()}, group=group
    )
    # Sender and receiver follow the same list, so messages need no names.
    for source in range(1, parts):
        for name, (shape, dtype) in described[source].items():
            if place == source:
                dist.send(kept[name].contiguous(), group=group, group_dst=0)
            elif place == 0:
                weight = torch.empty(shape, dtype=dtype, device="cpu")
                dist.recv(weight, group=group, group_src=source)
                kept.setdefault(name, weight)
    return kept if place == 0 else {}


def rebuild(decoder: Decoder, weights: Mapping[str, Tensor]) -> None:
    """Replace every `RemotePart` by the part with these weights."""
    for owner in list(decoder.modules()):
        for name, child in list(owner.named_children()):
            if isinstance(child, RemotePart):
                setattr(owner, name, child.rebuilt(next(iter(weights.values())).device))
    for path, weight in weights.items():
        place, _, name = path.rpartition(".")
        setattr(decoder.get_submodule(place), name, nn.Parameter(weight, requires_grad=False))


def _sum_tied(decoder: Decoder, group: dist.ProcessGroup) -> None:
    """Sum the gradients of a tied embedding over the first and the last worker."""
    place, last = dist.get_rank(group), dist.get_world_size(group) - 1
    if decoder.lm_head is not None or place not in (0, last):
        return
    weight = decoder.model.embed_tokens.weight
    if not weight.requires_grad:
        return
    if weight.grad is None:
        weight.grad = torch.zeros_like(weight)
    gradient = own_part(weight.grad)
    # Both calls block, so the last worker sends first and the first worker receives first. Only the
    # first worker adds, so that both have the same bits.
    if place == last:
        dist.send(gradient, group=group, group_dst=0)
        dist.recv(gradient, group=group, group_src=0)
    else:
        theirs = torch.empty_like(gradient)
        dist.recv(theirs, group=group, group_src=last)
        gradient += theirs
        dist.send(gradient, group=group, group_dst=last)
