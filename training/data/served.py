"""Tokens and log-probs sampled by the version that served an answer.

Token ids are never recomputed from the text.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from training.errors import DetailedError


class SampleError(DetailedError, ValueError):
    """Error for an invalid sample; the message names the field, never the content."""

    reason = "INVALID_SAMPLE"


@dataclass(frozen=True)
class Served:
    """Complete sample of one served answer.

    Args:
        token_ids: ids including the end token.
        log_probs: log-probs of the raw model (temperature 1, no nucleus), even if sampled at
            `temperature` and `top_p`.
        prompt_tokens: length of the context by the serving model's chat template; 0 if unknown.
        temperature, top_p: as sampled; 0 if unknown.
    """

    version: str
    token_ids: tuple[int, ...]
    log_probs: tuple[float, ...]
    prompt_tokens: int = 0
    temperature: float = 1.0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if not self.token_ids or len(self.log_probs) != len(self.token_ids):
            raise SampleError(
                f"log_probs: {len(self.log_probs)} for {len(self.token_ids)} token_ids",
                field="log_probs",
                reason="MISMATCH" if self.token_ids else "EMPTY",
                limit=str(len(self.token_ids)),
            )
        for name, most in (("temperature", math.inf), ("top_p", 1.0)):
            value = getattr(self, name)
            if not isinstance(value, int | float) or not 0 <= value <= most or value == math.inf:
                limit = "0 to 1" if name == "top_p" else "at least 0 and finite"
                raise SampleError(
                    f"{name}: must be {limit}", field=name, reason="OUT_OF_RANGE", limit=limit
                )
        if not all(math.isfinite(value) and value <= 0 for value in self.log_probs):
            raise SampleError(
                "log_probs: must be finite and at most 0",
                field="log_probs",
                reason="OUT_OF_RANGE",
                limit="at most 0",
            )

    def fields(self) -> dict[str, Any]:
        """Return the sample as a JSON object."""
        return asdict(self)


def served_from(fields: Mapping[str, Any]) -> Served:
    """Parse the sample from a JSON object.

    Raises:
        SampleError: a field is invalid; the message names the field, never the content.
        TypeError: a field is missing or unknown.
    """
    if not isinstance(fields, Mapping):
        raise SampleError("not a JSON object", reason="WRONG_TYPE")
    lists = {name: tuple(fields[name]) for name in ("token_ids", "log_probs") if name in fields}
    if not all(type(token) is int and token >= 0 for token in lists.get("token_ids", ())):
        raise SampleError(
            "token_ids: must be numbers of at least 0",
            field="token_ids",
            reason="OUT_OF_RANGE",
            limit="at least 0",
        )
    if not all(isinstance(value, int | float) for value in lists.get("log_probs", ())):
        raise SampleError("log_probs: must be numbers", field="log_probs", reason="WRONG_TYPE")
    return Served(**{**fields, **lists})
