"""Comparison of a model server's weights with those of the trainer, by log-probs.

A server can accept new weights and go on with the old ones, or with keys and values that the old
ones computed. Neither its response nor the version that it reports proves anything. N tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from training.errors import DetailedError
from training.losses.log_probs import token_log_probs
from training.model.backbone import Backbone
from training.parallelism.layout import gathered
from training.runtime.ranks import Ranks
from training.serving.rollout_server import ServedType

# Tokens of the comparison: positions spread over the longest prompts, because keys and values are
# kept for the beginning of a prompt in whole blocks (128 tokens on vLLM's CPU build).
FIXED_PROMPTS, FIXED_POSITIONS = 4, 8


@dataclass(frozen=True)
class Tolerance:
    """Differences that a number type causes, in nats per token.

    Attributes:
        mismatch: mean |difference| of log-probs of sampled tokens between trainer and server.
        change: mean |change| of the trainer's log-probs below which new weights cannot be
            distinguished from old ones.
    """

    mismatch: float
    change: float


# Measured (docs/decisions/vllm.md): float32 5e-6 (predictor and vLLM), bfloat16 0.02 to 0.034 and
# float16 5e-4 on vLLM, 8 bits 0.086 on the predictor.
TOLERANCES: Mapping[ServedType, Tolerance] = {
    ServedType.FLOAT32: Tolerance(mismatch=1e-3, change=1e-4),
    ServedType.FLOAT16: Tolerance(mismatch=5e-3, change=5e-3),
    ServedType.BFLOAT16: Tolerance(mismatch=0.05, change=0.05),
    ServedType.UINT8: Tolerance(mismatch=0.2, change=0.2),
}
# The difference between two comparisons has the errors of both. With kept keys and values of old
# weights, a toy policy moved 87 % of the way.
DRIFT = 2.0


class DeadSyncError(DetailedError, ValueError):
    """The server's log-probs did not follow the trainer's to the new weights."""

    reason = "DEAD_WEIGHT_SYNC"


class SamplerMismatchError(DetailedError, ValueError):
    """The server's log-probs of its samples differ too much from the trainer's."""

    reason = "SAMPLER_MISMATCH"


@dataclass(frozen=True)
class FixedTokens:
    """Tokens with their contexts on which trainer and server are compared after each change.

    Attributes:
        prompts: token ids.
        positions: compared positions of each prompt, each at least 1.
    """

    prompts: tuple[tuple[int, ...], ...]
    positions: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, prompts: Sequence[Sequence[int]]) -> FixedTokens:
        """Choose positions spread over the longest of the prompts."""
        longest = sorted({*map(tuple, prompts)}, key=lambda ids: (-len(ids), ids))
        chosen = tuple(ids for ids in longest[:FIXED_PROMPTS] if len(ids) > 1)
        positions = []
        for ids in chosen:
            count = min(FIXED_POSITIONS, len(ids) - 1)
            positions.append(tuple((len(ids) - 1) * (n + 1) // count for n in range(count)))
        return cls(chosen, tuple(positions))

    @property
    def contexts(self) -> list[tuple[int, ...]]:
        """Return the tokens before each compared token."""
        return [
            ids[:position]
            for ids, positions in zip(self.prompts, self.positions, strict=True)
            for position in positions
        ]

    @property
    def tokens(self) -> list[int]:
        """Return the compared tokens."""
        return [
            ids[position]
            for ids, positions in zip(self.prompts, self.positions, strict=True)
            for position in positions
        ]

    @torch.no_grad()
    def trainer_log_probs(self, policy: Backbone, ranks: Ranks) -> Tensor:
        """Return the trainer's log-probs of the tokens, [N], on the CPU.

        Every worker must call this; only the first one has a result. It is computed in fp32, unless
        the policy's matrices are stored in bfloat16. Then all workers compute it from shards.
        """
        with gathered(policy.decoder, in_step=True):
            if ranks.rank > 0 and not policy.decoder.stored_narrow:
                return torch.empty(0, device="cpu")
            found = []
            for ids, positions in zip(self.prompts, self.positions, strict=True):
                at = torch.tensor(positions)
                ids_1T = torch.tensor([ids])
                hidden_ND = policy.hidden(ids_1T)[0, at - 1]
                logits_NV = policy.decoder.logits(hidden_ND)
                found.append(token_log_probs(logits_NV, ids_1T[0, at]).cpu())
            here = torch.cat(found) if found else torch.empty(0, device="cpu")
            return here if ranks.rank == 0 else here[:0]


class WeightSync:
    """Check that a server's log-probs follow the trainer's from one version to the next.

    Constant differences between both, for example of 8-bit weights, cancel out. Changes that are
    too small for the number type add up until they are large enough.
    """

    def __init__(self, kind: ServedType) -> None:
        self._kind = kind
        self._seen: tuple[str, Tensor, Tensor] | None = None

    def check(self, version: str, trainer_N: Tensor, served_N: Tensor) -> None:
        """Compare log-probs of the fixed tokens after new weights were sent.

        Raises:
            DeadSyncError: the server's log-probs are nearer to the old weights than to the new, or
                farther from the new ones than the number type explains.
        """
        if self._seen is None:
            self._seen = (version, trainer_N, served_N)
            return
        before, old_N, old_served_N = self._seen
        change_N, moved_N = trainer_N - old_N, served_N - old_served_N
        tolerance = TOLERANCES[self._kind]
        if not len(change_N) or change_N.abs().mean() <= tolerance.change:
            return
        # |moved - change| < |moved - 0| is the same as moved . change > change . change / 2.
        share = float(moved_N @ change_N / (change_N @ change_N))
        drift, limit = float((moved_N - change_N).abs().mean()), DRIFT * tolerance.mismatch
        if not (share > 0.5 and drift <= limit):
            raise DeadSyncError(
                f"rollout_server: log-probs of {len(change_N)} fixed tokens moved {share:.0%} of "
                f"the way from the weights of {before} to those of {version}, and differ from "
                f"there by {drift:.3g} nats per token, allowed are {limit:g}: the server uses old "
                "weights, or keys and values of old weights",
                field="rollout_server",
                limit=f"above 50 % and at most {limit:g}",
            )
        self._seen = (version, trainer_N, served_N)


def check_mismatch(mismatch_nats: float, kind: ServedType, limit_nats: float | None) -> None:
    """Check the mean difference of log-probs of a rollout's tokens between trainer and server.

    Args:
        limit_nats: None: the limit of the number type.

    Raises:
        SamplerMismatchError: the difference is above the limit.
    """
    limit = TOLERANCES[kind].mismatch if limit_nats is None else limit_nats
    if not mismatch_nats <= limit:
        raise SamplerMismatchError(
            f"rollout_server.mismatch_limit_nats: log-probs of sampled tokens differ by "
            f"{mismatch_nats:.3g} nats per token from the trainer's, allowed are {limit:g} with "
            f"{kind.value}; possible causes: another base model, old weights, old keys and values, "
            "a coarser number type, or log-probs that are not those of the raw model",
            field="rollout_server.mismatch_limit_nats",
            limit=f"at most {limit:g}",
        )
