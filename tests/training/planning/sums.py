"""Communication of workers with tensor parallelism or shards in a real step, for test_timing."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from training.model.config import llama_json, parse_config
from training.model.transformer import Decoder, initialise
from training.parallelism.layout import Parallelism, arrange, distribute
from training.runtime.ranks import all_different

LAYERS = 3
COUNTED = llama_json(64, 64, LAYERS, 8, 2, 128)


class Sent(TorchDispatchMode):
    """Counts collective operations by kind and number type."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()
        self.gathered_bytes = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if any(issubclass(kind, DTensor) for kind in types):
            return NotImplemented
        namespace, name, *_ = str(function).split(".")
        if namespace in ("c10d", "_c10d_functional") and ("reduce" in name or "gather" in name):
            tensor = next(leaf for leaf in tree_leaves(args) if isinstance(leaf, torch.Tensor))
            self.counts[f"{name} {str(tensor.dtype).removeprefix('torch.')}"] += 1
            self.gathered_bytes += tensor.nbytes if "gather" in name else 0
        return function(*args, **(kwargs or {}))


def count(directory: Path, rank: int, world: int, parallelism: str, narrow: str = "") -> None:
    """Write the counts of a forward and a backward pass."""
    ranks = replace(
        arrange(Parallelism(**json.loads(parallelism)), all_different(rank, world)),
        narrow=bool(narrow),
    )
    decoder = Decoder(parse_config(COUNTED))
    initialise(decoder, 1)
    distribute(decoder, ranks)
    forward, backward = Sent(), Sent()
    with forward, torch.autocast("cpu", dtype=torch.bfloat16):
        loss = decoder.logits(decoder(torch.ones(2, 8, dtype=torch.long))).square().mean()
    with backward:
        torch.autograd.backward(loss)
    if rank == 0:
        (directory / "sums.json").write_text(json.dumps([forward.counts, backward.counts]))
        (directory / "bytes.json").write_text(json.dumps(forward.gathered_bytes))
