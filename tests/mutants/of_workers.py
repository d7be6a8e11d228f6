"""Mutants of sums over workers."""

from tests.mutants.places import (
    ADVANTAGES_PY,
    GRADIENTS_PY,
    LOSSES_PY,
    RANKS,
)
from tests.mutants.planting import Mutant

WORKERS = (
    Mutant(
        "75 workers: gradients are not added up",
        GRADIENTS_PY,
        "            ranks.sum(parameter.grad)",
        "            pass",
        RANKS,
    ),
    Mutant(
        "76 workers: what another counts is counted twice",
        GRADIENTS_PY,
        " for parameter in parameters if not hasattr(parameter, EXCLUDED_FROM_NORM)",
        " for parameter in parameters",
        RANKS,
    ),
    Mutant(
        "77 workers: whitened by one's own variance",
        ADVANTAGES_PY,
        "variance = ranks.sum(centred_BR.square().sum()) / count",
        "variance = centred_BR.square().sum() * 2 / count",
        RANKS,
    ),
    Mutant(
        "78 workers: whitened by one's own mean",
        ADVANTAGES_PY,
        "centred_BR = (values_BR - total / count) * mask_BR",
        "centred_BR = (values_BR - (values_BR * mask_BR).sum() / mask_BR.sum()) * mask_BR",
        RANKS,
    ),
    Mutant(
        "79 workers: explained variance of one's own",
        ADVANTAGES_PY,
        "ranks.sum(torch.cat((real_BR.sum().double()[None], sums))).tolist()",
        "torch.cat((real_BR.sum().double()[None], sums)).tolist()",
        RANKS,
    ),
    Mutant(
        "80 workers: a loss over one's own tokens",
        LOSSES_PY,
        "ranks.sum(torch.stack((lengths_B1.sum(), (lengths_B1 > 0).sum())).float())",
        "torch.stack((lengths_B1.sum(), (lengths_B1 > 0).sum())).float()",
        RANKS,
    ),
    Mutant(
        "81 workers: figures of one's own rows",
        "training/rl/experience.py",
        "sums = ranks.sum(\n        torch.stack(",
        "sums = (\n        torch.stack(",
        RANKS,
    ),
    Mutant(
        "87 workers: norms of heads learn from one's own heads",
        GRADIENTS_PY,
        "            ranks.sum_of_peers(_local(parameter.grad))",
        "            pass",
        RANKS,
    ),
    Mutant(
        "88 workers: what all peers have is added up",
        GRADIENTS_PY,
        "        if hasattr(parameter, PARTIAL_OVER_HEADS):",
        "        if ranks.world_size > 1:",
        RANKS,
    ),
)
