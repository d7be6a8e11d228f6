"""Mutants of sums over workers."""

from tests.mutants.places import (
    ADVANTAGES_PY,
    GRADIENTS_PY,
    POLICY_LOSSES_PY,
    RANKS,
)
from tests.mutants.planting import Mutant

WORKERS = (
    Mutant(
        "75 workers: gradients are not summed",
        GRADIENTS_PY,
        "            ranks.sum(parameter.grad)",
        "            pass",
        RANKS,
    ),
    Mutant(
        "76 workers: duplicated weights in the norm",
        GRADIENTS_PY,
        " for parameter in parameters if not hasattr(parameter, EXCLUDED_FROM_NORM)",
        " for parameter in parameters",
        RANKS,
    ),
    Mutant(
        "77 workers: whitening by the local variance",
        ADVANTAGES_PY,
        "variance = ranks.sum(centred_BR.square().sum()) / count",
        "variance = centred_BR.square().sum() * 2 / count",
        RANKS,
    ),
    Mutant(
        "78 workers: whitening by the local mean",
        ADVANTAGES_PY,
        "centred_BR = (values_BR - total / count) * mask_BR",
        "centred_BR = (values_BR - (values_BR * mask_BR).sum() / mask_BR.sum()) * mask_BR",
        RANKS,
    ),
    Mutant(
        "79 workers: local explained variance",
        ADVANTAGES_PY,
        "ranks.sum(torch.cat((real_BR.sum().double()[None], sums))).tolist()",
        "torch.cat((real_BR.sum().double()[None], sums)).tolist()",
        RANKS,
    ),
    Mutant(
        "80 workers: loss over local tokens",
        POLICY_LOSSES_PY,
        "ranks.sum(torch.stack((lengths_B1.sum(), (lengths_B1 > 0).sum())).float())",
        "torch.stack((lengths_B1.sum(), (lengths_B1 > 0).sum())).float()",
        RANKS,
    ),
    Mutant(
        "81 workers: figures of local rows",
        "training/rl/experience.py",
        "sums = ranks.sum(\n        torch.stack(",
        "sums = (\n        torch.stack(",
        RANKS,
    ),
    Mutant(
        "87 workers: head norms use local heads",
        GRADIENTS_PY,
        "            ranks.sum_of_peers(own_part(parameter.grad))",
        "            pass",
        RANKS,
    ),
    Mutant(
        "88 workers: replicated gradients are summed",
        GRADIENTS_PY,
        "        if hasattr(parameter, PARTIAL_OVER_HEADS):",
        "        if ranks.world_size > 1:",
        RANKS,
    ),
)
