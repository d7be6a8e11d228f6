"""A model cut into parts that follow each other, each on a worker of its own: while one microbatch
is in a part, the next is in the part before it. Parts that are elsewhere stay in the model as
`RemotePart`, so names, files and checkpoints are those of the whole model.

What a stage calls, `add_gradients` and `total_loss`, is the plain loop where nothing is cut.
Shapes: B rows, T tokens, D hidden.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn import functional as F

from training.model.backbone import Backbone
from training.model.transformer import Decoder
from training.optim.gradients import EXCLUDED_FROM_NORM
from training.optim.ranks import Ranks
from training.stages.context import ConfigError
from training.stages.machine import Autocast


@dataclass(frozen=True)
class Microbatch:
    """loss: from the last hidden states, [B, T, D], to a number that is summed over microbatches
    and workers.
    """

    ids_BT: Tensor
    mask_BT: Tensor
    loss: Callable[[Tensor], Tensor]


class RemotePart(nn.Module):
    """In place of what another worker has: what comes in goes out. It knows how the part is built,
    and holds no weights.
    """

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self._part = (part.to("meta"),)  # in a tuple, so that its weights are not this model's

    def forward(self, x: Tensor, *_: object) -> Tensor:
        return x

    def rebuilt(self, device: torch.device) -> nn.Module:
        """The part, with room for its weights."""
        return self._part[0].to_empty(device=device)


def keep_own_layers(decoder: Decoder, ranks: Ranks) -> None:
    """Leave this worker its layers: the first has the embedding too, the last the final norm and
    the head. Where embedding and head are one weight both have it, and it gets the sum of both
    gradients. Before `distribute`.

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
    own = range(count * place // parts, count * (place + 1) // parts)
    for layer in set(range(count)) - set(own):
        stack.layers[layer] = RemotePart(stack.layers[layer])
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
    """Whether parts of it are elsewhere."""
    return any(isinstance(module, RemotePart) for module in decoder.modules())


def own_layers(decoder: Decoder) -> list[nn.Module]:
    """The layers that this worker has."""
    return [layer for layer in decoder.model.layers if not isinstance(layer, RemotePart)]


def mark_copy(decoder: Decoder, ranks: Ranks) -> None:
    """The last worker's copy of an embedding that is the head too counts in the first's part of the
    gradient's norm. After `distribute`.
    """
    if ranks.pipeline is not None and decoder.lm_head is None and dist.get_rank(ranks.pipeline) > 0:
        for weight in decoder.model.embed_tokens.parameters():
            setattr(weight, EXCLUDED_FROM_NORM, True)


def add_gradients(
    view: Backbone, microbatches: Sequence[Microbatch], autocast: Autocast, ranks: Ranks
) -> Tensor:
    """Add the gradients of a step's losses, all of this worker's rows at once; return their sum,
    the same on all parts of a model.
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
    """The sum of the losses, the same on all parts of a model, and nothing to learn from."""
    total = torch.zeros((), dtype=torch.float64)
    if ranks.pipeline is None:
        for microbatch in microbatches:
            with autocast():
                total += microbatch.loss(view.hidden(microbatch.ids_BT, microbatch.mask_BT))
        return total
    at_once = 2 * dist.get_world_size(
        ranks.pipeline
    )  # what each part gives is kept until the last one's end
    for start in range(0, len(microbatches), at_once):
        part = microbatches[start : start + at_once]
        total += _through_all(view, part, autocast, ranks.pipeline, learn=False)
    return total


class _Part(nn.Module):
    """This worker's part, as torch's schedules call it. Not the decoder itself, which they would
    treat as FSDP's: its shards add up microbatch by microbatch, as everywhere here.
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
    """All microbatches through all parts, and back where something is learned. One shape for all:
    what is filling has no loss.
    """
    from torch.distributed.pipelining import (
        PipelineStage,
        Schedule1F1B,
        ScheduleGPipe,
    )  # most of a second, so only here

    place, parts = dist.get_rank(group), dist.get_world_size(group)
    weight = next(view.decoder.parameters())
    padded = _padded(microbatches)
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
    total = torch.zeros((), dtype=torch.float64)
    for loss in losses:
        total += loss.detach()
    dist.broadcast(total, group=group, group_src=parts - 1)
    return total


def _padded(microbatches: Sequence[Microbatch]) -> list[Microbatch]:
    """The same microbatches with filling, so that all are of one shape."""
    rows = max(microbatch.ids_BT.shape[0] for microbatch in microbatches)
    columns = max(microbatch.ids_BT.shape[1] for microbatch in microbatches)
    return [_filled(microbatch, rows, columns) for microbatch in microbatches]


def _filled(microbatch: Microbatch, rows: int, columns: int) -> Microbatch:
    own_rows, own_columns = microbatch.ids_BT.shape
    filling = (0, columns - own_columns, 0, rows - own_rows)
    ids_BT, mask_BT = F.pad(microbatch.ids_BT, filling), F.pad(microbatch.mask_BT, filling)
    return Microbatch(
        ids_BT, mask_BT, lambda hidden_BTD: microbatch.loss(hidden_BTD[:own_rows, :own_columns])
    )


def sends(ranks: Ranks) -> bool:
    """Whether this worker's part is among those that the first worker's model is put together from."""
    return ranks.pipeline is not None and dist.get_global_rank(ranks.pipeline, 0) == 0


def received(kept: dict[str, Tensor], ranks: Ranks) -> dict[str, Tensor]:
    """The weights of all parts on the first worker, and nothing on the others. Every worker that
    `sends` calls this; alone, `kept`.
    """
    group = ranks.pipeline
    if group is None:
        return kept
    place, parts = dist.get_rank(group), dist.get_world_size(group)
    described: list[dict[str, tuple[torch.Size, torch.dtype]]] = [{}] * parts
    dist.all_gather_object(
        described, {name: (t.shape, t.dtype) for name, t in kept.items()}, group=group
    )
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
    """Put all parts back, with these weights."""
    for owner in list(decoder.modules()):
        for name, child in list(owner.named_children()):
            if isinstance(child, RemotePart):
                setattr(owner, name, child.rebuilt(next(iter(weights.values())).device))
    for path, weight in weights.items():
        place, _, name = path.rpartition(".")
        setattr(decoder.get_submodule(place), name, nn.Parameter(weight, requires_grad=False))


def _sum_tied(decoder: Decoder, group: dist.ProcessGroup) -> None:
    """First and last worker add up their gradients of the weight that is embedding and head."""
    place, last = dist.get_rank(group), dist.get_world_size(group) - 1
    if decoder.lm_head is not None or place not in (0, last):
        return
    weight = decoder.model.embed_tokens.weight
    if not weight.requires_grad:
        return
    if weight.grad is None:
        weight.grad = torch.zeros_like(weight)
    gradient = weight.grad.to_local() if isinstance(weight.grad, DTensor) else weight.grad
    if place == last:
        dist.send(gradient, group=group, group_dst=0)
        dist.recv(gradient, group=group, group_src=0)
    else:
        theirs = torch.empty_like(gradient)
        dist.recv(theirs, group=group, group_src=last)
        gradient += theirs
        dist.send(gradient, group=group, group_dst=last)
