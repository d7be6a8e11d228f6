"""What the version that gave an answer sampled: its token ids and how likely it held each. Ids are
never made from the text again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from training.errors import DetailedError


class SampleError(DetailedError, ValueError):
    """The sampled tokens of an answer are incomplete; the text names the field, never the content."""

    reason = "INVALID_SAMPLE"


@dataclass(frozen=True)
class Served:
    """The sample of one answer, all of it.

    token_ids: to the end token. log_probs: of the raw model (temperature 1, no nucleus), though it
        was sampled at `temperature` and
    `top_p`. prompt_tokens: of the context by the serving model's chat template; 0 where that is not
    known.
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
        if not all(math.isfinite(value) and value <= 0 for value in self.log_probs):
            raise SampleError(
                "log_probs: must be finite and at most 0",
                field="log_probs",
                reason="OUT_OF_RANGE",
                limit="at most 0",
            )

    def fields(self) -> dict[str, Any]:
        """As it stands in a line of JSON."""
        return asdict(self)


def served_from(fields: Mapping[str, Any]) -> Served:
    """Out of a line of JSON. Raises: SampleError, TypeError; the text names a field, never a
    content.
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
