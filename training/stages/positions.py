"""How long a row may be: no longer than the positions that the model has learned, or was trained
for.
"""

from __future__ import annotations

from pathlib import Path

from training.model.checkpoint import read_config
from training.stages.context import ConfigError


def require_positions(model_directory: Path, **lengths: int) -> None:
    """Longer rows are an error in the middle of a run where positions are learned, and badly read
    where they are rotated.

    Args:
        lengths: parts of a row in tokens, by the fields that bound them.

    Raises:
        ConfigError: together they are longer than the model's positions; names the fields.
        ModelConfigError, CheckpointError: see read_config.
    """
    tokens, known = sum(lengths.values()), read_config(model_directory).max_positions
    if tokens > known:
        fields = " + ".join(lengths)
        raise ConfigError(
            f"{fields}: {tokens} is above {known}, the positions of {model_directory.name}",
            field=fields,
            reason="TOO_LARGE",
            limit=f"at most {known}",
        )
